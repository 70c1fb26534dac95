"""S2, S3, S6, S9 and S10, as far as the durable rows and the order of effects tell: layouts, owners of blocks, zeros, one order.

Everything is replayed from Commit lines and from the effects beside them; a folder's file map, a lab's row and the answers of query_books and
fs_stat are compared with what comes of that.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from emu.check.invariants import buffers, digest
from emu.check.invariants.digest import ALWAYS, blocks_of
from emu.check.invariants.invariant import Breach
from emu.check.invariants.orphaned import orphans
from emu.check.memory import file_of, shared_blocks, vanished_cells, victim
from emu.core.rows import BLOCK, DMABUF, FOREVER
from emu.history.stamp import CELL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from emu.check.history import History
    from emu.check.invariants.digest import Change, Digest, FileRow, Json, Reclaim, Step

# ---- S2: the change is there


def applied(history: History) -> Iterator[Breach]:
    """S2: a reclaim that reported success has changed what it was to change; a restart loses nothing of it."""
    made = history.once(digest.read)
    for row in made.reclaims:
        if row.succeeded and not _is_there(made, row):
            yield Breach("S2", f"{row.words()} returned success, and its change is not there", row.told)
    for line, ino in made.lost:
        sentence = f"file {ino} is not as it was committed before the restart"
        yield Breach("S2", sentence, (line["n"],))


def _is_there(made: Digest, row: Reclaim) -> bool:
    target = row.target
    if not row.known or row.kind in {"surprise", "poison"}:
        return True  # the host's own files; a fact that was there before
    if row.kind == "umount":
        return not _reached_behind(made, row)
    if "device" in target:
        return any(
            change[0] == "devices" and change[1] == target["device"] and change[2] and not change[2][2]
            for step in row.steps
            for line in step.of("Commit")
            for change in line["delta"]
        )
    if row.kind == "reflink":
        return any(_is_clone(row, change) for step in row.steps for change in step.changes)
    if target["kind"] in {"writeback", "memory-pressure"}:
        return _pages_done(made, row)
    mine = [change for step in row.steps for change in step.changes if change.ino == target["ino"]]
    if not mine and (row.kind == "cow-write" or (row.kind == "migrate" and not row.range)):
        return True  # nobody else had these blocks any more; there were none
    return any(_fits(target, change) or _covered_up(target, change) for change in mine)


def _is_clone(row: Reclaim, change: Change) -> bool:
    """The clone that this reclaim of kind reflink has made."""
    new, source = change.new, row.source
    return bool(
        row.kind == "reflink"
        and change.old is None
        and new
        and source
        and (new.path, new.size, new.places) == (row.target["to"], source.size, source.places)
        and new.origin == source.origin != 0
    )


def _reached_behind(made: Digest, row: Reclaim) -> bool:
    """Was a file of this mount reached between the answer and the next mount there?"""
    top = row.target["mount"].rstrip("/") + "/"
    asked: dict[tuple[int, int], Json] = {}
    for step in made.steps:
        if step.life != row.life or step.lines[-1]["n"] < row.at("returned"):
            continue
        if step.op:
            asked[step.event["session"], step.event["request"]] = step.op  # type: ignore[index]
        if step.op.get("type") == "FsMount" and step.of("Reply"):
            return False
        for line in step.of("Reply"):
            op = asked.get((line["session"], line["request"]), {})
            if op.get("type") in {"FsStat", "FsRead"} and str(op["path"]).startswith(top):
                return True
    return False


def _pages_done(made: Digest, row: Reclaim) -> bool:
    """What was dirty was written back; behind a pressure no clean page is left."""
    under_way = (s for s in made.steps if s.life == row.life and row.at("requested") <= s.lines[-1]["n"])
    flushed = (s.of("Flush") for s in under_way if s.lines[0]["n"] < row.at("returned"))
    saved = not row.unsaved or any(flushed)
    return saved and (row.kind == "writeback" or not row.stays)


def _covered_up(target: Json, change: Change) -> bool:
    """Another reclaim changed the same file in the same step, so that the row does not show this one. A hole would still be there."""
    return len(change.step.applied) > 1 and (target["kind"] != "punch" or change.new is None)


def _fits(target: Json, change: Change) -> bool:
    new, lo, hi = change.new, target["lo"], target["hi"]
    if target["kind"] == "unlink":
        return new is None
    if new is None:
        return False
    if target["kind"] == "unplug":
        return new.gone
    if target["kind"] in buffers.KINDS:
        return buffers.fits(target, change.old, new)
    if target["kind"] in LAID:
        return change.old is not None and LAID[target["kind"]](target, change.old, new)
    if target["kind"] == "truncate":
        return new.size == lo and not new.within(-(-lo // BLOCK) * BLOCK, FOREVER)
    return not _old(new).within(-(-lo // BLOCK) * BLOCK, hi // BLOCK * BLOCK)


def _old(new: FileRow) -> FileRow:
    """Without the blocks that came behind this change, in the same step: a registration that had waited for it fills the hole."""
    return new._replace(extents=tuple(extent for extent in new.extents if extent[3] < new.layout))


def _collapsed(target: Json, old: FileRow, new: FileRow) -> bool:
    first, count = target["lo"] // BLOCK, target["length"] // BLOCK
    stays = {block: at for block, at in old.places.items() if not first <= at < first + count}
    moved = {block: at - count * (at >= first) for block, at in stays.items()}
    return new.size == old.size - target["length"] and new.places == moved


def _inserted(target: Json, old: FileRow, new: FileRow) -> bool:
    first, count = target["lo"] // BLOCK, target["length"] // BLOCK
    moved = {block: at + count * (at >= first) for block, at in old.places.items()}
    return new.size == old.size + target["length"] and new.places == moved


def _zeroed(target: Json, old: FileRow, new: FileRow) -> bool:
    """Its whole blocks, and the last one of the file where the range reaches the end, are other blocks now."""
    lo, hi = -(-target["lo"] // BLOCK), min(target["hi"], old.size)
    end = -(-hi // BLOCK) if hi == old.size else hi // BLOCK
    whole = new.within(lo * BLOCK, end * BLOCK) if lo < end else set()
    return new.size == old.size and len(whole) == max(0, end - lo) and not whole & old.blocks


def _migrated(_target: Json, old: FileRow, new: FileRow) -> bool:
    same = sorted(old.places.values()) == sorted(new.places.values())
    return new.size == old.size and same and not new.blocks & old.blocks


def _unshared(target: Json, old: FileRow, new: FileRow) -> bool:
    """Blocks of its own in the range; nothing else of it has moved or gone. What waited for that may have made it longer in the same step."""
    first, end = target["lo"] // BLOCK, -(-min(target["hi"], FOREVER) // BLOCK)
    before, after = ({at: block for block, at in row.places.items()} for row in (old, new))
    stays = all(after.get(at) == block for at, block in before.items() if not first <= at < end)
    return bool(new.blocks - old.blocks) and stays and _only_more(old, new)


def _only_more(old: FileRow, new: FileRow) -> bool:
    return new.size >= old.size and set(new.places.values()) >= set(old.places.values())


LAID: Mapping[str, Callable[[Json, FileRow, FileRow], bool]] = {
    "collapse": _collapsed,
    "insert": _inserted,
    "zero": _zeroed,
    "migrate": _migrated,
    "cow-write": _unshared,
}


def nothing_succeeded(history: History) -> str:
    made = history.once(digest.read)
    if any(row.succeeded for row in made.reclaims) or made.lost:
        return ""
    lab = history.row.get("reclaim", {})
    return "" if lab.get("returned") and lab.get("errno") is None else "no reclaim succeeded"


# ---- S3


def unchanged(history: History) -> Iterator[Breach]:
    """S3: a reclaim that reported an error, and did not say that it may have done something, left everything as it was."""
    made = history.once(digest.read)
    for row in made.reclaims:
        if row.errno and row.definite:
            for step in row.steps:
                yield from _touched(row, step)
    lab = history.row
    if lab and history.filemap and lab["reclaim"]["returned"] and lab["reclaim"]["errno"] is not None:
        for sentence in victim(*history.seen, lab["victim"]["path"], lab["before"]):
            yield Breach("S3", sentence)


def _touched(row: Reclaim, step: Step) -> Iterator[Breach]:
    """What a step that applied nobody else's change did to its target."""
    if step.applied - {row.number}:
        return
    words = f"{row.words()} failed with {errno.errorcode.get(row.errno or 0, str(row.errno))}"
    for change in step.changes:
        if change.ino == row.target.get("ino") and change.old and _layout(change.old) != _layout(change.new):
            yield Breach("S3", f"{words}, and changed the file", (*row.told, change.line["n"]))
    for line in step.of("Zero"):
        yield Breach("S3", f"{words}, and bytes of the file were zeroed", (*row.told, line["n"]))


