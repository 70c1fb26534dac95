"""How the parties of a run meet: registration, queue pairs, keys."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from emu.lab.node import VICTIM_DEVICE, VICTIM_MOUNT
from emu.lab.plan.geometry import DEPTH, LOOKS_ALONE, READ, READS, READS_ALONE, SIZE, WRITE

if TYPE_CHECKING:
    from emu.lab.run import Run

Json = dict[str, Any]

HOLDER, PEER, TAKER, ASKER = 1, 2, 3, 4  # writers' numbers in the stamps
NO_KEY = (1 << 32) - 1  # a key that nobody has


async def meet(run: Run) -> None:
    """Behind this the peer has the key, and whoever asks is ready to."""
    directory = str(run.node.directory)
    await asyncio.gather(*(run.clients[name].ask("start", node=directory) for name in _observers(run)))
    await _prepare(run)
    holder, peer = await asyncio.gather(_start_holder(run, directory), _start_peer(run, directory))
    key = holder["victim"]["rkey"] if holder["victim"] else NO_KEY
    run.met = {"holder": holder["qps"], "peer": peer["qps"], "key": key, **holder["known"]}
    run.facts |= {"refused": holder["refused"], "pinned": holder["victim"] is not None and run.control.pinned}
    await run.clients["holder"].ask("connect", qps=peer["qps"])
    target = holder["victim"] if run.control.pinned else await _elsewhere(run)
    await run.clients["peer"].ask(
        "connect",
        qps=holder["qps"],
        victim=target,
        bystander=holder["bystander"],
        access=run.act.access,
    )
    if "fill" in run.act.first:
        await run.clients["taker"].ask("fill", device=VICTIM_DEVICE, path=f"{VICTIM_MOUNT}/ballast")


async def _elsewhere(run: Run) -> Json | None:
    """The holder gives the victim back, and registers other memory, which the peer gets in its place."""
    target: Json | None = (await run.clients["holder"].ask("elsewhere"))["target"]
    return target


def _observers(run: Run) -> list[str]:
    return [name for name in run.clients if name not in {"holder", "peer", "heir"}]


async def _prepare(run: Run) -> None:
    """What is there before the holder: files of the host, buffers of an exporter."""
    files = run.places.files
    if run.spec.backing == "host":
        (run.folder / "host").mkdir()
        for file in files.values():
            with open(file["path"], "ab") as made:  # noqa: PTH123, ASYNC230 - a path of the plan; nobody waits for it
                os.ftruncate(made.fileno(), file["size"])
    if run.spec.backing == "dmabuf":
        for role, file in files.items():
            exporter = run.clients["exporter"] if run.act.apart and role == "victim" else run.asker
            await exporter.ask("export", buffer=file["path"], size=file["size"])


async def _start_holder(run: Run, directory: str) -> Json:
    return await run.clients["holder"].ask(
        "start", node=directory, journal=str(run.folder.resolve() / "journals" / "holder.jrnl"), manner=run.spec.holder, writer=HOLDER,
        files=run.places.files, mount=run.places.mount, access=run.act.access, first=run.act.first,
        awaits_peer=run.peer_hears,
    )  # fmt: skip


async def _start_peer(run: Run, directory: str) -> Json:
    alone = run.act.access == "r"
    return await run.clients["peer"].ask(
        "start", node=directory, journal=str(run.folder.resolve() / "journals" / "peer.jrnl"), writer=PEER, size=SIZE, write=WRITE,
        read=SIZE if alone else READ, depth=DEPTH, reads=READS_ALONE if alone else READS, looks=LOOKS_ALONE if alone else 1,
        hears=run.peer_hears,
    )  # fmt: skip
