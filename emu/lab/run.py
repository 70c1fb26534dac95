"""One run: a fresh broker, real processes, one event with DMA in flight, and the evidence of it in a folder.

    cast     broker, holder, peer, taker and whoever asks start side by side
    meeting  the holder registers and stamps; queue pairs are connected; keys are handed over          (meeting.py)
    scene    DMA; the event, with what the holder's manner makes of it; what follows; DMA stops         (scene.py)
    survey   which bytes belong to whom; then all leave, the broker ends, the evidence is moved         (survey.py)

Between the steps the lab waits for completions, errors, notes or answers, never for time; save where nothing comes any more, and the
history says that nothing can.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from emu.check.promises import file_of, tells_holders
from emu.lab import survey
from emu.lab.meeting import meet
from emu.lab.node import Broker
from emu.lab.places import places
from emu.lab.plan import act_of
from emu.lab.plan.backings import BACKINGS
from emu.lab.plan.geometry import BLOCK
from emu.lab.plan.manners import MANNERS
from emu.lab.plan.ways import peer_of
from emu.lab.process import LabError, Process
from emu.lab.scene import inherit_no_more, play

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from emu.lab.children import Nursery
    from emu.lab.places import Places
    from emu.lab.plan.acts import Act
    from emu.lab.plan.backings import Backing
    from emu.lab.plan.controls import Control
    from emu.lab.plan.manners import Manner
    from emu.lab.plan.spec import RowSpec

Json = dict[str, Any]
ZEROS = bytes(BLOCK)


def keep(memory: Path, copy: Path) -> None:
    """Copy what is not zero; the rest is a hole that reads as zero."""
    with memory.open("rb") as source, copy.open("wb") as target:
        for start, end in _pieces(source.fileno()):
            source.seek(start)
            for at in range(start, end, BLOCK):
                if (block := source.read(min(BLOCK, end - at))) != ZEROS:
                    target.seek(at)
                    target.write(block)
        target.truncate(memory.stat().st_size)


def _pieces(fd: int) -> Iterator[tuple[int, int]]:
    """[start, end) of what is no hole of a file."""
    end = 0
    while True:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # there is nothing more
                raise
            return
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, end


@dataclass
class Run:
    """One run of a row, or of a control of it."""

    spec: RowSpec
    folder: Path
    seed: int
    control: Control
    nursery: Nursery
    stage: asyncio.Semaphore  # held while DMA goes on: another run's engine would only disturb the times
    broker: Broker | None = None
    clients: dict[str, Process] = field(default_factory=dict)
    facts: Json = field(default_factory=dict)
    met: Json = field(
        default_factory=dict
    )  # what parties said when they met: queue pairs, the victim's number and layout

    @cached_property
    def act(self) -> Act:
        return act_of(self.spec)

    @cached_property
    def backing(self) -> Backing:
        return BACKINGS[self.spec.backing]

    @cached_property
    def manner(self) -> Manner:
        return MANNERS[self.spec.holder]

    @cached_property
    def places(self) -> Places:
        return places(self.spec, self.folder.resolve() / "host", elsewhere=not self.control.pinned)

    @property
    def peer_hears(self) -> bool:
        return peer_of(self.spec) == "told"

    @property
    def holders_hear(self) -> bool:
        return tells_holders(self.spec.protocol)

    @property
    def layout_anew(self) -> int:
        """What the stamps say of bytes that are written into a host file anew. An MR on demand may come to them and is not too late, unless the
        file was taken away: these are told apart from older ones by nobody, as on the device.
        """
        rightly = self.met["on_demand"] and self.act.ask["op"] != "unplug"
        return int(self.met["layout"]) + (0 if rightly else 1)

    @property
    def asker(self) -> Process:
        return self.clients[self.act.by]

    @property
    def node(self) -> Broker:
        assert self.broker
        return self.broker

    async def carry_out(self) -> None:
        """Leaves the evidence in `folder`. LabError: the run failed; logs/ says why."""
        self._prepare()
        try:
            await self._start()
            await meet(self)
            async with self.stage:
                await play(self)
            await survey.take(self)
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
        cast = dict.fromkeys(("holder", "peer", "taker", self.act.by, *self._guests()))
        logs = self.folder / "logs"
        started = await asyncio.gather(
            self._start_broker(), *(self._start_client(name, logs) for name in cast), return_exceptions=True
        )
        for failure in started:
            if failure is not None:
                raise failure

    def _guests(self) -> tuple[str, ...]:
        return (
            *(("heir",) if self.act.leaves == "hands-over" else ()),
            *(("exporter",) if self.act.apart else ()),
        )

    async def _start_broker(self) -> None:
        file = file_of(self.spec.protocol)
        options = [
            *self.backing.broker_options(self.spec.protocol),
            *([f"--protocol={file}"] if file else []),
        ]
        self.broker = await Broker.start(
            self.spec.protocol,
            self.folder.resolve(),
            [*options, *self.control.options],
            properties=self.backing.properties,
            nursery=self.nursery,
        )

    async def _start_client(self, name: str, logs: Path) -> None:
        self.clients[name] = await Process.start(name, name, logs, self.nursery)

    # ---- the end

    async def _end(self) -> None:
        """DMA is over: keep the memory. Everybody leaves, the broker writes out its logs, the evidence is complete."""
        if not self.act.foreign:
            self._keep()
        killed = [process for process in self.clients.values() if process.killed]
        self.facts["killed"] = [process.name for process in killed]
        self.facts["killed_by"] = {process.name: process.ended_by for process in killed}
        reclaim = self.facts["reclaim"]
        if reclaim["returned"] or reclaim.get("abandoned") or not self.control.asked:
            await inherit_no_more(self)
            await self._dismiss()
            await self._stop_broker()
        else:  # its history ends with the reclaim under way: whoever left now would interrupt it, or let it go on
            if self.act.foreign:  # and the kernel lets it go on without the broker
                await self.asker.kill()
            await self._stop_broker()
            await self._dismiss()
        if self.act.foreign:  # while it was guarded, whoever opened it would have waited
            self._keep()
        for found in (self.folder / "history" / "1").iterdir():
            keep(found, self.folder / found.name)
        shutil.rmtree(self.folder / "history")
        if "died" in self.facts:
            self.facts["died"] = survey.died(self.folder, self.facts["died"])
        survey.write(self.folder / "row.json", survey.row(self))

    def _keep(self) -> None:
        for memory, name in survey.memories(self):
            keep(memory, self.folder / name)

    async def _dismiss(self) -> None:
        for process in self.clients.values():
            process.wake()
        first = {
            "holder",
            "peer",
            "heir",
        }  # an exporter that left before its importers would be one more event
        for wave in (first, self.clients.keys() - first):
            await asyncio.gather(*(self.clients[name].end() for name in self.clients if name in wave))

    async def _stop_broker(self) -> None:
        if not await self.node.stop():
            raise LabError(
                "the broker did not come to a clean end, so its logs prove nothing; see logs/broker.log"
            )

    async def _clear(self) -> None:
        """Whatever happened: no process and no directory is left."""
        try:
            await asyncio.gather(
                *(process.kill() for process in self.clients.values()), return_exceptions=True
            )
        finally:
            if self.broker:
                await self.broker.stop()
