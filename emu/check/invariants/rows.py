"""Durable rows of files as lines have them, and the blocks that they name."""

from __future__ import annotations

from typing import Any, NamedTuple

from emu.core.rows import BLOCK, FOREVER

Json = dict[str, Any]
Runs = list[list[int]]
ALWAYS = 1 << 62  # the number of a line, or an epoch, that did not come
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

    def runs(self, lo: int, hi: int) -> Runs:
        """Bytes lo..hi of the file, as runs of its device."""
        found = []
        for first, start, count, _ in self.extents:
            low, high = max(lo, first * BLOCK), min(hi, (first + count) * BLOCK)
            if low < high:
                found.append([start * BLOCK + low - first * BLOCK, high - low])
        return found


def file_row(row: list[Any]) -> FileRow:
    """A row of `files` as a line has it; one of an earlier emu may lack the last fields."""
    path, device, size, extents, *rest = row
    more = rest[:4] + [tuple(tuple(extent) for extent in lost) for lost in rest[4:5]]
    return FileRow(path, device, size, tuple(tuple(extent) for extent in extents), *more)


def page_row(line: Json, path: str = "") -> FileRow:
    """The pages of a file, as MapPages has them."""
    return FileRow(path, line["device"], 0, tuple(tuple(extent) for extent in line["extents"]))


def blocks_within(row: FileRow | None, lo: int, hi: int) -> set[int]:
    """Device blocks of which a byte lies in this range of the file."""
    return blocks_of(row.runs(lo, hi)) if row is not None else set()


def blocks_of(runs: Runs) -> set[int]:
    """Device blocks of which some byte lies in these runs."""
    return {block for at, size in runs for block in range(at // BLOCK, -(-(at + size) // BLOCK))}


def blocks_in(lines: list[Json]) -> set[int]:
    """Of these lines' runs."""
    return {block for line in lines for block in blocks_of(line["runs"])}


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
