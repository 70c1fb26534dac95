"""A comparison as one self-contained page: no font, no picture, no script from elsewhere, so it can be mailed and kept. Its one script
moves the ranking's weights; without it the page shows one ranking.

Everything that comes from outside goes through `html.escape`. Outcomes are told by word and by colour, never by colour alone.
"""

from __future__ import annotations

from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from emu.report import diagrams, drill, everyrow, latency, leastbad, rates
from emu.report.parts import POLICY, SHADE, chip, figure, scroll
from emu.report.table import columns, groups
from emu.report.words import MEANING, agreement, controlled, count, findings, measured, span

if TYPE_CHECKING:
    from collections.abc import Sequence

Json = dict[str, Any]

WIDE = 8  # events; a matrix that is wider shows the outcomes alone
READING = (
    "Foreign bytes are counted in the device image after DMA has stopped: stamped cells in blocks that belong to another file, or that came to this one later. They are a lower bound.",
    "Freed and lost bytes come from the engine's log, and count only operations that started after the reclaim returned; each write counts, not each byte of the file.",
    "A run without DMA in flight at the gate is tried again, and unknown if that does not help.",
    "Controls change one thing: nobody writes (no-dma), the allocator reuses freed blocks last (fifo), nobody holds the file (no-pin). A row one of whose controls does not end as it must is unknown.",
    "Times are of this machine under this load; they are reported, and decide nothing.",
)


def page(result: Json, beside: str = "") -> str:
    """The whole document. beside: the folder with a page for each row (drill.py), as seen from here; without it nothing is linked."""
    style = files("emu.report").joinpath("page.css").read_text("utf-8")
    policy = f"{POLICY}; {leastbad.policy()}"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>emu compare: who gets the memory back, and at what price</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n{_body(result, beside)}\n</body>\n</html>\n"
    )


def _body(result: Json, beside: str) -> str:
    rows = result["rows"]
    sections = [
        _header(result),
        _matrices(rows, beside),
        _findings(rows),
        leastbad.section(result),
        _legend(rows),
        _latency(rows),
        rates.section(result),
        diagrams.section(rows),
        everyrow.section(rows),
        _how(),
    ]
    return "\n".join(f"<section>{section}</section>" for section in sections if section)


def _header(result: Json) -> str:
    machine = result["machine"]
    about = (
        f"{machine['system']} {machine['kernel']}, {machine['arch']}, {machine['cpus']} CPUs, Python {machine['python']}; "
        f"seed {result['seed']}, {len(result['rows'])} rows in {result['seconds']:.0f} s"
    )
    return (
        "<h1>Taking back memory that a device is writing</h1>"
        '<p class="lede">Every row is a broker and client processes of its own: a holder registers a file, a peer writes and '
        "reads without pause, and somebody truncates, punches, unlinks or unplugs the memory under them.</p>"
        f'{_verdict(result["rows"])}<p class="machine">{escape(about)}</p>'
    )


def _verdict(rows: Sequence[Json]) -> str:
    if any(row["breaches"] for row in rows):
        return '<p class="verdict breach">A protocol broke what it promises.</p>'
    if any(row["outcome"] == "UNKNOWN" for row in rows):
        return '<p class="verdict unknown">Every promise that could be judged was kept; some rows are unknown.</p>'
    return (
        '<p class="verdict">Every protocol kept what it promises. What it does not promise is its price.</p>'
    )


# ---- the matrix


def _matrices(rows: Sequence[Json], beside: str) -> str:
    hint = (
        "<p>A cell leads to its run: who did what when, whose memory it was, every figure.</p>"
        if beside
        else ""
    )
    return f"<h2>Outcomes</h2>{hint}" + "".join(
        _matrix(title, members, beside) for title, members in groups(rows).items()
    )


