"""The memory after a run, read as its owner would: stamped cells that lie where they must not, and files that are not what they should be.

Nothing here knows which operation put a byte where it is; the bytes and the file map are enough (docs/results.md shows how to
recount them in twenty lines).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from emu.engine.ring import stamp_foreign, stamp_in_place
from emu.history.stamp import CELL, MAGIC, decode, free_runs, is_foreign, kin_of, scan

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Json = dict[str, Any]

BLOCK = 4096
NOBODY = 1 << 32  # no stamp's inode number


def foreign_by_file(image: Any, filemap: Json) -> dict[str, int]:
    """Distinct stamped bytes that lie in memory which has changed hands since they were meant for it, by the file that owns it now
    ("" for nobody): a lower bound.
    """
    found: dict[int, str] = {}
    for file in filemap["files"]:
        kin = sorted(kin_of(file, filemap))
        for _, at, size, since in file["extents"]:
            found |= dict.fromkeys(stamp_foreign(image, at, at + size, file["ino"], since, kin), file["path"])
    if filemap.get("replaced"):  # a namespace that came later: nobody may have written to its free blocks
        for at, size in free_runs(filemap.get("device_bytes", len(image)), filemap):
            found |= dict.fromkeys(stamp_foreign(image, at, at + size, NOBODY, 0), "")
    return {path: CELL * count for path, count in sorted(Counter(found.values()).items())}


def foreign_bytes(image: Any, filemap: Json) -> int:
    """All of them."""
    return sum(foreign_by_file(image, filemap).values())


def victim(image: Any, filemap: Json, path: str, wanted: Json) -> Iterator[str]:
    """What is wrong with a file that should have this size, these holes, and these ranges as they were stored; or be gone."""
    file = file_of(filemap, path)
    if wanted.get("gone"):
        if file:
            yield "the reclaim reported success, and the file is still there"
        return
    if file is None:
        yield "the file is gone"
        return
    if file["size"] != wanted["size"]:
        yield f"the file has {file['size']} bytes and should have {wanted['size']}"
    older = until(file, wanted.get("layout"))
    for start, end in wanted["holes"]:
        if holes(older, start, end) != end - start:
            yield f"bytes {start} to {end} of the file should be a hole"
    wrong = misplaced_cells(image, file, wanted["kept"])
    if wrong:
        yield f"{wrong * CELL} bytes that should have stayed are not what was stored there"


def file_of(filemap: Json, path: str) -> Json | None:
    """The map's entry of a file."""
    return next((file for file in filemap["files"] if file["path"] == path), None)


def until(file: Json, layout: int | None) -> Json:
    """The file without extents that came later than this layout number, or by a page fault (0): what was written anew into a hole is no part of it."""
    if layout is None:
        return file
    return {**file, "extents": [extent for extent in file["extents"] if 0 < extent[3] <= layout]}


def holes(file: Json, start: int, end: int) -> int:
    """Bytes of start..end of the file that no extent covers."""
    covered = 0
    for offset, _, size, _ in file["extents"]:
        covered += max(0, min(end, offset + size) - max(start, offset))
    return (end - start) - covered


def misplaced_cells(image: Any, file: Json, ranges: Iterable[tuple[int, int]]) -> int:
    """Cells of the file's ranges that are not what was stored there: not intact, or meant for another file or place.

    Every cell of these ranges was stamped before the run, and whoever writes there stamps it again.
    """
    wrong = 0
    for start, end in ranges:
        for offset, position, size, _ in file["extents"]:
            first, last = max(start, offset), min(end, offset + size)
            cells = max(0, -(-(last - first) // CELL))
            wrong += cells - stamp_in_place(image, position + first - offset, cells, file["ino"], first)
        wrong += holes(file, start, end) // CELL
    return wrong


def vanished_cells(image: Any, file: Json, ranges: Iterable[tuple[int, int]]) -> int:
    """Cells of ranges that were written once, by the file's own writes, and are not there: neither in place nor overwritten by a stranger.

    Where strangers' cells lie in a block, its other damage may be theirs too (cells torn between two writers), and is not counted.
    """
    gone = 0
    for start, end in ranges:
        for block in range(start, end, BLOCK):
            found = [
                (decode(image[at : at + CELL]), offset, since)
                for offset, at, since in _dated_cells(file["extents"], block, min(block + BLOCK, end))
            ]
            if not any(cell and is_foreign(cell, file["ino"], since) for cell, _, since in found):
                gone += sum(not cell or cell.offset != offset for cell, offset, _ in found)
        gone += holes(file, start, end) // CELL
    return gone


def _dated_cells(extents: list[list[int]], start: int, end: int) -> Iterable[tuple[int, int, int]]:
    for extent in extents:
        for offset, at in _cells_of([extent], start, end):
            yield offset, at, extent[3]


def shared_blocks(filemap: Json) -> list[int]:
    """Blocks of the image that two extents claim which are not of one family (`origin`: clones, and what they were cloned from)."""
    owners: dict[int, list[int]] = {}
    for file in filemap["files"]:
        for _, position, size, _ in file["extents"]:
            for block in range(position // BLOCK, -(-(position + size) // BLOCK)):
                owners.setdefault(block, []).append(file.get("origin", 0))
    return sorted(block for block, who in owners.items() if len(who) > 1 and (0 in who or len(set(who)) > 1))


def _cells_of(extents: list[list[int]], start: int, end: int) -> Iterable[tuple[int, int]]:
    """(offset in the file, position in the image) of each cell of start..end."""
    for offset, position, size, _ in extents:
        first, last = max(start, offset), min(end, offset + size)
        for at in range(first, last, CELL):
            yield at, position + at - offset


def stamped(image: Any) -> int:
    """Stamped bytes anywhere: zero means that nobody wrote, and nothing can be concluded."""
    return 0 if image.find(MAGIC) < 0 else CELL * sum(1 for _ in scan(image))
