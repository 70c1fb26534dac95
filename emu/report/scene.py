"""What happened in one run, as a space-time diagram shows it: marks, bars and messages on five lanes, read from the run's folder.

    holder      what it was told, when it heard it                 journals/holder.jrnl
    peer        completions of its work on the victim, when it
                polled them: later than they came about            journals/peer.jrnl
    broker      the reclaim's phases, and who got the memory next  events.jsonl
    engine      what it moved under the victim's keys, and when    oplog-T.bin
    reclaimer   from the call to the answer                        row.json

All clocks are CLOCK_MONOTONIC of one machine. The phase `returned` is noted behind the answer, so the mark stands where the answer left: at the
`Reply` or `Fail` in front of it. The window begins shortly before the request and ends when everybody has heard, and a
new owner's memory has been hit.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emu.history.events import read_events
from emu.history.journal import Kind, read_journal
from emu.history.oplog import Flag, by_time, read_oplogs
from emu.history.oplog import Kind as OpKind
from emu.report.words import span

if TYPE_CHECKING:
    from emu.history.journal import JournalFile
    from emu.history.oplog import OpRecord

Json = dict[str, Any]

LANES = ("holder", "peer", "broker", "engine", "reclaimer")
TOLD = {
    1: "QP_FATAL",
    2: "QP_REQ_ERR",
    3: "QP_ACCESS_ERR",
    8: "DEVICE_FATAL",
    1000: "MR_REVOKING",
    1001: "MR_REVOKED",
    1002: "MR_RESTORED",
    1003: "MEMORY_FAULT",
    1010: "UNGUARDED",
    1020: "LEASE_BROKEN",
}
MARGIN_NS = 150_000  # at least, on both sides
MOST = 400  # marks of a kind; beyond that a diagram shows no more
FAR = 20  # times as long as the reclaim: a hit later than that is not waited for
SHOWN = {"Phase", "Notify", "Reply", "Fail", "Release", "Allocate"}
FIRSTS = {"freed": "loss", "foreign": "bad", "absent": "bad"}  # what is worth a label of its own


@dataclass(frozen=True)
class Mark:
    lane: str
    time: int
    kind: str  # phase, good, error, told, loss, bad
    label: str = ""
    tip: str = ""  # what a pointer is told where there is no label


@dataclass(frozen=True)
class Bar:
    """`summed`: many quanta as one record; they lie between start and end, not at every moment."""

    lane: str
    start: int
    end: int
    kind: str  # call, moved, foreign, freed, absent, cut
    label: str = ""
    summed: bool = False


@dataclass(frozen=True)
class Message:
    """From one lane to another."""

    source: str
    sent: int
    target: str
    heard: int


@dataclass
class Scene:
    begin: int
    end: int
    caption: str
    marks: list[Mark] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)


@dataclass(frozen=True)
class _Reclaim:
    """The first reclaim of a run, as the broker saw it."""

    phases: list[Json]  # in order; `returned` at the time when the answer left
    keys: frozenset[int]
    notices: list[int]
    taken: int | None  # when freed memory was allocated again


def read(folder: str | Path) -> Scene | None:
    """The run's scene; None if its evidence does not show a reclaim."""
    folder = Path(folder)
    try:
        row = json.loads((folder / "row.json").read_text("utf-8"))
        lines = [line for line in read_events(folder) if line.get("type") in SHOWN]
        journals = {j.name: j for j in map(read_journal, sorted((folder / "journals").glob("*.jrnl")))}
        records = list(by_time(read_oplogs(folder)))
    except (OSError, ValueError, KeyError):
        return None
    reclaim = _reclaim(lines)
    if reclaim is None or not row["reclaim"]["began"]:
        return None
    under = [r for r in records if r.rkey in reclaim.keys or r.lkey in reclaim.keys]
    return _scene(row, reclaim, journals, under)


def _reclaim(lines: list[Json]) -> _Reclaim | None:
    number = next((line["reclaim"] for line in lines if line["type"] == "Phase"), None)
    phases, answered = [], 0
    for line in lines:
        if line["type"] in {"Reply", "Fail"}:
            answered = line["t"]
        elif line["type"] == "Phase" and line["reclaim"] == number:
            phases.append({**line, "t": answered} if line["phase"] == "returned" and answered else line)
    if not phases:
        return None
    keys = frozenset(key for line in phases for key in line["keys"])
    notices = [line["t"] for line in lines if line["type"] == "Notify" and line["name"] in TOLD.values()]
    return _Reclaim(phases, keys, notices, _taken([line for line in lines if line["n"] > phases[0]["n"]]))


def _taken(lines: list[Json]) -> int | None:
    """When the first memory that had been freed was given to somebody."""
    freed: set[tuple[int, int, int]] = set()
    for line in lines:
        spans = {(line["aperture"], at, at + size) for at, size in line.get("runs", ())}
        if line["type"] == "Release":
            freed |= spans
        elif line["type"] == "Allocate" and any(
            one[0] == two[0] and one[1] < two[2] and two[1] < one[2] for one in spans for two in freed
        ):
            return int(line["t"])
    return None


def _scene(row: Json, reclaim: _Reclaim, journals: dict[str, JournalFile], records: list[OpRecord]) -> Scene:
    peer, holder = journals.get("peer"), journals.get("holder")
    begin, end = _window(
        row["reclaim"], reclaim, _first(peer, Kind.POLLED), _first(holder, Kind.EVENT), records
    )
    scene = Scene(begin, end, f"{row['event']}, {row['holder']} holder")
    _reclaimer(scene, row["reclaim"], reclaim.phases)
    _broker(scene, reclaim)
    told = _first(holder, Kind.EVENT)
    if reclaim.notices and told and reclaim.notices[0] < told:
        scene.messages.append(Message("broker", reclaim.notices[0], "holder", told))
    _engine(scene, records)
    if peer:
        _peer(scene, peer, reclaim.keys)
    if holder:
        _holder(scene, holder)
    return scene


