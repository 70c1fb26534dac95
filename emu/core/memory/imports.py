"""The importer's side of a buffer: a registration over it, in three steps (buffers.py)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from emu.core.asking import alive, fail, refuse
from emu.core.effects import MapBuffer
from emu.core.errors import errno_name
from emu.core.memory import buffers, keys, parking, registration
from emu.core.memory.admission import admit, classed
from emu.core.memory.teardown import forget
from emu.core.reclaims import rights
from emu.core.rows import DMABUF, Token
from emu.core.storage import extents

if TYPE_CHECKING:
    from emu.core.books import Books
    from emu.core.events import Answered, Requested
    from emu.core.requests import RegMr


def pin(b: Books, event: Requested, op: RegMr) -> None:
    ino, row = buffers.buffer_at(b, op.path)
    pool = buffers.pool(b)
    if row.gone:
        refuse(errno.ENODEV, f"buffer {op.path} is closed for good: its exporter has revoked it, or is gone")
    if b.buffers[ino].away:
        refuse(
            errno.EBUSY,
            f"buffer {op.path} is revoked for a time: import it when its exporter has restored it",
        )
    registration.check_within(op, row.size, op.path)
    op = classed(b, op, DMABUF)
    admit(b, event, op, DMABUF)
    lo, hi = op.offset, op.offset + op.length
    if parking.waits(b, event, op.path, ino=ino, device=DMABUF, lo=lo, hi=hi):
        return
    rights.admit(b, event.session, pool.aperture)
    runs = extents.runs(row.extents, op.offset, op.length)
    registration.check_runs(runs)
    key, token = keys.issue_key(b), b.number("token")
    made = registration.row_of(event, op, pool.aperture, pool.aperture, runs)
    b.mrs.put(key, made._replace(ino=ino, layout=row.layout))
    b.tokens.put(token, Token("map_buffer", event.session, event.request, key=key))
    b.emit(MapBuffer(token, pool.aperture, runs))


def mapped(b: Books, _number: int, token: Token, event: Answered) -> None:
    """The exporter's side has answered: the key is installed, unless it was taken back meanwhile."""
    row = b.mrs[token.key]
    if event.errno:
        forget(b, token.key)
        why = f"the memory of the buffer cannot be reached ({errno_name(event.errno)}): is its device still there?"
        fail(b, row.session, row.request, event.errno, f"reg_mr: {why}")
    elif row.revoked or not alive(b, row.session):
        forget(b, token.key)
        registration.taken_back(b, row)
    else:
        registration.install(b, token.key)
