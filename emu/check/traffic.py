"""The engine's log, added up: which bytes moved where they must not.

A quantum carries what its thread saw in the block generations before its first and after its last byte, so these figures do not
rest on the core's opinion of who owned a block. They say what *moved*; emu/check/memory.py says what *stayed*.

"After" means: operations that started in or after the epoch in which the reclaim returned. A SUM record holds one queue pair's
quanta of one epoch, in order, and tells the start of the first one's operation only: when that one is older, its own quantum is left out
and the rest counted. So figures "after" are lower bounds by at most one quantum a queue pair and epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from emu.history.oplog import Flag, Kind, OpLog, OpRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

READ = 4  # EMU_WR_RDMA_READ
SUCCESS = 0

# Plain integers: an IntFlag's operators cost more than the sums do.
FOREIGN = int(Flag.SRC_FOREIGN | Flag.DST_FOREIGN)
FREED = int(Flag.SRC_FREED | Flag.DST_FREED)
ABSENT = int(Flag.SRC_ABSENT | Flag.DST_ABSENT)
SRC_FREED = int(Flag.SRC_FREED)
MISSED = int(Flag.DST_FREED | Flag.DST_FOREIGN | Flag.DST_ABSENT)


@dataclass
class Traffic:
    """Bytes moved, by what they met. `missing`: log records that a full ring has overwritten."""

    bytes: int = 0
    foreign: int = 0  # memory that had changed hands, read or written
    freed: int = 0  # freed blocks, by operations that started after the reclaim returned
    lost: int = 0  # written by operations that succeeded, after, to freed, foreign or absent memory
    stale: int = 0  # read by operations that succeeded, after, from freed blocks
    absent_after: int = 0  # memory that was not there, by operations that started when that was a fault
    absent_before: int = 0  # the same, by operations that started before
    missing: int = 0


def started_after(record: OpRecord, epoch: int | None) -> int:
    """How many of the record's bytes belong to operations that started in `epoch` or later."""
    if epoch is None:
        return 0
    if record.op_epoch >= epoch:
        return record.bytes
    if record.kind == Kind.SUM and record.epoch_first >= epoch and record.quanta > 1:
        return record.bytes - record.bytes // record.quanta
    return 0


def add_up(
    logs: Iterable[OpLog], returned: int | None, acknowledged: Mapping[int, int], absent: int | None = None
) -> Traffic:
    """returned: epoch in which the reclaim returned success, None if it did not. acknowledged: queue pair -> bytes of its requests that
    completed with success, as its owner was told. absent: the epoch from which on DMA to absent memory is a fault.
    """
    total = Traffic()
    for log in logs:
        total.missing += log.missing
        vain = in_vain(log, acknowledged)
        for record in log.records:
            _add(total, record, returned, absent, vain.get(record.seq, 0))
    return total


def in_vain(log: OpLog, acknowledged: Mapping[int, int]) -> dict[int, int]:
    """Record -> how many of its good bytes belong to operations that failed later, or were never answered.

    Operations of a queue pair run one behind the other, and the first that fails is its last: what moved beyond the bytes that were
    acknowledged are the last bytes that moved.
    """
    good: dict[int, list[OpRecord]] = {}
    for record in log.records:
        if record.status == SUCCESS and record.bytes and record.qp_num in acknowledged:
            good.setdefault(record.qp_num, []).append(record)
    found: dict[int, int] = {}
    for qp, records in good.items():
        beyond = sum(record.bytes for record in records) - acknowledged[qp]
        for record in reversed(records):
            if beyond <= 0:
                break
            found[record.seq] = min(beyond, record.bytes)
            beyond -= record.bytes
    return found


def _add(total: Traffic, record: OpRecord, returned: int | None, absent: int | None, in_vain: int) -> None:
    flags = record.flags
    after = started_after(record, returned)
    total.bytes += record.bytes
    if flags & FOREIGN:
        total.foreign += record.bytes
    if flags & FREED:
        total.freed += after
    if flags & ABSENT:
        fault = started_after(record, absent)
        total.absent_after += fault
        total.absent_before += record.bytes - fault
    if record.status == SUCCESS:
        _silent(total, record, flags, max(0, min(after, record.bytes - in_vain)))


def _silent(total: Traffic, record: OpRecord, flags: int, after: int) -> None:
    """What its requester was told had gone well."""
    if record.opcode == READ:
        if flags & SRC_FREED:
            total.stale += after
    elif flags & MISSED:
        total.lost += after
