"""The state: small books, changed in place by put and drop alone, which keep what undo needs.

    put, drop --> undo log --+--> rollback(mark)   a step failed: the step is gone
                             +--> undo()           the commit failed: all steps since the last commit are gone
                             +--> committed()      the log is forgotten; blocks in limbo become free

`Books` is what the handlers share: the books, their indexes, and the scratch of the step that runs (effects, agenda). It
knows no rule. Iteration over a book is in order of its keys, so that what was undone leaves no trace, not even in order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from emu.core.fields import BOOKS
from emu.core.index import Grouped, Pins

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from emu.core import rows
    from emu.core.decision import Deciding
    from emu.core.effects import Effect
    from emu.core.requests import Request

K = TypeVar("K", int, str)
R = TypeVar("R")

Log = list[tuple["Book[Any, Any]", Any, Any]]


class Book(Generic[K, R]):
    """Rows by key. `self[key]` raises KeyError, `get` gives None."""

    __slots__ = ("_log", "indexes", "name", "rows")

    def __init__(self, name: str, log: Log) -> None:
        self.name = name
        self.rows: dict[K, R] = {}
        self.indexes: tuple[Any, ...] = ()
        self._log = log

    def put(self, key: K, row: R) -> None:
        self._log.append((self, key, self.rows.get(key)))
        self._set(key, row)

    def drop(self, key: K) -> None:
        self._log.append((self, key, self.rows[key]))
        self._set(key, None)

    def _set(self, key: K, row: R | None) -> None:
        old = self.rows.pop(key, None) if row is None else self.rows.get(key)
        if row is not None:
            self.rows[key] = row
        for index in self.indexes:
            index.changed(key, old, row)

    def restore(self, key: K, row: R | None) -> None:
        """For undo: as it was, not logged."""
        self._set(key, row)

    def refill(self, content: dict[K, R]) -> None:
        """All rows anew, indexes rebuilt, not logged."""
        self.rows = content
        for index in self.indexes:
            index.clear()
            for key in sorted(content):
                index.changed(key, None, content[key])

    def __getitem__(self, key: K) -> R:
        return self.rows[key]

    def get(self, key: K) -> R | None:
        return self.rows.get(key)

    def __contains__(self, key: object) -> bool:
        return key in self.rows

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[K]:
        return iter(sorted(self.rows))

    def items(self) -> list[tuple[K, R]]:
        return sorted(self.rows.items(), key=lambda item: item[0])


class Books:
    """All books of a node, their indexes, and the scratch of the running step."""

    def __init__(
        self, protocols: Mapping[str, Deciding], policy: str, broken: Mapping[str, str] | None = None
    ) -> None:
        self.protocols, self.policy, self.broken = protocols, policy, broken or {}
        self.log: Log = []
        self.sessions: Book[int, rows.Session] = Book("sessions", self.log)
        self.devices: Book[str, rows.Device] = Book("devices", self.log)
        self.mounts: Book[str, rows.Mount] = Book("mounts", self.log)
        self.files: Book[int, rows.File] = Book("files", self.log)
        self.free: Book[int, rows.Blocks] = Book("free", self.log)
        self.limbo: Book[int, rows.Blocks] = Book("limbo", self.log)
        self.quarantine: Book[int, rows.Blocks] = Book("quarantine", self.log)
        self.zeroing: Book[int, rows.Zeroing] = Book("zeroing", self.log)
        self.bad: Book[int, rows.Bad] = Book("bad", self.log)
        self.orphans: Book[str, rows.Orphan] = Book("orphans", self.log)
        self.caches: Book[str, rows.Cache] = Book("caches", self.log)
        self.pages: Book[int, rows.Pages] = Book("pages", self.log)
        self.hosts: Book[int, rows.HostRow] = Book("hosts", self.log)
        self.pds: Book[int, rows.Pd] = Book("pds", self.log)
        self.cqs: Book[int, rows.Cq] = Book("cqs", self.log)
        self.qps: Book[int, rows.Qp] = Book("qps", self.log)
        self.mrs: Book[int, rows.Mr] = Book("mrs", self.log)
        self.reclaims: Book[int, rows.Reclaim] = Book("reclaims", self.log)
        self.leases: Book[int, rows.Lease] = Book("leases", self.log)
        self.parked: Book[int, rows.Parked] = Book("parked", self.log)
        self.teardowns: Book[int, rows.Teardown] = Book("teardowns", self.log)
        self.nics: Book[str, rows.Nic] = Book("nics", self.log)
        self.faults: Book[int, rows.Fault] = Book("faults", self.log)
        self.cookies: Book[int, rows.Cookie] = Book("cookies", self.log)
        self.bounds: Book[int, rows.Bound] = Book("bounds", self.log)
        self.buffers: Book[int, rows.Buffer] = Book("buffers", self.log)
        self.tokens: Book[int, rows.Token] = Book("tokens", self.log)
        self.rights: Book[int, rows.Right] = Book("rights", self.log)
        self.fences: Book[int, rows.Fence] = Book("fences", self.log)
        self.timers: Book[int, int] = Book("timers", self.log)
        self.keys: Book[int, int] = Book("keys", self.log)
        self.counters: Book[str, int] = Book("counters", self.log)
        self.all: tuple[Book[Any, Any], ...] = tuple(getattr(self, name) for name in BOOKS)
        self._index()
        self.out: list[Effect] = []
        self.agenda: list[tuple[int, str]] = []  # (reclaim, event) to be told before the step ends
        self.went: list[tuple[int, rows.Mr]] = []  # keys whose pin went in this step, and what they were
        self.idle = False  # blocks in quarantine may have nobody any more who keeps them there
        self.ended = False  # a reclaim ended in this step: others may start
        self.wanted: list[rows.Reclaim] = []  # reclaims that the running request needs before it can go on
        self.then: list[tuple[int, int, Request]] = []  # (session, request, what): it goes on now
        self.kept = 0  # the descriptor that the running request put somewhere

    def _index(self) -> None:
        self.file_at: Grouped[int, rows.File] = Grouped(lambda f: (f.path,))
        self.files_on: Grouped[int, rows.File] = Grouped(lambda f: (f.device,))
        self.family: Grouped[int, rows.File] = Grouped(lambda f: (f.origin,) if f.origin else ())
        self.files.indexes = (self.file_at, self.files_on, self.family)
        self.pages_on: Grouped[int, rows.Pages] = Grouped(lambda held: (held.device,))
        self.pages.indexes = (self.pages_on,)
        self.free_on: Grouped[int, rows.Blocks] = Grouped(lambda run: (run.aperture,))
        self.free_from: Grouped[int, rows.Blocks] = Grouped(lambda run: ((run.aperture, run.start),))
        self.free.indexes = (self.free_on, self.free_from)
        self.host_of: Grouped[int, rows.HostRow] = Grouped(lambda h: ((h.device, h.inode),))
        self.hosts.indexes = (self.host_of,)
        self.buffers_of: Grouped[int, rows.Buffer] = Grouped(lambda buffer: (buffer.session,))
        self.buffers.indexes = (self.buffers_of,)
        self.pds_of: Grouped[int, rows.Pd] = Grouped(lambda pd: (pd.session,))
        self.pds.indexes = (self.pds_of,)
        self.cqs_of: Grouped[int, rows.Cq] = Grouped(lambda cq: (cq.session,))
        self.cq_numbered: Grouped[int, rows.Cq] = Grouped(lambda cq: (cq.number,) if cq.made else ())
        self.cqs.indexes = (self.cqs_of, self.cq_numbered)
        self.qps_of: Grouped[int, rows.Qp] = Grouped(lambda qp: (qp.session,))
        self.qps_in: Grouped[int, rows.Qp] = Grouped(lambda qp: (qp.pd,))
        self.qps_on: Grouped[int, rows.Qp] = Grouped(lambda qp: tuple(sorted({qp.send_cq, qp.recv_cq})))
        self.qp_numbered: Grouped[int, rows.Qp] = Grouped(lambda qp: (qp.qp_num,) if qp.made else ())
        self.qps_to: Grouped[int, rows.Qp] = Grouped(lambda qp: (qp.dest,) if qp.dest else ())
        self.qps.indexes = (self.qps_of, self.qps_in, self.qps_on, self.qp_numbered, self.qps_to)
        self.mrs_of: Grouped[int, rows.Mr] = Grouped(lambda mr: (mr.session,))
        self.mrs_in: Grouped[int, rows.Mr] = Grouped(lambda mr: (mr.pd,))
        self.mrs_on: Grouped[int, rows.Mr] = Grouped(lambda mr: (mr.space,))
        self.mrs_via: Grouped[int, rows.Mr] = Grouped(lambda mr: (mr.aperture,))
        self.mrs_loose: Grouped[int, rows.Mr] = Grouped(
            lambda mr: (mr.ino,) if mr.ino and mr.importer == "dynamic" else ()
        )
        self.pins = Pins()
        self.mrs_under: Grouped[int, rows.Mr] = Grouped(lambda mr: (mr.right,) if mr.right else ())
        self.mrs.indexes = (
            self.mrs_of,
            self.mrs_in,
            self.mrs_on,
            self.mrs_via,
            self.mrs_loose,
            self.pins,
            self.mrs_under,
        )
        self.tokens_of: Grouped[int, rows.Token] = Grouped(lambda token: (token.session,))
        self.tokens.indexes = (self.tokens_of,)
        self.rights_of: Grouped[int, rows.Right] = Grouped(lambda r: ((r.session, r.space, r.ino),))
        self.fencing_at: Grouped[int, rows.Right] = Grouped(
            lambda r: ((r.session, r.space),) if r.fencing else ()
        )
        self.rights.indexes = (self.rights_of, self.fencing_at)
        self.fences_of: Grouped[int, rows.Fence] = Grouped(lambda fence: (fence.reclaim,))
        self.fences.indexes = (self.fences_of,)
        self.asked: Grouped[int, rows.Reclaim] = Grouped(lambda r: ((r.session, r.request),))
        self.reclaims.indexes = (self.asked,)
        self.leases_on: Grouped[int, rows.Lease] = Grouped(lambda lease: (lease.ino,))
        self.leases_of: Grouped[int, rows.Lease] = Grouped(lambda lease: (lease.session,))
        self.leases.indexes = (self.leases_on, self.leases_of)
        self.parked_as: Grouped[int, rows.Parked] = Grouped(lambda p: ((p.session, p.request),))
        self.parked.indexes = (self.parked_as,)
        self.patient: Grouped[int, rows.Teardown] = Grouped(lambda t: (t.again,) if t.again else ())
        self.teardowns.indexes = (self.patient,)
        self.failed: Grouped[int, rows.Fault] = Grouped(lambda f: (f.again,) if f.again else ())
        self.faults_of: Grouped[int, rows.Fault] = Grouped(lambda f: (f.key,))
        self.fresh_faults: Grouped[int, rows.Fault] = Grouped(
            lambda f: () if f.token or f.again or f.waited else (True,)
        )
        self.waiting_faults: Grouped[int, rows.Fault] = Grouped(
            lambda f: (f.key,) if f.waited and not f.token and not f.again else ()
        )
        self.faults.indexes = (self.failed, self.faults_of, self.fresh_faults, self.waiting_faults)
        self.dying: Grouped[int, rows.Session] = Grouped(lambda s: (True,) if s.dying else ())
        self.sessions.indexes = (self.dying,)

    # ---- the running step

    def emit(self, effect: Effect) -> None:
        self.out.append(effect)

    def number(self, counter: str) -> int:
        """The next number of this counter, from 1."""
        value = (self.counters.get(counter) or 0) + 1
        self.counters.put(counter, value)
        return value

    # ---- undo

    def mark(self) -> tuple[int, int, int]:
        return len(self.log), len(self.out), len(self.agenda)

    def rollback(self, mark: tuple[int, int, int] = (0, 0, 0)) -> None:
        """Everything since the mark is gone: rows, effects, agenda."""
        log, out, agenda = mark
        while len(self.log) > log:
            book, key, row = self.log.pop()
            book.restore(key, row)
        del self.out[out:], self.agenda[agenda:]
