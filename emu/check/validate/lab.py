"""What `emu compare` adds to a run (row.json, journals, verdict.json, its part of meta.json), held against the history and each other.

The lab's processes have their own clocks' readings of the same moments: a request left before the broker took it, its answer came after
the broker gave it. Their counts are those of their journals, and the verdict is what the classifier says of this very folder.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from emu.check.validate.refusal import Refusal
from emu.check.verdict import judge_history
from emu.history.journal import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.check.history import History

Json = dict[str, Any]

MADE_BY = "emu compare"
CAST = ("holder", "peer")  # who keeps a journal
REQUESTS = {
    "truncate": "FsTruncate", "punch": "FsPunch", "unlink": "FsUnlink", "unplug": "FsUnplug", "surprise-unplug": "FsUnplug",
    "collapse": "FsFallocate", "insert": "FsFallocate", "zero": "FsFallocate", "reflink": "FsReflink", "cow-write": "FsWrite",
    "migrate": "FsMigrate", "poison": "FsPoison", "umount": "FsUmount", "writeback": "FsWriteback", "memory-pressure": "FsPressure",
    "rnic-unplug": "FsUnplug", "exit": "FsTruncate", "fd-pass": "FsTruncate", "enospc": "FsTruncate", "self-write": "FsTruncate",
}  # fmt: skip
ELSEWHERE = {"exit": ("FsUnplug", "FsPressure", "DmabufRevoke"), "fd-pass": ("FsUnplug", "FsPressure", "DmabufRevoke"),
             "unplug": ("DmabufRevoke",), "migrate": ("DmabufMove",), "revoke-storm": ("DmabufRevoke",)}  # fmt: skip
FILES = frozenset({"dax", "page-cache"})  # backings on which an event is what REQUESTS says
TAKING = (frozenset(REQUESTS.values()) - {"FsWrite"}) | {
    kind for kinds in ELSEWHERE.values() for kind in kinds
}
WORDS = frozenset({"violated", "checked", "why", "model"})  # of a verdict: told, and not measured


def lab(history: History) -> list[Refusal]:
    if history.meta.get("made_by") == MADE_BY:
        if lacking := list(_lacking(history)):
            return lacking
        return [*_said_twice(history), *_row(history), *_verdict(history)]
    return list(_row(history)) if history.row else []


def _lacking(history: History) -> Iterator[Refusal]:
    there: Json = {"row.json": history.row, "filemap.json": history.filemap, "verdict.json": history.verdict}
    there |= {f"journals/{name}.jrnl": name in history.journals for name in CAST}
    for name, part in there.items():
        if not part:
            yield Refusal(name, "it is missing: emu compare leaves one in every run")


def _said_twice(history: History) -> Iterator[Refusal]:
    """What meta.json repeats."""
    meta, row = history.meta, history.row
    run = meta.get("run") or {}
    pairs = {
        "reclaims": (meta.get("reclaims"), [row["reclaim"]]),
        "seed": (meta.get("seed"), row.get("seed")),
        **{name: (run.get(name), row[name]) for name in ("event", "backing", "holder")},
        "verdict": (meta.get("verdict"), history.verdict.get("outcome")),
    }
    for name, (said, known) in pairs.items():
        if said != known:
            yield Refusal("meta.json", f"{name} is {said!r:.80}: the run's own files say {known!r:.80}")


def _row(history: History) -> Iterator[Refusal]:
    for why in (*_reclaim(history), *_peer(history), *_killed(history), *_idle(history)):
        yield Refusal("row.json", why)


# ---- the reclaim


def _reclaim(history: History) -> Iterator[str]:
    row = history.row
    if row["reclaim"].get("asked") is False:
        yield from _nobody(history, row["event"])
        return
    asked = _asked(history, row)
    if asked is None:
        if row["reclaim"]["returned"] and not unasked(history):
            yield "its reclaim returned, and nobody asked for one"
        return
    if row["event"] in REQUESTS and row["backing"] in FILES and not _same_event(row["event"], asked["op"]):
        yield f"its event is {row['event']}: the broker was asked for {asked['op']['type']}"
    yield from _times(history, row["reclaim"], asked)


def _nobody(history: History, event: str) -> Iterator[str]:
    """A control in which nobody was to ask. (That there is a clone belongs to the scene of a cow-write.)"""
    for line in history.of("Requested"):
        kind = line["op"]["type"]
        if kind in TAKING and (kind, event) != ("FsReflink", "cow-write"):
            yield f"nobody is said to have asked: the broker was asked for {kind}"


def unasked(history: History) -> bool:
    """What no request tells: an exporter's end, a foreign program at a guarded file, or at one that nobody could register."""
    exporters = {line["session"] for line in history.of("SessionOpened") if line["name"] == "exporter"}
    ended = any(line["session"] in exporters for line in history.of("SessionLost"))
    alone = bool(history.row.get("foreign")) and history.row["refused"] is not None
    return ended or alone or bool(history.of("LeaseBroken"))


