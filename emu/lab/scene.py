"""The scene: from the first byte to the last. DMA; the event; what the holder's manner makes of it; what follows.

go         the peer writes and reads without pause                       ... a number of completions ...
(leave)    the holder ends, or hands its descriptor over, where that is the event
ask        the request of the act; the holder is stopped before it, told once it has been asked, or dies of its notice; the peer says when it is done
then       take, retake, plug, need, pressure: who gets what became free  ... the peer goes on ...
stop       everything that was posted completes; DMA is over
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from emu.host.times import patience
from emu.lab.meeting import ASKER, TAKER
from emu.lab.node import VICTIM_DEVICE, VICTIM_MOUNT
from emu.lab.patience import LIMIT, AtRest, stuck, waited_for
from emu.lab.places import filled_in
from emu.lab.plan.controls import IDLE
from emu.lab.plan.geometry import ROUND, SIZE
from emu.lab.process import PATIENCE, LabError, Process, Refused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from emu.lab.run import Run

Json = dict[str, Any]

LET_GO_AFTER = 0.3  # seconds: what waits for the holder must be seen to have waited
NOTICE_WITHIN = 0.5  # seconds: a protocol that tells its holders does so at once, or behind what it waits for
AGAIN = 0.001
LOST_FOR_GOOD = 5.0
NEED = 1.0  # seconds that somebody who needs space goes on asking for it


async def play(run: Run) -> None:
    peer, holder = run.clients["peer"], run.clients["holder"]
    await peer.ask(
        "go", dma=run.control.dma, bystander=not (run.act.alone or run.act.leaves or run.manner.kill)
    )
    await _go_on(run, random.Random(run.seed).randint(0, ROUND))
    await _leave(run)
    reclaim = await _reclaim(run)
    if not run.control.asked:
        await THEN[run.act.then if run.act.then in IDLE else ""](run, False)
        await _go_on(run)
    elif reclaim["returned"] or reclaim.get("abandoned"):
        await THEN[run.act.then](run, bool(reclaim["returned"]) and reclaim["errno"] is None)
        await _go_on(run)
    recovered = await _recovered(run, holder, peer)
    stopped = await peer.ask("stop", limit=2 * PATIENCE)  # it waits for what does not come, too
    run.facts |= {
        "reclaim": reclaim,
        "leaked": stopped["leaked"],
        "peer": {key: stopped[key] for key in ("posted", "good", "bad")},
        "recovery_qps": stopped["recovery_qps"] if recovered else [],
        "bystander": {"qps": [run.met["peer"]["bystander"]], "mr_lost": not stopped["bystander_lives"]},
        "drained": ["peer"],
    }


async def _go_on(run: Run, more: int = 0) -> None:
    """Several times over the whole file by both queue pairs (and `more` pieces), or until an error ends them."""
    if run.control.dma:
        await run.clients["peer"].ask("advance", completions=ROUND + more)


async def _recovered(run: Run, holder: Process, peer: Process) -> bool:
    """Whether the peer has another key; then its first request under it is awaited."""
    if holder.ended or run.manner.stop or run.act.leaves:
        return False
    with suppress(LabError):
        again = bool((await holder.ask("status", limit=LOST_FOR_GOOD))["again"])
        if again:
            with suppress(LabError):
                await peer.ask("recover", limit=LOST_FOR_GOOD)
        return again
    return False


# ---- the event


async def _leave(run: Run) -> None:
    """The holder goes before anything is asked: by itself, or, where its manner is not to, by kill -9."""
    holder = run.clients["holder"]
    if run.act.leaves == "ends":
        if run.manner.kill or run.manner.stop:
            holder.signal(signal.SIGSTOP if run.manner.stop else signal.SIGKILL)
            holder.signal(signal.SIGKILL)
        else:
            with suppress(LabError):
                await holder.ask("quit")
        await holder.gone()
        run.facts |= {"pinned": False, "left": ["holder"]}
    elif run.act.leaves == "hands-over":
        await hand_over(run)


async def hand_over(run: Run) -> None:
    """The context's descriptor goes to the heir, and its opener ends: not by itself, since whoever closes gives everything back first."""
    holder, heir = run.clients["holder"], run.clients["heir"]
    path = str(run.node.directory / "heir")
    await heir.ask("start", path=path)
    taking = asyncio.create_task(heir.ask("take"))
    gave = await holder.ask("hand_over", to=path)
    took = await taking
    holder.signal(signal.SIGKILL)
    await holder.gone()
    if run.manner.stop:
        heir.signal(signal.SIGSTOP)
    session = gave["session"]
    holds = [
        {"session": session, "who": "holder", "t": gave["t"]},
        {"session": session, "who": "heir", "t": took["t"]},
    ]
    run.facts |= {
        "left": ["holder"],
        "holders": ["heir"],
        "holds": holds,
        "letsgo": [{"session": session, "who": "holder", "t": time.monotonic_ns()}],
    }


