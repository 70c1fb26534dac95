"""A history's steps and reclaims, as reading.py reads them out of its lines.

Step      one event, and what came of it: the core's critical section
Change    one row of `files` that a commit changed
Reclaim   its Phase lines, its range as blocks, what its file was before and behind it, what left the file
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from emu.check.invariants.rows import ALWAYS
from emu.core.rows import BLOCK

if TYPE_CHECKING:
    from collections.abc import Mapping

    from emu.check.invariants.rows import FileRow, Json
    from emu.check.invariants.timeline import At, Mapped


@dataclass(eq=False)
class Step:
    """One event and what came of it. `event` is None in front of the first one of a life."""

    life: int
    event: Json | None
    lines: list[Json] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    applied: set[int] = field(default_factory=set)  # reclaims whose change it may have committed
    rows: list[Reclaim] = field(default_factory=list)  # the same
    last: bool = False  # of its life
    before: Mapping[int, FileRow] = field(default_factory=dict)  # of a last one: the files in front of it

    @property
    def cut(self) -> bool:
        """Its broker may have been killed in the middle of it: what follows a commit may not be there."""
        line = self.lines[-1]
        return self.last and line["type"] not in {"Reply", "Fail"} and line.get("phase") != "ended"

    def of(self, kind: str) -> list[Json]:
        return [line for line in self.lines if line["type"] == kind]

    @property
    def op(self) -> Json:
        """The request of a Requested; {} of anything else."""
        event = self.event
        return event["op"] if event and event["type"] == "Requested" else {}


class Change(NamedTuple):
    """One row of `files` that a Commit line changed."""

    line: Json
    step: Step
    ino: int
    old: FileRow | None
    new: FileRow | None


class Taken(NamedTuple):
    """A step of a reclaim: a Phase line. unseen: how many of its keys the engine had not been seen to let go by then."""

    name: str
    at: At
    keys: tuple[int, ...]
    unseen: int


@dataclass(eq=False)
class Reclaim:
    """target: kind, and path, ino, lo, hi; or device; or host, lo, hi. phases: name -> first line of it. errno: None while it is not answered.

    By its request: `asked` (session and request, where its request began it), `denied` (where that was answered with an error that says
    nothing has changed), `definite` (its error says so, or nothing had begun when nobody was left to tell), `sure` (no answer said otherwise).

    By its keys: `keys` of its last Phase line, `named` of all of them; `held` when it began, `late` over its range at `unmapped`, the core's
    list or not; `left` over what it had taken when it returned success; `stopped`, whom it told the engine to stop.

    By its file: `asked_of`, where DMA to it went as it was asked for; `start`, the same behind the step in which it began, if it had waited for one
    that ended there; `end`, the same at the end; None where unknown. `range`: blocks of it when it began: pages, where DMA goes to these.

    By its change: `before` and `after`, the rows around it; `laid`, where DMA to the file went before it; `taken`: device blocks that left
    their file, or their place in it; `detached`, the first epoch behind the commit that took them.
    """

    number: int
    life: int
    target: Json = field(default_factory=dict)
    phases: dict[str, At] = field(default_factory=dict)
    order: list[Taken] = field(default_factory=list)
    errno: int | None = None
    asked: tuple[int, int] | None = None
    denied: At | None = None
    definite: bool = True
    sure: bool = True
    keys: tuple[int, ...] = ()
    named: set[int] = field(default_factory=set)
    held: list[Mapped] = field(default_factory=list)
    late: list[Mapped] = field(default_factory=list)
    left: list[Mapped] = field(default_factory=list)
    stopped: list[Mapped] = field(default_factory=list)
    asked_of: FileRow | None = None
    start: FileRow | None = None
    end: FileRow | None = None
    aperture: int = 0
    known: bool = False  # the history says whose file or device it is about
    range: set[int] = field(default_factory=set)
    unsaved: bool = False  # some of its pages were dirty then
    steps: list[Step] = field(
        default_factory=list
    )  # those with a phase of it: whatever it commits is in one of them
    changed: int = -1  # the line that its change began with: of the event of that step
    before: FileRow | None = None
    after: FileRow | None = None
    laid: FileRow | None = None
    taken: set[int] = field(default_factory=set)
    detached: int = ALWAYS
    stays: set[int] = field(default_factory=set)  # clean pages of the file behind its change
    source: FileRow | None = None  # reflink: what was cloned, as it was then

    @property
    def kind(self) -> str:
        return str(self.target.get("kind", ""))

    @property
    def ended(self) -> At | None:
        return self.phases.get("ended")

    def at(self, phase: str) -> int:
        """The number of the line, or far behind the end."""
        line = self.phases.get(phase)
        return line.n if line else ALWAYS

    @property
    def succeeded(self) -> bool:
        return self.errno == 0

    @property
    def told(self) -> tuple[int, ...]:
        """The lines that tell it."""
        names = ("requested", "applied", "freed", "returned")
        return tuple(sorted(self.phases[name].n for name in names if name in self.phases))

    @property
    def device(self) -> str:
        """The device whose memory it takes, "" for none: an umount leaves all blocks where they are."""
        return "" if self.kind == "umount" else str(self.target.get("device", ""))

    @property
    def due(self) -> set[int]:
        """What it took and was to take: blocks that lie in its range as a whole."""
        if self.laid is None:
            return set()
        lo, hi = self.target["lo"], self.target["hi"]
        return self.taken & self.laid.within(-(-lo // BLOCK) * BLOCK, hi // BLOCK * BLOCK)

    def name(self) -> str:
        return f"reclaim {self.number}" + (f" ({self.kind})" if self.kind else "")

    def words(self) -> str:
        target = self.target
        what = target.get("path") or target.get("device") or target.get("host") or "?"
        return f"reclaim {self.number} ({self.kind or 'unknown'} of {what})"