def _layout(row: FileRow | None) -> object:
    return row and (row.path, row.size, row.blocks, row.gone)


def nothing_failed(history: History) -> str:
    made = history.once(digest.read)
    if any(row.errno and row.definite for row in made.reclaims):
        return ""
    lab = history.row.get("reclaim", {})
    return (
        ""
        if lab.get("returned") and lab.get("errno") is not None
        else "no reclaim was refused or interrupted"
    )


# ---- S6


def owners(history: History) -> Iterator[Breach]:
    """S6: each block has the owners that the files say, and is in exactly one place."""
    yield from _replayed(history, history.once(digest.read))
    yield from orphans(history)
    yield from _counted(history)
    if history.filemap:
        shared = shared_blocks(history.filemap)
        if shared:
            yield Breach("S6", f"{len(shared)} blocks have two owners, block {shared[0]} first")
        yield from _mapped(history)


def _replayed(history: History, made: Digest) -> Iterator[Breach]:
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

    def __init__(self, made: Digest) -> None:
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
                self.files = {
                    k: digest.file_row(row) for book, k, row in line["delta"] if book == "files" and row
                }
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
                            self.files[key] = digest.file_row(row)

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
        row = digest.FileRow(
            f"file {line['ino']}", line["device"], 0, tuple(tuple(extent) for extent in line["extents"])
        )
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
            given = _all([line for line in step.of("Allocate") if line["aperture"] == aperture])
            other = {block for block in then.keys() & now.keys() if then[block] != now[block]} - given
            said = _all([line for line in told if line["aperture"] == aperture])
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
                for key in self.made.keys
                if key.life == life
                and key.aperture == aperture
                and key.installed["n"] <= self.n < min(key.unmapped, key.removed)
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
    """The broker's life ended in this step, perhaps: the last of its lines is no answer."""
    return step.cut or step.lines[-1]["type"] in {"Commit", "Share", "Release"} or not step.event


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
    made, device = history.once(digest.read), history.filemap.get("device")
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
    if history.once(digest.read).apertures or history.row.get("blocks") or history.filemap:
        return ""
    return "there was no device"


