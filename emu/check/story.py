"""A breach told as a story: the shortest list of things that happened without which it would not be one, in words, in order.

What a breach names (lines of events.jsonl, records of the engine's log) is the end of it. Put in front are the causes: of a line its step's
event, that is who asked or which answer came; of a key who registered it; of a phase the beginning and the answer of its reclaim; of
a record the installation of the key that it used. Nothing else is told.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, NamedTuple

from emu.check.invariants.reading import read
from emu.check.invariants.rows import blocks_of, file_row
from emu.core.rows import BLOCK
from emu.history.oplog import Flag
from emu.history.oplog import Kind as OpKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from emu.check.history import History
    from emu.check.invariants.invariant import Breach
    from emu.check.invariants.reclaims import Reclaim
    from emu.check.invariants.timeline import Reading
    from emu.history.oplog import OpRecord

Json = dict[str, Any]

BROKER, ENGINE = "broker", "engine"
RECORDS = 1  # of the engine's log: the first shows what all do
OPCODES = {
    0: "WRITE",
    1: "WRITE_WITH_IMM",
    2: "SEND",
    3: "SEND_WITH_IMM",
    4: "READ",
    5: "CMP_AND_SWP",
    6: "FETCH_AND_ADD",
}
REACHED = ((Flag.SRC_FOREIGN | Flag.DST_FOREIGN, "which has changed hands"), (Flag.SRC_FREED | Flag.DST_FREED, "which is free"), (Flag.SRC_ABSENT | Flag.DST_ABSENT, "which is not there"))  # fmt: skip


class Told(NamedTuple):
    """One thing that happened. lane: who did it; to: who heard of it, "" if nobody did. kind: ask, answer, phase, order, told, good or bad."""

    ref: str
    time: int
    lane: str
    to: str
    words: str
    kind: str


def tell(history: History, breach: Breach) -> list[Told]:
    """The story of a breach; its last lines are what the breach names. Empty where the bytes at the end are all there is."""
    return _Teller(history).tell(breach)


class _Teller:
    def __init__(self, history: History) -> None:
        self.history = history
        self.made: Reading = read(history)
        self.lines = {line["n"]: line for line in history.events}
        self.step_of = {line["n"]: step for step in self.made.steps for line in step.lines}
        self.records = {(thread, record.seq): record for thread, record in history.records()}
        self.names: dict[tuple[int, int], str] = {}
        for step in self.made.steps:
            for line in step.of("SessionOpened"):
                self.names[step.life, line["session"]] = line["name"] or f"session {line['session']}"

    def tell(self, breach: Breach) -> list[Told]:
        shown = [place for place in breach.records if place in self.records][:RECORDS]
        wanted = self._with_causes(breach.lines, [self.records[place] for place in shown])
        told = [(self._order(self.lines[n]), self._line(self.lines[n])) for n in wanted if n in self.lines]
        told += [
            ((r.epoch_last, r.time_last, 0), self._record(place, r))
            for place, r in ((p, self.records[p]) for p in shown)
        ]
        return [one for _, one in sorted(told, key=lambda pair: pair[0])]

    def _order(self, line: Json) -> tuple[int, int, int]:
        return line["epoch"], line["t"], line["n"]

    # ---- causes

    def _with_causes(self, lines: Iterable[int], records: list[OpRecord]) -> list[int]:
        todo = [n for n in lines if n in self.lines]
        for record in records:
            life = self.made.key_at(record.rkey or record.lkey, record.op_epoch)
            todo += [life.at.n] if life else []
        found: set[int] = set()
        while todo:
            n = todo.pop()
            if n not in found:
                found.add(n)
                todo += self._causes(self.lines[n])
        return sorted(found)

    def _causes(self, line: Json) -> list[int]:
        step = self.step_of.get(line["n"])
        causes = [step.event["n"]] if step and step.event else []
        if line["type"] == "Phase":
            row = self._reclaim(line)
            causes += [row.phases[name].n for name in ("requested", "returned") if row and name in row.phases]
        if line["type"] in {"Quiesced", "Unmapped"}:
            asked = {"Quiesced": ("Quiesce", "Invalidate"), "Unmapped": ("Unmap",)}[line["type"]]
            earlier = [
                o for o in self.history.of(*asked) if o["cookie"] == line["cookie"] and o["n"] < line["n"]
            ]
            causes += [earlier[-1]["n"]] if earlier else []
        if line["type"] == "RightFenced":
            causes += [o["n"] for o in self.history.of("FenceRight") if o["fence"] == line["fence"]]
        if line["type"] == "Answered":
            earlier = [
                o
                for o in self.history.events
                if o.get("token") == line["token"] and o["n"] < line["n"] and o["kind"] == "effect"
            ]
            causes += [earlier[-1]["n"]] if earlier else []
        return causes

    def _reclaim(self, line: Json) -> Reclaim | None:
        step = self.step_of.get(line["n"])
        life = step.life if step else 0
        return next(
            (row for row in self.made.reclaims if (row.life, row.number) == (life, line["reclaim"])), None
        )

    # ---- words

    def _who(self, line: Json) -> str:
        step = self.step_of.get(line["n"])
        return self.names.get((step.life if step else 0, line["session"]), f"session {line['session']}")

    def _line(self, line: Json) -> Told:
        words = _WORDS.get(line["type"])
        lane, to, sentence, kind = words(self, line) if words else (BROKER, "", f"{line['type']}", "order")
        return Told(f"line {line['n']}", line["t"], lane, to, sentence, kind)

    def _record(self, place: tuple[int, int], record: OpRecord) -> Told:
        opcode = OPCODES.get(record.opcode, f"opcode {record.opcode}")
        read = record.opcode == 4
        at = (record.src_offset if read else record.dst_offset) // BLOCK
        reached = next((words for mask, words in REACHED if Flag(record.flags) & mask), "")
        gens = (
            f": translated at generation {record.gen_translated}, now {record.gen_last}"
            if record.gen_translated
            else ""
        )
        many = f"{record.quanta} quanta of " if record.kind == OpKind.SUM else ""
        what = f"{many}a {opcode} under key {record.rkey or record.lkey:#x} {'reads' if read else 'writes'} {record.bytes} bytes at block {at}"
        words = f"{what}, {reached}{gens}" if reached else f"{what}{gens}"
        return Told(
            f"log {place[0]}:{place[1]}", record.time_last, ENGINE, "", words, "bad" if reached else "good"
        )

    def requested(self, line: Json) -> tuple[str, str, str, str]:
        return self._who(line), BROKER, f"asks: {request_words(line['op'])}", "ask"

    def replied(self, line: Json) -> tuple[str, str, str, str]:
        result = line["result"]
        key = f"key {result['lkey']:#x}" if "lkey" in result else "0"
        return BROKER, self._who(line), f"answers request {line['request']}: {key}", "answer"

    def failed(self, line: Json) -> tuple[str, str, str, str]:
        return (
            BROKER,
            self._who(line),
            f"answers request {line['request']}: {_errno(line['errno'])}",
            "answer",
        )

    def opened(self, line: Json) -> tuple[str, str, str, str]:
        return self._who(line), BROKER, "opens the device", "ask"

    def hung_up(self, line: Json) -> tuple[str, str, str, str]:
        return self._who(line), BROKER, "is gone", "bad"

    def notified(self, line: Json) -> tuple[str, str, str, str]:
        key = line["fields"].get("mr")
        return (
            BROKER,
            self._who(line),
            f"tells {line['name']}{f' of key {key:#x}' if isinstance(key, int) else ''}",
            "told",
        )

    def phase(self, line: Json) -> tuple[str, str, str, str]:
        row = self._reclaim(line)
        name = row.words() if row else f"reclaim {line['reclaim']}"
        keys = f", {_many(len(line['keys']), 'key')} in the range" if line["phase"] == "requested" else ""
        flying = f", {_many(line['inflight'], 'operation')} in flight" if line["inflight"] else ""
        detail = line["detail"]
        answer = (
            f" with {_errno(detail['errno'])}"
            if detail.get("errno")
            else " with success"
            if line["phase"] == "returned"
            else ""
        )
        return BROKER, "", f"{name}: {line['phase']}{answer}{keys}{flying}", "phase"

    def installs(self, line: Json) -> tuple[str, str, str, str]:
        return BROKER, ENGINE, f"installs key {line['key']:#x} over {_blocks(line['extents'])}", "order"

    def removes(self, line: Json) -> tuple[str, str, str, str]:
        return BROKER, ENGINE, f"removes key {line['key']:#x}", "order"

    def stops(self, line: Json) -> tuple[str, str, str, str]:
        keys = ", ".join(f"{key:#x}" for key in line["keys"])
        verb = line["type"].lower()
        return BROKER, ENGINE, f"orders {verb} {line['cookie']} of keys {keys}", "order"

    def stopped(self, line: Json) -> tuple[str, str, str, str]:
        refused = f"refuses with {_errno(line['errno'])}" if line["errno"] else "confirms"
        return (
            ENGINE,
            BROKER,
            f"{refused} {'quiesce' if line['type'] == 'Quiesced' else 'unmap'} {line['cookie']}",
            "answer",
        )

    def rights(self, line: Json) -> tuple[str, str, str, str]:
        right = line.get("right")
        match line["type"]:
            case "GrantRight":
                return BROKER, ENGINE, f"grants right {right} to session {line['session']}", "order"
            case "FenceRight":
                keys = ", ".join(f"{key:#x}" for key in line["keys"])
                return BROKER, ENGINE, f"orders fence {line['fence']} of right {right}: keys {keys}", "order"
            case "ReturnRight":
                return BROKER, ENGINE, f"gives right {right} back", "order"
            case "RightReturned":
                return ENGINE, BROKER, f"has noted that right {right} was given back", "answer"
            case "RightFenced" if line["errno"]:
                return ENGINE, BROKER, f"fails fence {line['fence']} with {_errno(line['errno'])}", "bad"
            case "RightFenced":
                return ENGINE, BROKER, f"confirms fence {line['fence']}", "answer"
        return BROKER, ENGINE, f"drops right {right}", "order"

    def remaps(self, line: Json) -> tuple[str, str, str, str]:
        there = [run for run in line["extents"] if run[0] >= 0]
        return BROKER, ENGINE, f"maps key {line['key']:#x} anew, over {_blocks(there)}", "order"

    def missed(self, line: Json) -> tuple[str, str, str, str]:
        where = f"{line['bytes']} bytes at {line['offset']} under key {line['key']:#x}"
        return ENGINE, BROKER, f"misses memory: {where}; whoever uses it waits", "answer"

    def answered(self, line: Json) -> tuple[str, str, str, str]:
        return ENGINE, BROKER, f"has done what token {line['token']} stands for", "answer"

    def installed(self, line: Json) -> tuple[str, str, str, str]:
        refused = (
            f"refuses key {line['key']:#x} with {_errno(line['errno'])}"
            if line["errno"]
            else f"has key {line['key']:#x}"
        )
        return ENGINE, BROKER, refused, "answer"

    def allocates(self, line: Json) -> tuple[str, str, str, str]:
        return BROKER, "", f"gives {_blocks(line['runs'])} to a new owner, overwritten with zeros", "order"

    def releases(self, line: Json) -> tuple[str, str, str, str]:
        return BROKER, "", f"frees {_blocks(line['runs'])}", "order"

    def zeroes(self, line: Json) -> tuple[str, str, str, str]:
        return BROKER, "", f"zeroes bytes in {_blocks(line['runs'])}", "order"

    def offline(self, line: Json) -> tuple[str, str, str, str]:
        return BROKER, ENGINE, f"device {line['device']} is gone", "bad"

    def online(self, line: Json) -> tuple[str, str, str, str]:
        return BROKER, ENGINE, f"device {line['device']} comes back as namespace {line['namespace']}", "order"

    def commits(self, line: Json) -> tuple[str, str, str, str]:
        rows = [_row_words(book, key, row) for book, key, row in line["delta"]]
        verb = "starts with" if line["type"] == "Loaded" else "commits"
        return BROKER, "", f"{verb} {'; '.join(rows) or 'nothing'}", "phase"

    def fires(self, line: Json) -> tuple[str, str, str, str]:
        return BROKER, "", f"timer {line['timer']} fires", "phase"

    def arms(self, line: Json) -> tuple[str, str, str, str]:
        return BROKER, "", f"arms timer {line['timer']} for {line['seconds']} s", "phase"

    def device(self, line: Json) -> tuple[str, str, str, str]:
        return BROKER, "", f"has device {line['name']}", "phase"


_WORDS: dict[str, Callable[[_Teller, Json], tuple[str, str, str, str]]] = {
    "Requested": _Teller.requested,
    "Reply": _Teller.replied,
    "Fail": _Teller.failed,
    "SessionOpened": _Teller.opened,
    "SessionLost": _Teller.hung_up,
    "Notify": _Teller.notified,
    "Phase": _Teller.phase,
    "InstallKey": _Teller.installs,
    "RemoveKey": _Teller.removes,
    "Quiesce": _Teller.stops,
    "Unmap": _Teller.stops,
    "Invalidate": _Teller.stops,
    "Remap": _Teller.remaps,
    "Missed": _Teller.missed,
    "Quiesced": _Teller.stopped,
    "Unmapped": _Teller.stopped,
    **dict.fromkeys(
        ("GrantRight", "FenceRight", "ReturnRight", "DropRight", "RightFenced", "RightReturned"),
        _Teller.rights,
    ),
    "KeyInstalled": _Teller.installed,
    "Answered": _Teller.answered,
    "Allocate": _Teller.allocates,
    "Release": _Teller.releases,
    "Zero": _Teller.zeroes,
    "Blank": _Teller.zeroes,
    "Offline": _Teller.offline,
    "Online": _Teller.online,
    "Commit": _Teller.commits,
    "Loaded": _Teller.commits,
    "TimerFired": _Teller.fires,
    "Arm": _Teller.arms,
    "DeviceAdded": _Teller.device,
}


def request_words(op: Json) -> str:
    """A request as its caller would say it."""
    match op["type"]:
        case "RegMr":
            return f"reg_mr, bytes {op['offset']} to {op['offset'] + op['length']} of {op['path'] or op['backing']}"
        case "DeregMr":
            return f"dereg_mr {op['handle']:#x}"
        case "FsTruncate":
            return f"truncate {op['path']} to {op['size']} bytes"
        case "FsPunch":
            return f"punch bytes {op['offset']} to {op['offset'] + op['length']} of {op['path']}"
        case "FsUnlink":
            return f"unlink {op['path']}"
        case "FsUnplug":
            return f"unplug {op['target']}{', by surprise' if op['surprise'] else ''}"
        case "FsCreate":
            return f"create {op['path']} of {op['size']} bytes"
        case "FsWrite":
            return f"write {op['data']} bytes at {op['offset']} of {op['path']}"
    rest = ", ".join(f"{name} {value}" for name, value in op.items() if name != "type")
    return f"{op['type']} {rest}".strip()


def _row_words(book: str, key: Any, row: list[Any] | None) -> str:
    if book != "files":
        return f"{book} {key}"
    if row is None:
        return f"file {key} is gone"
    found = file_row(row)
    return f"{found.path} has {found.size} bytes in {spans(found.blocks)}"


def _blocks(runs: list[list[int]]) -> str:
    return spans(blocks_of(runs))


def spans(blocks: set[int]) -> str:
    """As in: blocks 1-3, 7."""
    ends: list[list[int]] = []
    for block in sorted(blocks):
        if ends and ends[-1][1] == block - 1:
            ends[-1][1] = block
        else:
            ends.append([block, block])
    words = ", ".join(f"{low}" if low == high else f"{low}-{high}" for low, high in ends)
    return f"blocks {words}" if ends else "no blocks"


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count != 1 else ''}"


def _errno(number: int) -> str:
    return errno.errorcode.get(number, str(number))
