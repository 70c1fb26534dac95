"""The actions of protocols, carried out and checked (decision.py: VERBS, RULES); the answers to those that take time; the end.

Each action is a function (books, reclaim, action) -> bool; True: what stands behind it waits (the host applies), or the reclaim has ended.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from emu.core import contexts
from emu.core.asking import alive, answer, fail
from emu.core.decision import DISPOSALS, IMPORTERS, Action
from emu.core.effects import (
    Arm,
    CloseHandle,
    Disarm,
    HostPunch,
    HostTruncate,
    Invalidate,
    Notify,
    Offline,
    Quiesce,
    Unmap,
    YieldLease,
)
from emu.core.errors import Refused
from emu.core.memory import buffers, faults, importers, retargeting, teardown
from emu.core.reclaims import fencing, scope, signals
from emu.core.rows import BLOCK, FOREVER, Cookie, Mr, Reclaim, Token
from emu.core.storage import allocator, files, leases, moving, orphans, pages, pretending, sharing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from emu.core.books import Books
    from emu.core.events import Answered

    Ways = Mapping[tuple[str, str], Callable[[Books, int, Reclaim], bool]]


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


def do_quiesce(b: Books, number: int, action: Action) -> bool:
    _forget_again(b, number)
    row = b.reclaims[number]
    if action.text not in {"", *IMPORTERS}:
        raise scope.broke(row, "known-answer", f"quiesce of {action.text!r} importers, a class that is none")
    keys = tuple(key for key in scope.pinned(b, row) if action.text in {"", b.mrs[key].importer})
    switches = b.protocols[row.protocol].switches
    for key in keys:
        retargeting.overtake(b, key)
        b.mrs.put(key, _taken(b.mrs[key], switches))
    b.idle = True
    parked = tuple(key for key in keys if b.mrs[key].state == "parked")
    behind = tuple(key for key in teardown.mapped_of(b, keys) if key not in parked)
    b.reclaims.put(
        number, row._replace(keys=_union(row.keys, keys), fencing=True, fenced=False, behind=behind)
    )
    scope.phase(b, number, "fencing")
    if parked:
        b.emit(Invalidate(_await(b, number), parked, retargeting.others(b, parked)))
    else:
        _quiesce_behind(b, number)
    return False


def _taken(mr: Mr, switches: bool) -> Mr:
    """On demand, or where it is to be switched, its work waits from now on; else it is revoked. Without a key, so that there is no
    translation yet, that is all.
    """
    if faults.on_demand(mr) or (switches and retargeting.parkable(mr)):
        return mr._replace(state="parked")
    if mr.state == "parked" and mr.importer != faults.DYNAMIC:
        return mr._replace(revoked=True, state="live")  # whoever waits is refused
    return mr._replace(revoked=True, state="unmapped" if mr.state == "pinned" else mr.state)


def _quiesce_behind(b: Books, number: int) -> None:
    row = b.reclaims[number]
    mapped = teardown.mapped_of(b, row.behind)
    b.reclaims.put(number, row._replace(behind=()))
    if mapped:
        b.emit(Quiesce(_await(b, number), mapped))
    else:
        _quiesce_answered(b, number, 0)


def _union(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(dict.fromkeys((*one, *other))))


def do_unmap(b: Books, number: int, _action: Action) -> bool:
    row = b.reclaims[number]
    if not row.fenced:
        raise scope.broke(row, "unmap-after-quiesce", "unmap before the quiesce was answered")
    _forget_again(b, number)
    b.reclaims.put(number, b.reclaims[number]._replace(switching=False))
    _ask_to_unmap(b, number)
    return False


def _ask_to_unmap(b: Books, number: int) -> None:
    """Of all that it has quiesced: at once who can be, the rest when its importer has said so (importers.py)."""
    scope.phase(b, number, "unmapping")
    mapped = _quiet(b, b.reclaims[number])
    awaited = tuple(key for key in mapped if importers.awaited(b, key))
    ready = tuple(key for key in mapped if key not in awaited)
    b.reclaims.put(number, b.reclaims[number]._replace(waiting=bool(awaited)))
    importers.wait_for(b, number, awaited)
    if ready:
        b.emit(Unmap(_await(b, number, ready), ready))
    elif not awaited:
        _unmap_answered(b, number)


def importer_unmapped(b: Books, number: int) -> None:
    """Somebody that this reclaim waits for has said so, or is gone."""
    row = b.reclaims[number]
    if not row.waiting or row.cookie or row.again:
        return  # what is under way looks again when it is answered
    mapped = _quiet(b, row)
    if not mapped or any(not importers.awaited(b, key) for key in mapped):
        _ask_to_unmap(b, number)


def _quiet(b: Books, row: Reclaim) -> tuple[int, ...]:
    """Keys that this reclaim has quiesced and that still have a translation."""
    return tuple(
        key for key in teardown.mapped_of(b, row.keys) if b.mrs[key].revoked or b.mrs[key].state == "parked"
    )


def do_retarget(b: Books, number: int, _action: Action) -> bool:
    row = b.reclaims[number]
    if not row.fenced:
        raise scope.broke(row, "unmap-after-quiesce", "retarget before the quiesce was answered")
    _forget_again(b, number)
    b.reclaims.put(number, b.reclaims[number]._replace(switching=True))
    scope.phase(b, number, "retargeting")
    _retarget(b, number)
    return False


def _retarget(b: Books, number: int) -> None:
    row = b.reclaims[number]
    strays = retargeting.strays(b, row)
    if strays and not row.cookie and not any(retargeting.busy(b, key) for key in strays):
        for key in strays:
            b.mrs.put(key, b.mrs[key]._replace(state="parked"))
        b.reclaims.put(number, row._replace(fenced=False))
        b.emit(Invalidate(_await(b, number, strays), strays, retargeting.others(b, strays)))
        return
    retargeting.ask(b, number)
    _retarget_looked(b, number)


def _retarget_looked(b: Books, number: int) -> None:
    """What the engine had no room for is asked for again; what a teardown has is waited for (retarget_waits)."""
    row = b.reclaims[number]
    if row.cookie or row.again or retargeting.awaited(b, number):
        return
    left = (*retargeting.pending(b, number, row), *retargeting.strays(b, row))
    if not left:
        _retarget_answered(b, number)
    elif not any(retargeting.busy(b, key) for key in left):
        _again(b, number)


def retarget_waits(b: Books) -> None:
    """A teardown may have ended in this step, or given up, or another reclaim has switched. Called at the end of every step."""
    for number, row in b.reclaims.items():
        if row.switching and not row.again and not row.cookie and not retargeting.awaited(b, number):
            _retarget(b, number)


def _retarget_answered(b: Books, number: int) -> None:
    b.reclaims.put(number, b.reclaims[number]._replace(switching=False))
    scope.phase(b, number, "retargeted")
    b.agenda.append((number, "retargeted"))


def retargeted(b: Books, _number: int, token: Token, event: Answered) -> None:
    """One key's answer."""
    retargeting.answered(b, token, event.errno)
    if token.reclaim in b.reclaims:
        _retarget_looked(b, token.reclaim)


