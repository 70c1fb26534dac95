"""Requests that change a layout without data: fallocate's other modes, reflink, migrate. Checked here, and made a reclaim row."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from emu.core import asking
from emu.core.asking import check_range, check_span, refuse, reply
from emu.core.errors import shown
from emu.core.reclaims import reclaim
from emu.core.rows import BLOCK, FOREVER, File, Reclaim
from emu.core.storage import allocator, extents

if TYPE_CHECKING:
    from emu.core.books import Books
    from emu.core.events import Requested
    from emu.core.requests import FsFallocate, FsMigrate, FsReflink

MODES: Final = ("collapse", "insert", "zero")


def asked(b: Books, event: Requested, kind: str, path: str, ino: int) -> Reclaim:
    _mount, row = asking.mount_of(b, path)
    return Reclaim(kind, event.session, event.request, row.protocol, ino=ino)


def fs_fallocate(b: Books, event: Requested, op: FsFallocate) -> None:
    if op.mode not in MODES:
        refuse(errno.EINVAL, f"mode {shown(op.mode)} is unknown: use {', '.join(MODES)}")
    check_span(op.offset, op.length, least=1)
    ino, row = asking.file_at(b, op.path)
    made = asked(b, event, op.mode, op.path, ino)._replace(lo=op.offset)
    if op.mode == "zero":
        if op.offset >= row.size:
            reply(b, event)
            return
        made = made._replace(hi=op.offset + op.length)
    else:
        _check_moves(op, row)
        made = made._replace(length=op.length)
    reclaim.begin(b, made)


def _check_moves(op: FsFallocate, row: File) -> None:
    if op.offset % BLOCK or op.length % BLOCK:
        refuse(
            errno.EINVAL,
            f"{op.mode} {op.path}: {op.length} bytes at {op.offset} are no whole blocks: use multiples of {BLOCK}",
        )
    if op.mode == "collapse" and op.offset + op.length >= row.size:
        refuse(
            errno.EINVAL,
            f"collapse {op.path}: the range reaches the end of the file ({row.size} bytes): truncate it instead",
        )
    if op.mode == "insert" and op.offset >= row.size:
        refuse(
            errno.EINVAL,
            f"insert {op.path}: offset {op.offset} lies past the end of the file ({row.size} bytes): truncate makes it longer",
        )
    if op.mode == "insert":
        check_range("the size that the file would have", row.size + op.length, high=FOREVER - 1)


def fs_migrate(b: Books, event: Requested, op: FsMigrate) -> None:
    ino, row = asking.file_at(b, op.path)
    wanted = extents.count(row.extents)
    free = allocator.free_blocks(b, b.devices[row.device].aperture)
    if wanted > free:  # nobody loses an MR for what cannot be done
        refuse(
            errno.ENOSPC,
            f"device {row.device}: {wanted} blocks wanted to move {op.path} to, {free} free: truncate or unlink something",
        )
    reclaim.begin(b, asked(b, event, "migrate", op.path, ino))


def fs_reflink(b: Books, event: Requested, op: FsReflink) -> None:
    ino, row = asking.file_at(b, op.path)
    _path, mount = asking.mount_of(b, op.to)
    if mount.device != row.device:
        refuse(
            errno.EXDEV, f"{op.to} is not on the mount of {op.path}: a clone shares its blocks, so it must be"
        )
    if b.file_at.has(op.to):
        refuse(errno.EEXIST, f"file {op.to} exists already: unlink it first, or use another name")
    reclaim.begin(b, asked(b, event, "reflink", op.path, ino)._replace(to=op.to))
