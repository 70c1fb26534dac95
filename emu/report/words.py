"""A result in sentences: what a row measured, and where that differs from what was claimed. Plain text; whoever prints it escapes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Json = dict[str, Any]

MEANING = {
    "CORRUPT": "a byte reached, or was read from, memory that had changed hands",
    "FAULT": "DMA went on to memory that was not there any more",
    "KILL": "a process was killed",
    "HANG": "the reclaim never came to an end",
    "LEAK": "reported free, and not allocatable",
    "LOST": "the peer was told success, and the bytes are nowhere in the file",
    "STALE": "the peer went on reading what was no longer the file",
    "DENY": "the reclaim was refused",
    "REFUSED": "the registration was refused",
    "OK+ERR": "the memory came back, and its users got clean errors",
    "OK": "the memory came back, and nobody noticed",
    "UNKNOWN": "this run could not show it",
    "N/A": "the pair makes no sense",
}
ACCUSED = frozenset({"CORRUPT", "FAULT", "KILL", "HANG", "LEAK", "LOST", "STALE", "DENY"})


def count(number: float | None) -> str:
    """1,048,576; or a dash for what was not measured."""
    return "-" if number is None else f"{number:,.0f}"


def span(microseconds: float | None) -> str:
    """A duration with a unit that suits it."""
    if microseconds is None:
        return "-"
    for limit, factor, unit in ((1e3, 1, "us"), (1e6, 1e3, "ms")):
        if microseconds < limit:
            return f"{microseconds / factor:.3g} {unit}"
    return f"{microseconds / 1e6:.3g} s"


def name(row: Json) -> str:
    """The row, as it is called in sentences."""
    return f"{row['protocol']} + {row['event']} ({row['backing']}, {row['holder']} holder)"


def errors(row: Json) -> str:
    return ", ".join(f"{n} x {status}" for status, n in (row["error_completions"] or {}).items())


def measured(row: Json) -> str:
    """What was measured, in one sentence."""
    if row["outcome"] in {"N/A", "UNKNOWN"}:
        return row["reason"] or MEANING[row["outcome"]]
    return "; ".join(_parts(row)) or MEANING[row["outcome"]]


def _parts(row: Json) -> Iterable[str]:
    found = row["outcomes"]
    if "CORRUPT" in found:
        yield from _corrupt(row)
    if "FAULT" in found:
        yield f"DMA of {count(row['absent_bytes'])} bytes went on to absent memory after the unplug was answered"
    if "LOST" in found:
        yield f"{count(row['lost_bytes'])} bytes were acknowledged and are not in the file"
    if "KILL" in found:
        innocent = f", {count(row['innocent_killed'])} of them innocent" if row["innocent_killed"] else ""
        yield f"{count(row['killed'])} killed{innocent}"
    if "HANG" in found:
        yield "no answer, and nothing left that could bring one"
    if "LEAK" in found:
        yield "reported free, and not allocatable while it was pinned"
    if "STALE" in found:
        yield f"{count(row['stale_bytes'])} bytes were read from what was no longer the file"
    if "REFUSED" in found:
        yield "the registration was refused, so that there was no DMA to stop"
    if "DENY" in found:
        yield f"refused with {row['errno']}" + ("" if _changed(row) else ", and the file is unchanged")
    if "OK+ERR" in found and "CORRUPT" not in found:
        yield _clean(row)


def _corrupt(row: Json) -> Iterable[str]:
    if row["foreign_bytes"]:
        yield f"{count(row['foreign_bytes'])} bytes of the peer's lie in memory that had changed hands"
    if row["leaked_bytes"]:
        yield f"{count(row['leaked_bytes'])} bytes of somebody else's were read"


def _clean(row: Json) -> str:
    took = f" in {span(row['reclaim_us']['p50'])}" if row["reclaim_us"] else ""
    many = "operation" if row["dma_at_gate"] == 1 else "operations"
    gate = f" with {row['dma_at_gate']} {many} in flight at the gate" if row["dma_at_gate"] else ""
    back = f"; the peer was back after {span(row['recovery_us'])}" if row["recovery_us"] else ""
    return f"taken back{took}{gate}; errors seen: {errors(row)}{back}"


def _changed(row: Json) -> bool:
    return any(rule == "S3" for rule, _ in row["violated"])


def findings(rows: Sequence[Json]) -> list[str]:
    """What is worth a sentence: promises broken, claims that do not hold, and questions nobody had an answer to."""
    return [*_broken(rows), *_unknown(rows), *_disagreeing(rows), *_open(rows)]


def _broken(rows: Sequence[Json]) -> Iterable[str]:
    for row in rows:
        for rule, sentence in row["breaches"]:
            yield f"{name(row)} broke its promise {rule}: {sentence}."


def _unknown(rows: Sequence[Json]) -> Iterable[str]:
    for row in rows:
        if row["outcome"] == "UNKNOWN":
            yield f"{name(row)} is unknown: {row['reason']}."


def _disagreeing(rows: Sequence[Json]) -> Iterable[str]:
    """Rows that differ from one claim in one way are told together, with the first one's figures."""
    groups: dict[tuple[str, str, str, str], list[Json]] = {}
    for row in rows:
        if row["agrees"] is False:
            told = row["protocol"], row["claimed"], row["claimed_by"], ", ".join(row["outcomes"])
            groups.setdefault(told, []).append(row)
    for (_protocol, claimed, by, outcomes), members in groups.items():
        also = f" (and {len(members) - 1} more: {_which(members[1:])})" if len(members) > 1 else ""
        yield f"{name(members[0])}{also}: claimed {claimed} ({by}), measured {outcomes}: {measured(members[0])}."