async def inherit_no_more(run: Run) -> None:
    """The heir lets the context go: when DMA and the reclaim are over, or sooner as a control."""
    heir = run.clients.get("heir")
    let_go = {fact["who"] for fact in run.facts.get("letsgo", ())}
    if heir is not None and not heir.ended and let_go == {"holder"}:
        heir.wake()
        let = await heir.ask("let_go")
        run.facts["letsgo"].append(
            {"session": run.facts["holds"][0]["session"], "who": "heir", "t": let["t"]}
        )


async def _reclaim(run: Run) -> Json:
    """The answer to the act's request; that nothing comes any more is an answer too."""
    if not run.control.asked:
        await _go_on(run)
        return {
            **_unanswered("nobody asked", time.monotonic_ns()),
            "asked": False,
            "began": None,
            "given_up": None,
            "tries": 0,
        }
    if run.manner.stop and not run.act.leaves:
        run.clients["holder"].signal(signal.SIGSTOP)
    began = time.monotonic_ns()
    carrying = asyncio.create_task(_peer_is_done(run))
    asked = asyncio.create_task(
        run.asker.ask(
            "ask",
            limit=None,
            ask=filled_in(run.act.ask, run.places.files, ASKER, run.met["key"]),
            retries=0 if run.act.foreign else run.manner.retries,
            until_enough=run.manner.lets_go and not run.act.foreign,
        )
    )
    provoking = asyncio.create_task(_provoke(run))
    telling = asyncio.create_task(_tell_enough(run, provoking))
    try:
        await asyncio.gather(provoking, _answer_or_stuck(run, asked, provoking))
        if run.act.foreign and not asked.done():
            await _interrupt(run, asked)
        if not asked.done():
            return _unanswered("nothing can advance it any more", began)
        if run.asker.killed:
            return _unanswered(f"{run.asker.name} was killed while it asked", began) | {"abandoned": True}
        return _summed_up(asked.result()["tries"])
    finally:
        for task in (asked, carrying, telling, provoking):
            task.cancel()
            with suppress(asyncio.CancelledError, LabError):
                await task


def _unanswered(why: str, began: int) -> Json:
    return {"returned": False, "errno": None, "error": why, "began": began, "ended": None, "took_us": None, "tries": 1, "denied": 0,
            "given_up": time.monotonic_ns()}  # fmt: skip


def _summed_up(tries: list[Json]) -> Json:
    """What was answered at last; from the first request to the last answer, and how long that last one took."""
    last = tries[-1]
    return {
        "returned": True, "errno": last["errno"], "error": last["error"], "began": tries[0]["began"], "ended": last["ended"],
        "took_us": (last["ended"] - last["began"]) / 1000, "tries": len(tries), "denied": sum(t["errno"] is not None for t in tries),
    }  # fmt: skip


