"""What a reclaim changes in a layout without reading or writing the data: collapse, insert, zero, migrate, and the clone of reflink.

Whoever pins a block that moves within its file keeps it, and works at another offset than it meant: nobody's block changes hands there,
and no generation; what a peer writes arrives in the right file at the wrong place.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from emu.core.memory import buffers
from emu.core.rows import ANON, BLOCK
from emu.core.storage import extents, files, sharing, swap

if TYPE_CHECKING:
    from emu.core.books import Books
    from emu.core.rows import Reclaim


def collapse(b: Books, ino: int, offset: int, length: int, reclaim: int) -> None:
    """The range is cut out, what lies behind it moves down."""
    row = b.files[ino]
    first, count = offset // BLOCK, length // BLOCK
    kept, taken = extents.remove(row.extents, first, first + count)
    lost, _ = extents.remove(row.lost, first, first + count)
    b.files.put(
        ino,
        row._replace(
            size=row.size - length,
            extents=extents.shift(kept, first + count, -count),
            lost=extents.shift(lost, first + count, -count),
            layout=row.layout + 1,
        ),
    )
    sharing.let_go(b, ino, row, taken, reclaim)


def insert(b: Books, ino: int, offset: int, length: int) -> None:
    """A hole is put in, what lies behind it moves up. No block is anybody else's for it."""
    row = b.files[ino]
    first, count = offset // BLOCK, length // BLOCK
    b.files.put(
        ino,
        row._replace(
            size=row.size + length,
            extents=extents.shift(row.extents, first, count),
            lost=extents.shift(row.lost, first, count),
            layout=row.layout + 1,
        ),
    )


def zero(b: Books, ino: int, lo: int, hi: int, reclaim: int) -> bool:
    """Whole blocks are punched and replaced by fresh ones, the edges become zero. True: that is yet to be answered."""
    size = b.files[ino].size
    waits = files.punch(b, ino, lo, hi, reclaim)
    first, end = extents.blocks_up(lo), extents.blocks_up(hi) if hi >= size else hi // BLOCK
    end = min(end, extents.blocks_up(size))
    if first < end:
        files.fill(b, ino, first * BLOCK, (end - first) * BLOCK)
    return waits


def impossible(b: Books, row: Reclaim) -> tuple[int, str] | None:
    """What happened to the file since it was asked makes it impossible: (errno, sentence)."""
    file = b.files[row.ino]
    if row.kind == "collapse" and row.lo + row.length >= file.size:
        return errno.EINVAL, f"{file.path} was made shorter meanwhile: the range reaches its end"
    if row.kind == "insert" and row.lo >= file.size:
        return errno.EINVAL, f"{file.path} was made shorter meanwhile: offset {row.lo} lies past its end"
    if row.kind == "reflink" and b.file_at.has(row.to):
        return errno.EEXIST, f"file {row.to} was made meanwhile: use another name"
    if row.kind == "truncate" and row.lo > file.size and sharing.shared(b, row.ino, *sharing.tail(file)):
        return (
            errno.EAGAIN,
            f"{file.path} was made shorter meanwhile, and shares the block that would grow: try again",
        )
    return None


def result(b: Books, row: Reclaim) -> dict[str, object]:
    """What a success tells whoever asked."""
    if row.device == ANON:
        return swap.result(b, row)
    if row.kind == "umount":
        return {"device": row.device, "protocol": row.protocol}
    if row.kind == "move":
        return {**buffers.told(row.ino, b.files[row.ino]), "map": buffers.places(b.files[row.ino])}
    ino = b.file_at.first(row.to) if row.kind == "reflink" else None
    if ino is None:
        return {}
    return {"ino": ino, "size": b.files[ino].size, "layout": b.files[ino].layout}
