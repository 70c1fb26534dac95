"""Files on mounts: create, look, read, write; and the changes of layout that a reclaim applies.

The layout number of a file grows by one at each applied truncate, punch and extension; an extent remembers the number at
which it was allocated (`since`), so that a stamp says whether it was written before its block changed hands.

Zeros (S9), at whatever moment the broker is killed: what is past the end of a file may hold anything, and is blanked before the commit
that makes it readable. The edges of a hole are readable already, so they are zeroed after the commit, which notes them
in the durable book `zeroing` until that is done; a restart does it again.
"""

from __future__ import annotations

import errno
from bisect import bisect_right
from typing import TYPE_CHECKING, Any, Final

from emu.core import asking
from emu.core.asking import IO_MAX, answer, check_range, check_span, fail, refuse, reply
from emu.core.effects import Blank, CloseHandle, Load, Store, Zero
from emu.core.errors import errno_name
from emu.core.memory.pins import pins_over
from emu.core.requests import LS_BYTES, LS_FILES
from emu.core.rows import BLOCK, FOREVER, File, Run, Token, Zeroing
from emu.core.storage import allocator, extents, leases, orphans, pages, sharing

if TYPE_CHECKING:
    from emu.core.books import Books
    from emu.core.events import Answered, Requested
    from emu.core.requests import FsCreate, FsLs, FsRead, FsStat, FsWrite

LS_WORK: Final = 8192  # files looked at for one page, and extents of those listed


def fs_create(b: Books, event: Requested, op: FsCreate) -> None:
    _path, mount = asking.mount_of(b, op.path)
    check_range("size", op.size)
    device = asking.online(b, mount.device)
    if b.file_at.has(op.path):
        refuse(errno.EEXIST, f"file {op.path} exists already: unlink it first, or use another name")
    blocks = extents.blocks_up(op.size)
    if blocks > device.blocks:
        refuse(
            errno.ENOSPC,
            f"device {mount.device} has {device.blocks} blocks, {blocks} are wanted: make it smaller",
        )
    ino = b.number("ino")
    b.files.put(ino, File(op.path, mount.device, op.size))
    row = fill(b, ino, 0, op.size)
    reply(b, event, {"ino": ino, "size": op.size, "layout": row.layout})


