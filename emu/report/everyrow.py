"""The page's table of every row: what was measured, what it rests on, and what was claimed. On a narrow screen its rows are stacked."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from emu.report.parts import chip, scroll
from emu.report.words import count, errors, measured

if TYPE_CHECKING:
    from collections.abc import Sequence

Json = dict[str, Any]

FIGURES = (("foreign_bytes", "foreign bytes"), ("freed_bytes", "freed bytes"), ("lost_bytes", "lost bytes"), ("dma_at_gate", "in flight"))  # fmt: skip
MANY = 100  # rows, which are folded away
FOOTNOTE = (
    "Foreign: bytes found in the image, each once. Freed and lost: bytes that operations moved. A place that is written again is counted "
    "again, so these may exceed the size of the file. In flight: operations at the gate. Evidence: relative to the directory in which "
    "emu compare was run."
)


def section(rows: Sequence[Json]) -> str:
    cells = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("row", "measured", "claimed"))
    cells += "".join(f'<th scope="col" class="n">{escape(name)}</th>' for _, name in FIGURES)
    body = "".join(_line(row) for row in rows if row["outcome"] != "N/A")
    many = sum(row["outcome"] != "N/A" for row in rows) > MANY
    table = f'<table class="rows"><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>'
    note = f'<p class="footnote">{escape(FOOTNOTE)}</p>'
    shown = f"{scroll(table, 'Every row with its figures')}{note}"
    return "<h2>Every row</h2>" + (
        f"<details><summary>{len(rows)} rows</summary>{shown}</details>" if many else shown
    )


def _line(row: Json) -> str:
    name = f"{escape(row['protocol'])} {escape(row['event'])}<small>{escape(row['backing'])}, {escape(row['holder'])}</small>"
    figures = "".join(
        f'<td class="n" data-label="{escape(label, quote=True)}">{count(row[key])}</td>'
        for key, label in FIGURES
    )
    return f'<tr><th scope="row">{name}</th><td class="seen">{_seen(row)}</td><td class="claim" data-label="claimed">{_claim(row)}</td>{figures}</tr>'


def _seen(row: Json) -> str:
    """The outcomes, what they mean here, and what they rest on."""
    sentence, met = measured(row), errors(row)
    lines = [escape(sentence)]
    if met and met not in sentence:
        lines.append(f"errors seen: {escape(met)}")
    if row["controls"]:
        lines.append(f"controls: {_controls(row)}")
    if row["evidence"]:
        lines.append(f"<code>{escape(row['evidence'])}</code>")
    chips = " ".join(chip(outcome) for outcome in row["outcomes"])
    return chips + "".join(f"<small>{line}</small>" for line in lines)


def _claim(row: Json) -> str:
    if row["claimed"] is None:
        return "no claim"
    agrees = {True: "agrees", False: "differs", None: "open"}[row["agrees"]]
    return f"{escape(row['claimed'])}<small>{escape(row['claimed_by'])}: {agrees}</small>"


def _controls(row: Json) -> str:
    return ", ".join(f"{escape(name)} ended in {escape(end)}" for name, end in row["controls"].items())