def _asked(history: History, row: Json) -> Json | None:
    """The request of the row's event: the first of its kind behind the moment when it was begun, or else the first of any kind."""
    event = row["event"]
    kinds = (
        {REQUESTS[event], *ELSEWHERE.get(event, ())} if event in REQUESTS else set(ELSEWHERE.get(event, ()))
    )
    began = row["reclaim"].get("began") or 0
    of_kind = [line for line in history.of("Requested") if line["op"]["type"] in kinds]
    any_kind = (line for line in history.of("Requested") if line["op"]["type"] in TAKING)
    behind = next((line for line in of_kind if line["t"] >= began), None)
    return behind or next(iter(of_kind), None) or next(any_kind, None)


def _same_event(event: str, op: Json) -> bool:
    surprise = op["type"] == "FsUnplug" and bool(op.get("surprise"))
    return bool(op["type"] == REQUESTS[event]) and surprise == (event == "surprise-unplug")


def _times(history: History, reclaim: Json, asked: Json) -> Iterator[str]:
    place = asked["session"], asked["request"]
    answer = next(
        (line for line in history.of("Reply", "Fail") if (line["session"], line["request"]) == place), None
    )
    if reclaim.get("began") is not None and reclaim["began"] > asked["t"]:
        yield f"the reclaim began {reclaim['began'] - asked['t']} ns after the broker had been asked"
    if answer is not None and reclaim.get("ended") is not None and reclaim["ended"] < answer["t"]:
        yield f"the reclaim ended {answer['t'] - reclaim['ended']} ns before the broker answered"


# ---- the processes


def _peer(history: History) -> Iterator[str]:
    journal, said = history.journals.get("peer"), history.row.get("peer")
    if journal is None or not isinstance(said, dict):
        return
    polled = [record.code for record in journal.of(Kind.POLLED)]
    counts = {
        "posted": sum(1 for _ in journal.of(Kind.POSTED)),
        "good": sum(code == 0 for code in polled),
        "bad": sum(code != 0 for code in polled),
    }
    for name, count in counts.items():
        told = sum((said.get(name) or {}).values())
        if told != count:
            yield f"the peer counts {told} {name}: its journal has {count}"


def _killed(history: History) -> Iterator[str]:
    """Who was killed was gone before the survey, the last thing that a lab asks for."""
    names = {line["session"]: line["name"] for line in history.of("SessionOpened")}
    survey = max((line["t"] for line in history.of("Requested")), default=0)
    lost = {names.get(line["session"]) for line in history.of("SessionLost") if line["t"] <= survey}
    for name in history.row["killed"]:
        if name not in lost:
            yield f"{name} is said to have been killed: the broker did not lose its session before the survey"


def _idle(history: History) -> Iterator[str]:
    phase = next((line for line in history.of("Phase") if line["phase"] == "requested"), None)
    if phase is None or history.row["dma"]:
        return
    keys = set(phase["keys"])
    if any(record.bytes and record.rkey in keys for _, record in history.records()):
        yield "dma is false: the log has bytes that moved under the keys of the reclaim"


# ---- the verdict


def _verdict(history: History) -> Iterator[Refusal]:
    if history.verdict.get("model") == "refused":
        yield Refusal("verdict.json", "the model refused this run when it was made")
        return
    made: Json = json.loads(json.dumps(judge_history(history).as_json()))
    for name, value in made.items():
        if name not in WORDS and history.verdict.get(name) != value:
            yield Refusal(
                "verdict.json",
                f"{name} is {history.verdict.get(name)!r:.60}: judged again it is {value!r:.60}",
            )