def do_apply(b: Books, number: int, _action: Action) -> bool:
    return _carry_out(b, number, APPLYING)


def do_pretend(b: Books, number: int, _action: Action) -> bool:
    """What there is no pretending for is carried out; what is pinned of it is for `free` to keep."""
    return _carry_out(b, number, {**APPLYING, **PRETENDING})


def _carry_out(b: Books, number: int, ways: Ways) -> bool:
    row = b.reclaims[number]
    if row.kind == "surprise":
        return False  # a fact since before the protocol was told
    if row.applied:
        raise scope.broke(row, "apply-once", "applied a second time")
    if row.returned and row.errno:
        raise scope.broke(row, "deny-before-apply", "applied behind an error")
    stopped = scope.stopped(b, row)
    if stopped:
        if not row.returned:
            scope.deny(b, number, *stopped)
        end(b, number)
        return True
    mark = b.mark()
    b.reclaims.put(number, row._replace(applied=True))
    try:
        waits = ways[row.kind, "host" if row.host else "file" if row.ino else "device"](b, number, row)
    except Refused as error:  # no space for it: nothing has changed
        b.rollback(mark)
        if not row.returned:
            scope.deny(b, number, error.errno, str(error))
        end(b, number)
        return True
    if waits:
        return True
    scope.phase(b, number, "applied")
    return False


def _apply_truncate(b: Books, number: int, row: Reclaim) -> bool:
    """It was asked of a larger file; behind another truncate it may find one that is smaller than what it wants."""
    if row.lo > b.files[row.ino].size:
        files.grow(b, row.ino, row.lo)
    else:
        files.shrink(b, row.ino, row.lo, number)
    return False


def _apply_punch(b: Books, number: int, row: Reclaim) -> bool:
    return files.punch(b, row.ino, row.lo, row.hi, number)


def _apply_unlink(b: Books, number: int, row: Reclaim) -> bool:
    files.evict(b, row.ino, number)
    return False


