"""A file's layout: extents (file block, device block, blocks, since), ordered by file block, without overlap.

Pure functions over tuples. `since` is the layout number of the file when the extent was allocated; neighbours are merged
only if they agree in it, since readers judge stamps by it.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from emu.core.rows import BLOCK, FOREVER, Extent, Run

if TYPE_CHECKING:
    from collections.abc import Iterator

Extents = tuple[Extent, ...]


def blocks_up(size: int) -> int:
    """Blocks that `size` bytes need."""
    return -(-size // BLOCK)


def _from(extents: Extents, block: int) -> int:
    """Index of the first extent that ends behind `block`."""
    at = bisect_right(extents, block, key=lambda extent: extent[0])
    return at - 1 if at and extents[at - 1][0] + extents[at - 1][2] > block else at


def cut(extents: Extents, start: int, end: int) -> Iterator[Extent]:
    """The parts of the extents within file blocks [start, end)."""
    for at in range(_from(extents, start), len(extents)):
        file, device, count, since = extents[at]
        if file >= end:
            return
        low, high = max(file, start), min(file + count, end)
        yield (low, device + low - file, high - low, since)


def remove(extents: Extents, start: int, end: int) -> tuple[Extents, tuple[Extent, ...]]:
    """What stays, and what was taken out of file blocks [start, end)."""
    taken = tuple(cut(extents, start, end))
    if not taken:
        return extents, ()
    last = extents[-1][0] + extents[-1][2]
    return (*cut(extents, 0, start), *cut(extents, end, last)), taken


def insert(extents: Extents, new: tuple[Extent, ...]) -> Extents:
    """Both, in order, neighbours merged. `new` must not overlap what is there."""
    merged: list[Extent] = []
    for extent in sorted((*extents, *new)):
        if merged:
            file, device, count, since = merged[-1]
            if extent[0] == file + count and extent[1] == device + count and extent[3] == since:
                merged[-1] = (file, device, count + extent[2], since)
                continue
        merged.append(extent)
    return tuple(merged)


def holes(extents: Extents, start: int, end: int) -> Iterator[tuple[int, int]]:
    """File blocks within [start, end) that have no block: (file block, blocks)."""
    for file, _device, count, _since in cut(extents, start, end):
        if file > start:
            yield (start, file - start)
        start = file + count
    if start < end:
        yield (start, end - start)


def pieces(extents: Extents, offset: int, length: int) -> tuple[Run, ...]:
    """Bytes [offset, offset + length) of the file as (device offset, bytes) in order; (-1, bytes) where there is a hole."""
    found: list[Run] = []
    at, end = offset, offset + length
    for file, device, count, _since in cut(extents, offset // BLOCK, blocks_up(end)) if length else ():
        low, high = max(at, file * BLOCK), min(end, (file + count) * BLOCK)
        if low > at:
            found.append((-1, low - at))
        _join(found, device * BLOCK + low - file * BLOCK, high - low)
        at = high
    if at < end:
        found.append((-1, end - at))
    return tuple(found)


def _join(runs: list[Run], offset: int, length: int) -> None:
    if runs and runs[-1][0] >= 0 and runs[-1][0] + runs[-1][1] == offset:
        runs[-1] = (runs[-1][0], runs[-1][1] + length)
    else:
        runs.append((offset, length))


def runs(extents: Extents, offset: int, length: int) -> tuple[Run, ...]:
    """As pieces, without the holes."""
    return tuple(piece for piece in pieces(extents, offset, length) if piece[0] >= 0)


def count(extents: Extents) -> int:
    return sum(extent[2] for extent in extents)


def shift(extents: Extents, start: int, by: int) -> Extents:
    """Those from file block `start` on move by so many blocks; none lies across it, and none is where they move to."""
    return insert(
        tuple(cut(extents, 0, start)),
        tuple(
            (file + by, device, count, since) for file, device, count, since in cut(extents, start, FOREVER)
        ),
    )


def spread(wanted: tuple[tuple[int, int, int], ...], got: tuple[tuple[int, int], ...]) -> tuple[Extent, ...]:
    """Device runs (block, blocks) laid out over (file block, blocks, since), in order; as many of both."""
    rest, new = list(got), list[Extent]()
    for start, blocks, since in wanted:
        at, count = start, blocks
        while count:
            block, run = rest.pop(0)
            part = min(run, count)
            if part < run:
                rest.insert(0, (block + part, run - part))
            new.append((at, block, part, since))
            at, count = at + part, count - part
    return tuple(new)


def spans(extents: Extents) -> tuple[Run, ...]:
    """As runs of bytes of the device."""
    return tuple((device * BLOCK, count * BLOCK) for _file, device, count, _since in extents)


def merged(runs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Runs (start, count) of anything, in order, each place once."""
    found: list[tuple[int, int]] = []
    for start, count in sorted(runs):
        if found and start <= found[-1][0] + found[-1][1]:
            first, had = found[-1]
            found[-1] = (first, max(had, start + count - first))
        else:
            found.append((start, count))
    return found
