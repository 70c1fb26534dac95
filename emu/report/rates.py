"""The page's section of many reclaims: goodput at each rate beside the undisturbed, and what a slow invalidation costs a reclaimer."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from emu.report.parts import scroll
from emu.report.words import span

if TYPE_CHECKING:
    from collections.abc import Sequence

Json = dict[str, Any]

RATES = (
    "A peer writes into a tenant's file without pause, while the file is truncated and grown again so many times a second. Each figure is the share "
    "of goodput that is left, beside the same node at rest. Goodput is what was acknowledged: a protocol that loses bytes in silence looks fine "
    "here, and LOST above. In brackets: reclaims that succeeded, of those asked for; the rest was denied, hung, or not reached."
)
SWEEP = "How long one reclaim takes when the hardware needs so long for an invalidation: the median of those that succeeded."


def section(result: Json) -> str:
    rates, sweep = result.get("rates") or [], result.get("sweep") or []
    parts = []
    if rates:
        parts.append(
            f"<h2>Many reclaims</h2><p>{escape(RATES)}</p>{scroll(_rates(rates), 'Goodput by rate of reclaims')}"
        )
    if sweep:
        parts.append(
            f"<h2>Slow invalidations</h2><p>{escape(SWEEP)}</p>{scroll(_sweep(sweep), 'Latency by cost of an invalidation')}"
        )
    return "".join(parts)


def _table(head: Sequence[str], body: str) -> str:
    cells = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    return f'<table class="ranking"><thead><tr><td></td>{cells}</tr></thead><tbody>{body}</tbody></table>'


def _rates(rows: Sequence[Json]) -> str:
    speeds = list(dict.fromkeys(point["rate"] for row in rows for point in row["points"]))
    body = "".join(_rate_line(row, speeds) for row in rows)
    return _table(["undisturbed", *(f"{speed:g}/s" for speed in speeds), "halves at"], body)


def _rate_line(row: Json, speeds: Sequence[float]) -> str:
    points = {point["rate"]: point for point in row["points"]}
    cells = "".join(_rate_cell(points.get(speed)) for speed in speeds)
    rest = "refused" if row["refused"] else f"{row['undisturbed_bytes_s'] / 1e9:.2f} GB/s"
    half = f"{row['half_rate']:.3g}/s" if row["half_rate"] else "not measured"
    return f'<tr><th scope="row">{escape(row["protocol"])}</th><td class="n">{rest}</td>{cells}<td class="n">{half}</td></tr>'


def _rate_cell(point: Json | None) -> str:
    if point is None or point["ratio"] is None:
        return "<td></td>"
    lost = max(0.0, min(1.0, 1.0 - point["ratio"]))
    how = f"{point['denied']} denied, {point['hung']} hung, {point['restarts']} processes started again"
    return (
        f'<td class="n heat" style="--heat: {lost:.2f}" title="{how}">{point["ratio"]:.2f} '
        f"<small>({point['succeeded']} of {point['asked']})</small></td>"
    )


def _sweep(points: Sequence[Json]) -> str:
    costs = list(dict.fromkeys(point["cost_us"] for point in points))
    found = {(point["protocol"], point["cost_us"]): point for point in points}
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(_sweep_cell(found.get((name, cost))) for cost in costs)}</tr>'
        for name in dict.fromkeys(point["protocol"] for point in points)
    )
    return _table([span(cost) for cost in costs], body)


def _sweep_cell(point: Json | None) -> str:
    if point is None:
        return "<td></td>"
    if point["reclaim_us"]:
        return f'<td class="n">{span(point["reclaim_us"]["p50"])}</td>'
    how = "hung" if point["hung"] else "unknown" if point.get("unknown") else "denied"
    return f'<td class="n">{how}</td>'