def _which(rows: Sequence[Json]) -> str:
    """Events, each with where it was seen."""
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row["event"], []).append(f"{row['backing']} {row['holder']}")
    return "; ".join(f"{event} on {', '.join(where)}" for event, where in found.items())


def agreement_of(row: Json) -> str:
    """Whether the measurement agrees with what was claimed of the row."""
    return {
        True: "the measurement agrees",
        False: "the measurement differs",
        None: "that is no claim to be judged",
    }[row["agrees"]]


def _open(rows: Sequence[Json]) -> Iterable[str]:
    """Rows without a claim, grouped by what came out."""
    groups: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["claimed"] is None and row["outcome"] not in {"N/A", "UNKNOWN"}:
            groups.setdefault((row["protocol"], row["outcome"]), []).append(row["event"])
    for (protocol, outcome), events in groups.items():
        yield f"{protocol} + {', '.join(dict.fromkeys(events))}: nobody claims anything; measured {outcome}."


def agreement(rows: Sequence[Json]) -> str:
    """How many claims were met, in one sentence; what we inferred ourselves is nobody's claim, and is counted apart."""
    judged = [row for row in rows if row["agrees"] is not None]
    said = [row["agrees"] for row in judged if row["claimed_by"] != "inferred"]
    own = [row["agrees"] for row in judged if row["claimed_by"] == "inferred"]
    apart = f"; {sum(own)} of {len(own)} that we inferred ourselves" if own else ""
    return f"{sum(said)} of {len(said)} rows about which somebody made a claim agree with it{apart}."


def controlled(rows: Sequence[Json]) -> str:
    """Whether what rows accuse protocols of is flipped by their controls, in one sentence, with the rows of which it is not; empty where nothing is accused."""
    accused = [row for row in rows if row.get("flipped") and any(name in ACCUSED for name in row["flipped"])]
    bad = [row for row in accused if row["unflipped"]]
    if bad:
        listed = "; ".join(f"{name(row)}: {', '.join(row['unflipped'])}" for row in bad)
        return f"Controls: {len(bad)} of {len(accused)} rows have an outcome that no control flips: {listed}."
    return f"Controls: each bad outcome of {len(accused)} rows is flipped by a control." if accused else ""
