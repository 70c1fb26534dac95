"""How long the reclaims took, on a logarithmic scale: one line a row, a dot at the median and a bar to the longest; of many rows one line a
protocol, a dot for each row's median, and a stroke at the median of them all.
"""

from __future__ import annotations

import math
from statistics import median
from typing import TYPE_CHECKING, Any

from emu.report.svg import dot, line, picture, text
from emu.report.words import span

if TYPE_CHECKING:
    from collections.abc import Sequence

Json = dict[str, Any]

WIDTH, LEFT, RIGHT, TOP, STEP = 920.0, 300.0, 110.0, 34.0, 22.0
MANY = 60  # rows, from which on each protocol has one line
KIND = {"DENY": "deny", "OK": "good", "OK+ERR": "good", "CORRUPT": "bad", "FAULT": "bad"}


def plot(rows: Sequence[Json]) -> str:
    """The figure, or a sentence where no reclaim returned."""
    timed = [row for row in rows if row["reclaim_us"]]
    if not timed:
        return "<p>No reclaim returned, so there is nothing to plot.</p>"
    low, high = _decades(timed)
    many = len(timed) > MANY
    protocols = list(dict.fromkeys(row["protocol"] for row in timed))
    bottom = TOP + STEP * len(protocols if many else timed)

    def x(microseconds: float) -> float:
        share = (math.log10(max(microseconds, 1.0)) - low) / (high - low)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    parts = []
    for decade in range(low, high + 1):
        at = x(10.0**decade)
        parts += [
            line(at, TOP - 8, at, bottom, "grid"),
            text(at, TOP - 14, span(10.0**decade), "axis", "middle"),
        ]
    for index, row in enumerate(() if many else timed):
        parts += _row(row, TOP + STEP * (index + 0.5), x)
    for index, protocol in enumerate(protocols if many else ()):
        mine = [row for row in timed if row["protocol"] == protocol]
        parts += _protocol(protocol, mine, TOP + STEP * (index + 0.5), x)
    return picture(WIDTH, bottom + 8, "Reclaim latency by row, logarithmic scale", parts)


def _protocol(name: str, rows: Sequence[Json], y: float, x: Any) -> list[str]:
    """Its rows spread over the height of its line, those that came first highest."""
    middle = median(row["reclaim_us"]["p50"] for row in rows)
    parts = [
        text(LEFT - 12, y + 4, name, "label", "end"),
        line(x(middle), y - 9, x(middle), y + 9, "whisker"),
        text(WIDTH - RIGHT + 12, y + 4, f"{span(middle)}, {len(rows)} rows", "note"),
    ]
    for index, row in enumerate(rows):
        times, kind = row["reclaim_us"], KIND.get(row["outcome"], "loss")
        tip = f"{name} · {row['event']} · {row['backing']} · {row['holder']}: {span(times['p50'])}, {row['outcome']}"
        parts.append(dot(x(times["p50"]), y - 6 + 12 * (index + 0.5) / len(rows), 2.5, f"dot {kind}", tip))
    return parts


def _decades(rows: Sequence[Json]) -> tuple[int, int]:
    shortest = min(row["reclaim_us"]["p50"] for row in rows)
    longest = max(row["reclaim_us"]["max"] for row in rows)
    low = math.floor(math.log10(max(shortest, 1.0)))
    return low, max(low + 1, math.ceil(math.log10(max(longest, 1.0))))


def _row(row: Json, y: float, x: Any) -> list[str]:
    times, kind = row["reclaim_us"], KIND.get(row["outcome"], "loss")
    label = f"{row['protocol']} · {row['event']} · {row['backing']} · {row['holder']}"
    tip = f"{label}: median {span(times['p50'])}, longest {span(times['max'])}, n = {times['n']}, {row['outcome']}"
    return [
        text(LEFT - 12, y + 4, label, "label", "end"),
        line(x(times["p50"]), y, x(times["max"]), y, f"whisker {kind}"),
        dot(x(times["p50"]), y, 5, f"dot {kind}", tip),
        text(x(times["max"]) + 12, y + 4, f"{span(times['p50'])} {row['outcome']}", "note"),
    ]
