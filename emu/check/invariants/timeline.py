"""What a history's lines tell, once they are read (reading.py): who was mapped when, what each reclaim did, who answered what.

    Mapped        one translation under a key: InstallKey (or Remap) .. Quiesced .. Unmapped .. RemoveKey, or the end of the broker's life
    Registration  a reg_mr: asked, refused or pinned, answered
    Reclaim       its Phase lines, its range as blocks, what its file was before and behind it
    Asked         a Quiesce or Unmap, and its answers
    Given         memory that went to somebody else: Release, Offline, Online, an applied unplug; and who was still mapped there

A *step* is what the core does with one event: the event's line up to the next event's. It is the core's critical section: nothing comes
between its lines. A Loaded line begins a new *life* of the broker: numbers of keys, sessions, cookies and reclaims start again.

What the engine answered (Quiesced, Unmapped) and what the core said (phases `fenced`, `unmapped`) are kept apart.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


Json = dict[str, Any]
Runs = list[list[int]]
BLOCK = 4096
SYNC, DEFERRED, DYNAMIC, NON_REVOCABLE = range(4)


class At(NamedTuple):
    """A line's place. step: number of the core's step that it belongs to; life: of the broker."""

    n: int
    t: int
    epoch: int
    step: int
    life: int


NOWHERE = At(-1, 0, 0, 0, 0)


@dataclass(slots=True)
class Registration:
    """`pinned`: it got past its first step. key: 0 until it is known. made: its translation, once installed."""

    asked: At
    session: int
    op: Json
    host: str
    ino: int
    device: str
    pinned: bool = True
    answered: At | None = None
    errno: int = 0
    key: int = 0
    made: Mapped | None = None

    @property
    def lo(self) -> int:
        return int(self.op.get("offset", 0))

    @property
    def hi(self) -> int:
        return self.lo + int(self.op.get("length", 0))


@dataclass(slots=True)
class Mapped:
    """quiesced, unmapped: the engine's answers; fenced, parted: what a Phase line said of the same. next: when the key's number was
    installed again. replaced: a Remap gave the key another translation. died: the life of the broker that it ended with. again: made by a Remap, not by a registration. lost: where a reclaim
    had begun to fence the key before it was installed.
    """

    key: int
    at: At
    importer: int = SYNC
    aperture: int = 0
    runs: Runs = field(default_factory=list)
    registration: Registration | None = None
    again: bool = False
    replaced: bool = False
    quiesced: At | None = None
    unmapped: At | None = None
    fenced: At | None = None
    parted: At | None = None
    revoked: At | None = None
    lost: At | None = None
    removed: At | None = None
    died: At | None = None
    next: At | None = None

    @property
    def stopped_in(self) -> int | None:
        """First epoch in which nothing may run under it."""
        answered = None if self.quiesced is None else self.quiesced.epoch + 1
        return _first(answered, None if self.fenced is None else self.fenced.epoch)

    @property
    def gone_in(self) -> int | None:
        """First epoch in which its translation is gone."""
        answered = None if self.unmapped is None else self.unmapped.epoch + 1
        return _first(answered, None if self.parted is None else self.parted.epoch)

    def current(self, epoch: int) -> bool:
        """Whether a use of the key that was over in this epoch can be nobody else's."""
        return (self.next is None or epoch < self.next.epoch) and (
            self.died is None or epoch <= self.died.epoch
        )


class Taken(NamedTuple):
    """A step of a reclaim: a Phase line. unseen: how many of its keys the engine had not been seen to let go by then."""

    name: str
    at: At
    keys: tuple[int, ...]
    unseen: int