def _apply_writeback(b: Books, number: int, row: Reclaim) -> bool:
    """True: the copy is yet to be answered."""
    token = _token(b, "flushed", number)
    waits = files.sync(b, row.ino, row.lo, row.hi, token, number)
    if not waits:
        b.tokens.drop(token)
    return waits


def _apply_pressure(b: Books, number: int, row: Reclaim) -> bool:
    """Written back first; what is clean then goes (writeback.flushed), or at once where nothing was dirty."""
    if _apply_writeback(b, number, row):
        return True
    pages.forget_clean(b, row.ino, number)
    return False


def _apply_unplug_file(b: Books, _number: int, row: Reclaim) -> bool:
    files.take_away(b, row.ino)
    return False


def _apply_unplug_device(b: Books, number: int, row: Reclaim) -> bool:
    device = b.devices[row.device]
    files.empty_cache(b, row.device, number)
    b.devices.put(row.device, device._replace(online=False))
    b.emit(Offline(device.aperture, row.device, _host_token(b, number)))
    return True


def _apply_unplug_host(b: Books, _number: int, row: Reclaim) -> bool:
    b.hosts.put(row.host, b.hosts[row.host]._replace(gone=True))
    return False


def _apply_foreign(b: Books, _number: int, row: Reclaim) -> bool:
    """The foreign program does it; ours is to let it."""
    b.emit(YieldLease(b.hosts[row.host].aperture))
    return False


