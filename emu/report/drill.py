"""One row of a comparison, looked at closely: a page of its own beside the comparison's, linked from the cell of the heat map.

What was measured and claimed, the run's space-time diagram, its memory over time, and every figure. Self-contained like the first page.
"""

from __future__ import annotations

import re
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from emu.report import diagrams, memorymap, scene, spacetime
from emu.report.parts import POLICY, chip, figure, scroll
from emu.report.words import agreement_of, count, measured, span

if TYPE_CHECKING:
    from collections.abc import Mapping

Json = dict[str, Any]

FOLDER = ".rows"  # behind the name of the comparison's page
SECONDS = ("recovery_us",)
TOLD_ABOVE = {
    "protocol", "event", "backing", "holder", "outcome", "outcomes", "reason", "claimed", "claimed_by", "agrees", "controls", "breaches",
    "evidence", "reclaim_us", "violated",
}  # fmt: skip


def name(row: Json) -> str:
    """Of its file."""
    words = (str(row[key]) for key in ("protocol", "event", "backing", "holder"))
    return "-".join(re.sub(r"[^A-Za-z0-9.]+", "_", word) for word in words) + ".html"


def page(row: Json, back: str) -> str:
    """The whole document. back: the comparison's page, seen from here."""
    style = files("emu.report").joinpath("page.css").read_text("utf-8")
    title = f"{row['protocol']}: {row['event']} on {row['backing']}, {row['holder']} holder"
    body = "\n".join(f"<section>{part}</section>" for part in _parts(row, title, back) if part)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n<title>emu compare: {escape(title)}</title>\n'
        f"<style>\n{style}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _parts(row: Json, title: str, back: str) -> tuple[str, ...]:
    chips = " ".join(chip(outcome) for outcome in row["outcomes"])
    head = (
        f'<p><a href="{escape(back, quote=True)}">all rows</a></p><h1>{escape(title)}</h1><p>{chips}</p>'
        f'<p class="lede">{escape(measured(row))}.</p>{_claim(row)}{_broken(row)}'
    )
    return head, _controls(row["controls"]), _pictures(row), _figures(row)


def _claim(row: Json) -> str:
    if row["claimed"] is None:
        return "<p>Nobody claims anything about this pair.</p>"
    where = f", {row['claimed_in']}" if row.get("claimed_in") else ""
    return f"<p>Claimed: {escape(row['claimed'])} ({escape(row['claimed_by'] + where)}); {escape(agreement_of(row))}.</p>"


def _broken(row: Json) -> str:
    items = "".join(f"<li>{escape(rule)}: {escape(sentence)}</li>" for rule, sentence in row["breaches"])
    cost = "".join(
        f"<li>{escape(rule)}: {escape(sentence)}</li>"
        for rule, sentence in row["violated"]
        if [rule, sentence] not in row["breaches"]
    )
    return (f"<h3>Promises that were broken</h3><ul>{items}</ul>" if items else "") + (
        f"<h3>The price: broken, and not promised</h3><ul>{cost}</ul>" if cost else ""
    )


def _controls(controls: Mapping[str, str]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{chip(end)}</td></tr>' for name, end in controls.items()
    )
    return f'<h2>Controls</h2><table class="rows"><tbody>{rows}</tbody></table>' if rows else ""


def _pictures(row: Json) -> str:
    found = scene.read(row["evidence"])
    memory = memorymap.read(row["evidence"])
    drawn = ""
    if found:
        drawn += f"<h2>Who did what when</h2>{figure(spacetime.draw(found), escape(diagrams.CLOCKS))}{diagrams.key()}"
    if memory:
        key = "".join(f'<li><i class="{shade}"></i>{escape(words)}</li>' for shade, words in memorymap.key())
        caption = "Down: the device, as far as anybody ever owned it. Point at a box to see whose it was and for how long."
        drawn += f'<h2>Whose memory it was</h2>{figure(memorymap.draw(memory), escape(caption))}<ul class="key">{key}</ul>'
    return drawn or "<p>The evidence of this run is not here any more, so there is nothing to draw.</p>"


def _figures(row: Json) -> str:
    shown = [(key, _value(key, value)) for key, value in row.items() if key not in TOLD_ABOVE]
    if row["reclaim_us"]:
        times = row["reclaim_us"]
        shown.insert(
            0, ("reclaim", f"median {span(times['p50'])}, longest {span(times['max'])}, of {times['n']}")
        )
    body = "".join(
        f'<tr><th scope="row">{escape(key)}</th><td>{escape(value)}</td></tr>'
        for key, value in shown
        if value
    )
    table = f'<table class="rows"><tbody>{body}</tbody></table>'
    where = f"<p>Evidence: <code>{escape(str(row['evidence']))}</code></p>"
    return f"<h2>Every figure</h2>{scroll(table, 'Every figure of this row')}{where}"


def _value(key: str, value: Any) -> str:
    if value is None or value in ({}, []):
        return ""
    if key.endswith("_us") and isinstance(value, int | float):
        return span(value)
    if isinstance(value, dict):
        parts = (f"{inner} {span(v) if key == 'phases_us' else v}" for inner, v in value.items())
        return ", ".join(parts)
    if isinstance(value, list):
        return "; ".join(map(str, value))
    return count(value) if isinstance(value, int) and not isinstance(value, bool) else str(value)