async def _provoke(run: Run) -> None:
    """What the manner, or a control, does once the request has been asked."""
    holder = run.clients["holder"]
    inherited = run.control.lets_go and run.act.leaves == "hands-over"
    if run.act.apart and await run.asker.heard("asked"):
        run.clients["exporter"].signal(signal.SIGKILL)
    if not (run.manner.told or run.manner.kill or run.control.lets_go) or (run.act.leaves and not inherited):
        return
    if not await run.asker.heard("asked"):
        return
    if inherited:
        await asyncio.sleep(LET_GO_AFTER)
        await inherit_no_more(run)
    elif run.control.lets_go:
        await asyncio.sleep(LET_GO_AFTER)
        with suppress(LabError):
            await holder.ask("let_go", limit=LOST_FOR_GOOD)
    elif run.manner.kill:
        await _die(run)
    elif run.act.by != "holder":  # who asks for itself knows
        with suppress(LabError):
            await holder.ask("event", limit=LOST_FOR_GOOD)


async def _peer_is_done(run: Run) -> None:
    """The parties have other means to say so; here the lab carries it: the peer has heard, and nothing of it is under way any more."""
    if run.peer_hears and await run.clients["peer"].heard("drained", PATIENCE):
        await run.clients["holder"].ask("peer_done", limit=LOST_FOR_GOOD)


async def _die(run: Run) -> None:
    """The holder dies of the notice, by itself; where it is given none, once the broker has taken the request."""
    holder = run.clients["holder"]
    await _taken(run)
    died = await holder.heard("dies", NOTICE_WITHIN if run.holders_hear else 0.0)
    if not died and not holder.talks:
        return  # the protocol was faster
    killed = time.monotonic_ns()
    if not died:
        holder.signal(signal.SIGKILL)
    at = next((note["t"] for note in holder.notes if note["note"] == "dies"), killed)
    run.facts |= {"left": ["holder"], "died": at}


async def _taken(run: Run) -> None:
    """Until the broker's history has the request."""
    history = run.folder / "history" / "1" / "events.jsonl"
    end = time.monotonic() + patience(LOST_FOR_GOOD)
    while b'"requested"' not in history.read_bytes() and time.monotonic() < end:  # noqa: ASYNC110 - another process writes it
        await asyncio.sleep(AGAIN)


async def _interrupt(run: Run, asked: asyncio.Task[Json]) -> None:
    """Who asks the kernel hears of no refusal. Where the broker has refused, and owes it nothing, it is interrupted: its answer is EINTR."""
    if not await waited_for(run.folder / "history" / "1"):
        run.asker.signal(signal.SIGUSR1)
        if not (await asyncio.wait((asked,), timeout=patience(LIMIT)))[0]:
            raise LabError(f"{run.asker.name} was interrupted, and did not answer within {LIMIT:g} s")


async def _killed(process: Process) -> bool:
    """Whether somebody who says nothing any more was ended by a signal that the lab did not send; its end may be told a little later."""
    if process.talks:
        return False
    with suppress(TimeoutError):
        async with asyncio.timeout(patience(LOST_FOR_GOOD)):
            await process.gone()
    return process.killed


def _rest(run: Run, provoking: asyncio.Task[None]) -> AtRest:
    """Waits until whoever holds the memory has done what its manner makes of all that it was told, and of what the lab does to it."""
    holder = run.clients["holder"]
    silent = run.manner.stop or run.act.leaves or run.act.by == "holder"

    async def at_rest() -> None:
        await asyncio.wait((provoking,))
        while not silent and holder.talks and (seconds := await _rest_in(holder)):  # noqa: ASYNC110 - another process does it
            await asyncio.sleep(seconds)

    return at_rest


async def _rest_in(holder: Process) -> float:
    """Seconds until it does more; 0: nothing is left for it to do, or it is gone, or at a deed that does not end."""
    try:
        return float((await holder.ask("status", limit=LIMIT))["rest_in"])
    except LabError:
        if holder.talks and "deed" not in holder.noted:
            raise
        return 0.0


