"""Importers that unmap in their own time (class deferred-unmap): who is waited for, for how long, and what is said when it takes longer.

    fences retired -> unmap --+--> everybody else: Unmap now
                              +--> a deferred importer: until it says `ack`, at most `bound` seconds; then phase `overdue`, and the owner waits on

An importer may say so before its fences retire: then it is unmapped with the others. One that is still being registered, is on its way out or
whose session is gone has nobody to say so, and is unmapped at once. The memory is never reused at the timeout.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from emu.core.asking import alive, refuse
from emu.core.effects import Arm, Disarm, Notify, Phase
from emu.core.rows import Bound

if TYPE_CHECKING:
    from emu.core.books import Books
    from emu.core.events import Requested
    from emu.core.requests import RegMr

DEFERRED: Final = "deferred-unmap"
LONGEST: Final = 3600.0  # seconds that an importer may ask for


def check_bound(b: Books, event: Requested, op: RegMr) -> None:
    """A deferred-unmap importer says how long it takes, and can be told; no other says anything."""
    if op.importer != DEFERRED:
        if op.bound:
            refuse(
                errno.EINVAL,
                f"bound {op.bound:g} says when a deferred-unmap importer unmaps, not a {op.importer} one: leave it out",
            )
        return
    if not 0 < op.bound <= LONGEST:
        sentence = f"a deferred-unmap importer unmaps within a bound of up to {LONGEST:g} seconds, not {op.bound:g}: name one"
        refuse(errno.EOPNOTSUPP if op.bound == 0 else errno.EINVAL, sentence)
    if not b.sessions[event.session].wants:
        refuse(
            errno.EOPNOTSUPP,
            "a deferred-unmap importer must hear that it is to unmap: open the context with its events",
        )


def awaited(b: Books, key: int) -> bool:
    """Does only its importer's word end this mapping?"""
    row = b.mrs[key]
    owed = row.importer == DEFERRED and not row.acked
    return owed and not row.request and not row.ending and alive(b, row.session)


def wait_for(b: Books, number: int, keys: tuple[int, ...]) -> None:
    """From now on each has its bound; who was not told is told."""
    running = {row.key for _timer, row in b.bounds.items() if row.reclaim == number}
    for key in keys:
        row = b.mrs[key]
        if key in running:
            continue
        if not row.told:
            b.mrs.put(key, row._replace(told=True))
            b.emit(
                Notify(row.session, "MR_REVOKED", {"mr": key, "rkey": key, "event": b.reclaims[number].kind})
            )
        timer = b.number("timer")
        b.bounds.put(timer, Bound(number, key))
        b.emit(Arm(timer, row.bound))


def overdue(b: Books, timer: int) -> None:
    """It has promised, and has not kept it: that is told, and nothing else changes."""
    row = b.bounds[timer]
    b.bounds.drop(timer)
    b.emit(Phase(row.reclaim, "overdue", (row.key,)))


def forget(b: Books, number: int) -> None:
    """Nobody is waited for any more."""
    for timer, row in b.bounds.items():
        if row.reclaim == number:
            b.bounds.drop(timer)
            b.emit(Disarm(timer))
