"""The first part of the reader: lives and steps, people, devices, durable rows and pages."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from emu.check.invariants.reclaims import Change, Reclaim, Step
from emu.check.invariants.rows import UNDERNEATH, FileRow, file_row, page_row
from emu.check.invariants.timeline import NOWHERE, At, Person, Reading
from emu.core.rows import BLOCK

if TYPE_CHECKING:
    from emu.check.invariants.rows import Json


@dataclass
class Files:
    """What is known so far, of this life. `then`, `pages_then`: files and pages as they were before this step."""

    found: Reading = field(default_factory=Reading)
    here: At = NOWHERE
    step: int = 0
    life: int = 0
    turn: Step = field(default_factory=lambda: Step(0, None))
    files: dict[int, FileRow] = field(default_factory=dict)
    then: dict[int, FileRow] = field(default_factory=dict)
    inos: dict[str, int] = field(default_factory=dict)
    pages: dict[int, FileRow] = field(default_factory=dict)
    pages_then: dict[int, FileRow] = field(default_factory=dict)
    dirty: dict[int, set[int]] = field(default_factory=dict)  # file -> its pages that are
    mounts: dict[str, str] = field(default_factory=dict)
    people: dict[int, Person] = field(default_factory=dict)

    def place(self, line: Json) -> At:
        return At(line["n"], line.get("t", 0), line.get("epoch", 0), self.step, self.life)

    # ---- people

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

    # ---- devices

    def mounted(self, line: Json) -> None:
        self.mounts[line["path"].rstrip("/") + "/"] = line["device"]

    def device_opened(self, line: Json) -> None:
        self.found.apertures[self.life, line["name"]] = line["aperture"]

    # ---- what is durable

    def loaded(self, line: Json) -> None:
        """`files` is what the life before has left."""
        rows = {
            int(key): file_row(row) for book, key, row in line.get("delta", ()) if book == "files" and row
        }
        if self.life > 1:
            inos = sorted(self.files.keys() | rows.keys())
            self.found.lost += [(line, ino) for ino in inos if self.files.get(ino) != rows.get(ino)]
        self.files = self.then = rows
        self.inos = {row.path: ino for ino, row in rows.items()}

    def committed(self, line: Json) -> None:
        if self.then is self.files:
            self.files = dict(self.then)
        for book, key, row in line.get("delta", ()):
            if book == "files":
                self._changed(line, int(key), file_row(row) if row else None)

    def _changed(self, line: Json, ino: int, new: FileRow | None) -> None:
        old = self.files.pop(ino, None)
        if old is not None and self.inos.get(old.path) == ino:
            del self.inos[old.path]
        if new is not None:
            self.files[ino] = new
            self.inos[new.path] = ino
        change = Change(line, self.turn, ino, old, new)
        self.found.changes.append(change)
        self.turn.changes.append(change)

    # ---- pages

    def map_pages(self, line: Json) -> None:
        if self.pages_then is self.pages:
            self.pages = dict(self.pages_then)
        ino, row = line["ino"], page_row(line)
        self.pages.pop(ino, None)
        if row.extents:
            self.pages[ino] = row
        spans = [row.within(at * BLOCK, (at + count) * BLOCK) for at, count in line.get("dirty", ())]
        self.dirty[ino] = set().union(*spans)

    def laid(self, row: Reclaim, file: FileRow | None, pages: dict[int, FileRow]) -> FileRow | None:
        """Where DMA to the file under reclaim goes: its row, or its pages."""
        cache = f"{file.device}.cache" if file else ""
        if file is None or row.kind in UNDERNEATH or (self.life, cache) not in self.found.apertures:
            return file
        return pages.get(int(row.target.get("ino", 0))) or FileRow("", cache, 0, ())
