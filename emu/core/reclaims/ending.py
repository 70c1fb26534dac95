"""A reclaim's timers, and its end: what it has under way is forgotten, what it kept is kept until the last unpin, who stood behind it goes on."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from emu.core.asking import fail
from emu.core.decision import Action
from emu.core.effects import Arm, CloseHandle, Disarm
from emu.core.memory import importers, retargeting, teardown
from emu.core.reclaims import fencing, scope
from emu.core.storage import orphans

if TYPE_CHECKING:
    from emu.core.books import Books
    from emu.core.rows import Reclaim


def do_arm(b: Books, number: int, action: Action) -> bool:
    row = b.reclaims[number]
    if row.timer or not 0 < action.number < 1e9:
        raise scope.broke(row, "one-timer", f"arm({action.number}) with timer {row.timer} running")
    timer = b.number("timer")
    b.timers.put(timer, number)
    b.reclaims.put(number, row._replace(timer=timer))
    b.emit(Arm(timer, float(action.number)))
    return False


def do_disarm(b: Books, number: int, _action: Action) -> bool:
    row = b.reclaims[number]
    if row.timer:
        b.timers.drop(row.timer)
        b.reclaims.put(number, row._replace(timer=0))
        b.emit(Disarm(row.timer))
    return False


def again(b: Books, number: int) -> None:
    timer = b.number("timer")
    b.timers.put(timer, number)
    b.reclaims.put(number, b.reclaims[number]._replace(again=timer))
    b.emit(Arm(timer, teardown.RETRY))


def forget_again(b: Books, number: int) -> None:
    row = b.reclaims[number]
    if row.again:
        b.timers.drop(row.again)
        b.reclaims.put(number, row._replace(again=0))
        b.emit(Disarm(row.again))


def end(b: Books, number: int) -> None:
    do_disarm(b, number, Action("disarm"))
    forget_again(b, number)
    importers.forget(b, number)
    row = b.reclaims[number]
    if row.cookie:
        b.cookies.drop(row.cookie)
    if row.handle:
        b.emit(CloseHandle(row.handle))
    for key, run in b.quarantine.items():
        if run.reclaim == number:  # applied and not freed: kept until the last unpin
            orphans.keep(b, key)
            b.idle = True
    scope.phase(b, number, "ended")
    b.reclaims.drop(number)
    fencing.forget_failed(b, number)
    retargeting.let_go(b, row.keys)
    b.ended = True
    if row.then is not None and row.returned and not row.errno:
        _go_on_behind(b, row)


def _go_on_behind(b: Books, row: Reclaim) -> None:
    """The request that it stood before: from its beginning, unless it would only find the same again."""
    if row.applied and row.then is not None:
        b.then.append((row.session, row.request, row.then))
    else:
        sentence = f"{row.kind}: protocol {row.protocol} answered 0 and carried nothing out: change the mount's protocol"
        fail(b, row.session, row.request, errno.EPROTO, sentence)
