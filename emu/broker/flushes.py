"""Pages that are written back while the loop serves everybody: a piece of memory.PIECE bytes each turn, in the order of the requests.

A Flush with a token is begun by its step and answered when its last piece is on the device. What later steps order must not see that it
takes its time, so each effect, before it is carried out, meets what is left:

    stores, copies, new generations, readers of the device, over these pages or blocks    what they touch is copied first
    MapPages: pages are no longer the file's                                              these are copied first: behind it the NIC writes
                                                                                          to a page that is nobody's, not to the file
    a Release of the device's blocks, that is committed                                   what was to go there is left out: it is no file's
    Offline, Online of the device                                                         the rest fails, ENODEV

A broker that ends begins no further piece. Nobody was told that these bytes are safe, and they are not.
"""

from __future__ import annotations

import errno
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from emu.broker.memory import cut
from emu.core import effects as fx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from emu.broker.memory import Memory
    from emu.core.effects import Effect, Piece, Run

BLOCK: Final = 4096
OVER: Final = (fx.Allocate, fx.Release, fx.Claim, fx.Share, fx.Poison, fx.Blank, fx.Zero, fx.Store)
ENDS: Final = (fx.Offline, fx.Online, fx.DropAperture)


@dataclass(slots=True)
class _Job:
    token: int
    ino: int
    source: int
    target: int
    left: deque[Piece] = field(default_factory=deque)
    error: OSError | None = None


class Flushes:
    """answer(token, error): called once for each that was begun."""

    def __init__(self, memory: Memory, answer: Callable[[int, OSError | None], None]) -> None:
        self._memory, self._answer = memory, answer
        self._jobs: deque[_Job] = deque()

    @property
    def waiting(self) -> bool:
        return bool(self._jobs)

    def begin(self, e: fx.Flush) -> None:
        self._jobs.append(_Job(e.token, e.ino, e.source, e.target, deque(e.pieces)))

    def turn(self) -> None:
        """One piece of the first; whoever has none left is answered."""
        if self._jobs and self._jobs[0].left:
            job = self._jobs[0]
            first, *rest = cut(job.left.popleft())
            job.left.extendleft(reversed(rest))
            self._copy(job, first)
        while self._jobs and not self._jobs[0].left:
            done = self._jobs.popleft()
            self._answer(done.token, done.error)

    def committed(self, effects: Sequence[Effect]) -> None:
        """A step's effects, before the first of them that follows its commit: nothing is written to blocks that it frees."""
        if not self._jobs:
            return
        for effect in effects:
            if isinstance(effect, fx.Release):
                for job in self._jobs:
                    if job.target == effect.aperture:
                        self._take(job, effect.runs, to=True)

    def meet(self, effect: Effect) -> None:
        """What is left of these pages and blocks, before this effect is carried out."""
        for job in tuple(self._jobs):
            if isinstance(effect, ENDS) and effect.aperture in {job.source, job.target}:
                _fail(job, OSError(errno.ENODEV, "the device went away while its pages were written back"))
            elif isinstance(effect, fx.MapPages) and effect.ino == job.ino:
                kept = tuple((page * BLOCK, count * BLOCK) for _at, page, count, _since in effect.extents)
                still = deque(self._take(job, kept, to=False))
                gone, job.left = list(job.left), still
                self._now(job, gone)
            else:
                self._before(job, effect)

    def _before(self, job: _Job, effect: Effect) -> None:
        for aperture, runs in _written(effect):
            if aperture == job.source:
                self._now(job, self._take(job, runs, to=False))
        for aperture, runs in (*_written(effect), *_read(effect)):
            if aperture == job.target:
                self._now(job, self._take(job, runs, to=True))

    def _take(self, job: _Job, runs: Iterable[Run], *, to: bool) -> list[Piece]:
        """Off what is left: what comes from these runs, or goes to them."""
        taken: list[Piece] = []
        for run in runs:
            rest: deque[Piece] = deque()
            for piece in job.left:
                inside, outside = _split(piece, run, piece[1] if to else piece[0])
                taken += inside
                rest.extend(outside)
            job.left = rest
        return taken

    def _now(self, job: _Job, copies: list[Piece]) -> None:
        for whole in copies:
            for piece in cut(whole):
                if job.error is None:
                    self._copy(job, piece)
                    self._memory.breathe()

    def _copy(self, job: _Job, piece: Piece) -> None:
        try:
            self._memory.copy_piece(job.source, job.target, piece)
        except OSError as error:
            _fail(job, error)


def _fail(job: _Job, error: OSError) -> None:
    job.error = job.error or error
    job.left.clear()


def _split(piece: Piece, run: Run, at: int) -> tuple[list[Piece], list[Piece]]:
    """What of the piece lies in the run, `at` being where it begins there, and what is beside it."""
    start, to, length = piece
    lo = min(max(run[0] - at, 0), length)
    hi = max(min(run[0] + run[1] - at, length), lo)
    if lo == hi:
        return [], [piece]
    beside = [(start, to, lo), (start + hi, to + hi, length - hi)]
    return [(start + lo, to + lo, hi - lo)], [one for one in beside if one[2]]


def _written(effect: Effect) -> list[tuple[int, tuple[Run, ...]]]:
    if isinstance(effect, OVER):
        return [(effect.aperture, effect.runs)]
    if isinstance(effect, fx.Copy):
        return [(effect.aperture, _at(effect.pieces, 1))]
    if isinstance(effect, fx.Fill) or (isinstance(effect, fx.Flush) and not effect.token):
        return [(effect.target, _at(effect.pieces, 1))]
    return []


def _read(effect: Effect) -> list[tuple[int, tuple[Run, ...]]]:
    """Of a device, as it must lie there; a page is read as it is."""
    if isinstance(effect, fx.Copy):
        return [(effect.aperture, _at(effect.pieces, 0))]
    if isinstance(effect, fx.Fill):
        return [(effect.source, _at(effect.pieces, 0))]
    if isinstance(effect, fx.Load):
        return [(effect.aperture, tuple(run for run in effect.pieces if run[0] >= 0))]
    return []


def _at(pieces: Iterable[Piece], which: int) -> tuple[Run, ...]:
    return tuple((piece[which], piece[2]) for piece in pieces)
