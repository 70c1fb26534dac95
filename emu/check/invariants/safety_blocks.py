"""S6: each block has the owners that the files say, and is in exactly one place; replayed step by step, and held against what was told and mapped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.check.invariants import buffers
from emu.check.invariants.invariant import Breach
from emu.check.invariants.orphaned import orphans
from emu.check.invariants.reading import read
from emu.check.invariants.rows import blocks_in, blocks_of, file_row, page_row
from emu.check.memory import shared_blocks
from emu.core.rows import DMABUF

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.check.history import History
    from emu.check.invariants.reclaims import Step
    from emu.check.invariants.rows import FileRow, Json
    from emu.check.invariants.timeline import Reading


def owners(history: History) -> Iterator[Breach]:
    """S6: each block has the owners that the files say, and is in exactly one place."""
    yield from _replayed(history, read(history))
    yield from orphans(history)
    yield from _counted(history)
    if history.filemap:
        shared = shared_blocks(history.filemap)
        if shared:
            yield Breach("S6", f"{len(shared)} blocks have two owners, block {shared[0]} first")
        yield from _mapped(history)


def _replayed(history: History, made: Reading) -> Iterator[Breach]:
    """Allocations, releases and files, step by step."""
    books = _Blocks(made)
    resting: dict[int, set[int]] = {}
    for step in made.steps:
        if step is made.steps[-1]:
            resting = books.nobody(step.life)
        before = dict(books.files) if step.changes else books.files
        for line in step.lines:
            yield from books.line(line)
        yield from books.files_agree(step)
        yield from books.shared(step, before)
    still = books.nobody(books.life)
    for aperture, blocks in still.items():
        stuck = blocks & resting.get(aperture, set())
        if stuck and not history.gaps:
            yield Breach("S6", f"{len(stuck)} blocks are nobody's and not free, block {min(stuck)} first")


class _Blocks:
    """What is allocated, by aperture, and the files that should have it."""

    def __init__(self, made: Reading) -> None:
        self.made, self.life = made, 0
        self.taken: dict[int, set[int]] = {}
        self.files: dict[int, FileRow] = {}
        self.pages: dict[int, FileRow] = {}
        self.offline: set[int] = set()
        self.bad: dict[int, tuple[str, int]] = {}  # device and block
        self.n = 0

    def line(self, line: Json) -> Iterator[Breach]:
        self.n = line["n"]
        match line["type"]:
            case "Loaded":
                self.life, self.taken, self.bad, self.pages = self.life + 1, {}, {}, {}
                self._failed(line)
                self.files = {k: file_row(row) for book, k, row in line["delta"] if book == "files" and row}
            case "OpenDevice":
                self.taken[line["aperture"]] = blocks_of(line["owned"])
            case "Online":
                self.taken[line["aperture"]] = set()
            case "MapPages":
                yield from self._map_pages(line)
            case "Allocate":
                yield from self._allocate(line, blocks_of(line["runs"]))
            case "Release":
                yield from self._release(line, blocks_of(line["runs"]))
            case "Commit":
                self._failed(line)
                for book, key, row in line["delta"]:
                    if book == "files":
                        self.files.pop(key, None)
                        if row:
                            self.files[key] = file_row(row)

    def _failed(self, line: Json) -> None:
        """Blocks whose memory has failed."""
        for book, key, row in line["delta"]:
            if book == "bad":
                self.bad.pop(key, None)
                if row:
                    self.bad[key] = (row[0], row[1])

    def _bad_on(self, aperture: int) -> set[int]:
        return {
            block
            for device, block in self.bad.values()
            if self.made.aperture_of(self.life, device) == aperture
        }

    def _map_pages(self, line: Json) -> Iterator[Breach]:
        row = page_row(line, f"file {line['ino']}")
        aperture = self.made.aperture_of(self.life, row.device)
        others = self._owned(aperture, but=line["ino"]).keys() & row.blocks
        wild = row.blocks - self.taken[aperture] if aperture in self.taken else set()
        for pages, words in ((others, "is another file's"), (wild, "is free")):
            if pages:
                yield Breach("S6", f"page {min(pages)} of {row.path} {words}", (line["n"],))
        self.pages[line["ino"]] = row

    def _allocate(self, line: Json, blocks: set[int]) -> Iterator[Breach]:
        had = self.taken.get(line["aperture"])
        if had is None:
            return  # a device that the history does not know
        twice = had & blocks
        if twice:
            yield Breach("S6", f"block {min(twice)} was given away while it had an owner", (line["n"],))
        if failed := blocks & self._bad_on(line["aperture"]):
            yield Breach("S6", f"block {min(failed)} was given away, and its memory had failed", (line["n"],))
        had |= blocks

    def _release(self, line: Json, blocks: set[int]) -> Iterator[Breach]:
        had = self.taken.get(line["aperture"])
        if had is None:
            return
        free, owned = blocks - had, blocks & self._owned(line["aperture"]).keys()
        if free:
            yield Breach("S6", f"block {min(free)} was freed, and was free already", (line["n"],))
        if owned:
            yield Breach("S6", f"block {min(owned)} was freed while a file had it", (line["n"],))
        had -= blocks

    def _owned(self, aperture: int, but: int = 0) -> dict[int, str]:
        """But for this file's pages."""
        held = [*self.files.values(), *(row for ino, row in self.pages.items() if ino != but)]
        mine = [row for row in held if self.made.aperture_of(self.life, row.device) == aperture]
        return {block: row.path for row in mine for block in row.blocks}

    def files_agree(self, step: Step) -> Iterator[Breach]:
        """Behind a commit: no block has two files that are not of one family, none that a file has is free."""
        for line in step.of("Commit"):
            if not any(change[0] == "files" for change in line["delta"]):
                continue
            seen: dict[tuple[str, int], FileRow] = {}
            for row in self.files.values():
                for block in row.blocks:
                    other = seen.setdefault((row.device, block), row)
                    if other is not row and not (row.origin and row.origin == other.origin):
                        yield Breach(
                            "S6", f"block {block} belongs to {other.path} and to {row.path}", (line["n"],)
                        )
                aperture = self.made.aperture_of(self.life, row.device)
                wild = row.blocks - self.taken[aperture] if aperture in self.taken else set()
                if wild:
                    yield Breach("S6", f"block {min(wild)} of {row.path} is free", (line["n"],))

    def shared(self, step: Step, before: dict[int, FileRow]) -> Iterator[Breach]:
        """A block that other files have than before, and still some, is told about by Share; no other is."""
        commits = [
            line for line in step.of("Commit") if any(change[0] == "files" for change in line["delta"])
        ]
        told = [line for line in step.lines if line["type"] == "Share"]
        rows = [row for change in step.changes for row in (change.old, change.new) if row]
        if _cut_off(step) or not (told or any(row.origin for row in rows)):
            return
        devices = {row.device for row in (rows or self.files.values())}
        for device in sorted(devices):
            aperture = self.made.aperture_of(self.life, device)
            then, now = _owners(before, device), _owners(self.files, device)
            given = blocks_in([line for line in step.of("Allocate") if line["aperture"] == aperture])
            other = {block for block in then.keys() & now.keys() if then[block] != now[block]} - given
            said = blocks_in([line for line in told if line["aperture"] == aperture])
            wrong = other ^ said
            if wrong and aperture:
                block = min(wrong)
                words = "and nobody says so" if block in other else "was said to, and has not"
                sentence = f"block {block} has changed the files that share it, {words}"
                yield Breach("S6", sentence, tuple(line["n"] for line in (*commits, *told)))

    def nobody(self, life: int) -> dict[int, set[int]]:
        """Blocks that are neither free nor a file's, that no reclaim is about and no translation reaches."""
        if life != self.life or self._busy():
            return {}
        found = {}
        for aperture, taken in self.taken.items():
            pinned = {
                block
                for key in self.made.maps
                if key.at.life == life and key.aperture == aperture and key.at.n <= self.n < key.end
                for block in key.blocks
            }
            found[aperture] = taken - self._owned(aperture).keys() - pinned - self._bad_on(aperture)
        return {aperture: blocks for aperture, blocks in found.items() if blocks}

    def _busy(self) -> bool:
        """A reclaim is under way, or a registration, which pins before its key is there."""
        return any(
            row.life == self.life and row.at("requested") <= self.n < row.at("ended")
            for row in self.made.reclaims
        )


