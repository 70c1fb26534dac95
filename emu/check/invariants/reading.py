"""A history's lines, read once: who was mapped when, what each reclaim did and when, who answered what. No judgement is made here.

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
    from collections.abc import Callable, Iterable, Mapping

    from emu.check.history import History

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
    installed again. died: the life of the broker that it ended with. again: made by a Remap, not by a registration.
    """

    key: int
    at: At
    importer: int = SYNC
    aperture: int = 0
    runs: Runs = field(default_factory=list)
    registration: Registration | None = None
    again: bool = False
    quiesced: At | None = None
    unmapped: At | None = None
    fenced: At | None = None
    parted: At | None = None
    revoked: At | None = None
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
    after: list[Any] | None = None
    held: list[Mapped] = field(default_factory=list)
    late: list[Mapped] = field(default_factory=list)

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


def read(history: History) -> Reading:
    """The lines of this history, read at the first call."""
    return history.once(_read)


def _read(history: History) -> Reading:
    reader = _Reader()
    for line in history.events:
        if line.get("type") == "Loaded":
            reader = reader.reborn(line)
        reader.line(line)
    return reader.found


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
        return made.op.get("backing") == "dmabuf" and target["buffer"] == made.op.get("path")
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


def _first(one: int | None, other: int | None) -> int | None:
    known = [epoch for epoch in (one, other) if epoch is not None]
    return min(known, default=None)


