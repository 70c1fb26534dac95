"""Requests that take memory back: truncate, punch, unlink, unplug; and those that go with them, cancel and ack.

Here they are checked and become a reclaim row; what follows is reclaim.py's.
"""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import TYPE_CHECKING

from emu.core import asking, contexts, devices
from emu.core.asking import check_range, check_span, refuse, reply
from emu.core.effects import Offline
from emu.core.errors import shown
from emu.core.memory import importers, parking, registration
from emu.core.reclaims import reclaim, stopping
from emu.core.rows import FOREVER, HOST, Reclaim
from emu.core.storage import files, leases, pages, sharing

if TYPE_CHECKING:
    from emu.core.books import Books
    from emu.core.events import Requested
    from emu.core.requests import Acknowledge, Cancel, FsPunch, FsTruncate, FsUnlink, FsUnplug


def fs_truncate(b: Books, event: Requested, op: FsTruncate) -> None:
    check_range("size", op.size)
    if op.host:
        file = asking.host_file(event, "fs_truncate")
        _host(b, event, "truncate", op.size, FOREVER, growing=op.size >= file.size)
        return
    ino, row = asking.file_at(b, op.path)
    if op.size > row.size:
        leases.check_may_grow(b, row)
        if sharing.before(b, event, op, ino, *sharing.tail(row)):
            return
        files.grow(b, ino, op.size)
        reply(b, event)
    elif op.size == row.size:
        reply(b, event)
    else:
        reclaim.begin(b, _asked(b, event, "truncate", op.path)._replace(ino=ino, lo=op.size))


def fs_punch(b: Books, event: Requested, op: FsPunch) -> None:
    check_span(op.offset, op.length, least=1)
    end = op.offset + op.length
    if op.host:
        _host(b, event, "punch", op.offset, end)
        return
    ino, row = asking.file_at(b, op.path)
    if op.offset >= row.size:
        reply(b, event)
        return
    reclaim.begin(b, _asked(b, event, "punch", op.path)._replace(ino=ino, lo=op.offset, hi=end))


def fs_unlink(b: Books, event: Requested, op: FsUnlink) -> None:
    ino, _row = asking.file_at(b, op.path, gone=True)
    reclaim.begin(b, _asked(b, event, "unlink", op.path)._replace(ino=ino))


def fs_unplug(b: Books, event: Requested, op: FsUnplug) -> None:
    raw = b.mounts.get(op.target)
    if raw is not None and raw.raw:  # a raw device goes by its mount's name, too
        op = replace(op, target=raw.device)
    if op.surprise and (op.host or op.target.startswith("/")):
        refuse(
            errno.EINVAL,
            f"{op.target or 'a host file'} is a file: only a device can be unplugged by surprise",
        )
    if op.host:
        _host(b, event, "unplug", 0, FOREVER)
    elif contexts.is_nic(op.target):
        contexts.unplug(b, event, op)
    elif op.target.startswith("/"):
        ino, _row = asking.file_at(b, op.target)
        reclaim.begin(b, _asked(b, event, "unplug", op.target)._replace(ino=ino))
    else:
        _unplug_device(b, event, op)


def _unplug_device(b: Books, event: Requested, op: FsUnplug) -> None:
    if op.target not in b.devices:
        refuse(
            errno.ENODEV, f"device {shown(op.target)} does not exist: the devices are {', '.join(b.devices)}"
        )
    row = asking.online(b, op.target)
    devices.settled(b, op.target)
    mount = asking.mount_on(b, op.target)
    protocol = b.mounts[mount or HOST].protocol
    kind = "surprise" if op.surprise else "unplug"
    if op.surprise:  # the fact comes first
        b.devices.put(op.target, row._replace(online=False))
        b.emit(Offline(row.aperture, op.target))
        pages.forget_device(b, op.target)
    asked = Reclaim(
        kind, event.session, event.request, protocol, device=op.target, applied=op.surprise, freed=op.surprise
    )
    reclaim.begin(b, asked)


def _asked(b: Books, event: Requested, kind: str, path: str) -> Reclaim:
    _mount, row = asking.mount_of(b, path)
    return Reclaim(kind, event.session, event.request, row.protocol)


def _host(b: Books, event: Requested, kind: str, lo: int, hi: int, growing: bool = False) -> None:
    file = asking.host_file(event, kind)
    label = file.label or f"host file {file.device}:{file.inode}"
    if not file.writable:
        refuse(errno.EINVAL, f"{label} was opened for reading only: {kind} needs it open for writing")
    host = registration.host_row(b, file.device, file.inode, label)
    if kind == "unplug" and b.hosts[host].gone:
        refuse(errno.ENODEV, f"{label} was taken away by unplug already")
    row = Reclaim(kind, event.session, event.request, b.mounts[HOST].protocol, host=host, lo=lo, hi=hi)
    b.kept = file.handle
    if growing:  # nothing is taken from anybody
        row = row._replace(hi=lo)
    reclaim.begin(b, row._replace(handle=file.handle))


def cancel(b: Books, event: Requested, op: Cancel) -> None:
    number = b.asked.first((event.session, op.request)) if op.request else None
    parked = b.parked_as.first((event.session, op.request))
    if parked is not None:
        parking.interrupt(b, parked)
        reply(b, event)
        return
    if number is None:
        refuse(
            errno.ENOENT, f"request {op.request} is no reclaim under way: it was answered, or was never asked"
        )
    row = b.reclaims[number]
    if row.applied or row.returned or row.todo:
        refuse(errno.EALREADY, f"request {op.request} can no longer be interrupted: it is being applied")
    reclaim.interrupt(b, number)
    reply(b, event)


def acknowledge(b: Books, event: Requested, op: Acknowledge) -> None:
    mr = asking.owned(b.mrs, event, op.handle, "MR")
    met = [number for number, row in b.reclaims.items() if op.handle in row.keys and not row.queued]
    if mr.importer == importers.DEFERRED and met:
        b.mrs.put(op.handle, mr._replace(acked=True))
    for number in met:
        b.agenda.append((number, "acknowledged"))
        stopping.importer_unmapped(b, number)
    reply(b, event)
