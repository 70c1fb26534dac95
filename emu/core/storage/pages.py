"""The page cache of files on a mount without dax: which block of a file lies in which page, and which pages the device lacks.

A device under such a mount has a hidden one beside it, NAME.cache: an aperture of DRAM with an allocator and generations of its own. DMA to
a file of that mount goes to pages, never to the device's blocks; so an MR pins pages, and a reclaim meets its pins there. Nothing of
it is durable: it goes with the broker, and what was written back by then stays.

    absent --read, registered: filled from the device--> clean --an MR may write to it--> dirty --written back--> clean
    clean, dirty --truncate, punch, unlink, pressure--> no file's: as the protocol frees it, or an orphan until its last unpin

Every page has a block of the device underneath (a hole that is registered gets one at once), so writing back never lacks space.

Dirty is what is *known* to be: the NIC tells nobody what it writes. A page that is registered for writing is dirty; written back
it is clean, and the NIC writes on; when its MR goes it is dirty again, as the kernel has it. fs_write goes to the device as well as to the
page, before it is answered: what fs_create and fs_write acknowledged survives any kill of the broker.

Each change of a file's pages is told as MapPages, so that a history says whose they are.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from emu.core import asking
from emu.core.asking import refuse
from emu.core.effects import Blank, Fill, Flush, MapPages, OpenDevice, Store, Zero
from emu.core.memory.pins import pins_over
from emu.core.rows import BLOCK, FOREVER, Cache, Extent, File, Mr, Pages, Run
from emu.core.storage import allocator, extents

if TYPE_CHECKING:
    from emu.core.books import Books
    from emu.core.effects import Piece

LOCAL_WRITE: Final = 1
ROOM: Final = 8  # of so many pages one is kept free, as far as clean ones nobody pins can be dropped


def name_of(device: str) -> str:
    """The hidden device's."""
    return f"{device}.cache"


def open_cache(b: Books, device: str) -> None:
    """As many pages as the device has blocks. Mounted again, it has them already."""
    row = b.devices[device]
    if device in b.caches:
        return
    cache = Cache(b.number("aperture"), row.blocks)
    b.caches.put(device, cache)
    allocator.restore(b, cache.aperture, cache.blocks, [])
    b.emit(OpenDevice(cache.aperture, name_of(device), cache.blocks, (), 1, volatile=True))


def cache_of(b: Books, device: str) -> Cache | None:
    """Of a device that is mounted without dax now."""
    mount = asking.mount_on(b, device)
    return b.caches.get(device) if mount and asking.backing_of(b, mount) == "page-cache" else None


def space_of(b: Books, device: str) -> tuple[int, int]:
    """Where DMA to this device's files goes: aperture and blocks."""
    row = cache_of(b, device) or b.devices[device]
    return row.aperture, row.blocks


def ground(b: Books, ino: int, file: File | None = None) -> tuple[int, extents.Extents]:
    """Where DMA to this file goes: the aperture, and the file's layout in it. file: its row, where the caller has it."""
    row = file or b.files[ino]
    cache = cache_of(b, row.device)
    if cache is None:
        return b.devices[row.device].aperture, row.extents
    held = b.pages.get(ino)
    return cache.aperture, held.extents if held else ()


def _put(b: Books, ino: int, row: Pages) -> None:
    if row.extents:
        b.pages.put(ino, row)
    else:
        b.pages.drop(ino)
    dirty = tuple((at, count) for at, _same, count, _since in row.dirty)
    b.emit(MapPages(ino, name_of(row.device), row.extents, dirty))


def _spans(extent: Extent) -> tuple[int, int]:
    return extent[0], extent[0] + extent[2]


# ---- pages come


