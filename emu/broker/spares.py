"""Namespaces made ahead of the step that plugs them in: a file of canaries is filled by the worker while the loop serves everybody.

A namespace that nobody has seen belongs to no order, so it need not be made inside a step. The step that asks for one too early is put
back (`Later`) and comes again when the file is there. One that was made and not used, since the client died meanwhile, waits for the
next plug; one whose commit failed is removed, since it may be what the commit lacks space for.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from emu.history.stamp import CANARY
from emu.host.files import open_sized

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from emu.broker.worker import Worker

_CHUNK = 1 << 20


class Later(Exception):
    """What the step needs is being made. `then` is told whom to call when it is there, or has failed."""

    def __init__(self, then: Callable[[Callable[[], None]], None]) -> None:
        super().__init__("what this step needs is being made")
        self.then = then


@dataclass(slots=True)
class Spare:
    done: bool = False
    error: OSError | None = None
    waiting: list[Callable[[], None]] = field(default_factory=list)


class Spares:
    """By path."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._made: dict[Path, Spare] = {}

    def demand(self, path: Path, size: int) -> None:
        """Returns when the file is there. Raises Later, or the OSError that ended the making (the next demand tries again)."""
        spare = self._made.get(path)
        if spare is None:
            spare = self._made[path] = Spare()
            self._worker.do(lambda: self._make(path, size), lambda error: _end(spare, error))
        if not spare.done:
            raise Later(spare.waiting.append)
        if spare.error is not None:
            del self._made[path]
            raise spare.error

    def used(self, path: Path) -> None:
        """It has its place: the next demand is for another."""
        self._made.pop(path, None)

    def _make(self, path: Path, size: int) -> None:
        path.unlink(missing_ok=True)
        fd = -1
        try:
            fd = open_sized(path, size)
            self._fill(fd, size)
        except OSError:
            path.unlink(missing_ok=True)  # the space is somebody else's
            raise
        finally:
            if fd >= 0:
                os.close(fd)

    def _fill(self, fd: int, size: int) -> None:
        chunk = memoryview(CANARY * (_CHUNK // len(CANARY)))
        at = 0
        while at < size:
            if self._worker.stopping:
                raise OSError(errno.ECANCELED, "the broker ends")
            at += os.pwrite(fd, chunk[: size - at], at)


def _end(spare: Spare, error: OSError | None) -> None:
    spare.done, spare.error = True, error
    for resume in spare.waiting:
        resume()