def _owners(files: dict[int, FileRow], device: str) -> dict[int, set[int]]:
    found: dict[int, set[int]] = {}
    for ino, row in files.items():
        for block in row.blocks if row.device == device else ():
            found.setdefault(block, set()).add(ino)
    return found


def _cut_off(step: Step) -> bool:
    """The broker's life ended in this step, perhaps, or begins with it."""
    return step.cut or not step.event


def _counted(history: History) -> Iterator[Breach]:
    """Counts that somebody was told."""
    told = [(line["n"], line["result"].get("devices")) for line in history.of("Reply")]
    for n, devices in [*told, (None, history.row.get("blocks"))]:
        for name, blocks in devices.items() if isinstance(devices, dict) else ():
            if (
                blocks["free"] + blocks["owned"] + blocks["quarantined"] + blocks.get("bad", 0)
                != blocks["total"]
            ):
                yield Breach("S6", f"the blocks of {name} do not add up: {blocks}", () if n is None else (n,))


def _offline(history: History) -> set[str]:
    """Devices that are gone at the end: what lies on them can be named, and not looked at."""
    gone: set[str] = set()
    for line in history.of("Offline", "Online"):
        (gone.add if line["type"] == "Offline" else gone.discard)(line["device"])
    return gone


def _mapped(history: History) -> Iterator[Breach]:
    """The file map against the rows that were committed last. Of a device; the host's files are not ours."""
    made, device = read(history), history.filemap.get("device")
    if history.gaps or not made.apertures or device not in {name for _, name in made.apertures}:
        return
    said = {
        f["path"]: {b for _, at, size, _ in f["extents"] for b in blocks_of([[at, size]])}
        for f in history.filemap["files"]
    }
    known = {row.path: row.blocks for row in made.files.values() if row.device == device}
    known |= buffers.last_seen(made, said) if device == DMABUF else {}
    unseen = set(history.filemap.get("out_of_reach", ())) if device in _offline(history) else set()
    for path in sorted((said.keys() | known.keys()) - unseen):
        if said.get(path) != known.get(path):
            yield Breach("S6", f"the file map and the committed rows do not agree about {path}")


def no_device(history: History) -> str:
    if read(history).apertures or history.row.get("blocks") or history.filemap:
        return ""
    return "there was no device"