def bring_in(b: Books, ino: int, offset: int, length: int) -> Pages:
    """Pages for these bytes, wherever the file has blocks; new ones filled from the device. ENOMEM with nothing changed.

    A page is as old as the block it is filled from (`since`): it holds what was written to that.
    """
    file = b.files[ino]
    held = b.pages.get(ino) or Pages(file.device)
    wanted = _absent(file.extents, held.extents, offset // BLOCK, extents.blocks_up(offset + length))
    count = sum(blocks for _at, blocks, _since in wanted)
    if not count:
        return held
    cache = b.caches[file.device]
    _check_room(b, file.device, cache, count)
    got = allocator.take(b, name_of(file.device), cache.aperture, count)
    new = extents.spread(wanted, got)
    pieces = tuple(piece for extent in new for piece in _across(file.extents, extent))
    b.emit(Fill(b.devices[file.device].aperture, cache.aperture, pieces))
    held = held._replace(extents=extents.insert(held.extents, new))
    _put(b, ino, held)
    _keep_room(b, file.device, cache, ino)
    return held


def _absent(
    blocks: extents.Extents, pages: extents.Extents, first: int, end: int
) -> tuple[tuple[int, int, int], ...]:
    """File blocks in this range that the device has and the cache has not: (file block, blocks, since)."""
    return tuple(
        (*hole, extent[3])
        for extent in extents.cut(blocks, first, end)
        for hole in extents.holes(pages, *_spans(extent))
    )


def _across(blocks: extents.Extents, page: Extent) -> tuple[Piece, ...]:
    """From the device into these pages."""
    at, where, count, _since = page
    return tuple(
        (device * BLOCK, (where + file - at) * BLOCK, n * BLOCK)
        for file, device, n, _ in extents.cut(blocks, at, at + count)
    )


def _check_room(b: Books, device: str, cache: Cache, count: int) -> None:
    free = allocator.free_blocks(b, cache.aperture)
    if free < count:
        refuse(
            errno.ENOMEM,
            f"the page cache of {device} has {free} free pages, {count} are wanted, and the rest is pinned or not written back: "
            "deregister what holds them (emu fs pressure)",
        )


def _keep_room(b: Books, device: str, cache: Cache, but: int) -> None:
    """Clean pages of other files that nobody pins go before memory is short."""
    short = cache.blocks // ROOM - allocator.free_blocks(b, cache.aperture)
    for ino in b.pages_on.of(device) if short > 0 else ():
        if ino != but:
            for at, _page, count, _since in _idle(b, ino):
                forget(b, ino, at, at + count)
                short -= count
        if short <= 0:
            return


def _idle(b: Books, ino: int) -> tuple[Extent, ...]:
    """Clean pages of a file that nobody pins."""
    held, aperture = b.pages[ino], ground(b, ino)[0]
    clean = held.extents
    for extent in held.dirty:
        clean = extents.remove(clean, *_spans(extent))[0]
    return tuple(e for e in clean if not pins_over(b, aperture, ((e[1] * BLOCK, e[2] * BLOCK),)))


def readable(b: Books, ino: int, offset: int, length: int) -> tuple[int, tuple[Run, ...]]:
    """Where a reader finds these bytes: aperture and pieces. From the device alone while no page has any of them and memory is short."""
    file = b.files[ino]
    cache = cache_of(b, file.device)
    if cache is not None:
        first, end = offset // BLOCK, extents.blocks_up(offset + length)
        held = b.pages.get(ino)
        count = sum(n for _at, n, _since in _absent(file.extents, held.extents if held else (), first, end))
        cached = held is not None and any(extents.cut(held.extents, first, end))
        if cached or count <= allocator.free_blocks(b, cache.aperture):
            return cache.aperture, extents.pieces(bring_in(b, ino, offset, length).extents, offset, length)
    return b.devices[file.device].aperture, extents.pieces(file.extents, offset, length)


# ---- pages are written to


def store(b: Books, ino: int, offset: int, data: bytes) -> None:
    """Where the file has pages of these bytes, the CPU stores them there too. Whoever calls stores to the device behind this."""
    held = b.pages.get(ino)
    if held is None:
        return
    at, runs, parts = 0, [], []
    for where, count in extents.pieces(held.extents, offset, len(data)):
        if where >= 0:
            runs.append((where, count))
            parts.append(data[at : at + count])
        at += count
    if runs:
        b.emit(Store(0, b.caches[held.device].aperture, tuple(runs), b"".join(parts)))


def blank(b: Books, ino: int, lo: int, hi: int) -> None:
    """The CPU zeroes bytes of pages that nobody can read yet."""
    if runs := _runs(b, ino, lo, hi):
        b.emit(Blank(b.caches[b.pages[ino].device].aperture, runs))


def zero(b: Books, ino: int, ranges: tuple[Run, ...]) -> None:
    """The edges of a hole (lo, hi), in pages. Whoever calls zeroes the device's behind this."""
    if runs := tuple(run for lo, hi in ranges if lo < hi for run in _runs(b, ino, lo, hi)):
        b.emit(Zero(0, b.caches[b.pages[ino].device].aperture, runs))


def _runs(b: Books, ino: int, lo: int, hi: int) -> tuple[Run, ...]:
    held = b.pages.get(ino)
    return extents.runs(held.extents, lo, hi - lo) if held and lo < hi else ()


def dirty(b: Books, ino: int, first: int, end: int) -> None:
    """These blocks of the file may have bytes in their pages that the device lacks."""
    held = b.pages[ino]
    new = tuple((at, at, count, 0) for at, _page, count, _since in extents.cut(held.extents, first, end))
    rest = held.dirty
    for extent in new:
        rest = extents.remove(rest, *_spans(extent))[0]
    marked = extents.insert(rest, new)
    if marked != held.dirty:
        _put(b, ino, held._replace(dirty=marked))


def pinned_to_write(b: Books, row: Mr) -> None:
    """An MR that may write, with its pages: it is not told when it does."""
    held = b.pages.get(row.ino)
    if held is None or row.backing != "page-cache" or not row.access & LOCAL_WRITE:
        return
    for at, page, count, _since in held.extents:
        for offset, length in row.runs:
            low, high = max(page, offset // BLOCK), min(page + count, extents.blocks_up(offset + length))
            if low < high:
                dirty(b, row.ino, at + low - page, at + high - page)


# ---- pages are written back


def unwritten(b: Books, ino: int) -> tuple[int, int]:
    """The bytes between the first and the last dirty page: (lo, hi), equal where there is none."""
    held = b.pages.get(ino)
    if held is None or not held.dirty:
        return 0, 0
    return held.dirty[0][0] * BLOCK, (held.dirty[-1][0] + held.dirty[-1][2]) * BLOCK


def flush(b: Books, ino: int, lo: int, hi: int, token: int) -> tuple[Run, ...]:
    """Dirty pages of bytes lo..hi are clean, and are copied to the device. The device's runs; none: there was nothing to do.

    Clean first, then copied: whoever dirties them from now on dirties them anew.
    """
    held, file = b.pages.get(ino), b.files[ino]
    if held is None:
        return ()
    clean, mine = extents.remove(held.dirty, lo // BLOCK, extents.blocks_up(min(hi, file.size)))
    pieces = tuple(
        (page, device, count)
        for span in mine
        for extent in extents.cut(held.extents, *_spans(span))
        for device, page, count in _across(file.extents, extent)
    )
    if not pieces:
        return ()
    b.emit(Flush(token, b.caches[held.device].aperture, b.devices[held.device].aperture, pieces, ino))
    _put(b, ino, held._replace(dirty=clean))
    return tuple((device, count) for _page, device, count in pieces)


# ---- pages go


def forget(b: Books, ino: int, first: int, end: int, reclaim: int = 0) -> None:
    """The pages of these file blocks are no file's any more: that reclaim frees them; without one they go when nobody pins them."""
    held = b.pages.get(ino)
    if held is None or first >= end:
        return
    kept, taken = extents.remove(held.extents, first, end)
    if not taken:
        return
    allocator.retire(b, b.caches[held.device].aperture, taken, reclaim)
    b.idle = b.idle or not reclaim
    _put(b, ino, held._replace(extents=kept, dirty=extents.remove(held.dirty, first, end)[0]))


def forget_clean(b: Books, ino: int, reclaim: int) -> None:
    """Memory pressure: all pages that are not known to be dirty, pinned or not."""
    held = b.pages.get(ino)
    clean = held.extents if held else ()
    for extent in held.dirty if held else ():
        clean = extents.remove(clean, *_spans(extent))[0]
    for extent in clean:
        forget(b, ino, *_spans(extent), reclaim)


def forget_device(b: Books, device: str, reclaim: int = 0) -> None:
    """All files' of a device."""
    for ino in b.pages_on.of(device):
        forget(b, ino, 0, FOREVER, reclaim)


def layout_of(b: Books, ino: int) -> dict[str, object]:
    """For fs_stat: pages as extents are told, [file offset, page offset, bytes, since], and the runs of the file that are dirty."""
    held = b.pages.get(ino)
    pages = (
        [[at * BLOCK, page * BLOCK, n * BLOCK, since] for at, page, n, since in held.extents] if held else []
    )
    unsaved = [[at * BLOCK, n * BLOCK] for at, _same, n, _since in held.dirty] if held else []
    return {"cache": name_of(b.files[ino].device), "pages": pages, "dirty": unsaved}


def blocks_of(b: Books, device: str) -> dict[str, int]:
    """Where a cache's pages are, as devices.blocks_of tells it of a device."""
    cache = b.caches[device]
    owned = sum(extents.count(b.pages[ino].extents) for ino in b.pages_on.of(device))
    held = [
        run.blocks
        for book in (b.limbo, b.quarantine)
        for _key, run in book.items()
        if run.aperture == cache.aperture
    ]
    free = allocator.free_blocks(b, cache.aperture)
    return {"total": cache.blocks, "free": free, "owned": owned, "quarantined": sum(held), "bad": 0}
