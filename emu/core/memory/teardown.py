"""The way out of memory regions: dereg_mr, the end of a session, a registration that failed too late.

    Quiesce -> Unmap -> RemoveKey -> Reply      one grace period for all MRs of a teardown

It is a revoke of its own, beside any reclaim that has the same keys: quiescing twice does no harm, what the other has unmapped is
not unmapped again, and only a teardown removes a key. What the hardware refuses is told to whoever asked, and the MR stays; with
nobody there to tell it is tried again from the fence, after RETRY seconds, until it is done.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from emu.core.asking import alive, answer, fail, owned, refuse
from emu.core.effects import Arm, Disarm, DropAperture, Quiesce, RemoveKey, Unmap
from emu.core.errors import errno_name
from emu.core.memory import keys
from emu.core.reclaims import rights
from emu.core.rows import HOST, SHARED, Cookie, Mr, Teardown
from emu.core.storage import pages

if TYPE_CHECKING:
    from emu.core.books import Books
    from emu.core.events import Requested
    from emu.core.requests import DeregMr

RETRY: Final = 0.1  # seconds until what the hardware refused is asked for again


def settled(row: Mr) -> bool:
    """Registered, and not on its way out."""
    return row.state in {"live", "unmapped", "parked", "absent"} and row.request == 0 and not row.ending


def dereg_mr(b: Books, event: Requested, op: DeregMr) -> None:
    row: Mr = owned(b.mrs, event, op.handle, "MR")
    if row.ending:
        refuse(errno.EBUSY, f"MR {op.handle} is being deregistered already: wait for that answer")
    if not settled(row):
        refuse(errno.EINVAL, f"MR {op.handle} is still being registered: wait for that answer")
    tear_down(b, (op.handle,), event.session, event.request)


def tear_down(b: Books, keys: tuple[int, ...], session: int, request: int = 0) -> None:
    """Quiesce, unmap and remove these settled MRs, then answer the request."""
    if not keys:
        return
    number = b.number("teardown")
    for key in keys:
        b.mrs.put(key, b.mrs[key]._replace(ending=True))
    b.teardowns.put(number, Teardown(session, request, keys))
    _ask(b, number)


def take_out(b: Books, keys: tuple[int, ...], session: int) -> None:
    """Quiesce and unmap the MRs of a context that was destroyed, whatever the hardware says; their rows stay."""
    if not mapped_of(b, keys):
        return
    number = b.number("teardown")
    b.teardowns.put(number, Teardown(session, 0, keys, keep=True))
    _ask(b, number)


def _ask(b: Books, number: int) -> None:
    mapped = mapped_of(b, b.teardowns[number].keys)
    if mapped:
        b.emit(Quiesce(_await(b, number), mapped))
    else:
        _finish(b, number)


def mapped_of(b: Books, keys: tuple[int, ...]) -> tuple[int, ...]:
    """Those of the keys that the engine has, or is getting, and has not forgotten."""
    return tuple(key for key in keys if key in b.mrs and b.mrs[key].state in {"installing", "live", "parked"})


def _await(b: Books, teardown: int) -> int:
    cookie = b.number("cookie")
    b.teardowns.put(teardown, b.teardowns[teardown]._replace(cookie=cookie))
    b.cookies.put(cookie, Cookie(teardown=teardown))
    return cookie


def quiesced(b: Books, number: int, refusal: int) -> None:
    row = b.teardowns[number]
    mapped = mapped_of(b, row.keys)
    if not refusal:
        if mapped:
            b.emit(Unmap(_await(b, number), mapped))
        else:
            _finish(b, number)
    elif row.request and alive(b, row.session):
        _give_up(b, number, f"the hardware refused to stop ({errno_name(refusal)})", refusal)
    else:  # nobody to tell: a fence that failed keeps the right
        _again(b, number)


def unmapped(b: Books, number: int, refusal: int) -> None:
    row = b.teardowns[number]
    mapped = mapped_of(b, row.keys)
    if not refusal:
        unpin(b, mapped)
        _finish(b, number)
    elif row.request and alive(b, row.session):
        _give_up(b, number, f"its translation could not be taken out ({errno_name(refusal)})", refusal)
    else:
        _again(b, number)


def _again(b: Books, number: int) -> None:
    timer = b.number("timer")
    b.teardowns.put(number, b.teardowns[number]._replace(again=timer))
    b.emit(Arm(timer, RETRY))


def ask_again(b: Books, number: int) -> None:
    """Its timer has fired."""
    b.teardowns.put(number, b.teardowns[number]._replace(again=0))
    _ask(b, number)


def _give_up(b: Books, number: int, why: str, refusal: int) -> None:
    row = b.teardowns[number]
    for key in row.keys:
        b.mrs.put(key, b.mrs[key]._replace(ending=False))
    b.teardowns.drop(number)
    fail(b, row.session, row.request, refusal, f"dereg_mr: {why}: the MR is still there, try again")


def unpin(b: Books, keys: tuple[int, ...]) -> None:
    """Their translations are gone."""
    for key in keys:
        row = b.mrs[key]
        pages.pinned_to_write(b, row)  # written back meanwhile or not: the NIC may have gone on
        b.mrs.put(key, row._replace(state="unmapped"))
        b.went.append((key, row))


def _finish(b: Books, number: int) -> None:
    row = b.teardowns[number]
    b.teardowns.drop(number)
    for key in () if row.keep else row.keys:
        b.emit(RemoveKey(key))
        forget(b, key)
    answer(b, row.session, row.request)


def forget(b: Books, key: int, opened: bool = True) -> None:
    """The row goes, the key rests, memory that nobody has any more is given back."""
    row = b.mrs[key]
    b.mrs.drop(key)
    for fault in b.faults_of.of(key):
        if b.faults[fault].again:
            b.emit(Disarm(b.faults[fault].again))
        b.faults.drop(fault)
    keys.return_key(b, key)
    if row.state not in {"unmapped", "absent"}:
        b.went.append((key, row))
    if row.right:
        rights.left(b, row.right)
    if row.backing in SHARED or b.mrs_via.has(row.aperture):
        return
    if row.backing == HOST:
        host = b.hosts[row.space]
        if host.aperture == row.aperture:
            b.hosts.put(row.space, host._replace(aperture=0, bytes=0, opened=False))
    if opened:
        b.emit(DropAperture(row.aperture))


def forget_hosts(b: Books) -> None:
    """Host files that neither an MR nor a reclaim refers to. Called at the end of every step."""
    if not len(b.hosts):
        return
    busy = tuple(row.host for _number, row in b.reclaims.items())
    for host in b.hosts:
        if not b.mrs_on.has(host) and host not in busy:
            b.hosts.drop(host)
