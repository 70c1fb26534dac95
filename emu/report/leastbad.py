"""The page's section "Least bad for ...": presets, weights to move, and the ranking that follows (ranking.py, ranking.js)."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from emu.report import ranking
from emu.report.parts import scroll

if TYPE_CHECKING:
    from collections.abc import Mapping

Json = dict[str, Any]

INTRO = (
    "There is no best way to take memory back, only what is least bad for whom. Each column says how bad a protocol was there, from 0 (no "
    "measured row showed it) to 1 (all did); time is a logarithmic scale from 10 us to 10 s. The score is their weighted mean; less is better. Move the "
    "weights. A protocol that promises nothing is ranked by what it did, like any other."
)
SWEPT = (
    "What an invalidation costs depends on the NIC, so the comparison was repeated with costs from 1 us to 10 ms: a protocol has a "
    "rank only where it has the same one at every cost; else it says between which ranks it moves."
)
UNSWEPT = "The cost of an invalidation was not swept in this run: ranks may differ on other hardware."


@cache
def script() -> str:
    return files("emu.report").joinpath("ranking.js").read_text("utf-8")


def policy() -> str:
    """What the page's content policy has to allow: this one script, by its digest."""
    return f"script-src 'sha256-{base64.b64encode(hashlib.sha256(script().encode()).digest()).decode()}'"


def section(result: Json) -> str:
    boards = ranking.boards(result)
    if not boards:
        return ""
    first = next(iter(boards.values()))
    swept = SWEPT if any(board["sweep"] for board in boards.values()) else UNSWEPT
    return (
        f"<h2>Least bad for &#8230;</h2><p>{escape(INTRO)}</p><p>{escape(swept)}</p>{_form(boards)}"
        f"{scroll(_table(first), 'The ranking')}<p class='footnote' id='ranking-about'>"
        f"{escape(first['about'])}</p>{_left_out(boards)}{_unranked(result, boards)}"
        f'<script type="application/json" id="ranking-data">{ranking.data(boards)}</script><script>{script()}</script>'
    )


def _form(boards: Mapping[str, Json]) -> str:
    presets = "".join(
        f'<button type="button" value="{escape(name, quote=True)}">{escape(name)}</button>'
        for name in ranking.PRESETS
    )
    weights = next(iter(ranking.PRESETS.values()))
    sliders = "".join(
        f'<label title="{escape(c.meaning, quote=True)}">{escape(c.name)}<input type="range" name="{c.name}" min="0" max="10" '
        f'value="{weights[c.name]}"><output>{weights[c.name]}</output></label>'
        for c in ranking.CRITERIA
    )
    backings = "".join(f"<option>{escape(backing)}</option>" for backing in boards)
    return (
        f'<form id="ranking-weights" hidden><p>{presets}</p><div class="weights">{sliders}'
        f'<label>backing<select name="backing">{backings}</select></label></div></form>'
    )


def _table(board: Json) -> str:
    weights = next(iter(ranking.PRESETS.values()))
    head = "".join(
        f'<th scope="col" title="{escape(c.meaning, quote=True)}">{escape(c.name)}</th>'
        for c in ranking.CRITERIA
    )
    body = "".join(_line(place, board["badness"][place.protocol]) for place in ranking.rank(board, weights))
    return (
        f'<table class="ranking"><thead><tr><th scope="col">rank</th><td></td><td></td><th scope="col">score</th>{head}</tr></thead>'
        f'<tbody id="ranking-rows">{body}</tbody></table>'
    )


def _line(place: ranking.Place, badness: Mapping[str, float]) -> str:
    rank = str(place.best) if place.survives else f"{place.best} to {place.worst}"
    cells = "".join(
        f'<td class="n heat" style="--heat: {badness[name]:.3f}">{badness[name]:.2f}</td>'
        for name in ranking.NAMES
    )
    moves = "" if place.survives else ' class="moves"'
    return (
        f'<tr{moves}><td>{rank}</td><th scope="row">{escape(place.protocol)}</th>'
        f'<td><meter value="{place.score:.3f}" title="{place.score:.3f}"></meter></td><td class="n">{place.score:.2f}</td>{cells}</tr>'
    )


def _left_out(boards: Mapping[str, Json]) -> str:
    items = "".join(
        f"<li>{escape(backing)}: {escape(name)} is not ranked ({escape(why)})</li>"
        for backing, board in boards.items()
        for name, why in board["left_out"].items()
    )
    return f'<ul class="reasons">{items}</ul>' if items else ""


def _unranked(result: Json, boards: Mapping[str, Json]) -> str:
    measured = dict.fromkeys(
        row["backing"] for row in result["rows"] if row["outcome"] not in ranking.NOT_MEASURED
    )
    items = "".join(
        f"<li>{escape(backing)}: nothing is ranked, no protocol was measured on {ranking.LEAST_ROWS} events</li>"
        for backing in measured
        if backing not in boards
    )
    return f'<ul class="reasons">{items}</ul>' if items else ""
