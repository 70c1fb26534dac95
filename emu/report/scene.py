"""What happened in one run, as a space-time diagram shows it: marks, bars and messages on five lanes, read from the run's folder.

    reclaimer   from the call to the answer                        row.json
    broker      the reclaim's phases                               events.jsonl
    engine      the quanta that were logged one by one             oplog-T.bin
    peer        what it polled                                     journals/peer.jrnl
    holder      what it was told, and when it registered again     journals/holder.jrnl

All clocks are CLOCK_MONOTONIC of one machine. The window begins shortly before the request and ends when everybody has heard.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emu.history.events import read_events
from emu.history.journal import Kind, read_journal
from emu.history.oplog import Flag, by_time, read_oplogs

if TYPE_CHECKING:
    from emu.history.journal import JournalFile

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
}
BEFORE_NS, AFTER_NS = 150_000, 150_000
MOST = 400  # marks of a kind; beyond that a diagram shows no more


@dataclass(frozen=True)
class Mark:
    lane: str
    time: int
    kind: str  # phase, good, error, told
    label: str = ""


@dataclass(frozen=True)
class Bar:
    lane: str
    start: int
    end: int
    kind: str  # call, moved, foreign, freed, absent, cut
    label: str = ""


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


def read(folder: str | Path) -> Scene | None:
    """The run's scene; None if its evidence does not show a reclaim."""
    folder = Path(folder)
    try:
        row = json.loads((folder / "row.json").read_text("utf-8"))
        lines = [line for line in read_events(folder) if line.get("type") in {"Phase", "Notify"}]
        journals = {j.name: j for j in map(read_journal, sorted((folder / "journals").glob("*.jrnl")))}
        quanta = [r for r in by_time(read_oplogs(folder)) if r.kind == 1]
    except (OSError, ValueError, KeyError):
        return None
    phases = [line for line in lines if line["type"] == "Phase"]
    if not phases or not row["reclaim"]["began"]:
        return None
    notices = [line["t"] for line in lines if line["type"] == "Notify" and line["name"] in TOLD.values()]
    return _scene(row, phases, notices, journals, quanta)


def _scene(
    row: Json, phases: list[Json], notices: list[int], journals: dict[str, JournalFile], quanta: list[Any]
) -> Scene:
    first = [line for line in phases if line["reclaim"] == phases[0]["reclaim"]]
    peer, holder = journals.get("peer"), journals.get("holder")
    failed = _first(peer, Kind.POLLED)
    told = _first(holder, Kind.EVENT)
    last = max(filter(None, [row["reclaim"]["ended"], first[-1]["t"], failed, told]))
    scene = Scene(
        row["reclaim"]["began"] - BEFORE_NS, last + AFTER_NS, f"{row['event']}, {row['holder']} holder"
    )
    _reclaimer(scene, row["reclaim"], first)
    _broker(scene, first)
    if notices and told and notices[0] < told:
        scene.messages.append(Message("broker", notices[0], "holder", told))
    _engine(scene, quanta)
    if peer:
        _peer(scene, peer)
    if holder:
        _holder(scene, holder)
    return scene


def _first(journal: JournalFile | None, kind: Kind) -> int | None:
    """When its first event came, or its first failed completion."""
    records = journal.of(kind) if journal else ()
    return min((r.time for r in records if r.code), default=None)


def _reclaimer(scene: Scene, reclaim: Json, phases: list[Json]) -> None:
    answer = reclaim["errno"] or ("0" if reclaim["returned"] else "no answer")
    ended = reclaim["ended"] or scene.end
    scene.bars.append(Bar("reclaimer", reclaim["began"], ended, "call", f"answer: {answer}"))
    scene.messages.append(Message("reclaimer", reclaim["began"], "broker", phases[0]["t"]))
    returned = next((line["t"] for line in phases if line["phase"] == "returned"), None)
    if returned and returned <= ended:
        scene.messages.append(Message("broker", returned, "reclaimer", ended))


def _broker(scene: Scene, phases: list[Json]) -> None:
    for line in phases:
        inflight = f" ({line['inflight']} in flight)" if line["phase"] == "requested" else ""
        scene.marks.append(Mark("broker", line["t"], "phase", line["phase"] + inflight))


def _engine(scene: Scene, quanta: list[Any]) -> None:
    inside = [r for r in quanta if scene.begin <= r.time_last and r.time_first <= scene.end]
    for record in inside[:MOST]:
        scene.bars.append(
            Bar("engine", record.time_first, record.time_last, _met(record.flags), _words(record))
        )


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


def _words(record: Any) -> str:
    return f"operation {record.op}, {record.bytes} bytes, key {record.rkey:#x}: {_met(record.flags)}"


def _peer(scene: Scene, peer: JournalFile) -> None:
    inside = [r for r in peer.of(Kind.POLLED) if scene.begin <= r.time <= scene.end]
    errors = [r for r in inside if r.code]
    good = [r for r in inside if not r.code]
    scene.marks += [Mark("peer", r.time, "good") for r in good[-MOST:]]
    scene.marks += [
        Mark("peer", r.time, "error", "first error" if i == 0 else "") for i, r in enumerate(errors[:MOST])
    ]


def _holder(scene: Scene, holder: JournalFile) -> None:
    for record in holder.of(Kind.EVENT):
        if scene.begin <= record.time <= scene.end:
            scene.marks.append(
                Mark("holder", record.time, "told", TOLD.get(record.code, f"event {record.code}"))
            )
