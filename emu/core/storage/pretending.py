"""A truncate that is undone at once (`pretend`): as if somebody had written behind the new end the moment it was there (Lameter 2019).

What nobody pins in the range goes, as it would; what an MR pins stays the file's, with its bytes, since whoever pins it writes there on. A
truncate leaves the size as far as that writer has extended the file again: to the end of the last block that is pinned. Of edges that are no whole block the CPU zeroes what is
not pinned. A file that nobody pins has nobody who writes: protocols ask for the pins first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.core.memory.pins import pins_over
from emu.core.rows import BLOCK
from emu.core.storage import extents, files, orphans, pages, sharing

if TYPE_CHECKING:
    from emu.core.books import Books
    from emu.core.rows import Reclaim


def truncate(b: Books, number: int, row: Reclaim) -> bool:
    """It was asked of a larger file; behind another reclaim it may find a smaller one, and then there is nothing to pretend."""
    size = b.files[row.ino].size
    if row.lo > size:
        files.grow(b, row.ino, row.lo)
        return False
    end = extents.blocks_up(size)
    waits = _spare(b, number, row.ino, row.lo, end * BLOCK)
    b.files.put(row.ino, b.files[row.ino]._replace(size=min(size, _end_of_pins(b, row.ino, row.lo, end))))
    return waits


def _end_of_pins(b: Books, ino: int, lo: int, end: int) -> int:
    """Where the last block of the file from lo on ends that is pinned; lo, where none is."""
    aperture, layout = pages.ground(b, ino)
    last = lo
    for at, place, count, _since in extents.cut(layout, lo // BLOCK, end):
        for start, blocks, pinned in orphans.pieces(b, aperture, place, count):
            if pinned:
                last = max(last, (at + start - place + blocks) * BLOCK)
    return last


def punch(b: Books, number: int, row: Reclaim) -> bool:
    size = b.files[row.ino].size
    hi = extents.blocks_up(row.hi) * BLOCK if row.hi >= size else row.hi
    return _spare(b, number, row.ino, row.lo, min(hi, extents.blocks_up(size) * BLOCK))


def _spare(b: Books, number: int, ino: int, lo: int, hi: int) -> bool:
    """lo..hi of the file go, but for what is pinned. True: zeroing is yet to be answered."""
    first, end = extents.blocks_up(lo), hi // BLOCK
    edges = ((lo, min(hi, first * BLOCK)), (max(lo, end * BLOCK), hi)) if first <= end else ((lo, hi),)
    loose = tuple((at, to) for at, to in edges if at < to and not _is_pinned(b, ino, at))
    for at, to in loose:
        sharing.unshare(b, ino, at, to - at, number)
    row = b.files[ino]
    kept: extents.Extents = row.extents
    lost: extents.Extents = row.lost
    taken: extents.Extents = ()
    for start, stop in _failed(row.lost, first, end):
        lost, _ = extents.remove(lost, start, stop)
    for start, stop in _unpinned(b, ino, first, end):
        pages.forget(b, ino, start, stop, number)
        kept, some = extents.remove(kept, start, stop)
        taken = (*taken, *some)
    pages.zero(b, ino, loose)
    b.files.put(ino, row._replace(extents=kept, lost=lost, layout=row.layout + 1))
    sharing.let_go(b, ino, row, taken, number)
    runs = tuple(run for at, to in loose for run in extents.runs(kept, at, to - at))
    if runs:
        files.zero(b, row.device, runs, number)
    return bool(runs)


def _is_pinned(b: Books, ino: int, at: int) -> bool:
    """The block of this byte of the file."""
    aperture, layout = pages.ground(b, ino)
    return bool(pins_over(b, aperture, extents.runs(layout, at // BLOCK * BLOCK, BLOCK)))


def _failed(lost: extents.Extents, first: int, end: int) -> tuple[tuple[int, int], ...]:
    """Blocks of the file that have failed: holes that nobody can pin."""
    found = extents.cut(lost, first, end) if first < end else ()
    return tuple((at, at + count) for at, _device, count, _since in found)


def _unpinned(b: Books, ino: int, first: int, end: int) -> tuple[tuple[int, int], ...]:
    """Blocks of the file from first to end that nobody pins, as (from, to). Pins may be on its pages."""
    aperture, layout = pages.ground(b, ino)
    loose = tuple(extents.cut(b.files[ino].extents, first, end)) if first < end else ()
    for at, place, count, _since in extents.cut(layout, first, end) if first < end else ():
        for start, blocks, pinned in orphans.pieces(b, aperture, place, count):
            if pinned:
                loose = extents.remove(loose, at + start - place, at + start - place + blocks)[0]
    return tuple((at, at + count) for at, _device, count, _since in loose)
