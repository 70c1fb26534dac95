"""S6 for blocks that outlive their file: the durable record of orphans names exactly what is kept, from the commit that takes it to its release.

A crash between any two lines finds a record that is right: no file has what it names, nothing that it names is free, and what a reclaim has
left behind under a pin is in it. (Blocks that a reclaim still has are its own; failed memory is in a book of its own.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.check.invariants.invariant import Breach
from emu.check.invariants.reading import read
from emu.check.invariants.rows import ALWAYS, blocks_of, file_row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.check.history import History
    from emu.check.invariants.reclaims import Reclaim, Step
    from emu.check.invariants.rows import FileRow, Json
    from emu.check.invariants.timeline import Reading

Place = tuple[int, int]  # aperture, block


def orphans(history: History) -> Iterator[Breach]:
    """Breaches of S6."""
    made = read(history)
    record = _Record(made)
    ends = _ends(made)
    for step in made.steps:
        released = record.step(step)
        n = step.lines[-1]["n"]
        free = record.noted() & released
        if free:
            yield Breach("S6", f"block {min(free)[1]} was freed, and is noted as an orphan", (n,))
        if any(line["type"] == "Commit" for line in step.lines):
            both = record.noted() & record.owned()
            if both:
                yield Breach("S6", f"block {min(both)[1]} is noted as an orphan, and a file has it", (n,))
        for row in ends.get(n, ()):
            kept = record.kept(row) - record.noted()
            if kept:
                words = f"{row.words()} left block {min(kept)[1]} behind, which is not noted as an orphan"
                yield Breach("S6", words, row.told)


def _ends(made: Reading) -> dict[int, list[Reclaim]]:
    """The last line of a step -> reclaims that ended in it."""
    found: dict[int, list[Reclaim]] = {}
    for row in made.reclaims:
        step = made.step_of(row.at("ended")) if row.at("ended") < ALWAYS else None
        if step is not None and row.taken and row.kind != "poison" and not made.volatile(row):
            found.setdefault(step.lines[-1]["n"], []).append(row)
    return found


class _Record:
    """The rows of `orphans` and of `files`, and what was released when."""

    def __init__(self, made: Reading) -> None:
        self.made, self.life = made, 0
        self.rows: dict[str, tuple[str, int, int]] = {}
        self.files: dict[int, FileRow] = {}
        self.freed: dict[Place, int] = {}

    def step(self, step: Step) -> set[Place]:
        """Blocks that it released."""
        self.life = step.life
        released: set[Place] = set()
        for line in step.lines:
            if line["type"] in {"Loaded", "Commit"}:
                self._rows(line)
            elif line["type"] == "Release":
                released |= {(line["aperture"], block) for block in blocks_of(line["runs"])}
                self.freed.update((place, int(line["n"])) for place in released)
        return released

    def _rows(self, line: Json) -> None:
        if line["type"] == "Loaded":
            self.rows, self.files, self.freed = {}, {}, {}
        for book, key, row in line["delta"]:
            if book == "orphans":
                self.rows.pop(key, None)
                if row:
                    self.rows[key] = tuple(row)
            elif book == "files":
                self.files.pop(key, None)
                if row:
                    self.files[key] = file_row(row)

    def noted(self) -> set[Place]:
        """Of an earlier life's nothing can be said: a start drops them, device by device."""
        return {
            (aperture, block)
            for device, start, count in self.rows.values()
            if (aperture := self.made.aperture_of(self.life, device))
            for block in range(start, start + count)
        }

    def owned(self) -> set[Place]:
        return {
            (self.made.aperture_of(self.life, row.device), block)
            for row in self.files.values()
            for block in row.blocks
        }

    def kept(self, row: Reclaim) -> set[Place]:
        """Whole blocks that it took from its file, and that neither a file nor the allocator has now."""
        step = self.made.step_of(
            row.at("requested")
        )  # another reclaim may have ended in it, and this one begun
        begun = step.lines[0]["n"] if step else row.at("requested")
        stays = row.after.blocks if row.after else set()
        gone = {(row.aperture, block) for block in row.due - stays}
        return {place for place in gone if self.freed.get(place, -1) < begun} - self.owned()
