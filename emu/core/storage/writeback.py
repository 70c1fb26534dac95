"""Pages written back, and pages dropped: reclaims of kinds `writeback` and `memory-pressure`, asked for or due by the broker's timer.

    writeback         the file's dirty pages are clean and copied to the device; nothing is freed
    memory-pressure   the same, and then all clean pages are no file's any more: the protocol says what becomes of pinned ones

Both are reclaims like any other: the mount's protocol may deny them (ebusy: as long as an MR is in the range), take the MRs first
(mr-revoke), or let them happen under the DMA (none: what the NIC writes to a page that was dropped is nowhere). A page that is dirtied
between the copy and its end stays. Memory of clients under pressure: swap.py.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from emu.core import asking
from emu.core.asking import refuse, reply
from emu.core.reclaims import reclaim
from emu.core.rows import ANON, BLOCK, Reclaim
from emu.core.storage import pages, swap
from emu.core.storage.extents import blocks_up

if TYPE_CHECKING:
    from emu.core.books import Books
    from emu.core.events import Answered, Requested, WritebackDue
    from emu.core.requests import FsPressure, FsWriteback
    from emu.core.rows import Token


def fs_writeback(b: Books, event: Requested, op: FsWriteback) -> None:
    ino = _cached(b, op.path)
    if _tmpfs(b, ino):
        refuse(errno.EINVAL, f"file {op.path} is on a tmpfs, whose pages nobody writes back")
    lo, hi = pages.unwritten(b, ino)
    if lo == hi:
        reply(b, event)
    else:
        asked = Reclaim("writeback", event.session, event.request, _protocol(b, ino))
        reclaim.begin(b, asked._replace(ino=ino, lo=lo, hi=hi))


def fs_pressure(b: Books, event: Requested, op: FsPressure) -> None:
    if op.target == ANON:
        _anonymous(b, event, op.mr)
        return
    if op.mr:
        refuse(
            errno.EINVAL, f"mr {op.mr}: a file's pages go by its path; an MR is named with the target {ANON}"
        )
    ino = _cached(b, op.target)
    if ino not in b.pages:
        reply(b, event)
    else:
        asked = Reclaim("memory-pressure", event.session, event.request, _protocol(b, ino))
        reclaim.begin(b, asked._replace(ino=ino))


def _tmpfs(b: Books, ino: int) -> bool:
    _path, mount = asking.mount_of(b, b.files[ino].path)
    return mount.tmpfs


def _anonymous(b: Books, event: Requested, mr: int) -> None:
    """An MR that is not there any more has taken its memory along."""
    keys = swap.held(b, (mr,) if mr else tuple(b.mrs))
    if keys:
        asked = Reclaim("memory-pressure", event.session, event.request, b.mounts[ANON].protocol)
        reclaim.begin(b, asked._replace(device=ANON, keys=keys))
    else:
        reply(b, event, {"pinned": 0, "taken": 0})


def due(b: Books, _event: WritebackDue) -> None:
    """Every file that has dirty pages and is not being written back, in order of their numbers."""
    busy = tuple(row.ino for _number, row in b.reclaims.items() if row.kind == "writeback")
    for ino in b.pages:
        lo, hi = pages.unwritten(b, ino)
        if lo < hi and ino not in busy and not _tmpfs(b, ino) and b.devices[b.files[ino].device].online:
            reclaim.begin(b, Reclaim("writeback", 0, 0, _protocol(b, ino), ino=ino, lo=lo, hi=hi))


def flushed(b: Books, number: int, token: Token, event: Answered) -> None:
    """The copy is done, or the device refused: then the pages are as dirty as they were, and the request fails with its errno."""
    row = b.reclaims[token.reclaim]
    if event.errno and row.ino in b.pages:
        pages.dirty(b, row.ino, row.lo // BLOCK, blocks_up(row.hi))
    elif not event.errno and row.kind == "memory-pressure":
        pages.forget_clean(b, row.ino, token.reclaim)
    reclaim.host_applied(b, number, token, event)


def _cached(b: Books, path: str) -> int:
    ino, row = asking.file_at(b, path)
    if not pages.cache_of(b, row.device):
        refuse(
            errno.EOPNOTSUPP,
            f"{path} has no pages: its mount is dax, so what is written is on the device already",
        )
    return ino


def _protocol(b: Books, ino: int) -> str:
    _path, mount = asking.mount_of(b, b.files[ino].path)
    return mount.protocol