def _matrix(title: str, rows: Sequence[Json], beside: str) -> str:
    """Wide ones are heat maps: the outcome alone, the rest where a pointer rests, and behind the link."""
    events = columns(rows, "event")
    found = {(row["protocol"], row["event"]): row for row in rows}
    heat = len(events) > WIDE
    cell = _square if heat else _cell
    head = "".join(f'<th scope="col"><span>{escape(event)}</span></th>' for event in events)
    body = "".join(
        f'<tr><th scope="row">{escape(p)}</th>{"".join(cell(found.get((p, event)), beside) for event in events)}</tr>'
        for p in columns(rows, "protocol")
    )
    kind = "matrix squares" if heat else "matrix"
    table = f'<table class="{kind}"><thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f"<h3>{escape(title)}</h3>{scroll(table, title)}{_reasons(rows)}"


def _square(row: Json | None, beside: str) -> str:
    if row is None:
        return "<td></td>"
    shade, tip = SHADE.get(row["outcome"], "none"), f"{', '.join(row['outcomes'])}: {measured(row)}"
    word = "" if row["outcome"] == "N/A" else escape(row["outcome"])
    return f'<td class="{shade}" title="{escape(tip, quote=True)}">{_linked(row, word, beside)}</td>'


def _linked(row: Json, markup: str, beside: str) -> str:
    """markup: what stands in the cell."""
    if not beside or not row["evidence"]:
        return markup
    return f'<a href="{escape(f"{beside}/{drill.name(row)}", quote=True)}">{markup}</a>'


def _reasons(rows: Sequence[Json]) -> str:
    """Why there are pairs that make no sense: one line a reason, under the table."""
    found: dict[str, list[Json]] = {}
    for row in rows:
        if row["outcome"] == "N/A":
            found.setdefault(str(row["reason"]), []).append(row)
    lines = []
    for reason, members in found.items():
        one_event = len({row["event"] for row in members}) == 1
        which = members[0]["event"] if one_event else ", ".join(columns(members, "protocol"))
        lines.append(f"<li><b>{escape(which)}</b>: {escape(reason)}</li>")
    return f'<ul class="reasons">{"".join(lines)}</ul>' if lines else ""


def _cell(row: Json | None, beside: str) -> str:
    if row is None:
        return "<td></td>"
    also = [name for name in row["outcomes"] if name != row["outcome"]]
    chips = " ".join(
        [chip(row["outcome"]), *(chip(name) for name in also if name in {"FAULT", "KILL", "LEAK"})]
    )
    return f"<td>{_linked(row, chips, beside)}<small>{escape(_short(row))}</small></td>"


def _short(row: Json) -> str:
    """One line under the outcome."""
    match row["outcome"]:
        case "CORRUPT":
            return f"{count(row['foreign_bytes'])} foreign bytes"
        case "DENY":
            return str(row["errno"])
        case "OK+ERR" | "OK":
            return span(row["reclaim_us"]["p50"] if row["reclaim_us"] else None)
        case "UNKNOWN":
            return str(row["reason"] or "")
        case "N/A":
            return ""
    return measured(row)


# ---- words


def _findings(rows: Sequence[Json]) -> str:
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in findings(rows))
    return (
        f"<h2>Claimed and measured</h2><p>{escape(agreement(rows))}</p><p>{escape(controlled(rows))}</p>"
        + (f"<ul>{items}</ul>" if items else "")
    )


def _legend(rows: Sequence[Json]) -> str:
    seen = {name for row in rows for name in row["outcomes"]}
    items = "".join(
        f"<dt>{chip(name)}</dt><dd>{escape(meaning)}</dd>"
        for name, meaning in MEANING.items()
        if name in seen
    )
    return f"<h2>What the outcomes mean</h2><dl>{items}</dl>"


# ---- figures


def _latency(rows: Sequence[Json]) -> str:
    caption = (
        "From the reclaimer's call to its answer. A dot is a row's median; a line reaches to the longest, a stroke stands at the median of a "
        "protocol's rows. A refusal and a corruption are quick too: the colour tells, and the outcome stands beside each or where a pointer rests."
    )
    return f"<h2>How long the reclaimer waited</h2>{figure(latency.plot(rows), caption)}"


def _how() -> str:
    return (
        "<h2>How to read this</h2><ul>" + "".join(f"<li>{escape(point)}</li>" for point in READING) + "</ul>"
    )
