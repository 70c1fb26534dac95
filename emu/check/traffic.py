"""The engine's log, added up: which bytes moved where they must not.

A quantum carries what its thread saw in the block generations before its first and after its last byte, so these figures do not
rest on the core's opinion of who owned a block. They say what *moved*; emu/check/memory.py says what *stayed*.

"After" means: operations that started in or after the epoch in which the reclaim returned. A SUM record holds one queue pair's
quanta of one epoch, in order, and tells the start of the first one's operation only: when that one is older, its own quantum is left out
and the rest counted. So figures "after" are lower bounds by at most one quantum a queue pair and epoch.

A confirmed quiesce is the other way round: what counts is the *last* byte. The line of phase `fenced` carries the epoch that began
behind the confirmation, and a quantum reads its last epoch before the engine lets go of it, so one that had ended in time shows an
older epoch, and whoever shows this one or a later was running when nobody should have been. (No SUM spans two epochs: its first is its last.)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from emu.history.oplog import Flag, Kind, OpLog, OpRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

READ = 4  # EMU_WR_RDMA_READ
SUCCESS = 0
NEVER = 1 << 64


@dataclass
class Traffic:
    """Bytes moved, by what they met. `missing`: log records that a full ring has overwritten."""

    bytes: int = 0
    foreign: int = 0  # memory that had changed hands, read or written
    freed: int = 0  # freed blocks, by operations that started after the reclaim returned
    lost: int = 0  # written by operations that succeeded, after, to freed, foreign or absent memory
    stale: int = 0  # read by operations that succeeded, after, from freed blocks
    absent_after: int = 0  # memory that was not there, after
    absent_before: int = 0  # the same, by operations that started before the reclaim was answered
    unfenced: int = 0  # bytes moved under a key after its quiesce was confirmed
    written_unfenced: int = 0  # of these, written
    unmapped: int = 0  # bytes moved under a key after its translation was said to be gone
    begun_fenced: int = 0  # bytes moved with success by operations that began after the quiesce was confirmed
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


@dataclass(frozen=True)
class Moments:
    """Epochs of the reclaim that divide before from after.

    returned: in which it returned success, None if it did not. fenced, unmapped: key -> epoch of the answer to its quiesce, its unmap.
    """

    returned: int | None = None
    fenced: dict[int, int] = field(default_factory=dict)
    unmapped: dict[int, int] = field(default_factory=dict)


def add_up(logs: Iterable[OpLog], moments: Moments, acknowledged: Mapping[int, int]) -> Traffic:
    """acknowledged: queue pair -> bytes of its requests that completed with success, as its owner was told."""
    total = Traffic()
    for log in logs:
        total.missing += log.missing
        vain = in_vain(log, acknowledged)
        for record in log.records:
            _add(total, record, moments.returned, vain.get(record.seq, 0))
            _late(total, record, moments)
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


def _add(total: Traffic, record: OpRecord, returned: int | None, in_vain: int) -> None:
    flags = Flag(record.flags)
    after = started_after(record, returned)
    total.bytes += record.bytes
    if flags & (Flag.SRC_FOREIGN | Flag.DST_FOREIGN):
        total.foreign += record.bytes
    if flags & (Flag.SRC_FREED | Flag.DST_FREED):
        total.freed += after
    if flags & (Flag.SRC_ABSENT | Flag.DST_ABSENT):
        total.absent_after += after
        total.absent_before += record.bytes - after
    if record.status == SUCCESS:
        _silent(total, record, flags, max(0, min(after, record.bytes - in_vain)))


def _late(total: Traffic, record: OpRecord, moments: Moments) -> None:
    """What moved under keys that had been taken back."""
    for key in {record.lkey, record.rkey} & moments.fenced.keys():
        fenced = moments.fenced[key]
        if record.epoch_last >= fenced:
            total.unfenced += record.bytes
            total.written_unfenced += record.bytes if record.opcode != READ else 0
            total.begun_fenced += (
                record.bytes if record.op_epoch >= fenced and record.status == SUCCESS else 0
            )
        if record.epoch_last >= moments.unmapped.get(key, NEVER):
            total.unmapped += record.bytes


def _silent(total: Traffic, record: OpRecord, flags: Flag, after: int) -> None:
    """What its requester was told had gone well."""
    if record.opcode == READ:
        if flags & Flag.SRC_FREED:
            total.stale += after
    elif flags & (Flag.DST_FREED | Flag.DST_FOREIGN | Flag.DST_ABSENT):
        total.lost += after