def _window(
    call: Json, reclaim: _Reclaim, failed: int | None, told: int | None, records: list[OpRecord]
) -> tuple[int, int]:
    """From the call to the last who heard. A call that waited long for the broker's attention is cut off on the left."""
    asked = reclaim.phases[0]["t"]
    last = max(filter(None, [call["ended"], reclaim.phases[-1]["t"], failed, told]))
    hits = [t for t in (reclaim.taken, _earliest(records, "foreign")) if t]
    last = max([last, *(t for t in hits if t - asked < FAR * (last - call["began"]))])
    margin = max(MARGIN_NS, (last - asked) // 12)
    return max(call["began"] - margin, asked - max(last - asked, MARGIN_NS) // 2), last + margin


def _first(journal: JournalFile | None, kind: Kind) -> int | None:
    """When its first event came, or its first failed completion."""
    records = journal.of(kind) if journal else ()
    return min((r.time for r in records if r.code), default=None)


def _reclaimer(scene: Scene, call: Json, phases: list[Json]) -> None:
    answer = call["errno"] or ("0" if call["returned"] else "no answer")
    ended = call["ended"] or scene.end
    earlier = scene.begin - call["began"]
    before = f", called {span(earlier / 1000)} before this picture begins" if earlier > 0 else ""
    scene.bars.append(Bar("reclaimer", call["began"], ended, "call", f"answer: {answer}{before}"))
    scene.messages.append(Message("reclaimer", call["began"], "broker", phases[0]["t"]))
    returned = next((line["t"] for line in phases if line["phase"] == "returned"), None)
    if returned and returned <= ended:
        scene.messages.append(Message("broker", returned, "reclaimer", ended))


def _broker(scene: Scene, reclaim: _Reclaim) -> None:
    for line in reclaim.phases:
        inflight = f" ({line['inflight']} in flight)" if line["phase"] == "requested" else ""
        scene.marks.append(Mark("broker", line["t"], "phase", line["phase"] + inflight))
    if reclaim.taken and reclaim.taken <= scene.end:
        scene.marks.append(Mark("broker", reclaim.taken, "phase", "freed blocks given to another file"))


def _engine(scene: Scene, records: list[OpRecord]) -> None:
    inside = [r for r in records if scene.begin <= r.time_last and r.time_first <= scene.end]
    sums = [r for r in inside if r.kind == OpKind.SUM]
    quanta = [r for r in inside if r.kind == OpKind.QUANTUM]
    for record in (*sums[:MOST], *quanta[:MOST]):
        summed = record.kind == OpKind.SUM
        bar = Bar("engine", record.time_first, record.time_last, _met(record.flags), _words(record), summed)
        scene.bars.append(bar)
    _landmarks(scene, records)


def _landmarks(scene: Scene, records: list[OpRecord]) -> None:
    """The first byte that went astray, of each kind; or, where DMA came to its end, the last byte that moved."""
    for met, kind in FIRSTS.items():
        first = _earliest(records, met)
        if first and first <= scene.end:
            scene.marks.append(Mark("engine", first, kind, f"first bytes in {met} memory"))
    last = max((r.time_last for r in records if r.bytes), default=None)
    if last and last <= scene.end:
        scene.marks.append(Mark("engine", last, "phase", "last byte moved"))


def _earliest(records: list[OpRecord], met: str) -> int | None:
    """When it was sure: a copy during which the memory changed hands had begun before."""
    times = (r.time_first if r.kind == OpKind.SUM else r.time_last for r in records if _met(r.flags) == met)
    return min(times, default=None)


def _met(flags: int) -> str:
    """What a quantum met, the worst first."""
    for kind, mask in (
        ("foreign", Flag.SRC_FOREIGN | Flag.DST_FOREIGN),
        ("absent", Flag.SRC_ABSENT | Flag.DST_ABSENT),
        ("freed", Flag.SRC_FREED | Flag.DST_FREED),
        ("cut", Flag.CUT | Flag.SIGBUS),
    ):
        if flags & mask:
            return kind
    return "moved"


def _words(record: OpRecord) -> str:
    what = f"{record.quanta} quanta" if record.kind == OpKind.SUM else f"operation {record.op}"
    return f"{what}, {record.bytes} bytes, key {record.rkey:#x}: {_met(record.flags)}"


def _peer(scene: Scene, peer: JournalFile, keys: frozenset[int]) -> None:
    """Of its queue pairs that worked under these keys; other work of its goes on, and is no part of the story."""
    qps = {r.qp_num for r in peer.of(Kind.POSTED) if r.key in keys}
    inside = [r for r in peer.of(Kind.POLLED) if scene.begin <= r.time <= scene.end and r.qp_num in qps]
    errors = [r for r in inside if r.code]
    good = [r for r in inside if not r.code]
    scene.marks += [Mark("peer", r.time, "good") for r in good[-MOST:]]
    scene.marks += [
        Mark("peer", r.time, "error", "first error polled" if i == 0 else "")
        for i, r in enumerate(errors[:MOST])
    ]


def _holder(scene: Scene, holder: JournalFile) -> None:
    named: set[str] = set()
    for record in holder.of(Kind.EVENT):
        if scene.begin <= record.time <= scene.end:
            name = TOLD.get(record.code, f"event {record.code}")
            scene.marks.append(Mark("holder", record.time, "told", "" if name in named else name, name))
            named.add(name)
