"""The fourth part of the reader: at a step's end, which reclaims it applied, and what each of them took from its file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from emu.check.invariants.read_reclaims import Reclaims
from emu.check.invariants.rows import ALWAYS, shifted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from emu.check.invariants.reclaims import Reclaim, Step
    from emu.check.invariants.rows import FileRow, Json, Runs


@dataclass
class Changes(Reclaims):
    def close(self, *, last: bool) -> None:
        """The step is over; with it the life of its broker, if it is the last."""
        step = self.turn
        if step.lines:
            step.last = last
            self.found.steps.append(step)
            for row in self.reclaims.values() if self.pages is not self.pages_then else ():
                self._pages_went(row)
            step.applied = applying(step, self.reclaims, self.then)
            step.rows = [self.reclaims[number] for number in sorted(step.applied)]
            step.before = self.then if last else {}
            self._all_applied(step)
        self.then, self.pages_then = self.files, self.pages

    def _pages_went(self, row: Reclaim) -> None:
        """What is about a whole device takes the pages over it, whoever still writes to them: lost is what comes behind its answer."""
        cache = f"{row.target.get('device', '')}.cache"
        if "ended" in row.phases and row.steps[-1] is not self.turn:
            return
        if row.aperture and row.aperture == self.found.aperture_of(row.life, cache):
            went = (pages.blocks for pages in self.pages_then.values() if pages.device == cache)
            stay = (pages.blocks for pages in self.pages.values() if pages.device == cache)
            row.taken |= set().union(*went) - set().union(*stay)
            if row.taken and "returned" in row.phases:
                row.detached = row.phases["returned"].epoch

    def _all_applied(self, step: Step) -> None:
        """Several may change a file in one step: each takes what lies in its own range, in the file as those in front of it left it."""
        left, before = sorted(step.rows, key=lambda row: (row.at("applied"), row.number)), self.then
        while left:
            row = left.pop(0)
            ino = row.target.get("ino", 0)
            between = before.get(ino) if row.kind in {"collapse", "insert"} and row.changed < 0 else None
            if between and ino in self.files and any(other.target.get("ino") == ino for other in left):
                between = shifted(row.target, between)
                self._applied(row, step, before.get(ino), between)
                before = {**before, ino: between}
            else:
                self._applied(row, step, before.get(ino), self.files.get(ino))

    def _applied(self, row: Reclaim, step: Step, before: FileRow | None, after: FileRow | None) -> None:
        ino = row.target.get("ino", 0)
        if row.kind == "reflink":
            row.source = self.files.get(ino)
        row.stays = (self.pages[ino].blocks if ino in self.pages else set()) - self.dirty.get(ino, set())
        same = before == after and self.pages_then.get(ino) == self.pages.get(ino)
        if row.changed >= 0 or same:
            return  # a punch whose edges took time: it was committed before they were zero
        row.before, row.after, row.changed = before, after, step.lines[0]["n"]
        if row.steps[-1] is not step:
            row.steps.append(step)
        row.laid = self.laid(row, before, self.pages_then)
        if row.laid:
            self._took(row, step, row.laid, self.laid(row, after, self.pages))

    def _took(self, row: Reclaim, step: Step, laid: FileRow, after: FileRow | None) -> None:
        ino = row.target.get("ino", 0)
        row.aperture = self.found.aperture_of(self.life, laid.device)
        mine = laid.within(row.target["lo"], row.target["hi"])
        row.taken = mine - (after.blocks if after else set())
        if row.kind in {"collapse", "insert"} and after:
            now, then = after.places, laid.places
            row.taken = {block for block in mine if now.get(block) != then[block]}
        commits = [change.line["epoch"] for change in step.changes if change.ino == ino]
        commits += [line["epoch"] for line in step.of("MapPages") if line["ino"] == ino]
        row.detached = min(commits, default=ALWAYS) + 1


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


def _edges_in(target: Json, zeroed: Runs, before: Mapping[int, FileRow]) -> bool:
    """Is any of the zeroed runs in the range of this file?"""
    file = before.get(target["ino"]) if "ino" in target else None
    runs = file.runs(target["lo"], target["hi"]) if file else []
    return any(at <= start < at + size for start, _ in zeroed for at, size in runs)
