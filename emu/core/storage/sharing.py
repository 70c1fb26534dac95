"""Blocks that several files have: who shares what, and what becomes of a block when one of them lets go.

A clone and what it was cloned from are a *family* (File.origin: the number of its first file); only within one are blocks shared, so a
file without a family has all its blocks to itself, and nothing is looked up. A block that a file lets go of is retired if nobody else of
the family has it; else it is left to the others, and Share says that the set of its files has changed (S1).

A file that is written where it shares gets blocks of its own first, with what the shared ones held: a reclaim of kind cow-write, since
whoever has the old blocks pinned works beside the file from then on. `before` asks for it, and the request goes on when it has ended.
Copies keep the layout number (`since`) of the extent that they come from: what was stamped there before is still the file's.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from emu.core import asking
from emu.core.asking import refuse
from emu.core.effects import Copy, Share
from emu.core.rows import BLOCK, Extent, File, Reclaim
from emu.core.storage import allocator, extents

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.core.books import Books
    from emu.core.effects import Piece
    from emu.core.events import Requested
    from emu.core.requests import Request
    from emu.core.storage.extents import Extents

Held = list[tuple[int, int]]  # device runs (block, blocks), in order


def held_by_others(b: Books, ino: int, origin: int) -> Held:
    """What the rest of the family has."""
    if not origin:
        return []
    return extents.merged(
        [
            (device, count)
            for other in b.family.of(origin)
            if other != ino
            for _at, device, count, _since in b.files[other].extents
        ]
    )


def apart(found: Extents, held: Held) -> tuple[tuple[Extent, ...], tuple[Extent, ...]]:
    """The parts of these extents that others have too, and those that nobody else has."""
    shared: list[Extent] = []
    alone: list[Extent] = []
    for at, device, count, since in found:
        for start, n, both in _cuts(device, count, held):
            (shared if both else alone).append((at + start - device, start, n, since))
    return tuple(shared), tuple(alone)


def _cuts(start: int, count: int, held: Held) -> Iterator[tuple[int, int, bool]]:
    """The run in pieces (block, blocks, whether others have it)."""
    at, end = start, start + count
    for first, n in held:
        low, high = max(at, first), min(end, first + n)
        if low < high:
            if at < low:
                yield at, low - at, False
            yield low, high - low, True
            at = high
    if at < end:
        yield at, end - at, False


def shared(b: Books, ino: int, lo: int, hi: int) -> tuple[Extent, ...]:
    """Extents of the file that it shares, of all blocks that lo..hi touches."""
    row = b.files[ino]
    if not row.origin or hi <= lo:
        return ()
    within = tuple(extents.cut(row.extents, lo // BLOCK, extents.blocks_up(hi)))
    return apart(within, held_by_others(b, ino, row.origin))[0]


def let_go(b: Books, ino: int, row: File, taken: Extents, reclaim: int) -> None:
    """The file (as it was: `row`) has these no more: they retire, or are left to those that share them."""
    if not taken:
        return
    left, alone = apart(taken, held_by_others(b, ino, row.origin))
    aperture = b.devices[row.device].aperture
    allocator.retire(b, aperture, alone, reclaim)
    if left:
        b.emit(Share(aperture, extents.spans(left)))


def relocate(b: Books, ino: int, old: Extents, reclaim: int) -> File:
    """Other blocks in place of these, with what they hold. Raises Refused(ENOSPC)."""
    row = b.files[ino]
    if not old:
        return row
    aperture = b.devices[row.device].aperture
    got = allocator.take(b, row.device, aperture, extents.count(old))
    new = extents.spread(tuple((at, count, since) for at, _device, count, since in old), got)
    b.emit(Copy(aperture, tuple(_pieces(old, new))))
    kept = row.extents
    for at, _device, count, _since in old:
        kept = extents.remove(kept, at, at + count)[0]
    after = row._replace(extents=extents.insert(kept, new), layout=row.layout + 1)
    b.files.put(ino, after)
    let_go(b, ino, row, old, reclaim)
    return after


def _pieces(old: Extents, new: Extents) -> Iterator[Piece]:
    for at, device, count, _since in new:
        for start, source, n, _ in extents.cut(old, at, at + count):
            yield source * BLOCK, (device + start - at) * BLOCK, n * BLOCK


def unshare(b: Books, ino: int, offset: int, length: int, reclaim: int = 0) -> File:
    """Blocks of its own wherever this range shares. Whoever calls has seen to those who pin the old ones. Raises Refused(ENOSPC)."""
    return relocate(b, ino, shared(b, ino, offset, offset + length), reclaim)


def tail(row: File) -> tuple[int, int]:
    """What of its last block lies past the end: it becomes readable when the file grows."""
    return row.size, extents.blocks_up(row.size) * BLOCK


def before(b: Books, event: Requested, op: Request, ino: int, lo: int, hi: int) -> bool:
    """A request writes to lo..hi of the file. True: it shares there; the request goes on behind a cow-write."""
    if not shared(b, ino, lo, hi):
        return False
    _mount, row = asking.mount_of(b, b.files[ino].path)
    asked = Reclaim("cow-write", event.session, event.request, row.protocol, ino=ino, lo=lo, hi=hi)
    b.wanted.append(asked._replace(then=op))
    return True


def check_gate(b: Books, ino: int, lo: int, hi: int) -> None:
    """Refuse a registration of blocks that a reclaim of another file of the family is taking back behind its gate."""
    row = b.files[ino]
    mine = [(at, n) for _file, at, n, _since in shared(b, ino, lo, hi)]
    if not mine:
        return
    for number, under in b.reclaims.items():
        other = b.files.get(under.ino)
        if not under.gated or other is None or other.origin != row.origin or under.ino == ino:
            continue
        theirs = extents.cut(other.extents, under.lo // BLOCK, extents.blocks_up(under.hi))
        if apart(tuple(theirs), mine)[0]:
            refuse(
                errno.EBUSY,
                f"{row.path} shares blocks with {other.path}, which {under.kind} is taking back (reclaim {number}): "
                "register again when that has ended",
            )


def clone(b: Books, ino: int, path: str) -> int:
    """A new file with all blocks of this one. Its number."""
    row = b.files[ino]
    origin = row.origin or ino
    twin = b.number("ino")
    b.files.put(ino, row._replace(origin=origin))
    b.files.put(twin, row._replace(path=path, origin=origin, nlink=1, gone=False, marked=False))
    if row.extents:
        b.emit(Share(b.devices[row.device].aperture, extents.spans(row.extents)))
    return twin
