"""A block whose memory has failed: a fact, which comes first; that whoever has it mapped lets go is asked of the protocol.

    fact     the block is nobody's, for good (durable book `bad`); every file that had it has a hole there that reads EIO (File.lost)
    reclaim  of kind poison, over the pins on that block; what an error of it says is that pins are left, never that nothing happened.
             It stands behind no other, and who waited for a pin that was on this block alone waits no more: the block is no file's

A lost block comes back to its file by a write that covers all of it, or by zero; truncate, punch and collapse take the hole away.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from emu.core import asking
from emu.core.asking import check_range, refuse
from emu.core.effects import Poison
from emu.core.memory.pins import pins_over
from emu.core.reclaims import reclaim
from emu.core.rows import BLOCK, Bad, Reclaim
from emu.core.storage import allocator, extents, layout, pages

if TYPE_CHECKING:
    from emu.core.books import Books
    from emu.core.events import Requested
    from emu.core.requests import FsPoison
    from emu.core.rows import Mount


def fs_poison(b: Books, event: Requested, op: FsPoison) -> None:
    check_range("offset", op.offset)
    mount = b.mounts.get(op.path)
    if mount is not None and mount.raw:
        _poison_raw(b, event, op, mount)
        return
    ino, row = asking.file_at(b, op.path)
    at = op.offset // BLOCK
    hit = tuple(extents.cut(row.extents, at, at + 1)) if op.offset < row.size else ()
    again = tuple(extents.cut(row.lost, at, at + 1))
    if not hit and not again:
        refuse(
            errno.EINVAL,
            f"{op.path} has no memory at {op.offset}: name a byte within its size, not in a hole",
        )
    block = (hit or again)[0][1]
    if hit:  # else it is known, and only asked of its users once more
        aperture = b.devices[row.device].aperture
        b.went += [(key, b.mrs[key]) for key in pins_over(b, aperture, ((block * BLOCK, BLOCK),))]
        for owner in b.family.of(row.origin) if row.origin else (ino,):
            _lose(b, owner, block)
        b.bad.put(max(b.bad, default=0) + 1, Bad(row.device, block))
        b.emit(Poison(aperture, ((block * BLOCK, BLOCK),)))
    made = layout.asked(b, event, "poison", op.path, ino)
    reclaim.begin(b, made._replace(lo=at * BLOCK, hi=(at + 1) * BLOCK, block=block))


def _poison_raw(b: Books, event: Requested, op: FsPoison, mount: Mount) -> None:
    """Of a raw device: no file has a hole, whoever reads the block finds nothing."""
    device, block = asking.online(b, mount.device), op.offset // BLOCK
    if block >= device.blocks:
        refuse(
            errno.EINVAL, f"{op.path} has {device.blocks * BLOCK} bytes: name one of them, not {op.offset}"
        )
    if block not in allocator.bad_of(b, mount.device):
        b.bad.put(max(b.bad, default=0) + 1, Bad(mount.device, block))
        b.emit(Poison(device.aperture, ((block * BLOCK, BLOCK),)))
    made = Reclaim("poison", event.session, event.request, mount.protocol, device=mount.device, to=op.path)
    reclaim.begin(b, made._replace(lo=block * BLOCK, hi=(block + 1) * BLOCK, block=block))


def _lose(b: Books, ino: int, block: int) -> None:
    """A file that has this block has a hole there, and knows why."""
    row = b.files[ino]
    for at, device, count, _since in row.extents:
        if device <= block < device + count:
            hole = at + block - device
            kept, _ = extents.remove(row.extents, hole, hole + 1)
            lost = extents.insert(row.lost, ((hole, block, 1, 0),))
            pages.forget(b, ino, hole, hole + 1)
            b.files.put(ino, row._replace(extents=kept, lost=lost, layout=row.layout + 1))
            return