@dataclass(slots=True)
class Reclaim:
    """phases: name -> first line of it. before, after: the file's durable row as it was asked for, and at the end; None where unknown.

    definite: its error says that nothing has changed. late: translations over its range at `unmapped`, the core's list or not.
    left: translations over what it had taken when it returned success. asked: session and request, where its request began it; denied:
    where that was answered with an error that says nothing has changed.
    """

    number: int
    life: int
    target: Json = field(default_factory=dict)
    phases: dict[str, At] = field(default_factory=dict)
    order: list[Taken] = field(default_factory=list)
    keys: tuple[int, ...] = ()
    errno: int | None = None
    definite: bool = True
    before: list[Any] | None = None
    start: list[Any] | None = (
        None  # behind the step in which it began, if it had waited for one that ended there
    )
    after: list[Any] | None = None
    held: list[Mapped] = field(default_factory=list)
    late: list[Mapped] = field(default_factory=list)
    left: list[Mapped] = field(default_factory=list)
    asked: tuple[int, int] | None = None
    denied: At | None = None

    @property
    def kind(self) -> str:
        return str(self.target.get("kind", ""))

    @property
    def ended(self) -> At | None:
        return self.phases.get("ended")

    def name(self) -> str:
        return f"reclaim {self.number}" + (f" ({self.kind})" if self.kind else "")


@dataclass(slots=True)
class Asked:
    """A Quiesce or Unmap. of: the reclaim that asked; None: a teardown."""

    kind: str
    at: At
    keys: tuple[int, ...]
    maps: list[Mapped]
    of: Reclaim | None
    answers: list[tuple[At, int]] = field(default_factory=list)

    @property
    def done(self) -> At | None:
        return next((at for at, errno in self.answers if not errno), None)


class Given(NamedTuple):
    """under: who had not answered both questions. named: keys of the reclaim, where it names no blocks."""

    at: At
    what: str
    aperture: int
    runs: Runs
    under: tuple[Mapped, ...]
    named: int = 0


@dataclass(slots=True)
class Person:
    """A session. opened: None for one that asked without ever being opened."""

    number: int
    life: int
    name: str = ""
    opened: At | None = None
    lost: At | None = None
    ended: At | None = None


@dataclass
class Reading:
    """Everything, in the order of the lines."""

    maps: list[Mapped] = field(default_factory=list)
    by_number: dict[int, list[Mapped]] = field(default_factory=dict)
    registrations: list[Registration] = field(default_factory=list)
    reclaims: list[Reclaim] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    given: list[Given] = field(default_factory=list)
    people: list[Person] = field(default_factory=list)
    places: dict[int, At] = field(
        default_factory=dict
    )  # n of an event's, Notify's, Reply's or Restore's line
    apertures: dict[int, int] = field(default_factory=dict)  # the log's number -> the core's
    last: At = NOWHERE

    def at(self, line: Json) -> At:
        return self.places[line["n"]]


def meet(one: Iterable[Iterable[int]], other: Iterable[Iterable[int]]) -> bool:
    """Do two lists of (offset, bytes) share a byte?"""
    pieces = [(a, a + n) for a, n in other]
    return any(a < end and start < a + n for a, n in one for start, end in pieces)


def covers(reclaim: Reclaim, made: Registration) -> bool:
    """Does the reclaim take from what this registration asks for?"""
    target = reclaim.target
    if "device" in target:
        return bool(made.device) and target["device"] == made.device
    if "buffer" in target:
        same = made.op.get("backing") == "dmabuf" and target["buffer"] == made.op.get("path")
        return same and (not made.ino or made.ino == target.get("ino", made.ino))
    if made.host or "host" in target:
        same = bool(made.host) and target.get("host") == made.host
    elif made.ino and target.get("ino"):
        same = target["ino"] == made.ino
    else:
        same = bool(made.op.get("path")) and target.get("path") == made.op.get("path")
    return same and int(target.get("lo", 0)) < made.hi and made.lo < int(target.get("hi", 1 << 63))


def runs_of(row: list[Any] | None, lo: int, hi: int) -> Runs:
    """Device bytes of a file's range, by its durable row."""
    found: Runs = []
    for at, start, blocks, _since in row[3] if row else ():
        first, last = max(at * BLOCK, lo), min((at + blocks) * BLOCK, hi)
        if first < last:
            found.append([start * BLOCK + first - at * BLOCK, last - first])
    return found


def blocks_within(row: list[Any] | None, lo: int, hi: int) -> set[int]:
    """Device blocks of which a byte lies in this range of the file."""
    return {
        at // BLOCK
        for run in runs_of(row, lo, hi)
        for at in range(run[0] // BLOCK * BLOCK, run[0] + run[1], BLOCK)
    }


def _first(one: int | None, other: int | None) -> int | None:
    known = [epoch for epoch in (one, other) if epoch is not None]
    return min(known, default=None)
