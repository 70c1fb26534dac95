"""What the lines of a history come to, for the invariants of safety: lives, steps, reclaims, keys, and who owns which block when.

Read are the lines up to the first gap: behind one nobody knows who owns what. Numbers of keys, sessions and reclaims come again in
the broker's next life, so everything here says in which life it was. A *step* is an event and all lines that it led to.
"""

from __future__ import annotations

import errno
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from emu.core.rows import BLOCK, FOREVER

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from emu.check.history import History
    from emu.history.oplog import OpRecord

Json = dict[str, Any]
Span = tuple[int, int]  # device blocks, first and one past the last
ALWAYS = 1 << 62
UNDERNEATH = (
    "migrate",
    "reflink",
    "cow-write",
    "poison",
)  # kinds that change a device's blocks; pages stay where they are


class FileRow(NamedTuple):
    """A file's durable row."""

    path: str
    device: str
    size: int
    extents: tuple[tuple[int, int, int, int], ...]
    layout: int = 1
    nlink: int = 1
    gone: bool = False
    origin: int = 0
    lost: tuple[tuple[int, int, int, int], ...] = ()

    @property
    def blocks(self) -> set[int]:
        """Its blocks in the device."""
        return {block for _, start, count, _ in self.extents for block in range(start, start + count)}

    def within(self, lo: int, hi: int) -> set[int]:
        """Device blocks of which some byte lies in lo..hi of the file."""
        return {
            start + at - first
            for first, start, count, _ in self.extents
            for at in range(max(first, lo // BLOCK), min(first + count, -(-min(hi, FOREVER) // BLOCK)))
        }

    @property
    def places(self) -> dict[int, int]:
        """Device block -> the block of the file that lies in it."""
        return {start + n: first + n for first, start, count, _ in self.extents for n in range(count)}

    def runs(self, lo: int, hi: int) -> list[list[int]]:
        """Bytes lo..hi of the file, as runs of its device."""
        found = []
        for first, start, count, _ in self.extents:
            low, high = max(lo, first * BLOCK), min(hi, (first + count) * BLOCK)
            if low < high:
                found.append([start * BLOCK + low - first * BLOCK, high - low])
        return found


@dataclass
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


@dataclass
class Reclaim:
    """A reclaim by its Phase lines. `taken`: device blocks that left their file, or their place in it, and the file's rows before and after."""

    number: int
    life: int
    phases: dict[str, Json] = field(default_factory=dict)  # the first line of each phase
    keys: set[int] = field(default_factory=set)
    request: tuple[int, int] = (0, 0)
    definite: bool = True
    aperture: int = 0
    changed: int = -1  # the line that its change began with: of the event of that step
    known: bool = False  # the history says whose file or device it is about
    range: set[int] = field(
        default_factory=set
    )  # blocks of the file under reclaim, when it began: pages, where DMA goes to these
    unsaved: bool = False  # some of its pages were dirty then
    stays: set[int] = field(default_factory=set)  # clean pages of the file behind its change
    laid: FileRow | None = None  # where DMA to the file went, before its change
    fenced: list[KeyLife] = field(default_factory=list)  # whom it told the engine to stop
    steps: list[Step] = field(
        default_factory=list
    )  # those with a phase of it: whatever it commits is in one of them
    taken: set[int] = field(default_factory=set)
    detached: int = ALWAYS  # the first epoch behind the commit that took them
    before: FileRow | None = None
    after: FileRow | None = None
    source: FileRow | None = None  # reflink: what was cloned, as it was then

    @property
    def target(self) -> Json:
        """kind, and path, ino, lo, hi; or device; or host, lo, hi."""
        found: Json = self.phases["requested"]["detail"] if "requested" in self.phases else {}
        return found

    @property
    def kind(self) -> str:
        return str(self.target.get("kind", ""))

    def at(self, phase: str) -> int:
        """The number of the line, or far behind the end."""
        line = self.phases.get(phase)
        return int(line["n"]) if line else ALWAYS

    @property
    def errno(self) -> int | None:
        """0: it succeeded; None: it was not answered."""
        line = self.phases.get("returned")
        return int(line["detail"].get("errno", 0)) if line else None

    @property
    def succeeded(self) -> bool:
        return self.errno == 0

    @property
    def told(self) -> tuple[int, ...]:
        """The lines that tell it."""
        names = ("requested", "applied", "freed", "returned")
        return tuple(sorted(self.phases[name]["n"] for name in names if name in self.phases))

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

    def words(self) -> str:
        target = self.target
        what = target.get("path") or target.get("device") or target.get("host") or "?"
        return f"reclaim {self.number} ({self.kind or 'unknown'} of {what})"


@dataclass
class KeyLife:
    """A key from InstallKey to RemoveKey; line numbers, far behind the end where it did not come."""

    key: int
    life: int
    installed: Json
    quiesced: int = ALWAYS
    unmapped: int = ALWAYS
    removed: int = ALWAYS
    again: bool = False  # by a Remap

    @property
    def aperture(self) -> int:
        return int(self.installed["aperture"])

    @cached_property
    def blocks(self) -> set[int]:
        return blocks_of(self.installed["extents"])

    def mapped_at(self, n: int) -> bool:
        return bool(self.installed["n"] < n < min(self.unmapped, self.removed))


class Change(NamedTuple):
    """One row of `files` that a Commit or Loaded line changed."""

    line: Json
    step: Step
    ino: int
    old: FileRow | None
    new: FileRow | None


@dataclass
class Digest:
    steps: list[Step] = field(default_factory=list)
    reclaims: list[Reclaim] = field(default_factory=list)
    reclaim_at: dict[tuple[int, int], Reclaim] = field(default_factory=dict)  # (life, number) -> it
    keys: list[KeyLife] = field(default_factory=list)
    lives_of: dict[int, list[KeyLife]] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    given: list[Json] = field(default_factory=list)  # Release, Allocate and Online lines
    apertures: dict[tuple[int, str], int] = field(default_factory=dict)  # (life, device) -> aperture
    numbers: dict[int, int] = field(default_factory=dict)  # the operation log's number -> aperture
    files: dict[int, FileRow] = field(default_factory=dict)  # at the end
    lost: list[tuple[Json, int]] = field(
        default_factory=list
    )  # a Loaded line, and an ino that it should have and has not

    def aperture_of(self, life: int, device: str) -> int:
        return self.apertures.get((life, device), 0)

    def volatile(self, row: Reclaim) -> bool:
        """Whether what it takes are pages of a cache, of which nothing is durable."""
        return any(
            aperture == row.aperture and name.endswith(".cache")
            for (life, name), aperture in self.apertures.items()
            if life == row.life
        )

    def paged(self, life: int, row: FileRow | None) -> bool:
        """Whether DMA to this file goes to pages: its device has a cache."""
        return row is not None and (life, f"{row.device}.cache") in self.apertures

    def step_of(self, n: int) -> Step | None:
        """The step that has this line; None behind a gap."""
        at = bisect_right(self.steps, n, key=lambda step: int(step.lines[0]["n"])) - 1
        return self.steps[at] if at >= 0 and n <= self.steps[at].lines[-1]["n"] else None

    def key_at(self, key: int, epoch: int) -> KeyLife | None:
        """The key's life in which an operation that started in this epoch found it: the last that was installed by then."""
        lives = self.lives_of.get(key, [])
        return next((life for life in reversed(lives) if life.installed["epoch"] <= epoch), None)

    def used(self, key: int, record: OpRecord) -> KeyLife | None:
        """The life under which this record's bytes moved: an operation goes on under the translation that a Remap brings meanwhile."""
        life = self.key_at(key, record.op_epoch)
        for later in self.lives_of.get(key, []) if life else []:
            if (
                later.again
                and later.installed["epoch"] <= record.epoch_first
                and life
                and later.life == life.life
            ):
                life = later if later.installed["n"] > life.installed["n"] else life
        return life


def read(history: History) -> Digest:
    """Use as history.once(digest.read)."""
    reading = _Reading(Digest())
    for step in _steps(history.events):
        reading.step(step)
    reading.made.files = reading.files
    return reading.made


def _steps(lines: list[Json]) -> Iterator[Step]:
    step, life = Step(0, None), 0
    for line in lines:
        if line["kind"] == "gap":
            break
        if line["type"] == "Loaded":
            life += 1
        if line["kind"] == "event" or line["type"] == "Loaded":
            if step.lines:
                step.last = line["type"] == "Loaded"
                yield step
            step = Step(life, line if line["kind"] == "event" else None)
        step.lines.append(line)
    if step.lines:
        step.last = True
        yield step


def applying(step: Step, reclaims: Mapping[int, Reclaim], before: Mapping[int, FileRow]) -> set[int]:
    """Reclaims whose change this step may have committed: those that it shows as applied, and punches whose edges it zeroes (which are
    applied when that has been answered). Where a step was cut off in front of that, the punches that it has a phase of, and whoever was
    under way with a file that it changed.
    """
    shown = {line["reclaim"] for line in step.of("Phase") if line["reclaim"] in reclaims}
    done = {line["reclaim"] for line in step.of("Phase") if line["phase"] == "applied"} & shown
    zeroed = [run for line in step.of("Zero") for run in line["runs"]]
    punches = {
        number
        for number, row in reclaims.items()
        if row.kind in {"punch", "zero"} and "ended" not in row.phases
    }
    done |= {number for number in punches if _edges_in(reclaims[number].target, zeroed, before)}
    changed = {change.ino for change in step.changes} if step.cut else set()
    begun = {
        number
        for number, row in reclaims.items()
        if row.target.get("ino") in changed and "ended" not in row.phases
    }
    return done or punches & shown or begun


def shifted(target: Json, row: FileRow) -> FileRow:
    """What a collapse or an insert alone makes of a file."""
    first, count = target["lo"] // BLOCK, target["length"] // BLOCK
    out = range(first, first + count) if target["kind"] == "collapse" else range(0)
    by = -count if out else count
    extents = tuple(
        (at + by * (at >= first), start + at - begin, 1, since)
        for begin, start, blocks, since in row.extents
        for at in range(begin, begin + blocks)
        if at not in out
    )
    return row._replace(size=row.size + by * BLOCK, extents=extents)


def _edges_in(target: Json, zeroed: list[list[int]], before: Mapping[int, FileRow]) -> bool:
    """Is any of the zeroed runs in the range of this file?"""
    file = before.get(target["ino"]) if "ino" in target else None
    runs = file.runs(target["lo"], target["hi"]) if file else []
    return any(at <= start < at + size for start, _ in zeroed for at, size in runs)


class _Reading:
    """One pass over the steps."""

    def __init__(self, made: Digest) -> None:
        self.made = made
        self.files: dict[int, FileRow] = {}
        self.pages: dict[int, FileRow] = {}
        self.dirty: dict[int, set[int]] = {}  # file -> its pages that are
        self.keys: dict[int, KeyLife] = {}
        self.reclaims: dict[int, Reclaim] = {}
        self.asked: dict[tuple[str, int], tuple[KeyLife, ...]] = {}
        self.replaced: dict[int, tuple[KeyLife, KeyLife, tuple[int, int]]] = {}  # by the token of a Remap
        self.answer: Json = {}
        self.fencing: Reclaim | None = None

    def step(self, step: Step) -> None:
        self.made.steps.append(step)
        self.answer, self.fencing = {}, None
        pages = dict(self.pages) if any(line["type"] == "MapPages" for line in step.lines) else self.pages
        before = dict(self.files) if any(line["type"] == "Commit" for line in step.lines) else self.files
        for line in step.lines:
            method = _READ.get(line["type"])
            if method:
                method(self, step, line)
        for row in self.reclaims.values() if pages is not self.pages else ():
            self._pages_went(row, pages)
        step.applied = applying(step, self.reclaims, before)
        step.rows = [self.reclaims[number] for number in sorted(step.applied)]
        step.before = before if step.last else {}
        self._all_applied(step, before, pages)

    def _pages_went(self, row: Reclaim, before: dict[int, FileRow]) -> None:
        """What is about a whole device takes the pages over it, whoever still writes to them: lost is what comes behind its answer."""
        cache = f"{row.target.get('device', '')}.cache"
        if "ended" in row.phases and row.steps[-1] is not self.made.steps[-1]:
            return
        if row.aperture and row.aperture == self.made.aperture_of(row.life, cache):
            went = (pages.blocks for pages in before.values() if pages.device == cache)
            stay = (pages.blocks for pages in self.pages.values() if pages.device == cache)
            row.taken |= set().union(*went) - set().union(*stay)
            if row.taken and "returned" in row.phases:
                row.detached = row.phases["returned"]["epoch"]

    def _laid(self, row: Reclaim, file: FileRow | None, pages: dict[int, FileRow]) -> FileRow | None:
        """Where DMA to the file under reclaim goes."""
        ino = row.target.get("ino", 0)
        if file is None or row.kind in UNDERNEATH or not self.made.paged(row.life, file):
            return file
        return pages.get(ino) or FileRow("", f"{file.device}.cache", 0, ())

    def _all_applied(self, step: Step, before: dict[int, FileRow], pages: dict[int, FileRow]) -> None:
        """Several may change a file in one step: each takes what lies in its own range, in the file as those in front of it left it."""
        left = sorted(step.rows, key=lambda row: (row.at("applied"), row.number))
        files = self.files
        while left:
            row = left.pop(0)
            ino = row.target.get("ino", 0)
            between = before.get(ino) if row.kind in {"collapse", "insert"} and row.changed < 0 else None
            if between and ino in files and any(other.target.get("ino") == ino for other in left):
                between = shifted(row.target, between)
                self._applied(row, step, before, pages, between)
                before = {**before, ino: between}
            else:
                self._applied(row, step, before, pages, files.get(ino))

    def _applied(
        self,
        row: Reclaim,
        step: Step,
        before: dict[int, FileRow],
        pages: dict[int, FileRow],
        after: FileRow | None,
    ) -> None:
        ino = row.target.get("ino", 0)
        if row.kind == "reflink":
            row.source = self.files.get(ino)
        row.stays = (self.pages[ino].blocks if ino in self.pages else set()) - self.dirty.get(ino, set())
        same = before.get(ino) == after and pages.get(ino) == self.pages.get(ino)
        if row.changed >= 0 or same:
            return  # a punch whose edges took time: it was committed before they were zero
        row.before, row.after, row.changed = before.get(ino), after, step.lines[0]["n"]
        if row.steps[-1] is not step:
            row.steps.append(step)
        row.laid, after = self._laid(row, row.before, pages), self._laid(row, row.after, self.pages)
        if row.laid:
            row.aperture = self.made.aperture_of(row.life, row.laid.device)
            mine = row.laid.within(row.target["lo"], row.target["hi"])
            row.taken = mine - (after.blocks if after else set())
            if row.kind in {"collapse", "insert"} and after:
                now, then = after.places, row.laid.places
                row.taken = {block for block in mine if now.get(block) != then[block]}
            commits = [change.line["epoch"] for change in step.changes if change.ino == ino]
            commits += [line["epoch"] for line in step.of("MapPages") if line["ino"] == ino]
            row.detached = min(commits, default=ALWAYS) + 1

    # ---- durable rows

    def loaded(self, step: Step, line: Json) -> None:
        rows = {key: file_row(row) for book, key, row in line["delta"] if book == "files" and row}
        if step.life > 1:
            lost = [
                ino for ino in sorted(self.files.keys() | rows.keys()) if self.files.get(ino) != rows.get(ino)
            ]
            self.made.lost += [(line, ino) for ino in lost]
        self.files, self.pages, self.dirty = rows, {}, {}
        self.keys, self.reclaims, self.asked, self.replaced = {}, {}, {}, {}
        self.made.numbers = {}

    def commit(self, step: Step, line: Json) -> None:
        for book, key, row in line["delta"]:
            if book == "files":
                new = file_row(row) if row else None
                change = Change(line, step, key, self.files.get(key), new)
                self.made.changes.append(change)
                step.changes.append(change)
                self.files.pop(key, None)
                if new:
                    self.files[key] = new

    def map_pages(self, _step: Step, line: Json) -> None:
        ino = line["ino"]
        row = FileRow("", line["device"], 0, tuple(tuple(extent) for extent in line["extents"]))
        self.pages.pop(ino, None)
        if row.extents:
            self.pages[ino] = row
        spans = [row.within(at * BLOCK, (at + count) * BLOCK) for at, count in line["dirty"]]
        self.dirty[ino] = set().union(*spans)

    def device(self, step: Step, line: Json) -> None:
        self.made.apertures[step.life, line["name"]] = line["aperture"]

    def gone(self, step: Step, line: Json) -> None:
        """An orderly unplug is committed here; its phase `applied` follows when the engine has answered."""
        for row in self.reclaims.values():
            mine = (
                row.kind == "unplug"
                and row.target.get("device") == line["device"]
                and "applied" not in row.phases
            )
            if line["token"] and mine and row.steps[-1] is not step:
                row.steps.append(step)

    def aperture(self, _step: Step, line: Json) -> None:
        self.made.numbers[line["number"]] = line["aperture"]

    # ---- keys

    def install(self, step: Step, line: Json) -> None:
        self.keys[line["key"]] = life = KeyLife(line["key"], step.life, line)
        self.made.keys.append(life)
        self.made.lives_of.setdefault(life.key, []).append(life)

    def remap(self, step: Step, line: Json) -> None:
        """Another translation under a key: a life of its own."""
        old = self.keys.get(line["key"])
        there = [run for run in line["extents"] if run[0] >= 0]
        life = KeyLife(
            line["key"], step.life, {**(old.installed if old else {}), **line, "extents": there}, again=True
        )
        if old:
            self.replaced[line["token"]] = old, life, (old.unmapped, old.removed)
            old.unmapped, old.removed = min(old.unmapped, line["n"]), line["n"]
        self.keys[line["key"]] = life
        self.made.keys.append(life)
        self.made.lives_of.setdefault(life.key, []).append(life)

    def done(self, _step: Step, line: Json) -> None:
        known = self.replaced.pop(line["token"], None)
        if known and line.get("errno"):  # it was refused: the engine has what it had
            old, life, before = known
            old.unmapped, old.removed = before
            if line["errno"] == errno.ENOENT:  # nothing: an unmap that had been refused has taken it out
                old.unmapped = min(old.unmapped, line["n"])
            self.keys[old.key] = old
            self.made.keys.remove(life)
            self.made.lives_of[old.key].remove(life)

    def ask(self, _step: Step, line: Json) -> None:
        fence = line["type"] == "FenceRight"  # a quiesce too, of which a reclaim may ask for several
        kind = "Unmap" if line["type"] == "Unmap" else "Quiesce"
        lives = tuple(self.keys[key] for key in line["keys"] if key in self.keys)
        self.asked[kind, line["fence" if fence else "cookie"]] = lives
        if kind == "Quiesce" and self.fencing:
            self.fencing.fenced += [self.keys[key] for key in line["keys"] if key in self.keys]
            self.fencing = self.fencing if fence else None

    def answered(self, _step: Step, line: Json) -> None:
        fence = line["type"] == "RightFenced"
        quiesce = fence or line["type"] == "Quiesced"
        asked, name = ("Quiesce", "quiesced") if quiesce else ("Unmap", "unmapped")
        number = line["fence" if fence else "cookie"]
        for life in () if line.get("errno") else self.asked.pop((asked, number), ()):
            if getattr(life, name) == ALWAYS:  # the one that was asked about, also if a Remap came meanwhile
                setattr(life, name, line["n"])

    def remove(self, _step: Step, line: Json) -> None:
        life = self.keys.pop(line["key"], None)
        if life:
            life.removed = line["n"]

    def give(self, _step: Step, line: Json) -> None:
        self.made.given.append(line)

    # ---- reclaims

    def replied(self, _step: Step, line: Json) -> None:
        self.answer = line

    def phase(self, step: Step, line: Json) -> None:
        number = line["reclaim"]
        row = self.reclaims.get(number)
        if row is None:
            row = self.reclaims[number] = Reclaim(number, step.life)
            self.made.reclaims.append(row)
            self.made.reclaim_at[step.life, number] = row
        row.phases.setdefault(line["phase"], line)
        if not row.steps or row.steps[-1] is not step:
            row.steps.append(step)
        row.keys |= set(line.get("keys", ()))
        self.fencing = row if line["phase"] == "fencing" else None
        if line["phase"] == "returned" and row.taken and "device" in row.target:
            row.detached = line["epoch"]
        if line["phase"] == "returned" and self.answer and row.kind != "cow-write":
            row.request = (self.answer["session"], self.answer["request"])
            row.definite = bool(self.answer.get("definite", True))
        if line["phase"] == "requested":
            self._begun(row)

    def _begun(self, row: Reclaim) -> None:
        target, file = row.target, self.files.get(row.target.get("ino", 0))
        if "device" in target:
            device = target["device"]
            row.aperture = self.made.aperture_of(row.life, f"{device}.cache") or self.made.aperture_of(
                row.life, device
            )
            row.known = bool(row.aperture)
        elif file:
            row.known = True
            laid = self._laid(row, file, self.pages) or file
            row.aperture = self.made.aperture_of(row.life, laid.device)
            row.range = laid.within(target["lo"], target["hi"])
            row.unsaved = bool(self.dirty.get(target["ino"], set()) & row.range)
            if row.kind == "poison":  # it is no file's any more
                row.range = {int(target["block"]) - 1}


_READ = {
    "Loaded": _Reading.loaded,
    "Commit": _Reading.commit,
    "OpenDevice": _Reading.device,
    "MapPages": _Reading.map_pages,
    "Aperture": _Reading.aperture,
    "InstallKey": _Reading.install,
    "Quiesce": _Reading.ask,
    "FenceRight": _Reading.ask,
    "Invalidate": _Reading.ask,
    "Remap": _Reading.remap,
    "Answered": _Reading.done,
    "Unmap": _Reading.ask,
    "Quiesced": _Reading.answered,
    "RightFenced": _Reading.answered,
    "Unmapped": _Reading.answered,
    "RemoveKey": _Reading.remove,
    "Release": _Reading.give,
    "Allocate": _Reading.give,
    "Online": _Reading.give,
    "Offline": _Reading.gone,
    "Reply": _Reading.replied,
    "Fail": _Reading.replied,
    "Phase": _Reading.phase,
}


def blocks_of(runs: list[list[int]]) -> set[int]:
    """Device blocks of which some byte lies in these runs."""
    return {block for at, size in runs for block in range(at // BLOCK, -(-(at + size) // BLOCK))}


def blocks_in(lines: list[Json]) -> set[int]:
    """Of these lines' runs."""
    return {block for line in lines for block in blocks_of(line["runs"])}


def file_row(row: list[Any]) -> FileRow:
    """A row of `files` as a line has it; one of an earlier emu may lack the last fields."""
    path, device, size, extents, *rest = row
    more = rest[:4] + [tuple(tuple(extent) for extent in lost) for lost in rest[4:5]]
    return FileRow(path, device, size, tuple(tuple(extent) for extent in extents), *more)
