"""Layout leases and marks: what somebody takes on a file before registering it, where the mount's protocol asks for that.

    fs_lease   a lease belongs to (the process that opened the context, file): it ends with that process, and does not follow a descriptor
               that was handed on. Exclusive, or shared with others that are shared; who comes in between gets EAGAIN. It is given back
               by `none`, unless MRs of that context pin the file (EBUSY): else a holder could turn a refusal into a wait for ever.
    fs_mark    the file's layout is to stay as it is: durable, it outlives whoever set it. Only a file without holes can be marked. Anybody may
               clear it (a node serves one user), but not while MRs pin the file (EBUSY): they rest on it.

Both are a protocol's to honour: on a mount whose protocol does not ask for them (contract: needs) they mean nothing.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from emu.core import asking
from emu.core.asking import alive, refuse, reply
from emu.core.effects import Notify
from emu.core.errors import shown
from emu.core.memory.pins import pins_over
from emu.core.queues import need_door
from emu.core.rows import Lease
from emu.core.storage import extents, pages, sharing

if TYPE_CHECKING:
    from emu.core.books import Books
    from emu.core.events import Requested
    from emu.core.requests import FsLease, FsMark
    from emu.core.rows import File, Reclaim

LEASES: Final = ("exclusive", "shared", "none")
BROKEN: Final = "LEASE_BROKEN"


# ---- leases


def fs_lease(b: Books, event: Requested, op: FsLease) -> None:
    need_door(b, event, "leases")
    if op.kind not in LEASES:
        refuse(errno.EINVAL, f"kind {shown(op.kind)} is no lease: use {', '.join(LEASES)}")
    ino, row = asking.file_at(b, op.path)
    mine = of(b, event.session, ino)
    if op.kind == "none":
        _give_back(b, event.session, ino, row, mine)
    else:
        _take(b, event.session, ino, op, mine)
    reply(b, event, {"kind": op.kind})


def _take(b: Books, session: int, ino: int, op: FsLease, mine: int | None) -> None:
    if b.sessions[session].orphaned:
        refuse(
            errno.ESRCH,
            "a lease belongs to the process that opened the context, which has ended: open one of your own",
        )
    exclusive = op.kind == "exclusive"
    for number in b.leases_on.of(ino):
        other = b.leases[number]
        if number != mine and (exclusive or other.exclusive):
            kind = "an exclusive" if other.exclusive else "a shared"
            refuse(
                errno.EAGAIN, f"somebody else has {kind} lease on {op.path}: try again when it is given back"
            )
    b.leases.put(b.number("lease") if mine is None else mine, Lease(session, ino, exclusive))


def _give_back(b: Books, session: int, ino: int, row: File, mine: int | None) -> None:
    if mine is None:
        return
    if _pinned_by(b, session, ino):
        refuse(
            errno.EBUSY,
            f"MRs of this context pin {row.path}, which they need the lease for: deregister first",
        )
    b.leases.drop(mine)


def of(b: Books, session: int, ino: int) -> int | None:
    """The number of this session's lease on the file."""
    return next((number for number in b.leases_on.of(ino) if b.leases[number].session == session), None)


def owner_gone(b: Books, session: int) -> None:
    """Its opener has ended, or the session has: its leases go, whatever it pins."""
    for number in b.leases_of.of(session):
        b.leases.drop(number)


def file_gone(b: Books, ino: int) -> None:
    for number in b.leases_on.of(ino):
        b.leases.drop(number)


def of_others(b: Books, row: Reclaim) -> tuple[int, ...]:
    """Leases on what this reclaim takes from, of anybody but who asked."""
    return tuple(
        number
        for ino in _files(b, row)
        for number in b.leases_on.of(ino)
        if b.leases[number].session != row.session
    )


def break_all(b: Books, row: Reclaim) -> None:
    """Leases of others are gone, but for those under which something is pinned elsewhere in the file; who asked for events hears of each."""
    for number in of_others(b, row):
        lease = b.leases[number]
        if _pinned_by(b, lease.session, lease.ino):
            continue
        b.leases.drop(number)
        if alive(b, lease.session) and b.sessions[lease.session].wants:
            fields = {"path": b.files[lease.ino].path, "ino": lease.ino, "event": row.kind}
            b.emit(Notify(lease.session, BROKEN, fields))


def _pinned_by(b: Books, session: int, ino: int) -> bool:
    return any(b.mrs[key].session == session for key in _pins(b, ino, b.files[ino]))


def _pins(b: Books, ino: int, row: File) -> tuple[int, ...]:
    space, layout = pages.ground(b, ino, row)
    return pins_over(b, space, extents.spans(layout))


def _files(b: Books, row: Reclaim) -> tuple[int, ...]:
    if row.device:
        return b.files_on.of(row.device)
    return (row.ino,) if row.ino in b.files else ()


# ---- marks


def fs_mark(b: Books, event: Requested, op: FsMark) -> None:
    ino, row = asking.file_at(b, op.path)
    if op.immutable != row.marked:
        _check_quiet(b, ino, row)
        if op.immutable:
            check_whole(b, ino, row)
        elif _pins(b, ino, row):
            refuse(errno.EBUSY, f"MRs pin {row.path}, and rest on its mark: ask their holders to deregister")
        b.files.put(ino, row._replace(marked=op.immutable))
    reply(b, event, {"immutable": op.immutable})


def _check_quiet(b: Books, ino: int, row: File) -> None:
    for number, taking in b.reclaims.items():
        if ino in _files(b, taking):
            refuse(
                errno.EBUSY,
                f"{row.path} is being taken back by {taking.kind} (reclaim {number}): try again when that has ended",
            )


def check_whole(b: Books, ino: int, row: File) -> None:
    """A mark is worth something on a file with neither holes nor blocks that another file has too. It may have been set under another protocol."""
    holes = tuple(extents.holes(row.extents, 0, extents.blocks_up(row.size)))
    if holes:
        refuse(errno.EINVAL, f"{row.path} has a hole at block {holes[0][0]}: write there first, then mark it")
    if sharing.shared(b, ino, 0, row.size):
        refuse(errno.EINVAL, f"{row.path} shares blocks with a clone: write them anew first, then mark it")


def marked(b: Books, row: Reclaim) -> bool:
    """Is a file that it takes from marked?"""
    return any(b.files[ino].marked for ino in _files(b, row))


def check_may_grow(b: Books, row: File) -> None:
    """A marked file keeps its layout; EPERM where the mount's protocol honours that."""
    if not row.marked:
        return
    _path, mount = asking.mount_of(b, row.path)
    if b.protocols[mount.protocol].needs == "mark":
        refuse(errno.EPERM, f"{row.path} is marked immutable: it cannot grow; clear the mark first (fs_mark)")