@dataclass
class _Reader:
    """What is known so far; one method for each type of line."""

    found: Reading = field(default_factory=Reading)
    here: At = NOWHERE
    step: int = 0
    life: int = 0
    keys: dict[int, Mapped] = field(default_factory=dict)
    live: dict[int, Mapped] = field(
        default_factory=dict
    )  # by the line that made it: translations that lack an answer
    gone: set[int] = field(default_factory=set)
    revoked: dict[int, At] = field(default_factory=dict)
    pending: dict[tuple[int, int], Registration] = field(default_factory=dict)
    stepping: Registration | None = None
    cookies: dict[tuple[str, int], Asked] = field(default_factory=dict)
    reclaims: dict[int, Reclaim] = field(default_factory=dict)
    asking: tuple[int, Reclaim] | None = None
    acting: Reclaim | None = None  # whose phase was the last in this step
    people: dict[int, Person] = field(default_factory=dict)
    files: dict[int, list[Any]] = field(default_factory=dict)
    before: dict[int, list[Any] | None] = field(default_factory=dict)
    inos: dict[str, int] = field(default_factory=dict)
    mounts: dict[str, str] = field(default_factory=dict)
    devices: dict[str, int] = field(default_factory=dict)
    failed: tuple[int, bool] = (-2, True)

    def line(self, line: Json) -> None:
        kind = line["kind"]
        if kind == "gap":
            return
        if kind == "event":
            self.step += 1
            self.stepping = self.acting = None
            self.before.clear()
        read, placed = _LINES.get(line["type"]), kind == "event" or line["type"] in _PLACED
        if read is None and not placed:
            return
        self.here = At(line["n"], line.get("t", 0), line.get("epoch", 0), self.step, self.life)
        self.found.last = self.here
        if placed:
            self.found.places[self.here.n] = self.here
        if read is not None:
            read(self, line)

    # ---- lives and people

    def reborn(self, line: Json) -> _Reader:
        """Nothing of an earlier life is there but what the line loads."""
        at = At(line["n"], line.get("t", 0), line.get("epoch", 0), self.step, self.life)
        for mapped in self.keys.values():
            mapped.died = at
        return _Reader(self.found, step=self.step, life=self.life + 1)

    def opened(self, line: Json) -> None:
        person = Person(line["session"], self.life, str(line.get("name", "")), self.here)
        self.people[person.number] = person
        self.found.people.append(person)

    def lost(self, line: Json) -> None:
        self.person(line["session"]).lost = self.here

    def end_session(self, line: Json) -> None:
        self.person(line["session"]).ended = self.here

    def person(self, number: int) -> Person:
        known = self.people.get(number)
        if known is None:
            known = self.people[number] = Person(number, self.life)
            self.found.people.append(known)
        return known

    # ---- what is durable

    def committed(self, line: Json) -> None:
        for book, key, row in line.get("delta", ()):
            if book == "files":
                ino = int(key)
                self.before.setdefault(ino, self.files.get(ino))
                old = self.files.pop(ino, None)
                if old is not None and self.inos.get(old[0]) == ino:
                    del self.inos[old[0]]
                if row is not None:
                    self.files[ino] = row
                    self.inos[row[0]] = ino

    def file(self, ino: int) -> list[Any] | None:
        """As it was before this step."""
        return self.before[ino] if ino in self.before else self.files.get(ino)

    def mounted(self, line: Json) -> None:
        self.mounts[line["path"].rstrip("/") + "/"] = line["device"]

    def device_opened(self, line: Json) -> None:
        self.devices[line["name"]] = line["aperture"]

    def numbered(self, line: Json) -> None:
        self.found.apertures[line["number"]] = line["aperture"]

    # ---- registrations

    def requested(self, line: Json) -> None:
        person = self.person(line["session"])
        op = line["op"]
        if op.get("type") != "RegMr" or person.lost is not None:
            return
        path = str(op.get("path", ""))
        device = next((name for mount, name in self.mounts.items() if path.startswith(mount)), "")
        host = _label(line.get("host"))
        made = Registration(
            self.here, line["session"], op, host, self.inos.get(path, 0), "" if host else device
        )
        self.pending[line["session"], line["request"]] = self.stepping = made
        self.found.registrations.append(made)

    def undone(self, _line: Json) -> None:
        if self.stepping is not None:
            self.stepping.pinned = False

    def reply(self, line: Json) -> None:
        made = self.pending.pop((line["session"], line["request"]), None)
        if made is None:
            return
        result = line.get("result", {})
        made.answered, made.key = self.here, int(result.get("lkey", 0))
        made.ino = int(result.get("ino", 0)) or made.ino
        made.device = result.get("device") or made.device
        mapped = self.keys.get(made.key)
        if mapped is not None:
            made.made, mapped.registration = mapped, made

    def fail(self, line: Json) -> None:
        self.failed = (line["n"], bool(line.get("definite", True)))
        made = self.pending.pop((line["session"], line["request"]), None)
        if made is not None:
            made.answered, made.errno = self.here, line["errno"]
            made.pinned = self.here.step != made.asked.step

    # ---- keys

    def install(self, line: Json) -> None:
        mapped = Mapped(
            line["key"],
            self.here,
            int(line.get("importer", SYNC)),
            line["aperture"],
            line["extents"],
            self.stepping,
        )
        if self.stepping is not None:
            self.stepping.key, self.stepping.made = mapped.key, mapped
        self._map(mapped)

    def remap(self, line: Json) -> None:
        old = self.keys.get(line["key"])
        importer, made = (old.importer, old.registration) if old else (DYNAMIC, None)
        self._map(
            Mapped(line["key"], self.here, importer, line["aperture"], line["extents"], made, again=True)
        )

    def _map(self, mapped: Mapped) -> None:
        known = self.found.by_number.setdefault(mapped.key, [])
        if known:
            known[-1].next = self.here
        known.append(mapped)
        self.found.maps.append(mapped)
        self.keys[mapped.key] = self.live[self.here.n] = mapped
        self.gone.discard(mapped.key)

    def installed(self, line: Json) -> None:
        mapped = self.keys.get(line["key"])
        if line.get("errno") and mapped is not None:  # the engine never had it
            del self.keys[mapped.key]
            self.live.pop(mapped.at.n, None)
            self.found.maps.remove(mapped)
            self.found.by_number[mapped.key].remove(mapped)

    def ask(self, line: Json) -> None:
        keys = tuple(line["keys"])
        of = self.asking[1] if self.asking and self.asking[0] == line["n"] - 1 else None
        maps = [self.keys[key] for key in keys if key in self.keys]
        asked = Asked(line["type"], self.here, keys, maps, of)
        self.cookies[line["type"], line["cookie"]] = asked
        self.found.asked.append(asked)

    def answered(self, line: Json) -> None:
        quiesce = line["type"] == "Quiesced"
        asked = self.cookies.get(("Quiesce" if quiesce else "Unmap", line["cookie"]))
        if asked is None:
            return
        asked.answers.append((self.here, line.get("errno", 0)))
        if line.get("errno"):
            return
        if not quiesce:
            self.gone.update(asked.keys)
        for mapped in asked.maps:
            if quiesce:
                mapped.quiesced = mapped.quiesced or self.here
            else:
                mapped.unmapped = mapped.unmapped or self.here
            if mapped.quiesced and mapped.unmapped:
                self.live.pop(mapped.at.n, None)

    def remove(self, line: Json) -> None:
        mapped = self.keys.pop(line["key"], None)
        if mapped is not None:
            mapped.removed = self.here
        self.gone.add(line["key"])
        self.revoked.pop(line["key"], None)

    # ---- memory that goes to others

    def release(self, line: Json) -> None:
        self._give(line["type"], line["aperture"], line["runs"])

    def whole(self, line: Json) -> None:
        """Online; an orderly Offline. A surprise, and what a restart finds absent, is a fact that nobody decided."""
        if line.get("token"):
            self.applying(line)
        if line["type"] == "Online" or line.get("token"):
            self._give(line["type"], line["aperture"], [[0, 1 << 62]])

    def _give(self, what: str, aperture: int, runs: Runs) -> None:
        under = (m for m in self.live.values() if m.aperture == aperture and meet(m.runs, runs))
        self.found.given.append(Given(self.here, what, aperture, runs, tuple(under)))

    # ---- reclaims

    def phase(self, line: Json) -> None:
        row = self.reclaims.get(line["reclaim"])
        if row is None:
            row = self.reclaims[line["reclaim"]] = Reclaim(line["reclaim"], self.life)
            self.found.reclaims.append(row)
        name = line["phase"]
        row.keys = tuple(line.get("keys", ()))
        row.phases.setdefault(name, self.here)
        row.order.append(Taken(name, self.here, row.keys, sum(key not in self.gone for key in row.keys)))
        self.acting = row
        then = _PHASES.get(name)
        if then is not None:
            then(self, row, line.get("detail", {}))

    def begun(self, row: Reclaim, detail: Json) -> None:
        row.target = detail
        row.before = self.file(int(detail.get("ino", 0)))
        row.held = [self.keys[key] for key in row.keys if key in self.keys]

    def fencing(self, row: Reclaim, _detail: Json) -> None:
        self.asking = (self.here.n, row)
        for key in row.keys:
            self.revoked.setdefault(key, self.here)
            if key in self.keys:
                self.keys[key].revoked = self.keys[key].revoked or self.here

    def unmapping(self, row: Reclaim, _detail: Json) -> None:
        self.asking = (self.here.n, row)

    def fenced(self, row: Reclaim, _detail: Json) -> None:
        for mapped in self._named(row):
            mapped.fenced = mapped.fenced or self.here

    def unmapped(self, row: Reclaim, _detail: Json) -> None:
        row.late = [
            self.keys[key] for key in row.keys if key in self.keys and self.keys[key].at.n in self.live
        ]
        target = row.target
        aperture = self.devices.get(target.get("device", ""), 0)
        runs = [[0, 1 << 62]]
        file = self.file(int(target.get("ino", 0)))
        if file is not None:
            aperture, runs = self.devices.get(file[1], 0), runs_of(file, target["lo"], target["hi"])
        row.late += [
            m for m in self.live.values()
            if aperture and m.aperture == aperture and m.key not in row.keys and meet(m.runs, runs)
        ]  # fmt: skip
        for mapped in self._named(row):
            mapped.parted = mapped.parted or self.here

    def _named(self, row: Reclaim) -> list[Mapped]:
        """Translations of the reclaim's keys; of a key that no line installed one without a place."""
        for key in row.keys:
            if key not in self.found.by_number:
                self.found.by_number[key] = [Mapped(key, self.here)]
        return [
            mapped
            for key in row.keys
            if (mapped := self.found.by_number[key][-1]).removed is None and not mapped.died
        ]

    def applied(self, row: Reclaim, _detail: Json) -> None:
        if row.kind == "unplug" or "host" in row.target:
            maps = (self.keys[key] for key in row.keys if key in self.keys)
            lo, hi = int(row.target.get("lo", 0)), int(row.target.get("hi", 1 << 63))
            whole = "host" not in row.target
            under = tuple(m for m in maps if m.at.n in self.live and (whole or meet(m.runs, [[lo, hi - lo]])))
            self.found.given.append(Given(self.here, f"{row.kind} was applied", 0, [], under, len(row.keys)))

    def applying(self, _line: Json) -> None:
        """The host, the engine or the CPU begins with what a reclaim wants done; the phase `applied` follows its answer."""
        if self.acting is not None:
            row = self.acting
            row.order.append(
                Taken("applying", self.here, row.keys, sum(key not in self.gone for key in row.keys))
            )

    def returned(self, row: Reclaim, detail: Json) -> None:
        if row.errno is None:
            row.errno = int(detail.get("errno", 0))
            row.definite = self.failed[1] or self.failed[0] != self.here.n - 1

    def ended(self, row: Reclaim, _detail: Json) -> None:
        row.after = self.files.get(int(row.target.get("ino", 0)))
        self.reclaims.pop(row.number)


