"""A comparison as one self-contained page: no script, no font, no picture from elsewhere, so it can be mailed and kept.

Everything that comes from outside goes through `html.escape`. Outcomes are told by word and by colour, never by colour alone.
"""

from __future__ import annotations

from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from emu.report import latency, scene, spacetime
from emu.report.table import columns, groups
from emu.report.words import MEANING, agreement, count, errors, findings, measured, span

if TYPE_CHECKING:
    from collections.abc import Sequence

Json = dict[str, Any]

SHADE = {
    "CORRUPT": "bad", "FAULT": "bad", "KILL": "loss", "HANG": "loss", "LEAK": "loss", "LOST": "loss", "STALE": "loss",
    "DENY": "deny", "REFUSED": "deny", "OK+ERR": "good", "OK": "good", "UNKNOWN": "none", "N/A": "none",
}  # fmt: skip
KEY = (("good", "bytes moved, good completion"), ("bad", "foreign or absent memory, error completion"), ("loss", "freed memory"), ("deny", "refused by the engine, notice"), ("accent", "call, phase, message"))  # fmt: skip
READING = (
    "Foreign bytes are counted in the device image after DMA has stopped: stamped cells in blocks that belong to another file, or that came to this one later. They are a lower bound.",
    "Freed and lost bytes come from the engine's log, and count only operations that started after the reclaim returned; each write counts, not each byte of the file.",
    "A run without DMA in flight at the gate is tried again, and unknown if that does not help.",
    "Controls change one thing: nobody writes (no-dma), the allocator reuses freed blocks last (fifo), nobody holds the file (no-pin). A row whose control ends as the row did is unknown.",
    "Times are of this machine under this load; they are reported, and decide nothing.",
)
CLOCKS = (
    "One clock, noted by whoever is named on the left. The engine's lane says when bytes moved: a pale bar sums up many copies between its "
    "ends, a full one is a single copy, in the colour of what it met until its end. A completion on the peer's lane stands where its program polled it, so it may lie behind `freed` although "
    "its bytes had moved before. The answer leaves the broker at `returned`; the reclaimer's bar ends when its program has it."
)
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(result: Json) -> str:
    """The whole document."""
    style = files("emu.report").joinpath("page.css").read_text("utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"<title>emu compare: who gets the memory back, and at what price</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n{_body(result)}\n</body>\n</html>\n"
    )


def _body(result: Json) -> str:
    rows = result["rows"]
    sections = [
        _header(result),
        _matrices(rows),
        _findings(rows),
        _legend(rows),
        _latency(rows),
        _diagram(rows),
        _all(rows),
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


def chip(outcome: str) -> str:
    return f'<span class="chip {SHADE.get(outcome, "none")}">{escape(outcome)}</span>'


def _matrices(rows: Sequence[Json]) -> str:
    return "<h2>Outcomes</h2>" + "".join(_matrix(title, members) for title, members in groups(rows).items())


def _matrix(title: str, rows: Sequence[Json]) -> str:
    events = columns(rows, "event")
    found = {(row["protocol"], row["event"]): row for row in rows}
    head = "".join(f'<th scope="col">{escape(event)}</th>' for event in events)
    body = "".join(
        f'<tr><th scope="row">{escape(p)}</th>{"".join(_cell(found.get((p, event))) for event in events)}</tr>'
        for p in columns(rows, "protocol")
    )
    table = f'<table class="matrix"><thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f"<h3>{escape(title)}</h3>{_scroll(table, title)}{_reasons(rows)}"


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


def _scroll(table: str, label: str) -> str:
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label, quote=True)}">{table}</div>'


