"""Registrations that wait behind a reclaim, in place of EBUSY: where every reclaim in their way is of a protocol that queues pins.

    reg_mr --(a gate in the way, or an older reclaim that is queued)--> parked --(none of them is left)--> reg_mr again, or its refusal

Whoever comes first goes first: a registration waits for the reclaims that were there when it came, and for gates; a reclaim that was
asked for behind it finds its pin. What has changed meanwhile is met as if it had asked now: a file that is too short by then is EINVAL.
A parked registration is interrupted by `cancel` (EINTR), and goes with its session.
"""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import TYPE_CHECKING

from emu.core.asking import fail, refuse
from emu.core.effects import CloseHandle
from emu.core.errors import Refused
from emu.core.events import Requested
from emu.core.rows import Parked

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.core.books import Books
    from emu.core.requests import RegMr
    from emu.core.rows import Reclaim


def waits(
    b: Books, event: Requested, label: str, *, lo: int, hi: int, ino: int = 0, device: str = "", host: int = 0
) -> bool:
    """Must it wait? Then it is parked; EBUSY, if who takes the range back lets nobody wait."""
    known = b.parked_as.first((event.session, event.request))
    before = None if known is None else b.parked[known].behind
    behind = tuple(
        number
        for number, row in b.reclaims.items()
        if covers(row, ino, device, host)
        and row.lo < hi
        and lo < row.hi
        and in_the_way(b, number, row, before)
    )
    for number in behind:
        row = b.reclaims[number]
        if not _queues(b, row):
            refuse(
                errno.EBUSY,
                f"{label} is being taken back by {row.kind} (reclaim {number}): register again when that has ended",
            )
    if behind:
        _park(b, event, known, behind)
    elif known is not None:
        b.parked.drop(known)
    return bool(behind)


def in_the_way(b: Books, number: int, row: Reclaim, before: tuple[int, ...] | None) -> bool:
    """before: what it has waited behind so far; None: it comes now."""
    return row.gated or (_queues(b, row) and (row.queued if before is None else number in before))


def covers(row: Reclaim, ino: int, device: str, host: int) -> bool:
    """Does this reclaim take from this file, device or host file?"""
    return bool(
        (row.ino and row.ino == ino)
        or (row.device and row.device == device)
        or (row.host and row.host == host)
    )


def _queues(b: Books, row: Reclaim) -> bool:
    return b.protocols[row.protocol].queues_pins


def _park(b: Books, event: Requested, known: int | None, behind: tuple[int, ...]) -> None:
    op: RegMr = event.op  # type: ignore[assignment]
    handle = 0 if event.host is None else event.host.handle
    host = None if event.host is None else replace(event.host, handle=0)
    bare = replace(op, pd=0, iova=0)
    number = b.number("parked") if known is None else known
    row = Parked(event.session, event.request, op.pd, op.iova, bare, handle, host, behind)
    b.parked.put(number, row)
    b.kept = handle


def go_on(b: Books, requested: Callable[[Books, Requested], None]) -> None:
    """A reclaim has ended: each asks again, in the order in which they came."""
    kept = b.kept
    for number, row in b.parked.items():
        _ask(b, number, row, requested)
    b.kept = kept


def _ask(b: Books, number: int, row: Parked, requested: Callable[[Books, Requested], None]) -> None:
    op = replace(row.op, pd=row.pd, iova=row.iova)
    host = None if row.host is None else replace(row.host, handle=row.handle)
    mark, b.kept = b.mark(), 0
    try:
        requested(b, Requested(row.session, row.request, op, host))
    except Refused as error:
        b.rollback(mark)
        b.kept = 0
        b.parked.drop(number)
        fail(b, row.session, row.request, error.errno, f"reg_mr: {error}")
    if row.handle and b.kept != row.handle:
        b.emit(CloseHandle(row.handle))


def interrupt(b: Books, number: int) -> None:
    row = b.parked[number]
    _drop(b, number)
    sentence = "reg_mr: it was interrupted while it waited for a reclaim: nothing is registered"
    fail(b, row.session, row.request, errno.EINTR, sentence)


def context_destroyed(b: Books, session: int) -> None:
    for number, row in b.parked.items():
        if row.session == session:
            _drop(b, number)
            sentence = "reg_mr: the context was destroyed: close it and open another one"
            fail(b, session, row.request, errno.EIO, sentence)


def session_lost(b: Books, session: int) -> None:
    for number, row in b.parked.items():
        if row.session == session:
            _drop(b, number)


def _drop(b: Books, number: int) -> None:
    row = b.parked[number]
    b.parked.drop(number)
    if row.handle:
        b.emit(CloseHandle(row.handle))
