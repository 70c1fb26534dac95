"""Least bad for whom? Protocols ranked by how bad each was, criterion by criterion, under weights that the reader moves.

A protocol's badness on a criterion lies between 0 (no measured row showed it) and 1 (all did): the share of its rows with one of the
criterion's outcomes, or, for time, its place on a logarithmic scale from 10 us to 10 s, a hang being at the end. The score is the weighted mean;
less is better. Rows of one backing are ranked at a time, and of each event one: with a prompt holder, or, where there is none, a deaf one (what a
protocol tells nobody nobody can be prompt at). Other manners are not ranked: they are run where somebody can hold the memory, so those who refuse it
would be ranked on less.

Only events count that every ranked protocol has a row of. Who lacks so many that less than half would be left is not ranked, those with the fewest rows
first; `left_out` says so of each, and `dropped` which events do not count, and for want of whom. An UNKNOWN row is its protocol's own gap (`gaps`): that event counts
for the others.

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
LEAST_ROWS = 3  # a protocol with fewer is not ranked
HOLDERS = ("prompt", "deaf")  # whose row of an event is ranked: the first that there is


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
    """Backing -> {"rows": events in common, "badness": {protocol: {criterion: 0..1}}, "sweep": [{protocol: badness of time}, ...],
    "left_out": {protocol: why}, "dropped": {event: [who has no row]}, "gaps": {protocol: [events]}, "about": a sentence}. Without those of which nothing
    can be ranked.
    """
    found: dict[str, Json] = {}
    for backing in dict.fromkeys(row["backing"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["backing"] == backing]
        board = _board(rows, (result.get("sweep") or ()) if backing == SWEPT else ())
        if board["badness"]:
            found[backing] = board
    return found


Table = dict[str, dict[str, Json]]  # protocol -> event -> its row


def _board(rows: Sequence[Json], sweep: Iterable[Json]) -> Json:
    table = _table(rows)
    ranked, left_out = _ranked(table)
    events = _common(ranked)
    measured = {
        name: [mine[event] for event in events if mine[event]["outcome"] != "UNKNOWN"]
        for name, mine in ranked.items()
    }
    badness = {name: _badness(mine) for name, mine in measured.items()}
    lacking = {
        event: [name for name, mine in ranked.items() if event not in mine]
        for event in dict.fromkeys(event for mine in ranked.values() for event in mine)
    }
    board = {
        "rows": len(events), "badness": badness, "sweep": _swept(badness, sweep), "left_out": left_out,
        "dropped": {event: names for event, names in lacking.items() if names},
        "gaps": {name: gaps for name, mine in ranked.items() if (gaps := [e for e in events if mine[e]["outcome"] == "UNKNOWN"])},
    }  # fmt: skip
    return board | {"about": _about(board)}


def _table(rows: Sequence[Json]) -> Table:
    """One row for each event that makes sense, measured or UNKNOWN."""
    found: Table = {row["protocol"]: {} for row in rows}
    for holder in HOLDERS:
        for row in rows:
            if row["holder"] == holder and row["outcome"] != "N/A":
                found[row["protocol"]].setdefault(row["event"], row)
    return found


def _ranked(table: Table) -> tuple[Table, dict[str, str]]:
    """Who can be ranked together, and why the others are not."""
    known = {name: _measured(mine) for name, mine in table.items()}
    least = max(LEAST_ROWS, max(known.values(), default=0) / 2)
    ranked = {name: mine for name, mine in table.items() if known[name] >= least}
    left_out = {name: f"{count} measured rows here" for name, count in known.items() if name not in ranked}
    while ranked and min(shared := _shared(ranked)) < least:
        out = _odd_one(ranked) if len(_common(ranked)) < least else list(ranked)[shared.index(min(shared))]
        left_out[out] = f"{known[out]} measured rows here, too few of them the others' too"
        ranked = _without(ranked, out)
    return ranked, left_out


def _odd_one(table: Table) -> str:
    """With the fewest rows; of several, without whom the others have most in common."""
    fewest = min(len(mine) for mine in table.values())
    names = (name for name, mine in table.items() if len(mine) == fewest)
    return max(names, key=lambda name: len(_common(_without(table, name))))


def _without(table: Table, out: str) -> Table:
    return {name: mine for name, mine in table.items() if name != out}


def _shared(ranked: Table) -> list[int]:
    """Of each protocol: how many events that all have a row of it was measured on."""
    common = _common(ranked)
    return [_measured({event: mine[event] for event in common}) for mine in ranked.values()]


def _measured(mine: Mapping[str, Json]) -> int:
    return sum(row["outcome"] not in NOT_MEASURED for row in mine.values())


def _common(table: Table) -> list[str]:
    return sorted(set.intersection(*map(set, table.values()))) if table else []


def _about(board: Json) -> str:
    words = [
        f"Ranked on the {board['rows']} events that all of them have a row of, with a prompt holder (a deaf one where nobody is told)."
    ]
    words += [
        f"{event} does not count: no row of {', '.join(names)}." for event, names in board["dropped"].items()
    ]
    words += [
        f"{name} is ranked without {', '.join(gaps)} (unknown)." for name, gaps in board["gaps"].items()
    ]
    return " ".join(words)


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
