"""The engine's log held against the events: bytes moved under keys that it had, where they reach, over blocks at generations that they had.

Nothing is judged here: an operation over freed memory is allowed if the block was freed, and says so with its flags.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from emu.check.validate.refusal import Refusal
from emu.core.rows import BLOCK
from emu.history.oplog import Flag, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.check.history import History
    from emu.history.oplog import OpLog, OpRecord

Json = dict[str, Any]

WRITES, READS = (0, 1), (4,)
FRESH = 1  # generation of a block that was never allocated
NEVER = 1 << 62


@dataclass
class Life:
    """A key in the engine: from the epoch of its InstallKey to that of its RemoveKey."""

    born: int
    aperture: int
    runs: list[list[int]]
    gone: int = NEVER
    again: bool = False  # by a Remap: what had begun before it goes on under it


@dataclass
class Blocks:
    """The generations of a device: changes of each block as (epoch, generation). `known`: the device was new when the history began."""

    known: bool
    number: int = -1  # in the engine's log
    size: int = NEVER  # blocks; behind them lies the scratch page, whose generation is 0 for ever
    changes: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    _seen: dict[tuple[Any, ...], set[int]] = field(default_factory=dict)

    def bump(self, epoch: int, runs: list[list[int]], parity: int) -> None:
        for offset, length in runs:
            for block in range(offset // BLOCK, (offset + length) // BLOCK):
                past = self.changes.setdefault(block, [(-1, FRESH)])
                now = past[-1][1]
                past.append((epoch, now + (2 if now % 2 == parity else 1)))

    def between(self, block: int, first: int, last: int) -> set[int]:
        """Generations that the block had at some time in these epochs. A change of an epoch comes at some moment of it."""
        if block >= self.size:
            return {0}
        past = self.changes.get(block, [(-1, FRESH)])
        epochs = [epoch for epoch, _ in past]
        low, high = bisect_left(epochs, first) - 1, bisect_right(epochs, last)
        return {generation for _, generation in past[max(low, 0) : high]}

    def among(self, runs: tuple[tuple[int, int], ...], first: int, last: int) -> set[int]:
        """The same of all blocks of these runs."""
        place = runs, first, last
        if place not in self._seen:
            blocks = {at // BLOCK for start, size in runs for at in range(start, start + size, BLOCK)}
            self._seen[place] = {g for block in blocks for g in self.between(block, first, last)}
        return self._seen[place]


@dataclass
class Engine:
    keys: dict[int, list[Life]] = field(default_factory=dict)
    devices: dict[int, Blocks] = field(default_factory=dict)
    numbers: dict[int, int] = field(default_factory=dict)
    remaps: dict[int, int] = field(default_factory=dict)  # token -> key
    absent: set[int] = field(default_factory=set)  # keys that were to be unmapped, and were not mapped again
    qps: set[int] = field(default_factory=set)
    last: int = 0
    lives: int = 0
    simulated: bool = False  # peers, their queue pairs and their memory are no business of a simulated core


def moved(history: History) -> list[Refusal]:
    """Refusals of records, in order."""
    engine = _engine(history)
    if engine.lives > 1:
        return []  # epochs of several engines: each has a folder of its own, live
    found: list[Refusal] = []
    for log in history.logs:
        for at, record in enumerate(log.records):
            where = f"oplog-{log.thread}.bin, record {record.seq}"
            found += [Refusal(where, why) for why in _wrong(engine, log, at, record)]
    return found if engine.simulated else found + list(_in_flight(history))


def _ran_since(record: OpRecord, before: int | None) -> int:
    """The epoch in which its operation was running for certain: that of its first quantum. It is taken from the queue in an epoch
    (op_epoch) and counted a moment later, when it begins: the engine's thread may have been off the processor in between. A first
    quantum's time is the operation's; where the first one is part of the record before, on that queue pair, so is its epoch.
    """
    first = before is None or record.time_first <= record.op_time
    return record.epoch_first if first else max(record.op_epoch, min(before or 0, record.epoch_first))


def _in_flight(history: History) -> Iterator[Refusal]:
    """What a Phase says was in flight, by the log. It was counted within its epoch: an operation that ran before that one, and still
    ran behind it, was; where a lab posts to its victim from the start, one that was had left a record.
    """
    spans: dict[int, list[tuple[int, int]]] = {}
    for log in history.logs:
        before: dict[int, int] = {}
        for record in log.records:
            began = _ran_since(record, before.get(record.qp_num))
            before[record.qp_num] = record.epoch_last
            for key in {record.rkey, record.lkey} - {0}:
                spans.setdefault(key, []).append(
                    (began, record.epoch_last if key == record.rkey and record.bytes else -1)
                )
    for line in history.of("Phase"):
        ran = [span for key in line["keys"] for span in spans.get(key, ())]
        where = f"line {line['n']} (Phase)"
        if not line["inflight"] and any(begun < line["epoch"] < last for begun, last in ran):
            yield Refusal(
                where,
                "it says that nothing was in flight: the log has an operation that ran before and after",
            )
        if line["inflight"] and history.row and not any(begun <= line["epoch"] for begun, _ in ran):
            yield Refusal(
                where, f"it says that {line['inflight']} were in flight: the log has none under these keys"
            )


def _engine(history: History) -> Engine:
    engine = Engine(simulated=history.meta.get("source") == "simulated")
    for line in history.events:
        engine.last = max(engine.last, line["epoch"])
        note = NOTES.get(line["type"])
        if note:
            note(engine, line)
    return engine


def _loaded(engine: Engine, _line: Json) -> None:
    engine.lives += 1


def _opened(engine: Engine, line: Json) -> None:
    known = not line["owned"] and line["namespace"] == 1
    engine.devices[line["aperture"]] = Blocks(known, size=line["blocks"])


def _numbered(engine: Engine, line: Json) -> None:
    engine.numbers[line["aperture"]] = line["number"]


def _installed(engine: Engine, line: Json) -> None:
    lives = engine.keys.setdefault(line["key"], [])
    lives.append(Life(line["epoch"], line["aperture"], line["extents"]))


def _remapped(engine: Engine, line: Json) -> None:
    lives = engine.keys.setdefault(line["key"], [])
    if line["key"] in engine.absent:  # else what ran under the old translation may end behind the new one
        engine.absent.discard(line["key"])
        for life in lives:
            life.gone = min(life.gone, line["epoch"])
    there = [run for run in line["extents"] if run[0] >= 0]
    lives.append(Life(line["epoch"], line["aperture"], there, again=True))
    engine.remaps[line["token"]] = line["key"]


def _refused(engine: Engine, key: int) -> None:
    """The Remap was stale: the engine kept what it had."""
    lives = engine.keys[key]
    lives.pop()
    engine.absent.add(key)
    for life in lives[-1:]:
        life.gone = NEVER


def _removed(engine: Engine, line: Json) -> None:
    for life in engine.keys.get(line["key"], []):
        life.gone = min(life.gone, line["epoch"])


def _unmapping(engine: Engine, line: Json) -> None:
    engine.absent.update(line["keys"])


def _allocated(engine: Engine, line: Json) -> None:
    engine.devices[line["aperture"]].bump(line["epoch"], line["runs"], 0)


def _released(engine: Engine, line: Json) -> None:
    engine.devices[line["aperture"]].bump(line["epoch"], line["runs"], 1)


def _online(engine: Engine, line: Json) -> None:
    engine.devices[line["aperture"]].known = False  # a namespace of its own numbering


def _claimed(engine: Engine, line: Json) -> None:
    engine.devices[line["aperture"]].known = False  # a raw device goes on with the numbers of an earlier life


def _answered(engine: Engine, line: Json) -> None:
    key = engine.remaps.pop(line["token"], 0)
    if key and line["errno"]:
        _refused(engine, key)
    if "qp_num" in line["value"]:
        engine.qps.add(line["value"]["qp_num"])


NOTES = {
    "Loaded": _loaded,
    "OpenDevice": _opened,
    "Aperture": _numbered,
    "InstallKey": _installed,
    "Remap": _remapped,
    "RemoveKey": _removed,
    "Unmap": _unmapping,
    "Allocate": _allocated,
    "Share": _allocated,  # two further as well
    "Release": _released,
    "Online": _online,
    "Claim": _claimed,
    "Answered": _answered,
}


def _wrong(engine: Engine, log: OpLog, at: int, record: OpRecord) -> Iterator[str]:
    if record.seq != log.written - len(log.records) + at:
        yield f"it should have number {log.written - len(log.records) + at}"
    if not record.op_epoch <= record.epoch_first <= record.epoch_last <= engine.last:
        epochs = (record.op_epoch, record.epoch_first, record.epoch_last)
        yield f"its epochs {epochs} do not follow each other, or go past the history's last, {engine.last}"
    if not record.op_time <= record.time_last or not record.time_first <= record.time_last:
        yield "it ends before it begins"
    if record.qp_num not in engine.qps and not engine.simulated:
        yield f"queue pair {record.qp_num} was never made"
    if record.kind == Kind.SUM and record.epoch_first != record.epoch_last:
        yield "a SUM spans two epochs"
    if record.bytes > log.quantum * record.quanta:
        yield f"it moved {record.bytes} bytes in {record.quanta} quanta of {log.quantum}"
    yield from _flags(record)
    if record.bytes:
        yield from _under_keys(engine, record)


def _flags(record: OpRecord) -> Iterator[str]:
    flags = Flag(record.flags)
    if flags & Flag.CUT and record.bytes:
        yield "it was cut, and moved bytes"
    if record.kind == Kind.QUANTUM and bool(flags & Flag.EPOCH_MOVED) != (
        record.epoch_first != record.epoch_last
    ):
        yield "its flag and its epochs do not agree on whether the epoch moved"
    last = record.gen_last if record.kind == Kind.QUANTUM else record.gen_first  # of a sum another block's
    changed = max(record.gen_first, last) - record.gen_translated
    freed, foreign = Flag.SRC_FREED | Flag.DST_FREED, Flag.SRC_FOREIGN | Flag.DST_FOREIGN
    if record.kind == Kind.QUANTUM and changed < 0:
        yield "a generation went back"
    if changed == 0 and flags & (freed | foreign):
        yield "it is flagged, and its generations did not change"
    absent = flags & (Flag.SRC_ABSENT | Flag.DST_ABSENT)  # what is not there is told as that alone
    if not absent and ((changed == 1 and not flags & freed) or (changed > 1 and not flags & foreign)):
        yield f"its generation went from {record.gen_translated} to {record.gen_translated + changed}, and no flag says so"


def _under_keys(engine: Engine, record: OpRecord) -> Iterator[str]:
    """Both sides: the local key's and, for what names one, the remote key's."""
    if record.opcode in WRITES:
        sides = (
            (record.lkey, record.src_aperture, record.src_offset, False),
            (record.rkey, record.dst_aperture, record.dst_offset, True),
        )
    elif record.opcode in READS:
        sides = (
            (record.rkey, record.src_aperture, record.src_offset, False),
            (record.lkey, record.dst_aperture, record.dst_offset, True),
        )
    else:
        return
    for key, number, offset, written in sides:
        if not key and engine.simulated:
            continue
        lives = [
            life
            for life in engine.keys.get(key, [])
            if life.born <= (record.epoch_first if life.again else record.op_epoch)
            and record.epoch_last <= life.gone
        ]
        if not lives:
            yield f"it moved bytes under key {key:#x}, which the engine did not have then"
            continue
        places = [
            life for life in lives if engine.numbers.get(life.aperture) == number and _within(life, offset)
        ]
        if not places:
            yield f"byte {offset} of aperture {number} is not in reach of key {key:#x}"
        elif written:
            yield from _generations(engine, record, places[-1], offset)


def _within(life: Life, offset: int) -> bool:
    return any(start <= offset < start + length for start, length in life.runs)


def _generations(engine: Engine, record: OpRecord, life: Life, offset: int) -> Iterator[str]:
    device = engine.devices.get(life.aperture)
    if device is None or not device.known:
        return
    flagged = Flag(record.flags) & (Flag.DST_FREED | Flag.DST_FOREIGN | Flag.SRC_FREED | Flag.SRC_FOREIGN)
    wide = flagged or record.kind == Kind.SUM  # whose blocks nobody knows
    runs = tuple((start, size) for start, size in life.runs) if wide else ((offset // BLOCK * BLOCK, BLOCK),)
    born = device.among(runs, life.born, life.born)
    now = device.among(runs, record.epoch_first, record.epoch_last)
    if Flag(record.flags) & Flag.DST_ABSENT:  # what is not there has generation 0
        born, now = born | {0}, now | {0}
    if record.gen_translated not in born:
        yield f"it was translated at generation {record.gen_translated}: the blocks had {sorted(born)} when the key was installed"
    for word, generation in (("first", record.gen_first), ("last", record.gen_last)):
        if generation not in now:
            yield f"the generation at its {word} byte was {generation}: the blocks had {sorted(now)} in those epochs"
