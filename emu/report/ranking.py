"""Least bad for whom? Protocols ranked by how bad each was, criterion by criterion, under weights that the reader moves.

A protocol's badness on a criterion lies between 0 (no measured row showed it) and 1 (all did): the share of its rows with one of the
criterion's outcomes, or, for time, its place on a logarithmic scale from 10 us to 10 s, a hang being at the end. The score is the weighted mean;
less is better. Rows of one backing are ranked at a time, and only pairs of event and holder that every ranked protocol was measured on.

What a NIC's invalidation costs is no fact of this machine. Where the result has a sweep of that cost (of dax), a protocol keeps its rank only if it
has it as measured and at every cost; the others share the range that they move in, and are said to hang on the cost.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Json = dict[str, Any]

NOT_MEASURED = frozenset({"N/A", "UNKNOWN"})
SWEPT = "dax"  # the backing that the sweep was made on
QUICK, SLOW = 10.0, 10e6  # microseconds: badness of time 0 and 1
LEAST_ROWS = 3  # a protocol with fewer in common with the others is not ranked


class Criterion(NamedTuple):
    name: str
    meaning: str
    outcomes: frozenset[str]


CRITERIA = (
    Criterion("safety", "a byte in memory that had changed hands, or was absent", frozenset({"CORRUPT", "FAULT"})),
    Criterion("data", "acknowledged bytes lost, or stale data read", frozenset({"LOST", "STALE"})),
    Criterion("availability", "the memory was not given back: denied, or hung", frozenset({"DENY", "HANG"})),
    Criterion("kills", "a process was killed", frozenset({"KILL"})),
    Criterion("time", "how long the reclaimer waited", frozenset()),
    Criterion("space", "reported free, and not allocatable", frozenset({"LEAK"})),
    Criterion("users", "users of the memory got errors", frozenset({"OK+ERR"})),
    Criterion("registration", "the memory could not be registered at all", frozenset({"REFUSED"})),
)  # fmt: skip
NAMES = tuple(criterion.name for criterion in CRITERIA)
PRESETS: Mapping[str, Mapping[str, int]] = {
    "safety first": {"safety": 10, "data": 6, "kills": 3, "availability": 2, "time": 1, "space": 1, "users": 1, "registration": 1},
    "availability first": {"safety": 5, "data": 2, "kills": 2, "availability": 10, "time": 4, "space": 2, "users": 1, "registration": 1},
    "no kills": {"safety": 5, "data": 3, "kills": 10, "availability": 2, "time": 1, "space": 1, "users": 3, "registration": 1},
    "bounded time": {"safety": 5, "data": 2, "kills": 2, "availability": 4, "time": 10, "space": 1, "users": 1, "registration": 1},
    "space": {"safety": 5, "data": 2, "kills": 1, "availability": 4, "time": 2, "space": 10, "users": 1, "registration": 1},
}  # fmt: skip


class Place(NamedTuple):
    """best, worst: its rank over the sweep, counted from 1; equal where it survives it. score: at the cost that was measured."""

    protocol: str
    score: float
    best: int
    worst: int

    @property
    def survives(self) -> bool:
        return self.best == self.worst


def boards(result: Json) -> dict[str, Json]:
    """Backing -> {"rows": pairs in common, "badness": {protocol: {criterion: 0..1}}, "sweep": [{protocol: badness of time}, ...], "left_out": {protocol: why}}."""
    found: dict[str, Json] = {}
    for backing in dict.fromkeys(row["backing"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["backing"] == backing]
        board = _board(rows, (result.get("sweep") or ()) if backing == SWEPT else ())
        if board["badness"]:
            found[backing] = board
    return found


def _board(rows: Sequence[Json], sweep: Iterable[Json]) -> Json:
    measured: dict[str, dict[tuple[str, str], Json]] = {}
    for row in rows:
        mine = measured.setdefault(row["protocol"], {})
        if row["outcome"] not in NOT_MEASURED:
            mine[row["event"], row["holder"]] = row
    most = max((len(mine) for mine in measured.values()), default=0)
    ranked = {name: mine for name, mine in measured.items() if len(mine) >= max(LEAST_ROWS, most / 2)}
    common = set.intersection(*map(set, ranked.values())) if ranked else set()
    left_out = {
        name: f"{len(mine)} measured rows here" for name, mine in measured.items() if name not in ranked
    }
    if len(common) < LEAST_ROWS:
        return {"rows": len(common), "badness": {}, "sweep": [], "left_out": left_out}
    badness = {name: _badness([mine[pair] for pair in sorted(common)]) for name, mine in ranked.items()}
    return {"rows": len(common), "badness": badness, "sweep": _swept(badness, sweep), "left_out": left_out}


def _badness(rows: Sequence[Json]) -> dict[str, float]:
    shares = {
        criterion.name: sum(bool(criterion.outcomes & set(row["outcomes"])) for row in rows) / len(rows)
        for criterion in CRITERIA
    }
    return {**shares, "time": sum(map(_slowness, rows)) / len(rows)}


def _slowness(row: Json) -> float:
    """How long the reclaimer was kept from the memory, tries that were denied among it."""
    if "HANG" in row["outcomes"]:
        return 1.0
    kept = row.get("blocked_us")
    return slowness(kept if kept is not None else row["reclaim_us"]["p50"] if row["reclaim_us"] else 0.0)


def slowness(microseconds: float) -> float:
    """0 up to 10 us, 1 from 10 s on, even steps a decade."""
    share = math.log(max(microseconds, QUICK) / QUICK) / math.log(SLOW / QUICK)
    return min(1.0, share)


def _swept(badness: Mapping[str, Mapping[str, float]], sweep: Iterable[Json]) -> list[dict[str, float]]:
    """The badness of time as it was measured, and at each cost of an invalidation: by so much more as the sweep's reclaims took longer there
    than at its least cost. Whoever succeeded there and hangs here is as slow as can be; whoever never succeeds does not invalidate; what is unknown
    moves nobody.
    """
    found: dict[str, dict[float, float | None]] = {}
    for point in sweep:
        times = point["reclaim_us"]
        if not times and point.get("unknown"):
            continue
        found.setdefault(point["protocol"], {})[point["cost_us"]] = slowness(times["p50"]) if times else None
    costs = sorted({cost for mine in found.values() for cost in mine})
    at_rest = {name: mine["time"] for name, mine in badness.items()}
    swept = [{name: _at(time, found.get(name, {}), cost) for name, time in at_rest.items()} for cost in costs]
    return [at_rest, *swept] if swept else []


def _at(time: float, swept: Mapping[float, float | None], cost: float) -> float:
    known = [slow for _cost, slow in sorted(swept.items()) if slow is not None]
    if not known or cost not in swept:
        return time
    slow = swept[cost]
    return 1.0 if slow is None else min(1.0, time + max(0.0, slow - known[0]))


def rank(board: Json, weights: Mapping[str, float]) -> list[Place]:
    """Best first. Equal scores are equal ranks; the same is computed in ranking.js when a weight is moved."""
    badness: dict[str, dict[str, float]] = board["badness"]
    times = board["sweep"] or [{name: mine["time"] for name, mine in badness.items()}]
    ranks = [
        _ranks({name: score({**mine, "time": at[name]}, weights) for name, mine in badness.items()})
        for at in times
    ]
    places = [
        Place(name, score(mine, weights), min(r[name] for r in ranks), max(r[name] for r in ranks))
        for name, mine in badness.items()
    ]
    return sorted(places, key=lambda place: (place.score, place.protocol))


def score(badness: Mapping[str, float], weights: Mapping[str, float]) -> float:
    total = sum(weights.get(name, 0) for name in NAMES)
    return sum(badness[name] * weights.get(name, 0) for name in NAMES) / total if total else 0.0


def _ranks(scores: Mapping[str, float]) -> dict[str, int]:
    rounded = {name: round(value, 6) for name, value in scores.items()}
    return {name: 1 + sum(other < value for other in rounded.values()) for name, value in rounded.items()}


def data(found: Mapping[str, Json]) -> str:
    """What ranking.js reads; safe inside a script element."""
    text = json.dumps({"boards": found, "criteria": NAMES, "presets": PRESETS}, sort_keys=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
