"""The machine: one event in, effects out. A router over the books; every rule lives in the module that its table names.

    step(event) -> effects       the books have changed in memory, or (an exception) not at all
    delta()                      the durable part of what changed since the last commit: (book, key, row or None)
    committed()                  it is on disk: blocks in limbo are free, undo is forgotten
    undo()                       it is not: everything since the last commit is gone

A request that cannot be done gives Fail with its errno, and no change. Any other exception is a defect of ours: the step
is rolled back and the exception goes on to the shell.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from emu.core import contexts, devices, events, queues, requests, sessions
from emu.core.asking import fail
from emu.core.books import Books
from emu.core.canonical import Names, canonical_rows
from emu.core.effects import CloseHandle, Fail
from emu.core.errors import CoreError, Refused
from emu.core.fields import BOOKS, DURABLE, DURABLE_COUNTERS
from emu.core.memory import (
    backings,
    buffers,
    exporters,
    faults,
    guards,
    importers,
    imports,
    registration,
    teardown,
)
from emu.core.reclaims import fencing, reclaim, rights, stopping, taking
from emu.core.rows import PSEUDO, Mount
from emu.core.storage import allocator, files, layout, leases, mounts, poison, writeback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from emu.core.decision import Deciding
    from emu.core.effects import Effect

Change = tuple[str, Any, tuple[Any, ...] | None]


class Core:
    """One node's state and its only door, `step`. `protocols`: by name, aliases too. `host_protocol`: of host files; `anon_protocol`, `dmabuf_protocol`:
    of clients' memory and of buffers, as of host files unless named.

    `broken`: names that are installed and cannot be used, with the reason: whoever asks for one is told.
    """

    def __init__(
        self,
        protocols: Mapping[str, Deciding],
        *,
        policy: str = "freed-first",
        host_protocol: str = "mr-revoke",
        anon_protocol: str = "",
        dmabuf_protocol: str = "",
        broken: Mapping[str, str] | None = None,
    ) -> None:
        if policy not in allocator.POLICIES:
            raise Refused(
                errno.EINVAL, f"policy {policy!r} is unknown: use {' or '.join(allocator.POLICIES)}"
            )
        self.books = Books(protocols, policy, broken)
        for mount, name in zip(PSEUDO, (host_protocol, anon_protocol, dmabuf_protocol), strict=True):
            known = devices.known_protocol(self.books, name or host_protocol)
            self.books.mounts.put(mount, Mount("", False, known))
        self.books.log.clear()

    def step(self, event: events.Event) -> tuple[Effect, ...]:
        b = self.books
        mark = b.mark()
        b.kept = 0
        b.ended = b.idle = False
        b.went.clear()
        b.wanted.clear()
        b.then.clear()
        try:
            EVENTS[type(event)](b, event)
            reclaim.pins_went(b)
            stopping.retarget_waits(b)
            reclaim.settle(b, requested)
            while b.then:
                go_on(b, *b.then.pop(0))
                reclaim.settle(b, requested)
            buffers.sweep(b)
            faults.settle(b)
            while b.wanted:
                reclaim.settle(b, requested)
                faults.settle(b)
            reclaim.release_idle(b)
            sessions.sweep(b)
            contexts.sweep(b)
            teardown.forget_hosts(b)
        except Refused as error:
            b.rollback(mark)
            if not isinstance(event, events.Requested):
                raise
            b.kept = 0
            b.emit(Fail(event.session, event.request, error.errno, f"{name_of_op(event.op)}: {error}"))
        except BaseException:
            b.rollback(mark)
            b.out.clear()
            raise
        if isinstance(event, events.Requested) and event.host is not None and b.kept != event.host.handle:
            b.emit(CloseHandle(event.host.handle))
        effects = tuple(b.out)
        b.out.clear()
        return effects

    # ---- the commit

    def undo(self) -> None:
        self.books.rollback()

    def delta(self) -> list[Change]:
        touched: dict[tuple[str, Any], None] = {}
        for book, key, _row in self.books.log:
            if book.name in DURABLE and (book.name != "counters" or key in DURABLE_COUNTERS):
                touched[book.name, key] = None
        return [(name, key, self._plain(name, key)) for name, key in touched]

    def _plain(self, name: str, key: Any) -> tuple[Any, ...] | None:
        row = getattr(self.books, name).get(key)
        if row is None:
            return None
        return (row,) if BOOKS[name][0] is int else tuple(row)

    def committed(self) -> None:
        self.books.log.clear()
        if len(self.books.limbo):
            allocator.drain_limbo(self.books)
            self.books.log.clear()

    def durable(self) -> list[Change]:
        """All durable rows, as deltas would have left them."""
        keys = [(name, key) for name in DURABLE for key in getattr(self.books, name)]
        keys = [(name, key) for name, key in keys if name != "counters" or key in DURABLE_COUNTERS]
        return [(name, key, self._plain(name, key)) for name, key in keys]

    def load(self, changes: Iterable[tuple[str, Any, Any]]) -> None:
        """Durable rows of an earlier life, before any event. Lists from a decoder are as good as tuples."""
        for name, key, row in changes:
            row_class = BOOKS[name][0] if name in DURABLE else None
            if row_class is None:
                raise Refused(
                    errno.EINVAL, f"book {name!r} is not durable: the journal is of another version"
                )
            book = getattr(self.books, name)
            if row is None:
                if key in book:
                    book.drop(key)
            elif row_class is int:
                book.put(key, int(row[0]))
            else:
                book.put(key, row_class(*_tuples(row)))
        for name, device in self.books.devices.items():
            self.books.devices.put(name, device._replace(aperture=0))
        self.books.log.clear()

    # ---- for checkers

    def canonical(self, names: Names | None = None) -> bytes:
        return repr(canonical_rows(self.books, names or Names())).encode()

    def snapshot(self) -> tuple[Any, ...]:
        """The committed state, for `restore`: one dict a book; the rows themselves are shared."""
        return tuple([book.rows.copy() for book in self.books.all])

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        for book, content in zip(self.books.all, snapshot, strict=True):
            if book.rows != content:
                book.refill(content.copy())
        self.books.log.clear()


def _tuples(row: Any) -> Any:
    return tuple(_tuples(item) for item in row) if isinstance(row, list | tuple) else row


def name_of_op(op: requests.Request) -> str:
    return next((name for name, kind in requests.REQUESTS.items() if kind is type(op)), type(op).__name__)


# ---- the tables


def requested(b: Books, event: events.Requested) -> None:
    row = b.sessions.get(event.session)
    if row is None or row.dying:
        return  # it hung up before its request was read
    contexts.check(b, event)
    REQUESTS[type(event.op)](b, event, event.op)


def go_on(b: Books, session: int, number: int, op: requests.Request) -> None:
    """A request whose reclaim has ended: from its beginning, in the same step, so that nothing came between."""
    mark = b.mark()
    try:
        requested(b, events.Requested(session, number, op))
    except Refused as error:
        b.rollback(mark)
        b.wanted.clear()
        fail(b, session, number, error.errno, f"{name_of_op(op)}: {error}")


def answered(b: Books, event: events.Answered) -> None:
    token = b.tokens.get(event.token)
    if token is not None:
        b.tokens.drop(event.token)
        ANSWERS[token.kind](b, event.token, token, event)


def quiesced(b: Books, event: events.Quiesced) -> None:
    cookie = b.cookies.get(event.cookie)
    if cookie is None:
        return  # its reclaim has ended without it
    b.cookies.drop(event.cookie)
    if cookie.reclaim:
        stopping.quiesced(b, cookie.reclaim, event.errno, cookie.keys)
    else:
        teardown.quiesced(b, cookie.teardown, event.errno)


def unmapped(b: Books, event: events.Unmapped) -> None:
    cookie = b.cookies.get(event.cookie)
    if cookie is None:
        return
    b.cookies.drop(event.cookie)
    if cookie.reclaim:
        stopping.unmapped(b, cookie.reclaim, event.errno, cookie.keys)
    else:
        teardown.unmapped(b, cookie.teardown, event.errno)


def timer_fired(b: Books, event: events.TimerFired) -> None:
    number, fault = b.patient.first(event.timer), b.failed.first(event.timer)
    if event.timer in b.bounds:
        importers.overdue(b, event.timer)
    elif fault is not None:
        faults.ask_again(b, fault)
    elif number is None:
        reclaim.timer_fired(b, event)
    else:
        teardown.ask_again(b, number)


EVENTS: Mapping[type[events.Event], Callable[[Books, Any], None]] = {
    events.DeviceAdded: devices.device_added,
    events.MountAdded: devices.mount_added,
    events.BuffersLost: buffers.lost,
    events.SessionOpened: sessions.opened,
    events.SessionLost: sessions.lost,
    events.OwnerEnded: sessions.owner_ended,
    events.Requested: requested,
    events.KeyInstalled: registration.key_installed,
    events.Quiesced: quiesced,
    events.Unmapped: unmapped,
    events.RightFenced: fencing.fenced,
    events.RightReturned: rights.returned,
    events.Answered: answered,
    events.TimerFired: timer_fired,
    events.WritebackDue: writeback.due,
    events.QpReported: queues.qp_reported,
    events.CqReported: queues.cq_reported,
    events.MemoryFaulted: registration.faulted,
    events.Missed: faults.missed,
    events.LeaseBroken: guards.lease_broken,
}

REQUESTS: Mapping[type[requests.Request], Callable[[Books, events.Requested, Any], None]] = {
    requests.QueryDevice: devices.query_device,
    requests.AllocPd: queues.alloc_pd,
    requests.DeallocPd: queues.dealloc_pd,
    requests.RegMr: backings.reg_mr,
    requests.DeregMr: teardown.dereg_mr,
    requests.CreateCq: queues.create_cq,
    requests.DestroyCq: queues.destroy_cq,
    requests.CreateQp: queues.create_qp,
    requests.ModifyQp: queues.modify_qp,
    requests.QueryQp: queues.query_qp,
    requests.DestroyQp: queues.destroy_qp,
    requests.FsCreate: files.fs_create,
    requests.FsLs: files.fs_ls,
    requests.FsStat: files.fs_stat,
    requests.FsRead: files.fs_read,
    requests.FsWrite: files.fs_write,
    requests.FsWriteback: writeback.fs_writeback,
    requests.FsPressure: writeback.fs_pressure,
    requests.FsTruncate: taking.fs_truncate,
    requests.FsPunch: taking.fs_punch,
    requests.FsUnlink: taking.fs_unlink,
    requests.FsUnplug: taking.fs_unplug,
    requests.FsPlug: devices.fs_plug,
    requests.FsFallocate: layout.fs_fallocate,
    requests.FsReflink: layout.fs_reflink,
    requests.FsMigrate: layout.fs_migrate,
    requests.FsPoison: poison.fs_poison,
    requests.FsUmount: mounts.fs_umount,
    requests.FsMount: mounts.fs_mount,
    requests.FsLease: leases.fs_lease,
    requests.FsMark: leases.fs_mark,
    requests.DmabufCreate: exporters.create,
    requests.DmabufMove: exporters.move,
    requests.DmabufRevoke: exporters.revoke,
    requests.DmabufRestore: exporters.restore,
    requests.DmabufDestroy: exporters.destroy,
    requests.DmabufStat: exporters.stat,
    requests.Cancel: taking.cancel,
    requests.Acknowledge: taking.acknowledge,
    requests.SetProtocol: devices.set_protocol,
    requests.QueryBooks: devices.query_books,
}

ANSWERS: Mapping[str, Callable[[Books, int, Any, events.Answered], None]] = {
    "make_cq": queues.cq_made,
    "make_qp": queues.qp_made,
    "set_qp": queues.qp_answered,
    "get_qp": queues.qp_answered,
    "end_qp": queues.qp_ended,
    "open_memory": registration.memory_opened,
    "map_buffer": imports.mapped,
    "host_applied": reclaim.host_applied,
    "paged_out": reclaim.paged_out,
    "remapped": faults.remapped,
    "retargeted": stopping.retargeted,
    "zeroed": reclaim.zeroed,
    "flushed": writeback.flushed,
    "plugged": devices.plugged,
    "read": files.io_answered,
    "write": files.io_answered,
}

__all__ = ["Change", "Core", "CoreError"]
