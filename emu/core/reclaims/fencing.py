"""Fencing clients at the storage: `fence` and `notify_peers` of protocols, and what the storage answers.

What is fenced is the client, as SCSI knows initiators and not files: every key that it has on that space stops, whatever file it is for. A
fence that failed keeps the right in the table; the protocol hears fence_failed, and its next `fence` asks again for what failed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.core.asking import alive
from emu.core.effects import FenceRight, Notify
from emu.core.memory import teardown
from emu.core.reclaims import rights, scope
from emu.core.rows import Fence

if TYPE_CHECKING:
    from emu.core.books import Books
    from emu.core.decision import Action
    from emu.core.events import RightFenced


def do_fence(b: Books, number: int, _action: Action) -> bool:
    """Every client that pins the range, with all that it has on that storage; and whoever's last fence failed."""
    row = b.reclaims[number]
    pinning = scope.pinned(b, row)
    for key in pinning:
        rights.granted(b, key)
    still_there = (
        b.mrs[key].right for key in pinning if b.mrs[key].right in b.rights
    )  # the others are fenced
    wanted = dict.fromkeys((*_failed(b, number), *still_there))
    keys = tuple(sorted({key for right in wanted for key in _client(b, right)}))
    _take_back(b, keys)
    known = tuple(sorted({*row.keys, *keys}))
    passed = tuple(key for key in row.passed if key not in keys)
    b.reclaims.put(number, row._replace(keys=known, fencing=True, fenced=False, passed=passed))
    scope.phase(b, number, "fencing")
    for right in wanted:
        _ask(b, number, right)
    if not wanted:
        _settled(b, number)
    return False


def _failed(b: Books, number: int) -> tuple[int, ...]:
    """Rights whose fence failed this reclaim; they are asked for anew."""
    failed = tuple(fence for fence in b.fences_of.of(number) if b.fences[fence].failed)
    found = tuple(b.fences[fence].right for fence in failed)
    for fence in failed:
        b.fences.drop(fence)
    return found


def _take_back(b: Books, keys: tuple[int, ...]) -> None:
    for key in keys:
        mr = b.mrs[key]
        if mr.state == "pinned":
            b.went.append((key, mr))
        # without a key there is no translation yet: taking it back is all there is to do
        b.mrs.put(key, mr._replace(revoked=True, state="unmapped" if mr.state == "pinned" else mr.state))
    b.idle = True


def _client(b: Books, right: int) -> tuple[int, ...]:
    """All MRs of the right's session on its space."""
    row = b.rights[right]
    return tuple(key for key in b.mrs_of.of(row.session) if b.mrs[key].space == row.space)


def _ask(b: Books, number: int, right: int) -> None:
    fence = b.number("cookie")
    b.rights.put(right, b.rights[right]._replace(fencing=True))
    b.fences.put(fence, Fence(right, number))
    b.emit(FenceRight(fence, right, teardown.mapped_of(b, _client(b, right))))


def fenced(b: Books, event: RightFenced) -> None:
    """The storage has answered. A right whose reclaim has ended meanwhile leaves the table all the same."""
    row = b.fences.get(event.fence)
    if row is None or row.failed:
        return
    if event.errno and row.right in b.rights:
        b.fences.put(event.fence, row._replace(failed=True))
        if row.reclaim not in b.reclaims:
            forget_failed(b, row.reclaim)
    else:
        b.fences.drop(event.fence)
        if row.right in b.rights:
            rights.drop(b, row.right)
    mine = b.fences_of.of(row.reclaim)
    if row.reclaim in b.reclaims and all(b.fences[fence].failed for fence in mine):
        _settled(b, row.reclaim)


def forget_failed(b: Books, number: int) -> None:
    """Its reclaim has ended, so nobody asks again: the client keeps its right, and may register."""
    for fence in b.fences_of.of(number):
        row = b.fences[fence]
        if row.failed:
            b.fences.drop(fence)
            right = b.rights.get(row.right)
            if right is not None and not any(other.right == row.right for _n, other in b.fences.items()):
                b.rights.put(row.right, right._replace(fencing=False))


def _settled(b: Books, number: int) -> None:
    """All fences of this reclaim are answered."""
    if b.fences_of.has(number):
        b.agenda.append((number, "fence_failed"))
        return
    b.reclaims.put(number, b.reclaims[number]._replace(fenced=True))
    scope.phase(b, number, "fenced")
    b.agenda.append((number, "fence_confirmed"))


def do_notify_peers(b: Books, number: int, action: Action) -> bool:
    """Contexts that asked for events and have a queue pair connected to one that can serve a holder's key: each hears of each key once."""
    row = b.reclaims[number]
    if not action.text:
        raise scope.broke(row, "known-answer", "notify_peers without the event's name")
    for key in row.keys:
        for session in _peers(b, key):
            fields: dict[str, object] = {"rkey": key, "event": row.kind}
            if action.number:
                fields["seconds"] = action.number
            b.emit(Notify(session, action.text, fields))
    return False


def _peers(b: Books, key: int) -> tuple[int, ...]:
    mr = b.mrs.get(key)
    if mr is None or mr.request:
        return ()
    mine = tuple(b.qps[qp].qp_num for qp in b.qps_in.of(mr.pd) if b.qps[qp].made)
    theirs = sorted({b.qps[qp].session for number in mine for qp in b.qps_to.of(number)})
    return tuple(s for s in theirs if s != mr.session and alive(b, s) and b.sessions[s].wants)
