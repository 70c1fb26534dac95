"""A process of a run: started, spoken to by JSON lines, and gone when the lab is gone.

Clients read commands from stdin and end at its end, so a lab that is killed takes them along without any doing of its own; the
broker has a lifeline pipe for the same purpose. What a process says on stderr goes to logs/NAME.log.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from emu.host.times import patience

if TYPE_CHECKING:
    from pathlib import Path

    from emu.lab.children import Child, Nursery

Json = dict[str, Any]
LINE_LIMIT = 16 << 20
PATIENCE = 30.0  # seconds for a command; EMU_TIME_SCALE stretches it
GRACE = 5.0


class LabError(Exception):
    """The run could not be carried out; nothing can be said about the protocol."""


class Refused(LabError):
    """A client answered a command with an errno."""

    def __init__(self, who: str, name: str, answer: Json) -> None:
        super().__init__(f"{who}: {name}: {answer['errno']}: {answer['error']}")
        self.errno: str = answer["errno"]


class Process:
    """One client of a run. `notes` holds what it said unasked."""

    def __init__(self, name: str, child: Child) -> None:
        self.name, self._child = name, child
        self.notes: list[Json] = []
        self.doomed = False  # its end is the lab's doing
        self._said = asyncio.Event()
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Json]] = {}
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, name: str, module: str, logs: Path, nursery: Nursery) -> Process:
        """`python -m emu.clients.MODULE`."""
        return cls(name, await nursery.spawn(f"emu.clients.{module}", (), logs / f"{name}.log"))

    async def _read(self) -> None:
        assert self._child.stdout
        try:
            async for line in self._child.stdout:
                self._take(json.loads(line))
        finally:
            error = LabError(f"{self.name} ended; its last words are in logs/{self.name}.log")
            for future in self._answers.values():
                if not future.done():
                    future.set_exception(error)
            self._said.set()

    def _take(self, message: Json) -> None:
        if "note" in message:
            self.notes.append(message)
            self._said.set()
            return
        future = self._answers.pop(message["id"], None)
        if future and not future.done():
            future.set_result(message)

    async def ask(self, name: str, *, limit: float | None = PATIENCE, **fields: Any) -> Json:
        """Command and answer. Refused: it said no. LabError: it ended, or took longer than `limit` seconds (None: no limit)."""
        number = next(self._numbers)
        future = self._answers[number] = asyncio.get_running_loop().create_future()
        if self._reader.done():
            raise LabError(f"{self.name} ended before it was asked to {name}; see logs/{self.name}.log")
        self._child.write(json.dumps({"id": number, "do": name, **fields}).encode() + b"\n")
        try:
            # not wait_for: who is cancelled as the answer comes would go on as if nobody had cancelled it (Python 3.11)
            async with asyncio.timeout(None if limit is None else patience(limit)):
                answer: Json = await future
        except TimeoutError:
            raise LabError(f"{self.name}: no answer to {name} within {limit:g} s") from None
        if "errno" in answer:
            raise Refused(self.name, name, answer)
        return answer

    @property
    def noted(self) -> set[str]:
        return {str(note["note"]) for note in self.notes}

    async def heard(self, note: str, limit: float = PATIENCE) -> bool:
        """Wait until it has said this unasked; False if it ended, or took longer than `limit` seconds."""
        try:
            async with asyncio.timeout(patience(limit)):
                while note not in self.noted and not self._reader.done():
                    self._said.clear()
                    await self._said.wait()
        except TimeoutError:
            return note in self.noted  # it may have come with the last moment
        return note in self.noted

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def talks(self) -> bool:
        """Whether it can still say anything."""
        return not self._reader.done()

    def signal(self, number: signal.Signals) -> None:
        """What a manner asks for; whoever is ended by it was ended by the lab."""
        self.doomed = self.doomed or number == signal.SIGKILL
        self._child.send_signal(number)

    def wake(self) -> None:
        """Whoever was stopped goes on."""
        self._child.send_signal(signal.SIGCONT)

    async def gone(self) -> None:
        """Wait for its end, and until all that it said has been read."""
        await self._child.wait()
        await asyncio.wait({self._reader})

    @property
    def ended(self) -> bool:
        return self._child.returncode is not None

    @property
    def killed(self) -> bool:
        """Ended by a signal that the lab did not send."""
        doomed = self.doomed or "dies" in self.noted  # or by itself
        return not doomed and self._child.returncode is not None and self._child.returncode < 0

    @property
    def ended_by(self) -> int:
        """The signal that ended it; 0: none did."""
        return -min(0, self._child.returncode or 0)

    async def end(self) -> None:
        """Ask it to leave; kill it if it does not."""
        if not self.ended:
            with suppress(LabError):
                await self.ask("quit", limit=GRACE)
        await self.kill()

    async def kill(self) -> None:
        self.doomed = self.doomed or not self.ended
        self._child.send_signal(signal.SIGKILL)
        await self._child.wait()
        self._reader.cancel()
        with suppress(asyncio.CancelledError):
            await self._reader
