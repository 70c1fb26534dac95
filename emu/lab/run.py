"""One run: a fresh broker, real processes, one reclaim with DMA in flight, and the evidence of it in a folder.

    broker, holder, peer, reclaimer or unplugger, taker start side by side
    holder   creates, registers, stamps; its queue pairs and the peer's are connected
    peer     writes and reads without pause                            ... a number of completions ...
    reclaim  truncate, punch, unlink, unplug                           ... the peer goes on ...
    taker    a second file over what became free, written once         ... the peer goes on ...
    plug     (after an unplug that succeeded) a new namespace          ... the peer goes on ...
    stop     everything that was posted completes; DMA is over
    survey   which bytes belong to whom; then all leave, the broker ends, the evidence is moved

Between the steps the lab waits for completions or errors, never for time.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from emu.check.promises import file_of
from emu.lab.node import VICTIM_DEVICE, VICTIM_MOUNT, Broker
from emu.lab.plan import (
    ACTS,
    BEFORE,
    DEPTH,
    HOST_EXPECTED,
    READ,
    READS,
    ROUND,
    SIZE,
    WRITE,
    Control,
    device_of,
    files_for,
    whole_device,
)
from emu.lab.process import PATIENCE, LabError, Process, Refused

if TYPE_CHECKING:
    from pathlib import Path

    from emu.lab.plan import RowSpec

Json = dict[str, Any]

HOLDER, PEER, TAKER = 1, 2, 3  # writers' numbers in the stamps
HANG_AFTER = 10.0
BLOCK = 4096
MODULES = {
    "holder": "holder",
    "peer": "peer",
    "taker": "taker",
    "reclaimer": "reclaimer",
    "unplugger": "unplugger",
}


def keep(memory: Path, copy: Path) -> None:
    """Copy what is not zero; the rest is a hole that reads as zero."""
    with memory.open("rb") as source, copy.open("wb") as target:
        while block := source.read(BLOCK):
            if block.count(0) < len(block):
                target.write(block)
            else:
                target.seek(len(block), os.SEEK_CUR)
        target.truncate(memory.stat().st_size)


@dataclass
class Run:
    """One run of a row, or of a control of it."""

    spec: RowSpec
    folder: Path
    seed: int
    control: Control
    stage: asyncio.Semaphore  # held while DMA goes on: another run's engine would only disturb the times
    broker: Broker | None = None
    clients: dict[str, Process] = field(default_factory=dict)
    facts: Json = field(default_factory=dict)

    async def carry_out(self) -> None:
        """Leaves the evidence in `folder`. LabError: the run failed; logs/ says why."""
        self._prepare()
        try:
            await self._start()
            await self._scene()
            await self._end()
        finally:
            await self._clear()

    # ---- beginning

    def _prepare(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        for name in ("logs", "journals"):
            (self.folder / name).mkdir(parents=True)

    async def _start(self) -> None:
        """Everybody at once: the interpreters load while the broker comes up."""
        taking = "unplugger" if whole_device(self.spec) else "reclaimer"
        cast = ["holder", "peer", "taker", taking]
        logs = self.folder / "logs"
        started = await asyncio.gather(
            self._start_broker(),
            *(self._start_client(name, logs) for name in cast),
            return_exceptions=True,
        )
        for failure in started:
            if failure is not None:
                raise failure
        self.reclaimer = self.clients[taking]

    async def _start_broker(self) -> None:
        host = ["--host-protocol", self.spec.protocol] if self.spec.backing == "host" else []
        file = file_of(self.spec.protocol)
        stranger = [f"--protocol={file}"] if file else []
        self.broker = await Broker.start(
            self.spec.protocol, self.folder.resolve(), [*host, *stranger, *self.control.options]
        )

    async def _start_client(self, name: str, logs: Path) -> None:
        self.clients[name] = await Process.start(name, MODULES[name], logs)

    # ---- the scene

    async def _scene(self) -> None:
        await self._meet()
        async with self.stage:
            await self._act()
        succeeded = self.facts["reclaim"]["returned"] and self.facts["reclaim"]["errno"] is None
        await self._survey(succeeded=succeeded)

    async def _act(self) -> None:
        """From the first byte to the last."""
        peer = self.clients["peer"]
        await peer.ask("go", dma=self.control.dma)
        await self._go_on(random.Random(self.seed).randint(0, ROUND))
        reclaim = await self._reclaim()
        if reclaim["returned"]:
            await self._aftermath(succeeded=reclaim["errno"] is None)
        recovered = bool((await self.clients["holder"].ask("status"))["again"])
        if recovered:
            with suppress(LabError):
                await peer.ask("recover", limit=5)
        stopped = await peer.ask("stop", limit=2 * PATIENCE)  # it waits for what does not come, too
        self.facts |= {
            "reclaim": reclaim,
            "leaked": stopped["leaked"],
            "peer": {key: stopped[key] for key in ("posted", "good", "bad")},
            "recovery_qps": stopped["recovery_qps"] if recovered else [],
            "bystander": {"qps": [self.qps["peer"]["bystander"]], "mr_lost": not stopped["bystander_lives"]},
            "drained": ["peer"],
        }

    async def _meet(self) -> None:
        """Registration, queue pairs, keys."""
        assert self.broker
        directory, journals = str(self.broker.directory), self.folder.resolve() / "journals"
        files = self._files()
        holder, peer, *_ = await asyncio.gather(
            self.clients["holder"].ask(
                "start",
                node=directory,
                journal=str(journals / "holder.jrnl"),
                manner=self.spec.holder,
                writer=HOLDER,
                files=files,
            ),
            self.clients["peer"].ask(
                "start",
                node=directory,
                journal=str(journals / "peer.jrnl"),
                writer=PEER,
                size=SIZE,
                write=WRITE,
                read=READ,
                depth=DEPTH,
                reads=READS,
            ),
            *(self.clients[name].ask("start", node=directory) for name in self._controllers()),
        )
        self.qps = {"holder": holder["qps"], "peer": peer["qps"]}
        self.known: Json = holder["known"]
        self.facts |= {
            "refused": holder["refused"],
            "pinned": holder["victim"] is not None and self.control.pinned,
        }
        await self.clients["holder"].ask("connect", qps=peer["qps"])
        await self.clients["peer"].ask(
            "connect", qps=holder["qps"], victim=holder["victim"], bystander=holder["bystander"]
        )
        if not self.control.pinned:
            await self.clients["holder"].ask("let_go")

    def _controllers(self) -> list[str]:
        return [name for name in self.clients if name not in {"holder", "peer"}]

    def _files(self) -> dict[str, Json]:
        """The three files; those of the host are made here."""
        host = self.folder.resolve() / "host"
        files = files_for(self.spec, str(host))
        if self.spec.backing == "host":
            host.mkdir()
            for file in files.values():
                with open(file["path"], "ab") as made:  # noqa: PTH123 - a path of the plan
                    os.ftruncate(made.fileno(), file["size"])
        return files

    async def _go_on(self, more: int = 0) -> None:
        """Several times over the whole file by both queue pairs (and `more` pieces), or until an error ends them."""
        if self.control.dma:
            await self.clients["peer"].ask("advance", completions=ROUND + more)

    # ---- the reclaim and what follows

    async def _reclaim(self) -> Json:
        """The reclaimer's answer; none within a generous limit is an answer too."""
        began = time.monotonic_ns()
        try:
            answer = await self._ask_reclaimer()
        except Refused:
            raise
        except LabError as error:
            if self.reclaimer.ended or not self.broker or not self.broker.alive:
                raise
            silence = {"returned": False, "errno": None, "error": str(error)}
            return {**silence, "began": began, "ended": None}
        first: Json = answer["tries"][0]
        return {"returned": True, **first}

    async def _ask_reclaimer(self) -> Json:
        event = self.spec.event
        if whole_device(self.spec):
            surprise = event == "surprise-unplug"
            return await self.reclaimer.ask(
                "unplug", limit=HANG_AFTER, device=VICTIM_DEVICE, surprise=surprise, retries=0
            )
        arguments = ACTS[event].arguments
        return await self.reclaimer.ask(
            "reclaim", limit=HANG_AFTER, event=event, path=self.victim_path, retries=0, **arguments
        )

    @property
    def victim_path(self) -> str:
        return str(files_for(self.spec, str(self.folder.resolve() / "host"))["victim"]["path"])

    async def _aftermath(self, *, succeeded: bool) -> None:
        if whole_device(self.spec):
            await self._go_on()
            if succeeded:
                await self.reclaimer.ask("plug", device=VICTIM_DEVICE)
        elif self.spec.backing == "host":
            if succeeded:
                await self._retake()
        else:
            await self._take()
        await self._go_on()

    async def _take(self) -> None:
        start, end = ACTS[self.spec.event].given_back
        path = f"{VICTIM_MOUNT}/taker"
        made = await self.clients["taker"].ask("take", path=path, size=end - start, writer=TAKER)
        self.facts["taken"] = {"path": path, "written": [[0, end - start]], "unzeroed": made["unzeroed"]}

    async def _retake(self) -> None:
        start, end = ACTS[self.spec.event].given_back
        await self.clients["taker"].ask(
            "retake",
            path=self.victim_path,
            start=start,
            end=end,
            writer=TAKER,
            ino=self.known["ino"],
            layout=self.known["layout"] + 1,
        )
        self.facts["taken"] = {"path": "victim", "written": [[start, end]], "unzeroed": None}

    # ---- the end

    async def _survey(self, *, succeeded: bool) -> None:
        survey = await self.clients["taker"].ask("survey", device=VICTIM_DEVICE)
        device = device_of(self.spec)
        filemap = {"schema": 1, "block": 4096, "device": device, "image": f"{device}.img", "replaced": False}
        if self.spec.backing == "host":
            filemap |= {"namespace": 1, "files": [self._host_file(succeeded=succeeded)]}
        else:
            replaced = whole_device(self.spec) and succeeded
            filemap |= {"namespace": 2 if replaced else 1, "replaced": replaced, "files": survey["files"]}
        self._write("filemap.json", filemap)
        self.facts["blocks"] = {
            name: {key: books[key] for key in ("total", "free", "owned", "quarantined")}
            for name, books in survey["books"]["devices"].items()
        }

    def _host_file(self, *, succeeded: bool) -> Json:
        """The victim as the kernel has it: the image is the file; what was written anew has a later layout."""
        path = self.folder / "host" / "victim"
        size, layout = path.stat().st_size, self.known["layout"]
        start, end = ACTS[self.spec.event].given_back if succeeded else (size, size)
        pieces = [
            [0, 0, start, layout],
            [start, start, end - start, layout + 1],
            [end, end, size - end, layout],
        ]
        extents = [piece for piece in pieces if piece[2] > 0]
        return {"path": "victim", "ino": self.known["ino"], "size": size, "extents": extents}

    async def _end(self) -> None:
        """DMA is over: keep the memory. Everybody leaves, the broker writes out its logs, the evidence is complete."""
        assert self.broker
        device = device_of(self.spec)
        memory = self.folder / "host" / "victim" if device == "host" else self.broker.image
        keep(memory, self.folder / f"{device}.img")
        self.facts["killed"] = [process.name for process in self.clients.values() if process.killed]
        if self.facts["reclaim"]["returned"]:
            await self._dismiss()
            await self._stop_broker()
        else:  # its history ends with the reclaim under way: whoever left now would interrupt it, or let it go on
            await self._stop_broker()
            await self._dismiss()
        for found in (self.folder / "history" / "1").iterdir():
            keep(found, self.folder / found.name)
        shutil.rmtree(self.folder / "history")
        self._write("row.json", self._row())

    async def _dismiss(self) -> None:
        await asyncio.gather(*(process.end() for process in self.clients.values()))

    async def _stop_broker(self) -> None:
        assert self.broker
        if not await self.broker.stop():
            raise LabError(
                "the broker did not come to a clean end, so its logs prove nothing; see logs/broker.log"
            )

    def _row(self) -> Json:
        """What the classifier is told: facts of the run, not the protocol's name."""
        act = ACTS[self.spec.event]
        expected = HOST_EXPECTED[self.spec.event] if self.spec.backing == "host" else act.expected
        on_host = self.spec.backing == "host"
        return {
            "schema": 1,
            "event": self.spec.event,
            "backing": self.spec.backing,
            "holder": self.spec.holder,
            "seed": self.seed,
            "dma": self.control.dma,
            "victim": {"path": "victim" if on_host else f"{VICTIM_MOUNT}/victim"},
            "before": BEFORE,
            "expected": self._regrown(expected) if on_host else expected,
            "taken": None,
            **self.facts,
        }

    def _regrown(self, expected: Json) -> Json:
        """The taker has made a truncated host file as long as it was."""
        return {**expected, "size": SIZE}

    def _write(self, name: str, content: Json) -> None:
        (self.folder / name).write_text(json.dumps(content, indent=1) + "\n")

    async def _clear(self) -> None:
        """Whatever happened: no process and no directory is left."""
        try:
            await asyncio.gather(
                *(process.kill() for process in self.clients.values()), return_exceptions=True
            )
        finally:
            if self.broker:
                await self.broker.stop()
