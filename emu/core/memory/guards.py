"""Guarded host files: a foreign program that truncates one, or opens it for writing, becomes a reclaim of kind `foreign`.

    LeaseBroken(taken) --> reclaim over the whole file, nobody's request --> apply: YieldLease --> the foreign program goes on

The kernel's lease is a deadline, not a veto: whatever the protocol decides, the foreign program goes on when /proc/sys/fs/lease-break-time has
passed. A protocol that denies has thus only won that time; what it reaches then is met as on an unguarded file (SIGBUS in a copy).
Somebody who opens the file for reading ends the guard and takes nothing: no reclaim, the file is unguarded from there on, and holders
that asked are told. So is a file whose lease was broken: one break, one lease.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emu.core.asking import alive
from emu.core.effects import Notify, YieldLease
from emu.core.reclaims import reclaim
from emu.core.rows import HOST, Reclaim

if TYPE_CHECKING:
    from emu.core.books import Books
    from emu.core.events import LeaseBroken
    from emu.core.rows import HostRow, Mr

READER = "another program has opened it for reading: the kernel ended the lease"
BROKEN = "another program has truncated it, or opened it for writing"
OPEN_ALREADY = "it was registered without a guard before: deregister it everywhere first"


def noted(row: HostRow, answer: dict[str, Any]) -> HostRow:
    """What the shell said of a guard, if one was asked for."""
    return row._replace(guarded=bool(answer.get("guarded")), unguarded=str(answer.get("why", "")))


def told(b: Books, row: Mr) -> dict[str, object]:
    """For the answer to a registration of a host file."""
    host = b.hosts.get(row.space) if row.backing == HOST else None
    if host is None:
        return {}
    return {"guarded": host.guarded, "unguarded": "" if host.guarded else host.unguarded or OPEN_ALREADY}


def lease_broken(b: Books, event: LeaseBroken) -> None:
    found = next(
        (number for number, row in b.hosts.items() if row.aperture == event.aperture and row.guarded), None
    )
    if found is None:
        b.emit(YieldLease(event.aperture))  # nobody has it registered any more
        return
    row = b.hosts[found]
    b.hosts.put(found, row._replace(guarded=False, unguarded=BROKEN if event.taken else READER))
    if event.taken:
        reclaim.begin(b, Reclaim("foreign", 0, 0, b.mounts[HOST].protocol, host=found))
    else:
        b.emit(YieldLease(event.aperture))
    _tell(b, event.aperture, taken=event.taken)


def _tell(b: Books, aperture: int, *, taken: bool) -> None:
    for key in b.mrs_via.of(aperture):
        mr = b.mrs[key]
        if alive(b, mr.session) and b.sessions[mr.session].wants and not mr.request:
            b.emit(Notify(mr.session, "UNGUARDED", {"mr": key, "rkey": key, "taken": taken}))
