"""The third part of the reader: reclaims by their Phase lines, memory that goes to others, answers to whoever asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from emu.check.invariants.read_keys import Keys
from emu.check.invariants.reclaims import Reclaim, Taken
from emu.check.invariants.rows import blocks_within
from emu.check.invariants.timeline import Given, Mapped, meet
from emu.core.rows import BLOCK

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from emu.check.invariants.rows import FileRow, Json, Runs


@dataclass
class Reclaims(Keys):
    """under_way: those that have not ended; over: those that have; reclaims: all of this life, the last of each number."""

    under_way: dict[int, Reclaim] = field(default_factory=dict)
    over: dict[int, Reclaim] = field(default_factory=dict)
    reclaims: dict[int, Reclaim] = field(default_factory=dict)
    acting: Reclaim | None = None  # whose phase was the last in this step
    failed: tuple[int, bool] = (-2, True)
    answer: Json = field(default_factory=dict)  # the last of this step

    # ---- answers

    def reply(self, line: Json) -> None:
        self.answer = line
        self.registered(line)

    def fail(self, line: Json) -> None:
        self.answer = line
        self.failed = (line["n"], bool(line.get("definite", True)))
        for row in self.under_way.values() if self.failed[1] else ():
            if row.asked == (line["session"], line["request"]):
                row.denied = self.here
        self.refused(line)

    # ---- memory that goes to others

    def hand(self, line: Json) -> None:
        """Allocate, Release, Online."""
        self.found.handed.append(line)
        if line["type"] == "Release":
            self._give(line["type"], line["aperture"], line["runs"])

    def online(self, line: Json) -> None:
        self.hand(line)
        self._whole(line)

    def offline(self, line: Json) -> None:
        """An orderly unplug is committed here; its phase `applied` follows when the engine has answered."""
        for row in self.reclaims.values() if line.get("token") else ():
            mine = row.kind == "unplug" and row.target.get("device") == line["device"]
            if mine and "applied" not in row.phases and row.steps[-1] is not self.turn:
                row.steps.append(self.turn)
        self._whole(line)

    def _whole(self, line: Json) -> None:
        """Online; an orderly Offline. A surprise, and what a restart finds absent, is a fact that nobody decided."""
        if line.get("token"):
            self.applying(line)
        if line["type"] == "Online" or line.get("token"):
            self._give(line["type"], line["aperture"], [[0, 1 << 62]])

    def _give(self, what: str, aperture: int, runs: Runs) -> None:
        under = (m for m in self.live.values() if m.aperture == aperture and meet(m.runs, runs))
        self.found.given.append(Given(self.here, what, aperture, runs, tuple(under)))

    # ---- phases

    def phase(self, line: Json) -> None:
        row = self._row(line["reclaim"], line["phase"])
        name = line["phase"]
        row.keys = tuple(line.get("keys", ()))
        row.named.update(row.keys)
        row.phases.setdefault(name, self.here)
        row.order.append(Taken(name, self.here, row.keys, sum(key not in self.gone for key in row.keys)))
        if not row.steps or row.steps[-1] is not self.turn:
            row.steps.append(self.turn)
        self.acting, self.asking = row, None
        self.fencing = row if name == "fencing" else None
        then = _PHASES.get(name)
        if then is not None:
            then(self, row, line.get("detail", {}))

    def _row(self, number: int, phase: str) -> Reclaim:
        row = self.under_way.get(number)
        if row is None and phase == "restored":
            row = self.over.get(number)
        if row is None:
            row = self.under_way[number] = self.reclaims[number] = Reclaim(number, self.life)
            self.found.reclaims.append(row)
            self.found.reclaim_at[self.life, number] = row
        return row

    def begun(self, row: Reclaim, detail: Json) -> None:
        row.target, row.asked = detail, self.request
        ino = int(detail.get("ino", 0))
        row.asked_of = self.laid(row, self.then.get(ino), self.pages)
        last = next(reversed(self.over.values()), None)
        if last is not None and last.ended is not None and last.ended.step == self.step:
            row.start = self.laid(row, self.files.get(ino), self.pages)
        row.held = [self.keys[key] for key in row.keys if key in self.keys]
        self._ranged(row, self.files.get(ino))

    def _ranged(self, row: Reclaim, file: FileRow | None) -> None:
        target = row.target
        if "device" in target:
            row.aperture = self.found.space_of(self.life, target["device"])
            row.known = bool(row.aperture)
        elif file:
            laid = self.laid(row, file, self.pages) or file
            row.known, row.aperture = True, self.found.aperture_of(self.life, laid.device)
            row.range = laid.within(target["lo"], target["hi"])
            row.unsaved = bool(self.dirty.get(target["ino"], set()) & row.range)
            if row.kind == "poison":  # it is no file's any more
                row.range = {int(target["block"]) - 1}

    def fence(self, row: Reclaim, _detail: Json) -> None:
        self.asking = row
        for key in row.keys:
            self.revoked.setdefault(key, self.here)
            if key in self.keys:
                self.keys[key].revoked = self.keys[key].revoked or self.here

    def unmapping(self, row: Reclaim, _detail: Json) -> None:
        self.asking = row

    def fenced(self, row: Reclaim, _detail: Json) -> None:
        for mapped in self._named(row):
            if not _came_behind(mapped, row):
                mapped.fenced = mapped.fenced or self.here

    def unmapped(self, row: Reclaim, _detail: Json) -> None:
        row.late = [
            self.keys[key] for key in row.keys if key in self.keys and self.keys[key].at.n in self.live
        ]
        target = row.target
        aperture = self.found.space_of(self.life, target.get("device", ""))
        runs = [[0, 1 << 62]]
        file = self.laid(row, self.then.get(int(target.get("ino", 0))), self.pages)
        if file is not None:
            aperture = self.found.aperture_of(self.life, file.device)
            runs = file.runs(target["lo"], target["hi"])
            runs = self._shared(file, target, runs) if row.kind == "cow-write" else runs
        row.late += [
            m for m in self.live.values()
            if aperture and m.aperture == aperture and m.key not in row.keys and meet(m.runs, runs)
        ]  # fmt: skip
        for mapped in self._named(row):
            if not _came_behind(mapped, row):
                mapped.parted = mapped.parted or self.here

    def _shared(self, file: FileRow, target: Json, runs: Runs) -> Runs:
        """Of the range what other files have too: a cow-write takes no more than that."""
        others = [row for ino, row in self.then.items() if ino != int(target["ino"])]
        theirs = {block for row in others if row.device == file.device for block in row.blocks}
        return [
            [at, BLOCK]
            for start, size in runs
            for at in range(start // BLOCK * BLOCK, start + size, BLOCK)
            if at // BLOCK in theirs
        ]

    def _named(self, row: Reclaim) -> list[Mapped]:
        """Translations of the reclaim's keys; of a key that no line installed one without a place."""
        for key in row.keys:
            if not self.found.by_number.get(key):
                self.found.by_number[key] = [Mapped(key, self.here, seen=False)]
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
            device = self.found.aperture_of(self.life, row.target.get("device", ""))
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
        if row.taken and "device" in row.target:
            row.detached = self.here.epoch
        if self.answer and row.kind != "cow-write":
            row.sure = bool(self.answer.get("definite", True))

    def _left(self, row: Reclaim) -> list[Mapped]:
        """Who still translates to what this reclaim has taken."""
        file, target = row.asked_of, row.target
        if "device" in target:
            aperture, runs = self.found.space_of(self.life, target["device"]), [[0, 1 << 62]]
        elif file is not None:
            aperture = self.found.aperture_of(self.life, file.device)
            now = blocks_within(self.laid(row, self.files.get(int(target["ino"])), self.pages), 0, 1 << 63)
            gone = blocks_within(file, target["lo"], target["hi"]) - now
            runs = [[block * BLOCK, BLOCK] for block in sorted(gone)]
        else:
            return []
        return [
            m for m in self.live.values()
            if aperture and m.removed is None and m.aperture == aperture and meet(m.runs, runs)
        ]  # fmt: skip

    def ended(self, row: Reclaim, _detail: Json) -> None:
        row.end = self.laid(row, self.files.get(int(row.target.get("ino", 0))), self.pages)
        self.over[row.number] = self.under_way.pop(row.number)


def _came_behind(mapped: Mapped, row: Reclaim) -> bool:
    """By a Remap, when this reclaim had begun to fence: what it waited for was an earlier translation."""
    return mapped.again and "fencing" in row.phases and mapped.at > row.phases["fencing"]


_PHASES: Mapping[str, Callable[[Reclaims, Reclaim, Json], None]] = {
    "requested": Reclaims.begun,
    "fencing": Reclaims.fence,
    "fenced": Reclaims.fenced,
    "unmapping": Reclaims.unmapping,
    "unmapped": Reclaims.unmapped,
    "applied": Reclaims.applied,
    "returned": Reclaims.returned,
    "ended": Reclaims.ended,
}