# ---- S9


def zeros(history: History) -> Iterator[Breach]:
    """S9: what becomes readable, and nobody wrote, has been zeroed first: new blocks, tails, edges of holes."""
    made = history.once(digest.read)
    for change in made.changes:
        aperture = made.aperture_of(change.step.life, change.new.device) if change.new else 0
        if aperture and change.new:
            yield from _new_bytes(change, change.new, aperture)
    yield from _edges(made)
    yield from _left_over(made)
    yield from _nobody_wrote(history, made)
    taken = history.row.get("taken")
    if taken and taken["unzeroed"]:
        yield Breach("S9", f"{taken['unzeroed']} bytes of newly allocated blocks were not zero")


def _new_bytes(change: Change, new: FileRow, aperture: int) -> Iterator[Breach]:
    before = [
        line
        for line in change.step.lines
        if line["n"] < change.line["n"] and line.get("aperture") == aperture
    ]
    had = change.old.blocks if change.old else set()
    given = _all([line for line in before if line["type"] == "Allocate"])
    fresh = new.blocks - had - given - _cloned(change)
    if fresh:
        yield Breach(
            "S9",
            f"block {min(fresh)} came to {new.path} without having been overwritten",
            (change.line["n"],),
        )
    if change.old and new.size > change.old.size and "insert" not in _kinds(change):
        end = min(new.size, -(-change.old.size // BLOCK) * BLOCK)
        runs = change.old.runs(change.old.size, end)
        blanked = [run for line in before if line["type"] == "Blank" for run in line["runs"]]
        if not _covered(runs, blanked):
            yield Breach(
                "S9",
                f"the tail of {new.path} became readable without having been zeroed",
                (change.line["n"],),
            )


def _kinds(change: Change) -> set[str]:
    """Of the reclaims of this file that the step has applied."""
    rows = change.step.rows
    return {row.kind for row in rows if row.target.get("ino") == change.ino}


def _cloned(change: Change) -> set[int]:
    """Blocks that a clone has from what it was cloned from. Of a step that was cut off nobody says what it was: it has the same as another."""
    new, step = change.new, change.step
    if step.cut and change.old is None and new and new.origin:
        alike = ((row.device, row.size, row.places) for row in step.before.values())
        return new.blocks if (new.device, new.size, new.places) in alike else set()
    return {
        block
        for row in change.step.rows
        if row.source and _is_clone(row, change)
        for block in row.source.blocks
    }


def _all(lines: list[Json]) -> set[int]:
    return {block for line in lines for block in blocks_of(line["runs"])}


def _covered(runs: list[list[int]], by: list[list[int]]) -> bool:
    """Whether each of the runs lies in those."""
    for at, size in runs:
        end = at
        for low, length in sorted(by):
            if low <= end:
                end = max(end, low + length)
        if end < at + size:
            return False
    return True


def _edges(made: Digest) -> Iterator[Breach]:
    """The unaligned ends of a hole are zero when its success is told."""
    for row in made.reclaims:
        if not (row.kind in {"punch", "zero"} and row.succeeded and row.after and row.aperture):
            continue
        lo, hi = row.target["lo"], row.target["hi"]
        if row.kind == "zero" and hi >= row.after.size:
            hi = -(-hi // BLOCK) * BLOCK  # the last block is a new one
        up, down = -(-lo // BLOCK) * BLOCK, hi // BLOCK * BLOCK
        ends = [(lo, min(hi, up)), (max(lo, down), hi)] if up <= down else [(lo, hi)]
        runs = [run for low, high in ends for run in row.after.runs(low, high)]
        mine = [line for step in row.steps for line in step.of("Zero")]
        if not _covered(runs, [run for line in mine for run in line["runs"]]):
            yield Breach("S9", f"{row.words()} left the edges of its hole as they were", row.told)


def _nobody_wrote(history: History, made: Digest) -> Iterator[Breach]:
    """Files of this history that hold something, in extents that no key was ever registered for and no CPU stored to."""
    if not history.filemap or history.gaps:
        return
    born = {change.ino for change in made.changes if change.old is None}
    registered = _registered(history)
    stored = _all(history.of("Store"))
    copied = {
        block
        for line in history.of("Copy")
        for _from, to, size in line["pieces"]
        for block in blocks_of([[to, size]])
    }
    for file in history.filemap["files"]:
        row = made.files.get(file["ino"])
        if file["ino"] not in born or row is None or row.path != file["path"] or row.origin:
            continue
        count = 0
        for offset, at, length, since in file["extents"]:
            end = at + max(0, min(length, file["size"] - offset))
            handled = blocks_of([[at, end - at]]) & (stored | copied)
            if registered.get(file["path"], 0) < since and not handled:
                count += end - at - bytes(history.image[at:end]).count(0)
        if count:
            yield Breach("S9", f"{count} bytes of {file['path']}, which nobody wrote to, are not zero")


def _registered(history: History) -> dict[str, int]:
    """Path -> the layout of the file at the last registration of it; without end while one is not answered."""
    found: dict[str, int] = {}
    asked: dict[tuple[int, int], str] = {}
    for line in history.of("Requested", "Reply", "Fail"):
        request = line["session"], line["request"]
        if line["type"] == "Requested" and line["op"]["type"] == "RegMr":
            path = str(line["op"].get("path", ""))
            asked[request] = f"{DMABUF}/{path}" if line["op"].get("backing") == DMABUF else path
        elif request in asked:
            path = asked.pop(request)
            layout = int(line.get("result", {}).get("layout", 0))
            found[path] = max(found.get(path, 0), layout)
    return found | dict.fromkeys(asked.values(), ALWAYS)


def _left_over(made: Digest) -> Iterator[Breach]:
    """Edges that an earlier life had still to zero are zeroed before anybody is served."""
    for at, step in enumerate(made.steps):
        for line in step.of("Loaded"):
            runs = [
                list(run) for book, _, row in line["delta"] if book == "zeroing" and row for run in row[1]
            ]
            boot = _boot(made.steps[at:]) if runs else []
            done = [run for s in boot for blank in s.of("Blank") for run in blank["runs"]]
            if boot and not _covered(runs, done):
                yield Breach("S9", "an edge that was to be zeroed before the restart was not", (line["n"],))


def _boot(steps: list[Step]) -> list[Step]:
    """Those in front of the first client of this life; none if nobody came."""
    for at, step in enumerate(steps):
        if step.life != steps[0].life:
            return []
        if step.of("SessionOpened"):
            return steps[:at]
    return []


def nothing_grew(history: History) -> str:
    made = history.once(digest.read)
    grew = any(
        c.new and (c.old is None or c.new.blocks - c.old.blocks or c.new.size > c.old.size)
        for c in made.changes
    )
    return "" if grew or history.row.get("taken") else "no file was created or grew"


# ---- S10


def one_order(history: History) -> Iterator[Breach]:
    """S10: file operations take effect one by one, each between its request and its answer; reclaims of one range one behind the other."""
    made = history.once(digest.read)
    late = set(_late(made))
    for change in made.changes:
        if not _explained(made, change) and (change.line["n"], change.ino) not in late:
            what = change.new.path if change.new else (change.old.path if change.old else "a file")
            yield Breach("S10", f"{what} changed, and nobody had asked for that", (change.line["n"],))
    yield from _answers(made)
    yield from _at_once(made)
    yield from _vanished(history)


def _explained(made: Digest, change: Change) -> bool:
    step = change.step
    rows = [made.reclaim_at[step.life, number] for number in step.applied]
    mine = any(row.target.get("ino") == change.ino or _is_clone(row, change) for row in rows)
    return (
        mine
        or _went_on(made, change)
        or _asked(change, step.op)
        or buffers.explained(made, change)
        or _host_step(step)
        or _faulted(change)
    )


def _went_on(made: Digest, change: Change) -> bool:
    """A request that goes on where its cow-write ends: a write, a growing truncate, a registration. None of them takes anything."""
    if change.old is None or change.new is None or not _only_more(change.old, change.new):
        return False
    ended = [line["reclaim"] for line in change.step.of("Phase") if line["phase"] == "ended"]
    rows = [made.reclaim_at[change.step.life, number] for number in ended]
    return any(row.kind == "cow-write" and row.target.get("ino") == change.ino for row in rows)


def _faulted(change: Change) -> bool:
    """Holes that a page fault filled: the key that missed them is mapped over them, or over the pages filled from them, in the same step."""
    old, new = change.old, change.new
    if old is None or new is None or old.size != new.size or not old.blocks <= new.blocks:
        return False
    mapped = [
        blocks_of([run for run in line["extents"] if run[0] >= 0])
        for line in change.step.lines
        if line["type"] == "Remap"
    ]
    pieces = [piece for line in change.step.of("Fill") for piece in line["pieces"]]
    return any(
        new.blocks - old.blocks
        <= blocks | {b for source, page, size in pieces if blocks_of([[page, size]]) <= blocks for b in blocks_of([[source, size]])}
        for blocks in mapped
    )  # fmt: skip


def _late(made: Digest) -> Iterator[tuple[int, int]]:
    """(line, file) of what registrations did that had waited behind a reclaim, in the step that let them go on; and of what was committed by a
    reclaim whose broker was killed in front of its first line.
    """
    waiting: dict[tuple[int, int], Json] = {}
    for step in made.steps:
        for line in step.lines:
            match line["type"]:
                case "Loaded":
                    waiting.clear()
                case "SessionLost":
                    waiting = {pair: op for pair, op in waiting.items() if pair[0] != line["session"]}
                case "Requested" if line["op"]["type"] in {"RegMr", *TAKING}:
                    waiting[line["session"], line["request"]] = line["op"]
        for change in step.changes:
            if any(_asked_late(change, op) for op in waiting.values()):
                yield change.line["n"], change.ino
        for line in step.lines:
            if line["type"] in {"Reply", "Fail"}:
                waiting.pop((line["session"], line["request"]), None)


TAKING = frozenset({"FsTruncate", "FsPunch", "FsUnlink", "FsFallocate", "FsReflink", "FsMigrate", "FsWrite"})


def _asked_late(change: Change, op: Json) -> bool:
    if op["type"] == "RegMr" and _asked(change, op):
        return True
    paths = {row.path for row in (change.old, change.new) if row}
    return change.step.cut and bool(paths & {op.get("path"), op.get("to")})


def _asked(change: Change, op: Json) -> bool:
    """Is it what this request does?"""
    old, new = change.old, change.new
    kind = str(op.get("type"))
    if kind == "FsPlug":
        return new is None and old is not None and old.device == op["device"]
    if kind == "FsPoison":
        same = old and new and (old.path, old.size) == (new.path, new.size)
        return bool(same and new and old and new.blocks < old.blocks and len(old.blocks - new.blocks) == 1)
    if kind not in SIZES or new is None or new.path != op["path"]:
        return False
    if kind == "FsCreate":
        return old is None and new.size == op["size"]
    return old is not None and old.blocks <= new.blocks and new.size == SIZES[kind](old, op)


# The size that a request leaves behind, of those that only add blocks; registering fills holes.
SIZES: Mapping[str, Callable[[FileRow, Json], int]] = {
    "FsCreate": lambda _old, op: int(op["size"]),
    "FsTruncate": lambda _old, op: int(op["size"]),
    "FsWrite": lambda old, op: max(old.size, int(op["offset"]) + int(op["data"])),
    "RegMr": lambda old, _op: old.size,
    "FsMark": lambda old, _op: old.size,
}


def _host_step(step: Step) -> bool:
    """A step of the start, before anybody is served."""
    return step.event is None or step.event["type"] in {"DeviceAdded", "MountAdded", "BuffersLost"}


def _answers(made: Digest) -> Iterator[Breach]:
    """What fs_create and fs_stat answered is what was committed by then."""
    files: dict[int, FileRow] = {}
    asked: dict[tuple[int, int], Json] = {}
    for step in made.steps:
        for line in step.lines:
            match line["type"]:
                case "Loaded" | "Commit":
                    files = {} if line["type"] == "Loaded" else files
                    for book, key, row in line["delta"]:
                        if book == "files":
                            files.pop(key, None)
                            if row:
                                files[key] = digest.file_row(row)
                case "Requested":
                    asked[line["session"], line["request"]] = line["op"]
                case "Reply":
                    yield from _answered(line, asked.pop((line["session"], line["request"]), {}), files)


def _answered(line: Json, op: Json, files: dict[int, FileRow]) -> Iterator[Breach]:
    result = line["result"]
    if op.get("type") not in {"FsCreate", "FsStat"} or "ino" not in result:
        return
    row = files.get(result["ino"])
    if row is None or row.path != op["path"] or row.size != result["size"]:
        yield Breach(
            "S10",
            f"{op['path']} was said to have {result['size']} bytes as file {result['ino']}, and has not",
            (line["n"],),
        )


def _at_once(made: Digest) -> Iterator[Breach]:
    """Two reclaims of one range: the second starts when the first has ended. A surprise waits for nobody."""
    under_way: dict[tuple[int, int], list[Reclaim]] = {}
    asked = (row for row in made.reclaims if row.kind not in {"surprise", ""} and "ino" in row.target)
    for second in sorted(asked, key=lambda row: row.at("requested")):
        began, target = second.at("requested"), second.target
        others = under_way.setdefault((second.life, target["ino"]), [])
        others[:] = [first for first in others if began < first.at("ended")]
        for first in others:
            if first.target["lo"] < target["hi"] and target["lo"] < first.target["hi"]:
                sentence = f"{first.words()} and {second.words()} ran at once"
                yield Breach("S10", sentence, tuple(sorted({*first.told, *second.told})))
        others.append(second)


def _vanished(history: History) -> Iterator[Breach]:
    """What a lab's second file was given once is still there."""
    taken = history.row.get("taken")
    if not taken or not history.filemap:
        return
    file = file_of(history.seen[1], taken["path"])
    if file is None:
        yield Breach("S10", f"{taken['path']}, which was made after the reclaim, is gone")
        return
    gone = vanished_cells(history.seen[0], file, taken["written"])
    if gone:
        yield Breach("S10", f"{gone * CELL} bytes that were written once to {taken['path']} are not there")


def nothing_in_order(history: History) -> str:
    made = history.once(digest.read)
    return "" if made.changes or history.row.get("taken") else "no file was changed"
