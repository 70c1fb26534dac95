"""What takes the keys of a range from their holders: quiesce, then unmap or retarget, each asked of the engine and answered later.

quiesce    MRs on demand, and those that are to be switched, are parked (Invalidate), then all others are stopped (Quiesce)
unmap      at once for whoever can be, for the rest when its importer has said so; what the engine refuses is asked for again
retarget   the same, of keys that live again behind it (memory/retargeting.py)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.core.decision import IMPORTERS
from emu.core.effects import Invalidate, Quiesce, Unmap
from emu.core.memory import faults, importers, retargeting, teardown
from emu.core.reclaims import ending, scope
from emu.core.rows import Cookie
from emu.core.storage import pages

if TYPE_CHECKING:
    from emu.core.books import Books
    from emu.core.decision import Action
    from emu.core.events import Answered
    from emu.core.rows import Mr, Reclaim, Token


def do_quiesce(b: Books, number: int, action: Action) -> bool:
    ending.forget_again(b, number)
    row = b.reclaims[number]
    if action.text not in {"", *IMPORTERS}:
        raise scope.broke(row, "known-answer", f"quiesce of {action.text!r} importers, a class that is none")
    keys = tuple(key for key in scope.pinned(b, row) if action.text in {"", b.mrs[key].importer})
    switches = b.protocols[row.protocol].switches
    for key in keys:
        retargeting.overtake(b, key)
        if b.mrs[key].state == "pinned":
            b.went.append((key, b.mrs[key]))
        b.mrs.put(key, _taken(b.mrs[key], switches))
    b.idle = True
    parked = tuple(key for key in keys if b.mrs[key].state == "parked")
    behind = tuple(key for key in teardown.mapped_of(b, keys) if key not in parked)
    known = _union(row.keys, keys)
    passed = tuple(key for key in known if key in b.mrs and action.text not in {"", b.mrs[key].importer})
    b.reclaims.put(number, row._replace(keys=known, fencing=True, fenced=False, behind=behind, passed=passed))
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


def quiesced(b: Books, number: int, refusal: int, keys: tuple[int, ...] = ()) -> None:
    """keys: strays that were to be parked; refused, they are strays still."""
    row = b.reclaims[number]._replace(cookie=0)
    b.reclaims.put(number, row)
    if row.switching:
        b.reclaims.put(number, row._replace(fenced=not refusal))
        if refusal:
            retargeting.astray(b, keys)
            ending.again(b, number)
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


def do_unmap(b: Books, number: int, _action: Action) -> bool:
    row = b.reclaims[number]
    if not row.fenced:
        raise scope.broke(row, "unmap-after-quiesce", "unmap before the quiesce was answered")
    ending.forget_again(b, number)
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


def unmapped(b: Books, number: int, refusal: int, keys: tuple[int, ...]) -> None:
    """These are. A refusal is no matter of the protocol's: the core asks again until the translations are gone, or the reclaim has ended."""
    row = b.reclaims[number]._replace(cookie=0)
    b.reclaims.put(number, row)
    if refusal:
        ending.again(b, number)
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


def do_retarget(b: Books, number: int, _action: Action) -> bool:
    row = b.reclaims[number]
    if not row.fenced:
        raise scope.broke(row, "unmap-after-quiesce", "retarget before the quiesce was answered")
    ending.forget_again(b, number)
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
        ending.again(b, number)


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


def _await(b: Books, number: int, keys: tuple[int, ...] = ()) -> int:
    cookie = b.number("cookie")
    row = b.reclaims[number]
    if row.cookie:
        b.cookies.drop(row.cookie)  # an answer that nobody waits for any more
    b.reclaims.put(number, row._replace(cookie=cookie))
    b.cookies.put(cookie, Cookie(reclaim=number, keys=keys))
    return cookie


def ask_again(b: Books, number: int) -> None:
    """The core's own timer has fired: what the engine refused was an unmap, or a retarget."""
    row = b.reclaims[number]._replace(again=0)
    b.reclaims.put(number, row)
    if row.switching:
        _retarget(b, number)
    else:
        _ask_to_unmap(b, number)
