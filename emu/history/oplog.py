"""The engine's operation log, read: csrc/include/emu/oplog.h describes it and what its flags mean.

A log is a ring a thread. Records come in the order in which the thread wrote them; `missing` of the oldest are gone when
the ring has wrapped, or the newest when the file was truncated under the engine, and whoever judges says "unknown" for that span. The file of a living engine can be read too: records
that were overwritten while they were read are left out and counted as missing.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from emu.history.journal import ring_pieces

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC = 0x474F4C4F554D45
VERSION = 1
HEADER = 4096

_HEAD = struct.Struct("<QIIQQIIQ")
_WRITTEN_AT = 24
_RECORD = struct.Struct("<IIQQQQQIIIIQQQQIIIIQQIIIIIIQ32x")
RECORD = _RECORD.size

assert RECORD == 192


class Kind(IntEnum):
    QUANTUM = 1
    SUM = 2


class Flag(IntFlag):
    SRC_FREED = 1 << 0
    SRC_FOREIGN = 1 << 1
    SRC_ABSENT = 1 << 2
    DST_FREED = 1 << 4
    DST_FOREIGN = 1 << 5
    DST_ABSENT = 1 << 6
    SIGBUS = 1 << 8
    EPOCH_MOVED = 1 << 9
    CUT = 1 << 10


class OpRecord(NamedTuple):
    """struct emu_oplog_record. Times are CLOCK_MONOTONIC nanoseconds, offsets and bytes as in the aperture."""

    kind: int
    flags: int
    seq: int
    epoch_first: int
    epoch_last: int
    time_first: int
    time_last: int
    qp_num: int
    peer_qp_num: int
    opcode: int
    quanta: int
    wr_id: int
    op: int
    op_epoch: int
    bytes: int
    lkey: int
    rkey: int
    src_aperture: int
    dst_aperture: int
    src_offset: int
    dst_offset: int
    gen_translated: int
    gen_first: int
    gen_last: int
    status: int
    op_done: int
    reserved0: int
    op_time: int


_as_record = partial(tuple.__new__, OpRecord)  # of a tuple that has as many fields


class OplogError(ValueError):
    """Not an operation log, or one of another version."""


@dataclass(frozen=True)
class OpLog:
    """One thread's log. records[i].seq is first + i, unless the engine was writing meanwhile."""

    thread: int
    quantum: int
    capacity: int
    written: int
    missing: int
    records: tuple[OpRecord, ...]


def read_oplog(path: str | Path) -> OpLog:
    """Read one thread's log. Raises OplogError, OSError."""
    with open(path, "rb") as file:  # noqa: PTH123 - a path or a string
        try:
            raw = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise OplogError(f"{path} is no operation log: it is empty") from None
    with raw:
        return _read(raw, str(path))


def _read(raw: mmap.mmap, path: str) -> OpLog:
    if len(raw) < HEADER:
        raise OplogError(f"{path} is no operation log: {len(raw)} bytes are less than its header")
    magic, version, size, capacity, written, thread, quantum, lost = _HEAD.unpack_from(raw)
    if magic != MAGIC:
        raise OplogError(f"{path} is no operation log: its magic is {magic:#x}")
    if (version, size) != (VERSION, RECORD) or len(raw) < HEADER + capacity * RECORD:
        raise OplogError(
            f"{path} is an operation log of version {version}, records of {size} bytes; known: {VERSION}, {RECORD}"
        )
    first = max(0, written - capacity)
    found = [
        record
        for start, end in ring_pieces(first, written, capacity)
        for record in map(
            _as_record, _RECORD.iter_unpack(raw[HEADER + start * RECORD : HEADER + end * RECORD])
        )
    ]
    # What the engine wrote while we read has overwritten the oldest ones.
    (now,) = struct.unpack_from("<Q", raw, _WRITTEN_AT)
    safe = max(first, now - capacity)
    kept = tuple(r for index, r in enumerate(found, first) if index >= safe and r.seq == index and r.kind)
    return OpLog(thread, quantum, capacity, written, written - len(kept) + lost, kept)


def write_oplog(path: str | Path, log: OpLog) -> None:
    """A whole log as the engine would have left it; equal logs give equal bytes. Raises OSError.

    `log.records` are all of it: a log that lost records cannot be written, ValueError.
    """
    if log.missing or len(log.records) != log.written or log.written > log.capacity:
        raise ValueError(f"{path}: the log lacks {log.missing} of its {log.written} records")
    head = _HEAD.pack(MAGIC, VERSION, RECORD, log.capacity, log.written, log.thread, log.quantum, 0)
    body = b"".join(_RECORD.pack(*record) for record in log.records)
    Path(path).write_bytes(head.ljust(HEADER, b"\0") + body.ljust(log.capacity * RECORD, b"\0"))


def read_oplogs(folder: str | Path) -> list[OpLog]:
    """Every thread's log of a run folder, by thread."""
    return sorted((read_oplog(path) for path in Path(folder).glob("oplog-*.bin")), key=lambda log: log.thread)


def by_time(logs: list[OpLog]) -> Iterator[OpRecord]:
    """All records in the order in which they ended; the engine's epochs order them against events.jsonl."""
    return iter(sorted((r for log in logs for r in log.records), key=lambda r: (r.time_last, r.time_first)))
