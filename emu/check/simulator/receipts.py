"""The journals of simulated clients: what each asked and was answered, what it was told, what its peer posted and polled.

A client is a name; a session of the core belongs to one, and a client that comes back opens another. One that is stopped sees nothing until it goes
on: its receipts wait, and carry the time at which it took them. One that died takes none any more.

    CALLED    code: the number of the request, value: its place among emu.core.requests.REQUESTS, from 1
    RETURNED  code: the number of the request, value: errno
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from emu.core.requests import REQUESTS
from emu.history.journal import JournalFile, Kind, Record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from emu.check.simulator.recorder import Translation
    from emu.core.requests import Request

NOTICES: Final[Mapping[str, int]] = {
    "MR_REVOKING": 1000,
    "MR_REVOKED": 1001,
    "MR_RESTORED": 1002,
    "MEMORY_FAULT": 1003,
    "UNGUARDED": 1010,
    "LEASE_BROKEN": 1020,
}
ORDINAL: Final = {kind: number for number, kind in enumerate(REQUESTS.values(), 1)}


class Receipts:
    """`stopped`: clients that take nothing now, and what waits for them."""

    def __init__(self) -> None:
        self._clients: dict[int, str] = {}  # session -> name
        self._written: dict[str, list[Record]] = {}
        self.stopped: dict[str, list[Record]] = {}
        self.told: dict[str, int] = {}  # client -> notices of a revoke that it has taken

    def opened(self, session: int, name: str) -> None:
        self._clients[session] = name
        self._written.setdefault(name, [])

    def lost(self, session: int) -> None:
        self._clients.pop(session, None)

    def broker_died(self) -> None:
        self._clients.clear()

    # ---- stop and go

    def stop(self, name: str) -> None:
        self.stopped.setdefault(name, [])

    def go_on(self, name: str, time: int) -> None:
        """It takes what has waited, at this time."""
        for record in self.stopped.pop(name, []):
            self._take(name, record._replace(time=time))

    def _take(self, name: str, record: Record) -> None:
        waiting = self.stopped.get(name)
        if waiting is not None:
            waiting.append(record)
            return
        self._written.setdefault(name, []).append(record)
        if record.kind == Kind.EVENT:
            self.told[name] = self.told.get(name, 0) + 1

    # ---- what happens to clients

    def called(self, session: int, request: int, op: Request, time: int) -> None:
        """It asked, so it is not stopped."""
        name = self._clients.get(session)
        if name is not None:
            record = Record(Kind.CALLED, code=request, value=ORDINAL.get(type(op), 0), time=time)
            self._written[name].append(record)

    def returned(self, session: int, request: int, errno: int, time: int) -> None:
        name = self._clients.get(session)
        if name is not None:
            self._take(name, Record(Kind.RETURNED, code=request, value=errno, time=time))

    def event(self, session: int, notice: str, fields: Mapping[str, Any], time: int) -> None:
        name = self._clients.get(session)
        if name is not None:
            self._take(
                name, Record(Kind.EVENT, code=NOTICES.get(notice, 0), key=fields.get("mr", 0), time=time)
            )

    def posted(self, peer: int, qp: int, wr: int, key: int, to: Translation, time: int) -> None:
        record = Record(
            Kind.POSTED, 0, 0, qp, wr, time, key, to.length, 0, to.offset, to.ino, to.layout
        )  # opcode 0: RDMA_WRITE; iova 0
        self._take(f"peer{peer}", record)

    def polled(self, peer: int, qp: int, wr: int, status: int, time: int) -> None:
        self._take(f"peer{peer}", Record(Kind.POLLED, 0, status, qp, wr, time))

    def journals(self) -> dict[str, JournalFile]:
        """All of them, by name in alphabetical order. What a stopped client never took is not in them."""
        return {
            name: JournalFile(name, len(found), 0, tuple(found))
            for name, found in sorted(self._written.items())
        }
