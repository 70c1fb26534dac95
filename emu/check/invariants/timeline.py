"""What a history's lines tell, once they are read (reading.py): who was mapped when, what each reclaim did, who answered what.

    Mapped        one translation under a key: InstallKey (or Remap) .. Quiesced .. Unmapped .. RemoveKey, or the end of the broker's life
    Registration  a reg_mr: asked, refused or pinned, answered
    Asked         a Quiesce or Unmap, and its answers
    Given         memory that went to somebody else: Release, Offline, Online, an applied unplug; and who was still mapped there

Steps and reclaims are in reclaims.py, files in rows.py.

A *step* is what the core does with one event: the event's line up to the next event's. It is the core's critical section: nothing comes
between its lines. A Loaded line begins a new *life* of the broker: numbers of keys, sessions, cookies and reclaims start again.

What the engine answered (Quiesced, Unmapped) and what the core said (phases `fenced`, `unmapped`) are kept apart.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from emu.check.invariants.rows import ALWAYS, blocks_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from emu.check.invariants.reclaims import Change, Reclaim, Step
    from emu.check.invariants.rows import FileRow, Json, Runs
    from emu.history.oplog import OpRecord

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


@dataclass(eq=False)
class Mapped:
    """quiesced, unmapped: the engine's answers; fenced, parted: what a Phase line said of the same. next: when the key's number was
    installed again. replaced: a Remap gave the key another translation. died: the life of the broker that it ended with. again: made by a Remap, not by a registration. lost: where a reclaim
    had begun to fence the key before it was installed. seen: a line installed it; not so a key that a reclaim names and nobody installed.
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
    seen: bool = True

    @cached_property
    def blocks(self) -> set[int]:
        return blocks_of(self.runs)

    @property
    def end(self) -> int:
        """The line behind which nobody reaches anything by it, far behind the end where that did not come."""
        ends = (self.unmapped, self.removed, self.next if self.replaced else None)
        return min((at.n for at in ends if at is not None), default=ALWAYS)

    def mapped_at(self, n: int) -> bool:
        return self.at.n < n < self.end

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
    """Everything, in the order of the lines up to the first gap: behind one nobody knows who owns what."""

    steps: list[Step] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    files: dict[int, FileRow] = field(default_factory=dict)  # at the end
    lost: list[tuple[Json, int]] = field(
        default_factory=list
    )  # a Loaded line, and an ino that it should have and has not
    maps: list[Mapped] = field(default_factory=list)
    by_number: dict[int, list[Mapped]] = field(default_factory=dict)
    registrations: list[Registration] = field(default_factory=list)
    reclaims: list[Reclaim] = field(default_factory=list)
    reclaim_at: dict[tuple[int, int], Reclaim] = field(default_factory=dict)  # (life, number) -> it
    asked: list[Asked] = field(default_factory=list)
    given: list[Given] = field(default_factory=list)
    handed: list[Json] = field(default_factory=list)  # Release, Allocate and Online lines
    people: list[Person] = field(default_factory=list)
    places: dict[int, At] = field(
        default_factory=dict
    )  # n of an event's, Notify's, Reply's or Restore's line
    apertures: dict[tuple[int, str], int] = field(default_factory=dict)  # (life, device) -> aperture
    last: At = NOWHERE

    def at(self, line: Json) -> At:
        return self.places[line["n"]]

    def aperture_of(self, life: int, device: str) -> int:
        return self.apertures.get((life, device), 0)

    def space_of(self, life: int, device: str) -> int:
        """The aperture to which DMA to this device's files goes."""
        return self.aperture_of(life, f"{device}.cache") or self.aperture_of(life, device)

    def volatile(self, row: Reclaim) -> bool:
        """Whether what it takes are pages of a cache, of which nothing is durable."""
        return any(
            aperture == row.aperture and name.endswith(".cache")
            for (life, name), aperture in self.apertures.items()
            if life == row.life
        )

    def step_of(self, n: int) -> Step | None:
        """The step that has this line; None behind a gap."""
        at = bisect_right(self.steps, n, key=lambda step: int(step.lines[0]["n"])) - 1
        return self.steps[at] if at >= 0 and n <= self.steps[at].lines[-1]["n"] else None

    def key_at(self, key: int, epoch: int) -> Mapped | None:
        """The translation in which an operation that started in this epoch found the key: the last that was installed by then."""
        known = self.by_number.get(key, ())
        return next((mapped for mapped in reversed(known) if mapped.seen and mapped.at.epoch <= epoch), None)

    def used(self, key: int, record: OpRecord) -> Mapped | None:
        """The one under which this record's bytes moved: an operation goes on under the translation that a Remap brings meanwhile."""
        found = self.key_at(key, record.op_epoch)
        for later in self.by_number.get(key, ()) if found else ():
            if (
                later.again
                and later.at.epoch <= record.epoch_first
                and found
                and later.at.life == found.at.life
            ):
                found = later if later.at.n > found.at.n else found
        return found


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


def _first(one: int | None, other: int | None) -> int | None:
    known = [epoch for epoch in (one, other) if epoch is not None]
    return min(known, default=None)
