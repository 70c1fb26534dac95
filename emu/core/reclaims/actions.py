"""The actions of protocols, carried out and checked (decision.py: VERBS, RULES). DOING says who carries out which.

Each action is a function (books, reclaim, action) -> bool; True: what stands behind it waits (the host applies), or the reclaim has ended.
Here are those that need no answer; beside them stopping.py (quiesce, unmap, retarget), applying.py (apply, pretend), ending.py (timers).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from emu.core import contexts
from emu.core.asking import alive, answer
from emu.core.decision import DISPOSALS
from emu.core.effects import Notify
from emu.core.memory import faults
from emu.core.reclaims import applying, ending, fencing, scope, signals, stopping
from emu.core.storage import allocator, leases, moving, orphans

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from emu.core.books import Books
    from emu.core.decision import Action
    from emu.core.rows import Reclaim


def do_gate(b: Books, number: int, _action: Action) -> bool:
    b.reclaims.put(number, b.reclaims[number]._replace(gated=True))
    scope.phase(b, number, "gated")
    return False


def do_notify(b: Books, number: int, action: Action) -> bool:
    """Every holder that asked hears of each of its MRs; of MR_REVOKED at most once, and not of one on demand, which is not revoked."""
    row = b.reclaims[number]
    if not action.text:
        raise scope.broke(row, "known-answer", "notify without the event's name")
    for key in row.keys:
        mr = b.mrs.get(key)
        if (
            mr is None
            or mr.told
            or (action.text == "MR_REVOKED" and faults.on_demand(mr))
            or not alive(b, mr.session)
            or not b.sessions[mr.session].wants
            or mr.request
        ):
            continue
        if action.text == "MR_REVOKED":
            b.mrs.put(key, mr._replace(told=True))
        fields: dict[str, object] = {"mr": key, "rkey": key, "event": row.kind}
        b.emit(
            Notify(mr.session, action.text, {**fields, "seconds": action.number} if action.number else fields)
        )
    scope.phase(b, number, "notified")
    return False


def do_free(b: Books, number: int, action: Action) -> bool:
    row = b.reclaims[number]
    if row.kind == "surprise":
        return False
    if not row.applied or row.freed:
        raise scope.broke(
            row, "free-after-apply", "freed before it was applied" if not row.applied else "freed twice"
        )
    disposal = action.text or b.protocols[row.protocol].disposal
    if disposal not in DISPOSALS:
        raise scope.broke(row, "known-answer", f"free with the disposal {disposal!r}, which is none")
    mine = tuple(key for key, run in b.quarantine.items() if run.reclaim == number)
    pinned = tuple(key for key in mine if scope.pins_on(b, key))
    if pinned and disposal == "after-unmap":
        raise scope.broke(row, "free-after-unmap", f"{len(pinned)} runs are still pinned")
    if disposal == "keep":
        for held in tuple(part for key in pinned for part in orphans.cut(b, key)):
            orphans.keep(b, held)
        mine = tuple(key for key, run in b.quarantine.items() if run.reclaim == number)
    allocator.release(b, mine)
    b.reclaims.put(number, row._replace(freed=True))
    scope.phase(b, number, "freed")
    return False


def do_deny(b: Books, number: int, action: Action) -> bool:
    row = b.reclaims[number]
    if row.returned:
        raise scope.broke(row, "one-answer", "answered a second time")
    if row.applied:
        raise scope.broke(row, "deny-before-apply", f"{action.text} although it was applied")
    code = getattr(errno, action.text, None) if action.text.startswith("E") else None
    if not isinstance(code, int):
        raise scope.broke(row, "known-answer", f"deny with {action.text!r}, which is no errno")
    scope.deny(b, number, code, _why(b, row, code))
    return False


def _why(b: Books, row: Reclaim, code: int) -> str:
    if code == errno.EINTR:
        return "it was interrupted: nothing has changed, keys revoked by then stay revoked"
    pins = scope.facts_of(b, row)
    if code == errno.EPERM and pins.marked:
        return f"a file that it would change is marked immutable, which {row.protocol} honours: clear the mark first (fs_mark; emu fs mark PATH off)"
    return f"{pins.pins} MRs of {pins.holders} contexts are in the range, and {row.protocol} refuses: ask them to deregister"


def do_reply(b: Books, number: int, _action: Action) -> bool:
    row = b.reclaims[number]
    if row.returned:
        raise scope.broke(row, "one-answer", "answered a second time")
    b.reclaims.put(number, row._replace(returned=True))
    if row.then is None:
        answer(b, row.session, row.request, moving.result(b, row))
    scope.phase(b, number, "returned", {"errno": 0})
    return False


def do_break_leases(b: Books, number: int, _action: Action) -> bool:
    leases.break_all(b, b.reclaims[number])
    return False


DOING: Mapping[str, Callable[[Books, int, Action], bool]] = {
    "gate": do_gate,
    "notify": do_notify,
    "quiesce": stopping.do_quiesce,
    "unmap": stopping.do_unmap,
    "notify_peers": fencing.do_notify_peers,
    "fence": fencing.do_fence,
    "retarget": stopping.do_retarget,
    "apply": applying.do_apply,
    "pretend": applying.do_pretend,
    "free": do_free,
    "deny": do_deny,
    "reply": do_reply,
    "break_leases": do_break_leases,
    "arm": ending.do_arm,
    "disarm": ending.do_disarm,
    "signal": signals.do_signal,
    "destroy": contexts.do_destroy,
}
