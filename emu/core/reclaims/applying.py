"""What was asked for is carried out, by kind and by what it is asked of: a file, a device, a host file. And what pretending does in place of it.

Each is a function (books, reclaim, row) -> bool; True: it is yet to be answered (Token kinds host_applied, flushed, zeroed, paged_out), and the rest of the
decision waits for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.core.effects import HostPunch, HostTruncate, Offline, YieldLease
from emu.core.errors import Refused
from emu.core.memory import buffers
from emu.core.memory.admission import LOCAL_WRITE
from emu.core.reclaims import ending, scope
from emu.core.rows import BLOCK, FOREVER, Reclaim, Token
from emu.core.storage import files, moving, pages, pretending, sharing, swap

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from emu.core.books import Books
    from emu.core.decision import Action

    Ways = Mapping[tuple[str, str], Callable[[Books, int, Reclaim], bool]]


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
        ending.end(b, number)
        return True
    if row.host:
        _check_not_pinned(b, row)
    mark = b.mark()
    b.reclaims.put(number, row._replace(applied=True))
    try:
        waits = ways[row.kind, "host" if row.host else "file" if row.ino else "device"](b, number, row)
    except Refused as error:  # no space for it: nothing has changed
        b.rollback(mark)
        if not row.returned:
            scope.deny(b, number, error.errno, str(error))
        ending.end(b, number)
        return True
    if waits:
        return True
    scope.phase(b, number, "applied")
    return False


def _check_not_pinned(b: Books, row: Reclaim) -> None:
    """A host file's blocks go with the change, and are the host's: there is no quarantine for them, whatever the disposal. Who may only read
    there writes into nobody's memory: the host's kernel keeps the pages that it has.
    """
    pinning = sum(bool(b.mrs[key].access & LOCAL_WRITE) for key in scope.pinned(b, row))
    if pinning:
        raise scope.broke(
            row, "free-after-unmap", f"{pinning} MRs still pin what the host frees when it is applied"
        )


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
    ("memory-pressure", "device"): swap.apply,
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