def fill(b: Books, ino: int, offset: int, length: int) -> File:
    """Blocks for the holes in this range, zeroed before anybody sees them. The row as it is then. Raises Refused(ENOSPC).

    `since` is 0 where an MR on demand may come to them that is older: then memory tells nothing about who came too late, the log does.
    """
    row = b.files[ino]
    aperture = b.devices[row.device].aperture
    holes = tuple(extents.holes(row.extents, offset // BLOCK, extents.blocks_up(offset + length)))
    if not holes:
        return row
    got = allocator.take(b, row.device, aperture, sum(count for _at, count in holes))
    new = extents.spread(
        tuple((at, count, 0 if b.mrs_loose.has(ino) else row.layout) for at, count in holes), got
    )
    lost, _ = extents.remove(row.lost, offset // BLOCK, extents.blocks_up(offset + length))
    row = row._replace(extents=extents.insert(row.extents, new), lost=lost)
    b.files.put(ino, row)
    return row


def grow(b: Books, ino: int, size: int) -> File:
    """A larger file: the new bytes are a hole, or the tail of its last block, blanked before anybody can read it. Nobody shares that block."""
    row = b.files[ino]
    tail = extents.runs(row.extents, row.size, min(size, extents.blocks_up(row.size) * BLOCK) - row.size)
    if tail:
        b.emit(Blank(b.devices[row.device].aperture, tail))
    pages.blank(b, ino, row.size, min(size, extents.blocks_up(row.size) * BLOCK))
    row = row._replace(size=size, layout=row.layout + 1)
    b.files.put(ino, row)
    return row


def pins_of(b: Books, ino: int) -> tuple[int, ...]:
    aperture, layout = pages.ground(b, ino)
    return pins_over(b, aperture, tuple((at * BLOCK, n * BLOCK) for _file, at, n, _since in layout))


def fs_ls(b: Books, event: Requested, op: FsLs) -> None:
    """A page of files in the order of their numbers. `next` says behind which, and whether an earlier page had any (its last bit)."""
    path = op.path.rstrip("/") or ""
    if path:
        asking.check_path(path)
    check_range("limit", op.limit, 1, LS_FILES)
    check_range("after", op.after)
    listed, behind = _page(b, path, op.after >> 1, op.limit)
    found = bool(listed or op.after & 1)
    if path and not found and not behind and path not in b.mounts:
        refuse(
            errno.ENOENT,
            f"{path} is neither a mount nor a file: the mounts are {', '.join(b.mounts) or 'none'}",
        )
    devices = [_device(b, name) for name in b.devices]
    mounts = [{"path": at, **row._asdict()} for at, row in b.mounts.items()]
    more = behind << 1 | found if behind else 0
    reply(b, event, {"files": listed, "devices": devices, "mounts": mounts, "next": more})


def _page(b: Books, path: str, behind: int, limit: int) -> tuple[list[dict[str, Any]], int]:
    """Files with higher numbers than `behind`, and behind which the next page begins: 0, nothing is left. The work is bounded too."""
    listed: list[dict[str, Any]] = []
    numbers, room, work = list(b.files), LS_BYTES // 2, LS_WORK
    for at in range(bisect_right(numbers, behind), len(numbers)):
        ino = numbers[at]
        row = b.files[ino]
        work -= 1
        if _under(row.path, path):
            listed.append(_line(b, ino, row))
            room -= len(row.path.encode("utf-8", "surrogateescape"))
            work -= len(row.extents)
        if len(listed) == limit or room <= 0 or work <= 0:
            return listed, ino if at + 1 < len(numbers) else 0
    return listed, 0


def _under(path: str, top: str) -> bool:
    return not top or path == top or path.startswith(top + "/")


def _line(b: Books, ino: int, row: File) -> dict[str, Any]:
    blocks = extents.count(row.extents)
    pins = len(pins_of(b, ino)) if b.devices[row.device].online else 0
    return {"path": row.path, "ino": ino, "size": row.size, "blocks": blocks, "pins": pins, "gone": row.gone}


def _device(b: Books, name: str) -> dict[str, Any]:
    row = b.devices[name]
    free = allocator.free_blocks(b, row.aperture)
    return {
        "name": name,
        "blocks": row.blocks,
        "free": free,
        "bad": len(allocator.bad_of(b, name)),
        "orphaned": orphans.count(b, name),
        "online": row.online,
        "namespace": row.namespace,
    }


def fs_stat(b: Books, event: Requested, op: FsStat) -> None:
    ino, row = asking.file_at(b, op.path, gone=True)
    spans = [[at * BLOCK, device * BLOCK, n * BLOCK, since] for at, device, n, since in row.extents]
    more = {
        "extents": spans,
        "device": row.device,
        "layout": row.layout,
        "nlink": row.nlink,
        "origin": row.origin,
        "marked": row.marked,
        "leases": len(b.leases_on.of(ino)),
    }
    if row.lost:
        more["lost"] = [[at * BLOCK, n * BLOCK] for at, _device, n, _since in row.lost]
    if pages.cache_of(b, row.device):
        more |= pages.layout_of(b, ino)
    reply(b, event, {**_line(b, ino, row), **more, "namespace": b.devices[row.device].namespace})


def fs_read(b: Books, event: Requested, op: FsRead) -> None:
    check_span(op.offset, op.length)
    check_range("length", op.length, 0, IO_MAX)
    ino, row = asking.file_at(b, op.path)
    length = max(0, min(op.length, row.size - op.offset))
    if not length:
        reply(b, event, {"data": b""})
        return
    check_not_lost(row, op.offset, op.offset + length)
    token = b.number("token")
    b.tokens.put(token, Token("read", event.session, event.request))
    b.emit(Load(token, *pages.readable(b, ino, op.offset, length)))


def fs_write(b: Books, event: Requested, op: FsWrite) -> None:
    length = len(op.data)
    check_span(op.offset, length)
    check_range("length", length, 0, IO_MAX)
    ino, row = asking.file_at(b, op.path)
    if not length:
        reply(b, event, {"written": 0})
        return
    end = op.offset + length
    if end > row.size:
        leases.check_may_grow(b, row)
    _check_heals(row, op.offset, end)
    if sharing.before(b, event, op, ino, min(op.offset, row.size), end):
        return
    if end > row.size:
        row = grow(b, ino, end)
    row = fill(b, ino, op.offset, length)
    token = b.number("token")
    b.tokens.put(token, Token("write", event.session, event.request, length=length))
    aperture = b.devices[row.device].aperture
    runs = extents.runs(row.extents, op.offset, length)
    written(b, row.device, runs)
    pages.store(b, ino, op.offset, op.data)
    b.emit(Store(token, aperture, runs, op.data))


def check_not_lost(row: File, lo: int, hi: int) -> None:
    """Refuse what would read a byte of a block whose memory has failed."""
    for at, _device, n, _since in extents.cut(row.lost, lo // BLOCK, extents.blocks_up(hi)):
        refuse(
            errno.EIO,
            f"{n * BLOCK} bytes of {row.path} from {at * BLOCK} on were lost when their memory failed: "
            "write these blocks anew as a whole, zero them, or take them out of the file",
        )


def _check_heals(row: File, offset: int, end: int) -> None:
    """A lost block comes back as a whole, or not at all."""
    whole = extents.blocks_up(offset), end // BLOCK if end < row.size else extents.blocks_up(end)
    rest, _ = extents.remove(row.lost, *whole) if whole[0] < whole[1] else (row.lost, ())
    check_not_lost(row._replace(lost=rest), offset, end)


def written(b: Books, device: str, runs: tuple[Run, ...]) -> None:
    """What is stored here now must outlive a restart. The Zero of an earlier step has been carried out."""
    for number, row in b.zeroing.items():
        if row.device == device and any(
            at < to + count and to < at + size for at, size in row.runs for to, count in runs
        ):
            b.zeroing.drop(number)


def io_answered(b: Books, _number: int, token: Token, event: Answered) -> None:
    if event.errno:
        why = f"fs_{token.kind}: the memory answered {errno_name(event.errno)}: is the device still there?"
        fail(b, token.session, token.request, event.errno, why, definite=token.kind == "read")
    elif token.kind == "read":
        answer(b, token.session, token.request, {"data": event.value.get("data", b"")})
    else:
        answer(b, token.session, token.request, {"written": token.length})


def close(b: Books, handle: int) -> None:
    if handle:
        b.emit(CloseHandle(handle))


# ---- what a reclaim applies


def shrink(b: Books, ino: int, size: int, reclaim: int) -> None:
    """Truncate to `size`: blocks behind it retire; the tail of the last one is blanked when the file grows again."""
    row = b.files[ino]
    end = extents.blocks_up(size)
    kept, taken = extents.remove(row.extents, end, FOREVER)
    lost, _ = extents.remove(row.lost, end, FOREVER)
    pages.forget(b, ino, end, FOREVER, reclaim)
    b.files.put(ino, row._replace(size=size, extents=kept, lost=lost, layout=row.layout + 1))
    sharing.let_go(b, ino, row, taken, reclaim)


def punch(b: Books, ino: int, lo: int, hi: int, reclaim: int) -> bool:
    """A hole: whole blocks retire, unaligned edges become zero. The size stays. True: the zeroing is yet to be answered.

    Of the last block of the file, as long as it is now, nothing stays behind a hole that reaches the end. Whoever has pinned that
    block has pinned its first byte (MRs start at a block's), so no pin is met here that `hi` did not cover. Edges that are shared get
    blocks of their own first.
    """
    if hi >= b.files[ino].size:
        hi = extents.blocks_up(hi) * BLOCK
    first, end = extents.blocks_up(lo), hi // BLOCK
    edges = ((lo, min(hi, first * BLOCK)), (max(lo, end * BLOCK), hi)) if first <= end else ((lo, hi),)
    for low, high in edges:
        if low < high:
            sharing.unshare(b, ino, low, high - low, reclaim)
    row = b.files[ino]
    kept: extents.Extents = row.extents
    taken: extents.Extents = ()
    lost = row.lost
    if first < end:
        kept, taken = extents.remove(row.extents, first, end)
        lost, _ = extents.remove(row.lost, first, end)
    pages.forget(b, ino, first, end, reclaim)
    pages.zero(b, ino, edges)
    b.files.put(ino, row._replace(extents=kept, lost=lost, layout=row.layout + 1))
    sharing.let_go(b, ino, row, taken, reclaim)
    runs = tuple(run for lo, hi in edges if lo < hi for run in extents.runs(kept, lo, hi - lo))
    if runs:
        zero(b, row.device, runs, reclaim)
    return bool(runs)


def zero(b: Books, device: str, runs: tuple[Run, ...], reclaim: int) -> None:
    number, token = max(b.zeroing, default=0) + 1, b.number("token")
    b.zeroing.put(number, Zeroing(device, runs))
    b.tokens.put(token, Token("zeroed", reclaim=reclaim, zeroing=number))
    b.emit(Zero(token, b.devices[device].aperture, runs))


def restore_zeros(b: Books, device: str) -> None:
    """At a restart: what an earlier life may have left undone. It has not been answered, so nobody has written there since."""
    row = b.devices[device]
    for number, left in b.zeroing.items():
        if left.device == device:
            if row.online:
                b.emit(Blank(row.aperture, left.runs))
            b.zeroing.drop(number)


def evict(b: Books, ino: int, reclaim: int) -> None:
    """Unlink: the file is gone, its blocks retire."""
    row = b.files[ino]
    pages.forget(b, ino, 0, FOREVER, reclaim)
    b.files.drop(ino)
    sharing.let_go(b, ino, row, row.extents, reclaim)
    leases.file_gone(b, ino)


def sync(b: Books, ino: int, lo: int, hi: int, token: int = 0, reclaim: int = 0) -> bool:
    """Dirty pages of lo..hi go to the device, to blocks that are the file's own. False: there are none. Raises Refused(ENOSPC)."""
    first, end = pages.unwritten(b, ino)
    first, end = max(first, lo), min(end, hi)
    if first >= end:
        return False
    sharing.unshare(b, ino, first, end - first, reclaim)
    runs = pages.flush(b, ino, first, end, token)
    written(b, b.files[ino].device, runs)
    return bool(runs)


def empty_cache(b: Books, device: str, reclaim: int) -> None:
    """Nobody reaches these files for now: what is dirty is written back, then their pages are no file's. Raises Refused(ENOSPC)."""
    for ino in b.pages_on.of(device):
        sync(b, ino, 0, FOREVER, reclaim=reclaim)
    pages.forget_device(b, device, reclaim)


def take_away(b: Books, ino: int) -> None:
    b.files.put(ino, b.files[ino]._replace(gone=True))