def _cell(row: Json | None) -> str:
    if row is None:
        return "<td></td>"
    also = [name for name in row["outcomes"] if name != row["outcome"]]
    chips = " ".join(
        [chip(row["outcome"]), *(chip(name) for name in also if name in {"FAULT", "KILL", "LEAK"})]
    )
    return f"<td>{chips}<small>{escape(_short(row))}</small></td>"


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
    return f"<h2>Claimed and measured</h2><p>{escape(agreement(rows))}</p>" + (
        f"<ul>{items}</ul>" if items else ""
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


def _figure(picture: str, caption: str) -> str:
    return (
        f'<figure><div class="scroll" tabindex="0">{picture}</div><figcaption>{caption}</figcaption></figure>'
    )


def _latency(rows: Sequence[Json]) -> str:
    caption = (
        "From the reclaimer's call to its answer: the dot is the median, the line reaches to the longest. A refusal and a "
        "corruption are quick too; the outcome stands beside each."
    )
    return f"<h2>How long the reclaimer waited</h2>{_figure(latency.plot(rows), caption)}"


def _diagram(rows: Sequence[Json]) -> str:
    """A run in which memory changed hands under the DMA, and one in which it was taken back cleanly: of the same event, where there are both."""
    kept = [row for row in rows if row["evidence"]]
    harmed = _drawn(sorted((r for r in kept if r["foreign_bytes"]), key=_corrupting))
    event = harmed[0]["event"] if harmed else ""
    clean = [r for r in kept if r["outcome"] in {"OK", "OK+ERR"}]
    saved = _drawn(sorted(clean, key=lambda row: (row["event"] != event, *_telling(row))))
    shown = [found for found in (harmed, saved) if found] or [
        found for found in [_drawn(sorted(kept, key=_telling))] if found
    ]
    if not shown:
        return ""
    figures = "".join(_run(row, picture) for row, picture in shown)
    return f'<h2>Run by run, party by party</h2>{figures}{_key()}<p class="footnote">{escape(CLOCKS)}</p>'


def _drawn(rows: Sequence[Json]) -> tuple[Json, str] | None:
    """The first row whose evidence shows a reclaim, and its diagram."""
    for row in rows:
        found = scene.read(row["evidence"])
        if found:
            return row, spacetime.draw(found)
    return None


def _run(row: Json, picture: str) -> str:
    label = f"{row['protocol']}, {row['event']} on {row['backing']}, {row['holder']} holder"
    caption = escape(f"{measured(row)}.".replace("..", "."))
    return f"<h3>{escape(label)} {chip(row['outcome'])}</h3>{_figure(picture, caption)}"


def _corrupting(row: Json) -> tuple[bool, float]:
    """Where the next owner comes soon: a device that is plugged again takes its time."""
    return "unplug" in row["event"], _took(row)


def _telling(row: Json) -> tuple[bool, bool, float]:
    """A revoke seen by a prompt holder first, and of those the one that was least disturbed."""
    return not row["notified"], row["holder"] != "prompt", _took(row)


def _took(row: Json) -> float:
    return float(row["reclaim_us"]["p50"]) if row["reclaim_us"] else 1e12


def _key() -> str:
    items = "".join(
        f'<li><i style="background:var(--{shade})"></i>{escape(words)}</li>' for shade, words in KEY
    )
    return f'<ul class="key">{items}</ul>'


# ---- every row

FIGURES = (("foreign_bytes", "foreign bytes"), ("freed_bytes", "freed bytes"), ("lost_bytes", "lost bytes"), ("dma_at_gate", "in flight"))  # fmt: skip
FOOTNOTE = (
    "Foreign: bytes found in the image, each once. Freed and lost: bytes that operations moved. A place that is written again is counted "
    "again, so these may exceed the size of the file. In flight: operations at the gate. Evidence: relative to the directory in which "
    "emu compare was run."
)


def _all(rows: Sequence[Json]) -> str:
    cells = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("row", "measured", "claimed"))
    cells += "".join(f'<th scope="col" class="n">{escape(name)}</th>' for _, name in FIGURES)
    body = "".join(_line(row) for row in rows if row["outcome"] != "N/A")
    table = f'<table class="rows"><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>'
    note = f'<p class="footnote">{escape(FOOTNOTE)}</p>'
    return f"<h2>Every row</h2>{_scroll(table, 'Every row with its figures')}{note}"


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


def _how() -> str:
    return (
        "<h2>How to read this</h2><ul>" + "".join(f"<li>{escape(point)}</li>" for point in READING) + "</ul>"
    )
