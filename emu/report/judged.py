"""What `emu check` found out about one run, as a self-contained page: the verdict, each broken invariant's story, the table of all of them."""

from __future__ import annotations

from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from emu.report import sequence
from emu.report.parts import POLICY, figure, scroll
from emu.report.sequence import Happening

if TYPE_CHECKING:
    from collections.abc import Sequence

Json = dict[str, Any]

SHADE = {"breach": "bad", "cost": "loss", "kept": "good", "untested": "none"}
WORD = {
    "breach": "a promise was broken",
    "holds": "every promise that this run could show was kept",
    "unknown": "this run shows too little",
}


def page(result: Json) -> str:
    """The whole document, from what `emu check --json` writes."""
    style = files("emu.report").joinpath("page.css").read_text("utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"<title>emu check: {escape(result['run'])}</title>\n<style>\n{style}</style>\n</head>\n<body>\n{_body(result)}\n</body>\n</html>\n"
    )


def _body(result: Json) -> str:
    protocol = result["protocol"] or "nobody's protocol"
    about = f"{result['source']} run, judged against what {protocol} promises; {result['events']} events, {result['records']} log records"
    shade = {"breach": " breach", "unknown": " unknown"}.get(result["verdict"], "")
    head = (
        f'<h1>{escape(result["run"])}</h1><p class="verdict{shade}">{escape(result["verdict"].capitalize())}: {WORD[result["verdict"]]}.</p>'
        f'<p class="machine">{escape(about)}</p>'
        + "".join(f"<p>Unknown: {escape(why)}.</p>" for why in result["why"])
    )
    broken = [row for row in result["invariants"] if row["breaches"]]
    stories = "".join(_broken(row) for row in broken)
    return "\n".join(
        f"<section>{part}</section>" for part in (head, stories, _table(result["invariants"])) if part
    )


def _broken(row: Json) -> str:
    first, *others = row["breaches"]
    story = [Happening(*(one[name] for name in Happening._fields)) for one in first["story"]]
    drawn = figure(sequence.draw(story, first["sentence"]), escape(f"{first['sentence']}.")) if story else ""
    said = f"<p>{escape(first['sentence'])}.</p>"
    more = (
        f'<p class="footnote">and {len(others)} more: {escape("; ".join(o["sentence"] for o in others[:5]))}</p>'
        if others
        else ""
    )
    return (
        f"<h2>{escape(row['name'])}: {escape(row['title'])} {_chip(row['verdict'])}</h2>{drawn or said}{more}"
    )


def _chip(verdict: str) -> str:
    return f'<span class="chip {SHADE[verdict]}">{escape(verdict)}</span>'


def _table(rows: Sequence[Json]) -> str:
    body = "".join(
        f'<tr><th scope="row">{escape(row["name"])}</th><td>{escape(row["title"])}</td><td>{"yes" if row["promised"] else ""}</td>'
        f"<td>{_chip(row['verdict'])}</td><td>{escape(row['why'])}</td></tr>"
        for row in rows
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("invariant", "", "promised", "verdict", "why"))
    table = f'<table class="rows"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f"<h2>All invariants</h2>{scroll(table, 'All invariants')}"
