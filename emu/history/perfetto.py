"""A run as a Chrome trace (JSON), which ui.perfetto.dev and chrome://tracing open: trace(events, logs, journals) -> {"traceEvents": [...]}.

    core        what it was told, and what it ordered, as instants; commits
    reclaims    a track each: one slice from the request to the end, its phases inside
    engine      a track each thread: quanta as slices; sums, which lie between their ends, on a track beside it
    clients     a track each: what was posted, polled and heard, as instants; calls as slices

Times are microseconds from the first line. A run of several lives of the broker has each life's reclaims on tracks of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emu.history.journal import Kind as Receipt
from emu.history.oplog import Flag, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from emu.history.journal import JournalFile
    from emu.history.oplog import OpLog

Json = dict[str, Any]

CORE, RECLAIMS, ENGINE, CLIENTS = 1, 2, 3, 4
PROCESSES = {CORE: "core", RECLAIMS: "reclaims", ENGINE: "engine", CLIENTS: "clients"}
NAMES = {
    Receipt.POSTED: "posted",
    Receipt.POLLED: "polled",
    Receipt.EVENT: "heard event",
    Receipt.MARK: "mark",
}


def trace(events: Iterable[Json], logs: Iterable[OpLog], journals: Mapping[str, JournalFile]) -> Json:
    """The whole trace; JSON-serialisable."""
    lines = [line for line in events if line["kind"] != "gap"]
    began = lines[0]["t"] if lines else 0
    made = _Trace(began)
    for process, name in PROCESSES.items():
        made.meta("process_name", process, 0, name)
        made.out.append(
            {
                "ph": "M",
                "name": "process_sort_index",
                "pid": process,
                "tid": 0,
                "args": {"sort_index": process},
            }
        )
    made.core(lines)
    made.reclaims(lines)
    for log in logs:
        made.thread(log)
    for number, (name, journal) in enumerate(sorted(journals.items()), 1):
        made.client(number, name, journal)
    return {"traceEvents": made.out, "displayTimeUnit": "ns", "otherData": {"began_ns": began}}


class _Trace:
    def __init__(self, began: int) -> None:
        self.began = began
        self.out: list[Json] = []

    def us(self, time: int) -> float:
        return (time - self.began) / 1000

    def meta(self, what: str, process: int, track: int, name: str) -> None:
        self.out.append({"ph": "M", "name": what, "pid": process, "tid": track, "args": {"name": name}})

    def slice(self, process: int, track: int, name: str, start: int, end: int, /, **args: Any) -> None:
        self.out.append(
            {"ph": "X", "name": name, "pid": process, "tid": track, "ts": self.us(start), "dur": max(0.0, self.us(end) - self.us(start)), "args": args}
        )  # fmt: skip

    def instant(self, process: int, track: int, name: str, time: int, /, **args: Any) -> None:
        self.out.append(
            {
                "ph": "i",
                "s": "t",
                "name": name,
                "pid": process,
                "tid": track,
                "ts": self.us(time),
                "args": args,
            }
        )

    def core(self, lines: list[Json]) -> None:
        for track, kind in enumerate(("event", "effect", "commit", "shell"), 1):
            self.meta("thread_name", CORE, track, f"{kind}s")
            for line in lines:
                if line["kind"] == kind:
                    fields = {
                        name: value for name, value in line.items() if name not in {"t", "kind", "type"}
                    }
                    self.instant(CORE, track, _name(line), line["t"], **fields)

    def reclaims(self, lines: list[Json]) -> None:
        for track, (name, phases) in enumerate(_by_reclaim(lines), 1):
            self.meta("thread_name", RECLAIMS, track, name)
            self.slice(RECLAIMS, track, name, phases[0]["t"], phases[-1]["t"], **phases[0]["detail"])
            for line, following in zip(phases, [*phases[1:], phases[-1]], strict=True):
                args = {
                    "n": line["n"],
                    "epoch": line["epoch"],
                    "keys": line["keys"],
                    "inflight": line["inflight"],
                    **line["detail"],
                }
                self.slice(RECLAIMS, track, line["phase"], line["t"], following["t"], **args)

    def thread(self, log: OpLog) -> None:
        single, summed = 2 * log.thread + 1, 2 * log.thread + 2
        self.meta("thread_name", ENGINE, single, f"thread {log.thread}: quanta")
        self.meta("thread_name", ENGINE, summed, f"thread {log.thread}: sums")
        for r in log.records:
            track = single if r.kind == Kind.QUANTUM else summed
            flags = Flag(r.flags).name or "good"
            args = {
                "seq": r.seq,
                "op": r.op,
                "wr_id": r.wr_id,
                "qp": r.qp_num,
                "bytes": r.bytes,
                "quanta": r.quanta,
                "flags": flags,
            }
            args |= {
                "epochs": [r.epoch_first, r.epoch_last],
                "generations": [r.gen_translated, r.gen_first, r.gen_last],
                "status": r.status,
            }
            self.slice(ENGINE, track, f"key {r.rkey or r.lkey:#x} {flags}", r.time_first, r.time_last, **args)

    def client(self, track: int, name: str, journal: JournalFile) -> None:
        self.meta("thread_name", CLIENTS, track, name)
        calls: dict[int, int] = {}
        for r in journal.records:
            if r.kind == Receipt.CALLED:
                calls[r.code] = r.time
            elif r.kind == Receipt.RETURNED:
                self.slice(CLIENTS, track, f"call {r.code}", calls.pop(r.code, r.time), r.time, errno=r.value)
            else:
                args = {"qp": r.qp_num, "wr_id": r.wr_id, "code": r.code, "key": r.key, "length": r.length}
                self.instant(CLIENTS, track, NAMES[Receipt(r.kind)], r.time, **args)
        for code, time in calls.items():
            self.instant(CLIENTS, track, f"call {code} never returned", time)


def _by_reclaim(lines: list[Json]) -> Iterator[tuple[str, list[Json]]]:
    """(name, Phase lines) of each reclaim of each life, in order."""
    found: dict[tuple[int, int], list[Json]] = {}
    life = 0
    for line in lines:
        life += line["type"] == "Loaded"
        if line["type"] == "Phase":
            found.setdefault((life, line["reclaim"]), []).append(line)
    for (at, number), phases in found.items():
        detail = phases[0]["detail"]
        what = detail.get("path") or detail.get("device") or detail.get("host") or ""
        again = f" of life {at}" if life > 1 else ""
        yield f"reclaim {number}{again}: {detail.get('kind', '')} {what}".rstrip(": "), phases


def _name(line: Json) -> str:
    """What an instant is called: its type, and of a request what was asked."""
    if line["type"] == "Requested":
        return str(line["op"].get("type", "Requested"))
    if line["type"] == "Phase":
        return f"Phase {line['phase']}"
    return str(line["type"])