def _label(host: Json | None) -> str:
    if not host:
        return ""
    return str(host.get("label") or f"host file {host.get('device')}:{host.get('inode')}")


_PLACED = frozenset(
    {"Notify", "Reply", "Restore", "InstallKey", "Remap", "DropRight", "FenceRight", "GrantRight"}
)
_PHASES: Mapping[str, Callable[[_Reader, Reclaim, Json], None]] = {
    "requested": _Reader.begun,
    "fencing": _Reader.fencing,
    "fenced": _Reader.fenced,
    "unmapping": _Reader.unmapping,
    "unmapped": _Reader.unmapped,
    "applied": _Reader.applied,
    "returned": _Reader.returned,
    "ended": _Reader.ended,
}
_LINES: Mapping[str, Callable[[_Reader, Json], None]] = {
    "Loaded": _Reader.committed,
    "Commit": _Reader.committed,
    "SessionOpened": _Reader.opened,
    "SessionLost": _Reader.lost,
    "EndSession": _Reader.end_session,
    "MountAdded": _Reader.mounted,
    "OpenDevice": _Reader.device_opened,
    "Aperture": _Reader.numbered,
    "Requested": _Reader.requested,
    "Undone": _Reader.undone,
    "PutBack": _Reader.undone,
    "Defect": _Reader.undone,
    "Reply": _Reader.reply,
    "Fail": _Reader.fail,
    "InstallKey": _Reader.install,
    "Remap": _Reader.remap,
    "KeyInstalled": _Reader.installed,
    "Quiesce": _Reader.ask,
    "Unmap": _Reader.ask,
    "Quiesced": _Reader.answered,
    "Unmapped": _Reader.answered,
    "RemoveKey": _Reader.remove,
    "Release": _Reader.release,
    "Zero": _Reader.applying,
    "HostTruncate": _Reader.applying,
    "HostPunch": _Reader.applying,
    "Offline": _Reader.whole,
    "Online": _Reader.whole,
    "Phase": _Reader.phase,
}
