r"""A client's journal: what it posted, polled, was told and called, in an mmap'd file that survives its kill -9.

    file = header (4096 bytes), then `capacity` records of 64 bytes, used as a ring

    header: 0 magic "EMUJRNL\0"   8 version u32   12 record bytes u32   16 capacity u64   24 written u64   32 name, 64 bytes, NUL padded
    record: 0 kind u8   1 opcode u8   2 code u16   4 qp_num u32   8 wr_id u64   16 time u64 (CLOCK_MONOTONIC, ns)
            24 key u32  28 length u32 32 address u64  40 offset u64  48 ino u32  52 layout u32  56 value u64

All little endian. The one writer is the client; `written` is raised after the record, so a reader never takes half a record for
a whole one, except where the ring has wrapped under it: written - capacity of the oldest are gone. A posted work request is
noted *before* it is posted and a completion after it was polled: what the journal lacks, the client did not see.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

MAGIC = b"EMUJRNL\0"
VERSION = 1
HEADER = 4096
NAME_BYTES = 64

_HEAD = struct.Struct(f"<8sIIQQ{NAME_BYTES}s")
_WRITTEN = struct.Struct("<Q")
_WRITTEN_AT = 24
_RECORD = struct.Struct("<BBHIQQIIQQIIQ")
RECORD = _RECORD.size


class Kind(IntEnum):
    POSTED = 1  # a work request is about to be posted
    POLLED = 2  # a completion was polled; code: its status
    EVENT = 3  # an asynchronous event arrived; code: IBV_EVENT_*, or emu's own from 1000
    CALLED = 4  # a control call begins; code: the caller's number for it
    RETURNED = 5  # it is over; code: as in CALLED, value: errno, 0 for success
    MARK = 6  # whatever the client wants to be found again; code and value are its own


class Record(NamedTuple):
    """Fields that a kind does not use are 0. address: in the MR's iova space; offset, ino, layout: as in the stamps written."""

    kind: int
    opcode: int = 0
    code: int = 0
    qp_num: int = 0
    wr_id: int = 0
    time: int = 0
    key: int = 0
    length: int = 0
    address: int = 0
    offset: int = 0
    ino: int = 0
    layout: int = 0
    value: int = 0


assert RECORD == 64
_as_record = partial(tuple.__new__, Record)  # of a tuple that has as many fields


class JournalError(ValueError):
    """Not a journal, or one of another version."""


class Journal:
    """The writing side: one thread of one process. About a microsecond a record."""

    def __init__(self, path: str | Path, name: str, capacity: int = 1 << 18) -> None:
        """Make the file (sparse). `name`: the client's, up to 64 bytes of UTF-8. Raises FileExistsError, OSError."""
        self.capacity = capacity
        self.written = 0
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, HEADER + capacity * RECORD)
            self._map = mmap.mmap(fd, HEADER + capacity * RECORD)
        finally:
            os.close(fd)
        _HEAD.pack_into(self._map, 0, MAGIC, VERSION, RECORD, capacity, 0, name.encode()[:NAME_BYTES])

    def append(self, record: Record) -> None:
        """Note one record; its `time` is set here unless given."""
        if not record.time:
            record = record._replace(time=time.monotonic_ns())
        _RECORD.pack_into(self._map, HEADER + self.written % self.capacity * RECORD, *record)
        self.written += 1
        _WRITTEN.pack_into(self._map, _WRITTEN_AT, self.written)

    def posted(
        self, qp_num: int, wr_id: int, opcode: int, *, key: int = 0, length: int = 0, address: int = 0, offset: int = 0,
        ino: int = 0, layout: int = 0,
    ) -> None:  # fmt: skip
        self.append(
            Record(Kind.POSTED, opcode, 0, qp_num, wr_id, 0, key, length, address, offset, ino, layout)
        )

    def polled(self, qp_num: int, wr_id: int, status: int, *, opcode: int = 0, length: int = 0) -> None:
        self.append(Record(Kind.POLLED, opcode, status, qp_num, wr_id, length=length))

    def event(self, code: int, *, key: int = 0, value: int = 0) -> None:
        self.append(Record(Kind.EVENT, code=code, key=key, value=value))

    def called(self, code: int, value: int = 0) -> None:
        self.append(Record(Kind.CALLED, code=code, value=value))

    def returned(self, code: int, errno: int = 0) -> None:
        self.append(Record(Kind.RETURNED, code=code, value=errno))

    def mark(self, code: int, value: int = 0) -> None:
        self.append(Record(Kind.MARK, code=code, value=value))

    def close(self) -> None:
        self._map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class JournalFile:
    """A journal as found. `missing`: how many of the oldest records the ring has overwritten."""

    name: str
    written: int
    missing: int
    records: tuple[Record, ...]

    def of(self, kind: Kind) -> Iterator[Record]:
        return iter(self._by_kind.get(kind, ()))

    @cached_property
    def lengths(self) -> dict[tuple[int, int], int]:
        """(queue pair, request) -> its bytes, of what was posted."""
        return {(r.qp_num, r.wr_id): r.length for r in self.of(Kind.POSTED)}

    @cached_property
    def good(self) -> frozenset[tuple[int, int]]:
        """(queue pair, request) of completions with success."""
        return frozenset((r.qp_num, r.wr_id) for r in self.of(Kind.POLLED) if not r.code)

    @cached_property
    def _by_kind(self) -> dict[int, list[Record]]:
        found: dict[int, list[Record]] = {}
        for record in self.records:
            found.setdefault(record.kind, []).append(record)
        return found


def write_journal(path: str | Path, journal: JournalFile) -> None:
    """A whole journal at once, with no room for more; equal journals give equal bytes. Raises OSError."""
    name = journal.name.encode()[:NAME_BYTES]
    head = _HEAD.pack(MAGIC, VERSION, RECORD, len(journal.records), journal.written, name)
    body = b"".join(_RECORD.pack(*record) for record in journal.records)
    Path(path).write_bytes(head.ljust(HEADER, b"\0") + body)


def read_journal(path: str | Path) -> JournalFile:
    """Read a journal, of a living client too. Raises JournalError, OSError."""
    with open(path, "rb") as file:  # noqa: PTH123 - a path or a string
        return _read(file.fileno(), path)


def _read(fd: int, path: str | Path) -> JournalFile:
    raw = os.pread(fd, HEADER, 0)
    if len(raw) < HEADER or not raw.startswith(MAGIC):
        raise JournalError(f"{path} is no client journal: it does not begin with {MAGIC!r}")
    _, version, size, capacity, written, name = _HEAD.unpack_from(raw)
    if (version, size) != (VERSION, RECORD) or os.fstat(fd).st_size < HEADER + capacity * RECORD:
        raise JournalError(
            f"{path} is a client journal of version {version}, records of {size} bytes; known: {VERSION}, {RECORD}"
        )
    first = max(0, written - capacity)
    found = [
        record
        for start, end in ring_pieces(first, written, capacity)
        for record in map(
            _as_record,
            _RECORD.iter_unpack(os.pread(fd, (end - start) * RECORD, HEADER + start * RECORD)),
        )
    ]
    return JournalFile(name.rstrip(b"\0").decode(errors="replace"), written, first, tuple(found))


def ring_pieces(first: int, written: int, capacity: int) -> list[tuple[int, int]]:
    """Places of entries first..written of a ring, as [start, end) without a break, in order."""
    if first >= written:
        return []
    start, end = first % capacity, (written - 1) % capacity + 1
    return [(start, end)] if start < end else [(start, capacity), (0, end)]