def _apply_collapse(b: Books, number: int, row: Reclaim) -> bool:
    files.sync(b, row.ino, row.lo + row.length, FOREVER, reclaim=number)
    pages.forget(b, row.ino, row.lo // BLOCK, FOREVER, number)
    moving.collapse(b, row.ino, row.lo, row.length, number)
    return False


def _apply_insert(b: Books, number: int, row: Reclaim) -> bool:
    files.sync(b, row.ino, row.lo, FOREVER, reclaim=number)
    pages.forget(b, row.ino, row.lo // BLOCK, FOREVER, number)
    moving.insert(b, row.ino, row.lo, row.length)
    return False


def _apply_zero(b: Books, number: int, row: Reclaim) -> bool:
    return moving.zero(b, row.ino, row.lo, row.hi, number)


def _apply_migrate(b: Books, number: int, row: Reclaim) -> bool:
    sharing.relocate(b, row.ino, b.files[row.ino].extents, number)
    return False


def _apply_reflink(b: Books, number: int, row: Reclaim) -> bool:
    files.sync(b, row.ino, 0, FOREVER, reclaim=number)
    sharing.clone(b, row.ino, row.to)
    return False


def _apply_cow(b: Books, number: int, row: Reclaim) -> bool:
    sharing.unshare(b, row.ino, row.lo, row.hi - row.lo, number)
    return False


def _apply_poison(_b: Books, _number: int, _row: Reclaim) -> bool:
    """The fact came before it."""
    return False


def _apply_umount(b: Books, number: int, row: Reclaim) -> bool:
    files.empty_cache(b, row.device, number)
    b.mounts.drop(row.to)
    return False


def _apply_host_truncate(b: Books, number: int, row: Reclaim) -> bool:
    b.emit(HostTruncate(_host_token(b, number), row.handle, row.lo))
    return True


def _apply_host_punch(b: Books, number: int, row: Reclaim) -> bool:
    b.emit(HostPunch(_host_token(b, number), row.handle, row.lo, row.hi - row.lo))
    return True


def _host_token(b: Books, number: int) -> int:
    return _token(b, "host_applied", number)


def _token(b: Books, kind: str, number: int) -> int:
    token = b.number("token")
    b.tokens.put(token, Token(kind, reclaim=number))
    return token


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


def _await(b: Books, number: int, keys: tuple[int, ...] = ()) -> int:
    cookie = b.number("cookie")
    row = b.reclaims[number]
    if row.cookie:
        b.cookies.drop(row.cookie)  # an answer that nobody waits for any more
    b.reclaims.put(number, row._replace(cookie=cookie))
    b.cookies.put(cookie, Cookie(reclaim=number, keys=keys))
    return cookie


def quiesced(b: Books, number: int, refusal: int, keys: tuple[int, ...] = ()) -> None:
    """keys: strays that were to be parked; refused, they are strays still."""
    row = b.reclaims[number]._replace(cookie=0)
    b.reclaims.put(number, row)
    if row.switching:
        b.reclaims.put(number, row._replace(fenced=not refusal))
        if refusal:
            retargeting.astray(b, keys)
            _again(b, number)
        else:
            _retarget(b, number)
    elif refusal:
        _quiesce_answered(b, number, refusal)
    else:
        _quiesce_behind(b, number)


def _quiesce_answered(b: Books, number: int, refusal: int) -> None:
    if refusal:
        b.agenda.append((number, "quiesce_failed"))
        return
    b.reclaims.put(number, b.reclaims[number]._replace(fenced=True))
    scope.phase(b, number, "fenced")
    b.agenda.append((number, "quiesced"))


def unmapped(b: Books, number: int, refusal: int, keys: tuple[int, ...]) -> None:
    """These are. A refusal is no matter of the protocol's: the core asks again until the translations are gone, or the reclaim has ended."""
    row = b.reclaims[number]._replace(cookie=0)
    b.reclaims.put(number, row)
    if refusal:
        _again(b, number)
        return
    quiet = tuple(key for key in _quiet(b, row) if key in keys)
    parked = tuple(
        key for key in quiet if b.mrs[key].state == "parked" and b.mrs[key].importer == faults.DYNAMIC
    )
    teardown.unpin(b, tuple(key for key in quiet if key not in parked))
    for key in parked:
        pages.pinned_to_write(b, b.mrs[key])
        b.went.append((key, b.mrs[key]))
        b.mrs.put(key, b.mrs[key]._replace(state="absent", runs=()))
    if row.waiting:
        importer_unmapped(b, number)
    else:
        _unmap_answered(b, number)


def _unmap_answered(b: Books, number: int) -> None:
    importers.forget(b, number)
    scope.phase(b, number, "unmapped")
    b.agenda.append((number, "unmapped"))


def _again(b: Books, number: int) -> None:
    timer = b.number("timer")
    b.timers.put(timer, number)
    b.reclaims.put(number, b.reclaims[number]._replace(again=timer))
    b.emit(Arm(timer, teardown.RETRY))


def ask_again(b: Books, number: int) -> None:
    """The core's own timer has fired: what the engine refused was an unmap, or a retarget."""
    row = b.reclaims[number]._replace(again=0)
    b.reclaims.put(number, row)
    if row.switching:
        _retarget(b, number)
    else:
        _ask_to_unmap(b, number)


def _forget_again(b: Books, number: int) -> None:
    row = b.reclaims[number]
    if row.again:
        b.timers.drop(row.again)
        b.reclaims.put(number, row._replace(again=0))
        b.emit(Disarm(row.again))


def end(b: Books, number: int) -> None:
    do_disarm(b, number, Action("disarm"))
    _forget_again(b, number)
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


DOING: Mapping[str, Callable[[Books, int, Action], bool]] = {
    "gate": do_gate,
    "notify": do_notify,
    "quiesce": do_quiesce,
    "unmap": do_unmap,
    "notify_peers": fencing.do_notify_peers,
    "fence": fencing.do_fence,
    "retarget": do_retarget,
    "apply": do_apply,
    "pretend": do_pretend,
    "free": do_free,
    "deny": do_deny,
    "reply": do_reply,
    "break_leases": do_break_leases,
    "arm": do_arm,
    "disarm": do_disarm,
    "signal": signals.do_signal,
    "destroy": contexts.do_destroy,
}


APPLYING: Ways = {
    ("truncate", "file"): _apply_truncate,
    ("punch", "file"): _apply_punch,
    ("unlink", "file"): _apply_unlink,
    ("collapse", "file"): _apply_collapse,
    ("insert", "file"): _apply_insert,
    ("zero", "file"): _apply_zero,
    ("migrate", "file"): _apply_migrate,
    ("reflink", "file"): _apply_reflink,
    ("cow-write", "file"): _apply_cow,
    ("poison", "file"): _apply_poison,
    ("poison", "device"): _apply_poison,
    ("move", "file"): buffers.apply_move,
    ("revoke", "file"): buffers.apply_revoke,
    ("umount", "device"): _apply_umount,
    ("unplug", "file"): _apply_unplug_file,
    ("unplug", "device"): _apply_unplug_device,
    ("writeback", "file"): _apply_writeback,
    ("memory-pressure", "file"): _apply_pressure,
    ("unplug", "host"): _apply_unplug_host,
    ("foreign", "host"): _apply_foreign,
    ("truncate", "host"): _apply_host_truncate,
    ("punch", "host"): _apply_host_punch,
}


# In place of those above, where a protocol pretends.
PRETENDING: Ways = {
    ("truncate", "file"): pretending.truncate,
    ("punch", "file"): pretending.punch,
    ("zero", "file"): pretending.punch,
}
