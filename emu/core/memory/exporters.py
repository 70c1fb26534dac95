"""What an exporter asks for: its buffers made, moved, taken away, given back, destroyed; and what becomes of them at its end."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from emu.core.asking import alive, check_range, refuse, reply
from emu.core.effects import Notify, Phase, Restore
from emu.core.memory import buffers
from emu.core.queues import limit, need_door
from emu.core.reclaims import reclaim
from emu.core.rows import BLOCK, DMABUF, Buffer, File, Reclaim
from emu.core.storage import allocator, extents

if TYPE_CHECKING:
    from emu.core.books import Books
    from emu.core.events import Requested
    from emu.core.requests import (
        DmabufCreate,
        DmabufDestroy,
        DmabufMove,
        DmabufRestore,
        DmabufRevoke,
        DmabufStat,
    )

MAX_BUFFERS: Final = 1024  # of one exporter


def _own(b: Books, event: Requested, name: str) -> tuple[int, File]:
    """A buffer of the session that asks."""
    ino, row = buffers.buffer_at(b, name)
    if b.buffers[ino].session != event.session:
        refuse(errno.EPERM, f"buffer {name} is another exporter's: only whoever made it can do that")
    return ino, row


def create(b: Books, event: Requested, op: DmabufCreate) -> None:
    need_door(b, event, "memory")
    buffers.check_name(op.name)
    check_range("size", op.size, 1)
    if op.size % BLOCK:
        refuse(errno.EINVAL, f"size {op.size} is not a multiple of {BLOCK}: buffers are made of blocks")
    pool = buffers.pool(b)
    limit(len(b.buffers_of.of(event.session)), MAX_BUFFERS, "buffers")
    if b.file_at.has(buffers.path_of(op.name)):
        refuse(errno.EEXIST, f"buffer {op.name} exists already: use another name")
    ino, count = b.number("ino"), op.size // BLOCK
    if count > allocator.free_blocks(b, pool.aperture):
        refuse(
            errno.ENOSPC,
            f"buffers have {allocator.free_blocks(b, pool.aperture)} blocks left, not {count}: destroy some",
        )
    laid = extents.spread(((0, count, 1),), allocator.take(b, DMABUF, pool.aperture, count))
    row = File(buffers.path_of(op.name), DMABUF, op.size, laid)
    b.files.put(ino, row)
    b.buffers.put(ino, Buffer(event.session))
    reply(b, event, {**buffers.told(ino, row), "map": buffers.places(row)}, descriptors=-pool.aperture)


def stat(b: Books, event: Requested, op: DmabufStat) -> None:
    ino, row = buffers.buffer_at(b, op.name)
    state = "closed" if row.gone else "away" if b.buffers[ino].away else "ready"
    spans = [[at * BLOCK, device * BLOCK, n * BLOCK, since] for at, device, n, since in row.extents]
    pins = sum(mr.ino == ino and mr.state != "unmapped" for _key, mr in b.mrs.items())
    more = {"state": state, "extents": spans, "pins": pins, "namespace": b.devices[DMABUF].namespace}
    reply(b, event, {**buffers.told(ino, row), **more, "map": buffers.places(row)})


def move(b: Books, event: Requested, op: DmabufMove) -> None:
    ino, row = _own(b, event, op.name)
    buffers.pool(b)
    if row.gone or b.buffers[ino].away:
        refuse(errno.ENODEV, f"buffer {op.name} is revoked: there is nothing to move")
    reclaim.begin(b, _reclaim(b, "move", ino, event.session, event.request))


def revoke(b: Books, event: Requested, op: DmabufRevoke) -> None:
    """A second one changes nothing; for good stays for good."""
    ino, row = _own(b, event, op.name)
    if row.gone or (b.buffers[ino].away and not op.permanent):
        reply(b, event)
        return
    reclaim.begin(b, _reclaim(b, "revoke", ino, event.session, event.request, op.permanent))


def _reclaim(
    b: Books, kind: str, ino: int, session: int = 0, request: int = 0, permanent: bool = False
) -> Reclaim:
    return Reclaim(kind, session, request, b.mounts[DMABUF].protocol, ino=ino, permanent=permanent)


def restore(b: Books, event: Requested, op: DmabufRestore) -> None:
    """Whoever was taken from hears of it; nobody is waited for."""
    ino, row = _own(b, event, op.name)
    _none_under_way(b, ino, op.name)
    if row.gone:
        refuse(errno.ENODEV, f"buffer {op.name} is closed for good: make another one")
    held = b.buffers[ino]
    if held.away:
        again = tuple(key for key in held.keys if key in b.mrs and b.mrs[key].ino == ino)
        b.buffers.put(ino, Buffer(held.session))
        b.emit(Restore(held.reclaim, again))
        _tell(b, again)
        b.emit(Phase(held.reclaim, "restored", again))
    reply(b, event)


def _tell(b: Books, again: tuple[int, ...]) -> None:
    for key in again:
        mr = b.mrs[key]
        if alive(b, mr.session) and b.sessions[mr.session].wants and not mr.request:
            b.emit(Notify(mr.session, "MR_RESTORED", {"mr": key, "rkey": key}))


def destroy(b: Books, event: Requested, op: DmabufDestroy) -> None:
    ino, _row = _own(b, event, op.name)
    if op.ino not in {0, ino}:
        refuse(errno.ENOENT, f"buffer {op.name} is another one by now: the one of inode {op.ino} is gone")
    _none_under_way(b, ino, op.name)
    buffers.let_go(b, ino)
    reply(b, event)


def _none_under_way(b: Books, ino: int, name: str) -> None:
    for number, row in b.reclaims.items():
        if row.ino == ino:
            refuse(
                errno.EBUSY,
                f"buffer {name} is being taken back by {row.kind} (reclaim {number}): wait for its end, or cancel it",
            )


# ---- the exporter's end, and the node's


def exporter_lost(b: Books, session: int) -> None:
    """All its buffers are closed now. Who has them mapped is told; nobody is asked."""
    for ino in b.buffers_of.of(session):
        b.buffers.put(ino, Buffer(0))
        row = b.files[ino]
        if not row.gone:
            b.files.put(ino, row._replace(gone=True))
            fact = _reclaim(b, "surprise", ino, permanent=True)
            reclaim.begin(b, fact._replace(applied=True, freed=True))