async def _tell_enough(run: Run, provoking: asyncio.Task[None]) -> None:
    """Who asks again and again need not, once the holder is at rest; one that dies has then ended."""
    if not run.manner.lets_go or run.act.foreign:
        return
    await _rest(run, provoking)()
    if run.manner.kill:
        await run.clients["holder"].gone()
    await run.asker.ask("enough", limit=None)


async def _answer_or_stuck(run: Run, asked: asyncio.Task[Json], provoking: asyncio.Task[None]) -> None:
    """Until it is answered, or who asked was killed for it; or nothing that the history knows of can advance it, and no manner is about to."""
    waiter = asyncio.create_task(
        stuck(run.folder / "history" / "1", _rest(run, provoking), foreign=run.act.foreign)
    )
    try:
        await asyncio.wait((asked, waiter), return_when=asyncio.FIRST_COMPLETED)
        if asked.done():
            if not (isinstance(asked.exception(), LabError) and await _killed(run.asker)):
                asked.result()
        elif run.asker.ended or not run.node.alive:
            raise LabError("whoever asked, or the broker, ended before an answer came")
        else:
            waiter.result()
    finally:
        waiter.cancel()
        with suppress(asyncio.CancelledError, LabError):
            await waiter


# ---- what follows


async def _nothing(run: Run, succeeded: bool) -> None:
    """DMA goes on."""


async def _take(run: Run, _succeeded: bool) -> None:
    start, end = run.act.given_back
    path = f"{VICTIM_MOUNT}/taker"
    made = await run.clients["taker"].ask("take", path=path, size=end - start, writer=TAKER)
    run.facts["taken"] = {"path": path, "written": [[0, end - start]], "unzeroed": made["unzeroed"]}


async def _need(run: Run, _succeeded: bool) -> None:
    """The same, by somebody who finds the device full until the space is really free."""
    start, end = run.act.given_back
    path = f"{VICTIM_MOUNT}/taker"
    made = await run.clients["taker"].ask("need", path=path, size=end - start, writer=TAKER, seconds=NEED)
    run.facts["need"] = {name: made[name] for name in ("failures", "waited_us", "errno_seen")}
    if made["unzeroed"] is not None:
        run.facts["taken"] = {"path": path, "written": [[0, end - start]], "unzeroed": made["unzeroed"]}


async def _retake(run: Run, succeeded: bool) -> None:
    if not succeeded:
        return
    start, end = run.act.given_back
    await run.clients["taker"].ask(
        "retake",
        path=run.places.victim,
        start=start,
        end=end,
        writer=TAKER,
        ino=run.met["ino"],
        layout=run.layout_anew,
    )
    run.facts["taken"] = {"path": "victim", "written": [[start, end]], "unzeroed": None}


async def _plug(run: Run, succeeded: bool) -> None:
    await _go_on(run)
    if succeeded:
        await run.clients["unplugger"].ask("plug", device=VICTIM_DEVICE)


async def _export(run: Run, _succeeded: bool) -> None:
    """Another buffer, over what is free now."""
    await run.clients["taker"].ask("export", buffer="taker", size=SIZE)


async def _mount(run: Run, succeeded: bool) -> None:
    """What is on the device is looked at through another mount of it."""
    await _go_on(run)
    if succeeded:
        await run.clients["unplugger"].ask(
            "mount",
            mount=VICTIM_MOUNT,
            device=VICTIM_DEVICE,
            protocol=run.spec.protocol,
            dax=run.backing.properties == "dax",
        )


async def _pressure(run: Run, _succeeded: bool) -> None:
    """What has been cleaned is dropped."""
    await _go_on(run)
    with suppress(Refused):
        await run.asker.ask("ask", ask={"op": "pressure", "target": run.places.victim}, retries=0)


THEN: Mapping[str, Callable[[Run, bool], Awaitable[None]]] = {
    "": _nothing, "take": _take, "need": _need, "retake": _retake, "plug": _plug, "pressure": _pressure, "mount": _mount, "export": _export,
}  # fmt: skip
