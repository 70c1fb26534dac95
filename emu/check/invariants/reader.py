"""The one pass over a history's lines that makes a Reading: one method for each type of line.

If you add a type of line: its method, a row of the table at the end, docs/invariants.md.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from emu.check.invariants.digest import UNDERNEATH
from emu.check.invariants.timeline import (
    BLOCK,
    DYNAMIC,
    NOWHERE,
    SYNC,
    Asked,
    At,
    Given,
    Json,
    Mapped,
    Person,
    Reading,
    Reclaim,
    Registration,
    Runs,
    Taken,
    blocks_within,
    meet,
    runs_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass
class Reader:
    """What is known so far; one method for each type of line."""

    found: Reading = field(default_factory=Reading)
    here: At = NOWHERE
    step: int = 0
    life: int = 0
    keys: dict[int, Mapped] = field(default_factory=dict)
    live: dict[int, Mapped] = field(
        default_factory=dict
    )  # by the line that made it: translations that lack an answer
    remaps: dict[int, Mapped] = field(default_factory=dict)  # by token: what a Remap is to bring
    replaced: dict[int, Mapped] = field(default_factory=dict)  # and what it takes the place of
    gone: set[int] = field(default_factory=set)
    revoked: dict[int, At] = field(default_factory=dict)
    pending: dict[tuple[int, int], Registration] = field(default_factory=dict)
    stepping: Registration | None = None
    cookies: dict[tuple[str, int], Asked] = field(default_factory=dict)
    reclaims: dict[int, Reclaim] = field(default_factory=dict)
    over: dict[int, Reclaim] = field(default_factory=dict)  # those that have ended
    asking: Reclaim | None = None  # whose Quiesce or Unmap comes next
    acting: Reclaim | None = None  # whose phase was the last in this step
    people: dict[int, Person] = field(default_factory=dict)
    files: dict[int, list[Any]] = field(default_factory=dict)
    before: dict[int, list[Any] | None] = field(default_factory=dict)
    inos: dict[str, int] = field(default_factory=dict)
    mounts: dict[str, str] = field(default_factory=dict)
    devices: dict[str, int] = field(default_factory=dict)
    pages: dict[int, list[Any]] = field(
        default_factory=dict
    )  # of files with a page cache, as rows of files are
    failed: tuple[int, bool] = (-2, True)
    request: tuple[int, int] | None = None  # that this step is about

    def line(self, line: Json) -> None:
        kind = line["kind"]
        if kind == "gap":
            return
        if kind == "event":
            self.step += 1
            self.stepping = self.acting = self.asking = self.request = None
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

    def reborn(self, line: Json) -> Reader:
        """Nothing of an earlier life is there but what the line loads."""
        at = At(line["n"], line.get("t", 0), line.get("epoch", 0), self.step, self.life)
        for mapped in self.keys.values():
            mapped.died = at
        return Reader(self.found, step=self.step, life=self.life + 1)

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

    def map_pages(self, line: Json) -> None:
        self.pages[line["ino"]] = ["", line["device"], 0, line["extents"]]

    def laid(self, row: Reclaim, file: list[Any] | None) -> list[Any] | None:
        """Where DMA to the file under reclaim goes: its row, or its pages."""
        cache = f"{file[1]}.cache" if file else ""
        if file is None or cache not in self.devices or row.kind in UNDERNEATH:
            return file
        return self.pages.get(int(row.target["ino"])) or ["", cache, 0, []]

    def space(self, device: str) -> int:
        """The aperture to which DMA to this device's files goes."""
        return self.devices.get(f"{device}.cache", self.devices.get(device, 0))

    def mounted(self, line: Json) -> None:
        self.mounts[line["path"].rstrip("/") + "/"] = line["device"]

    def device_opened(self, line: Json) -> None:
        self.devices[line["name"]] = line["aperture"]

    def numbered(self, line: Json) -> None:
        self.found.apertures[line["number"]] = line["aperture"]

    # ---- registrations

    def requested(self, line: Json) -> None:
        person = self.person(line["session"])
        op, self.request = line["op"], (line["session"], line["request"])
        if op.get("type") != "RegMr" or person.lost is not None:
            return
        path = str(op.get("path", ""))
        mount = max((mount for mount in self.mounts if f"{path}/".startswith(mount)), key=len, default="")
        device = self.mounts.get(mount, "")
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
        for row in self.reclaims.values() if self.failed[1] else ():
            if row.asked == (line["session"], line["request"]):
                row.denied = self.here
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
        mapped.lost = self.revoked.get(mapped.key)
        self._map(mapped)

    def remap(self, line: Json) -> None:
        old = self.keys.get(line["key"])
        importer, made = (old.importer, old.registration) if old else (DYNAMIC, None)
        there = [run for run in line["extents"] if run[0] >= 0]
        new = Mapped(line["key"], self.here, importer, line["aperture"], there, made, again=True)
        if old is not None and old.at.n in self.live:
            self.replaced[line.get("token", 0)] = old
            old.replaced = True
            del self.live[old.at.n]
        self._map(new)
        self.remaps[line.get("token", 0)] = new

    def done(self, line: Json) -> None:
        """A Remap that was refused has changed nothing; for want of the key, it tells that an unmap which was refused has taken it out."""
        new = self.remaps.pop(line["token"], None)
        old = self.replaced.pop(line["token"], None)
        if new is None or not line.get("errno"):
            return
        known = self.found.by_number[new.key]
        known.remove(new)
        self.found.maps.remove(new)
        self.live.pop(new.at.n, None)
        if known:
            known[-1].next = None
            self.keys[new.key] = known[-1]
        if old is not None:
            old.replaced = False
            self.live[old.at.n] = old
            if line["errno"] == errno.ENOENT:
                self._unmapped(old)
                self.gone.add(old.key)

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
        keys, of = tuple(line["keys"]), self.asking
        fence = line["type"] == "FenceRight"  # a quiesce too, of which a reclaim may ask for several
        if not fence:
            self.asking = None
        maps = [self.keys[key] for key in keys if key in self.keys]
        asked = Asked("Unmap" if line["type"] == "Unmap" else "Quiesce", self.here, keys, maps, of)
        self.cookies[asked.kind, line["fence" if fence else "cookie"]] = asked
        self.found.asked.append(asked)

    def answered(self, line: Json) -> None:
        quiesce = line["type"] in {"Quiesced", "RightFenced"}
        number = line["fence" if line["type"] == "RightFenced" else "cookie"]
        asked = self.cookies.get(("Quiesce" if quiesce else "Unmap", number))
        if asked is None:
            return
        asked.answers.append((self.here, line.get("errno", 0)))
        if line.get("errno"):
            return
        if not quiesce:
            self.gone.update(asked.keys)
        for mapped in asked.maps:
            if not quiesce:
                self._unmapped(mapped)
                continue
            mapped.quiesced = mapped.quiesced or self.here
            if mapped.unmapped:
                self.live.pop(mapped.at.n, None)

    def _unmapped(self, mapped: Mapped) -> None:
        mapped.unmapped = mapped.unmapped or self.here
        if mapped.quiesced:
            self.live.pop(mapped.at.n, None)

    def remove(self, line: Json) -> None:
        self.keys.pop(line["key"], None)
        for mapped in reversed(self.found.by_number.get(line["key"], ())):
            if mapped.removed is not None or mapped.died is not None:
                break  # an earlier issue of the number
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
        if row is None and line["phase"] == "restored":
            row = self.over.get(line["reclaim"])
        if row is None:
            row = self.reclaims[line["reclaim"]] = Reclaim(line["reclaim"], self.life)
            self.found.reclaims.append(row)
        name = line["phase"]
        row.keys = tuple(line.get("keys", ()))
        row.phases.setdefault(name, self.here)
        row.order.append(Taken(name, self.here, row.keys, sum(key not in self.gone for key in row.keys)))
        self.acting, self.asking = row, None
        then = _PHASES.get(name)
        if then is not None:
            then(self, row, line.get("detail", {}))

    def begun(self, row: Reclaim, detail: Json) -> None:
        row.target, row.asked = detail, self.request
        row.before = self.laid(row, self.file(int(detail.get("ino", 0))))
        last = next(reversed(self.over.values()), None)
        if last is not None and last.ended is not None and last.ended.step == self.step:
            row.start = self.laid(row, self.files.get(int(detail.get("ino", 0))))
        row.held = [self.keys[key] for key in row.keys if key in self.keys]

    def fencing(self, row: Reclaim, _detail: Json) -> None:
        self.asking = row
        for key in row.keys:
            self.revoked.setdefault(key, self.here)
            if key in self.keys:
                self.keys[key].revoked = self.keys[key].revoked or self.here

    def unmapping(self, row: Reclaim, _detail: Json) -> None:
        self.asking = row

    def fenced(self, row: Reclaim, _detail: Json) -> None:
        for mapped in self._named(row):
            if not self._came_behind(mapped, row):
                mapped.fenced = mapped.fenced or self.here

    def unmapped(self, row: Reclaim, _detail: Json) -> None:
        row.late = [
            self.keys[key] for key in row.keys if key in self.keys and self.keys[key].at.n in self.live
        ]
        target = row.target
        aperture = self.space(target.get("device", ""))
        runs = [[0, 1 << 62]]
        file = self.laid(row, self.file(int(target.get("ino", 0))))
        if file is not None:
            aperture, runs = self.devices.get(file[1], 0), runs_of(file, target["lo"], target["hi"])
            runs = self._shared(file, target, runs) if row.kind == "cow-write" else runs
        row.late += [
            m for m in self.live.values()
            if aperture and m.aperture == aperture and m.key not in row.keys and meet(m.runs, runs)
        ]  # fmt: skip
        for mapped in self._named(row):
            if not self._came_behind(mapped, row):
                mapped.parted = mapped.parted or self.here

    def _shared(self, file: list[Any], target: Json, runs: Runs) -> Runs:
        """Of the range what other files have too: a cow-write takes no more than that."""
        others = {**self.files, **self.before}
        theirs = {
            block for ino, other in others.items() if other and ino != int(target["ino"]) and other[1] == file[1]
            for block in blocks_within(other, 0, 1 << 63)
        }  # fmt: skip
        return [
            [at, BLOCK]
            for start, size in runs
            for at in range(start // BLOCK * BLOCK, start + size, BLOCK)
            if at // BLOCK in theirs
        ]

    @staticmethod
    def _came_behind(mapped: Mapped, row: Reclaim) -> bool:
        """By a Remap, when this reclaim had begun to fence: what it waited for was an earlier translation."""
        return mapped.again and "fencing" in row.phases and mapped.at > row.phases["fencing"]

    def _named(self, row: Reclaim) -> list[Mapped]:
        """Translations of the reclaim's keys; of a key that no line installed one without a place."""
        for key in row.keys:
            if not self.found.by_number.get(key):
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
            device = self.devices.get(row.target.get("device", ""), 0)
            under = tuple(
                m
                for m in maps
                if m.at.n in self.live
                and (whole or meet(m.runs, [[lo, hi - lo]]))
                and not (device and m.again and m.aperture != device)  # led elsewhere
            )
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
            told = self.failed[0] == self.here.n - 1  # else nobody is left to tell
            row.definite = self.failed[1] if told else all(step.name != "applying" for step in row.order)
            row.left = [] if row.errno else self._left(row)

    def _left(self, row: Reclaim) -> list[Mapped]:
        """Who still translates to what this reclaim has taken."""
        file, target = row.before, row.target
        if "device" in target:
            aperture, runs = self.space(target["device"]), [[0, 1 << 62]]
        elif file is not None:
            aperture = self.devices.get(file[1], 0)
            now = blocks_within(self.laid(row, self.files.get(int(target["ino"]))), 0, 1 << 63)
            gone = blocks_within(file, target["lo"], target["hi"]) - now
            runs = [[block * BLOCK, BLOCK] for block in sorted(gone)]
        else:
            return []
        return [
            m for m in self.live.values()
            if aperture and m.removed is None and m.aperture == aperture and meet(m.runs, runs)
        ]  # fmt: skip

    def ended(self, row: Reclaim, _detail: Json) -> None:
        row.after = self.laid(row, self.files.get(int(row.target.get("ino", 0))))
        self.over[row.number] = self.reclaims.pop(row.number)


def _label(host: Json | None) -> str:
    if not host:
        return ""
    return str(host.get("label") or f"host file {host.get('device')}:{host.get('inode')}")


_PLACED = frozenset(
    {
        "Notify",
        "Reply",
        "Restore",
        "InstallKey",
        "Remap",
        "DropRight",
        "FenceRight",
        "GrantRight",
        "ReturnRight",
    }
)
_PHASES: Mapping[str, Callable[[Reader, Reclaim, Json], None]] = {
    "requested": Reader.begun,
    "fencing": Reader.fencing,
    "fenced": Reader.fenced,
    "unmapping": Reader.unmapping,
    "unmapped": Reader.unmapped,
    "applied": Reader.applied,
    "returned": Reader.returned,
    "ended": Reader.ended,
}
_LINES: Mapping[str, Callable[[Reader, Json], None]] = {
    "Loaded": Reader.committed,
    "Commit": Reader.committed,
    "SessionOpened": Reader.opened,
    "SessionLost": Reader.lost,
    "EndSession": Reader.end_session,
    "MountAdded": Reader.mounted,
    "OpenDevice": Reader.device_opened,
    "MapPages": Reader.map_pages,
    "Aperture": Reader.numbered,
    "Requested": Reader.requested,
    "Undone": Reader.undone,
    "PutBack": Reader.undone,
    "Defect": Reader.undone,
    "Reply": Reader.reply,
    "Fail": Reader.fail,
    "InstallKey": Reader.install,
    "Remap": Reader.remap,
    "KeyInstalled": Reader.installed,
    "Quiesce": Reader.ask,
    "FenceRight": Reader.ask,
    "Invalidate": Reader.ask,
    "Answered": Reader.done,
    "Unmap": Reader.ask,
    "Quiesced": Reader.answered,
    "RightFenced": Reader.answered,
    "Unmapped": Reader.answered,
    "RemoveKey": Reader.remove,
    "Release": Reader.release,
    "Zero": Reader.applying,
    "HostTruncate": Reader.applying,
    "HostPunch": Reader.applying,
    "Offline": Reader.whole,
    "Online": Reader.whole,
    "Phase": Reader.phase,
}
