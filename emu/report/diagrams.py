"""The page's section of space-time diagrams: a run in which memory changed hands under the DMA, and one in which it was taken back cleanly."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from emu.report import scene, spacetime
from emu.report.parts import chip, figure
from emu.report.words import measured

if TYPE_CHECKING:
    from collections.abc import Sequence

Json = dict[str, Any]

KEY = (("good", "bytes moved, good completion"), ("bad", "foreign or absent memory, error completion"), ("loss", "freed memory"), ("deny", "refused by the engine, notice"), ("accent", "call, phase, message"))  # fmt: skip
CLOCKS = (
    "One clock, noted by whoever is named on the left. The engine's lane says when bytes moved: a pale bar sums up many copies between its "
    "ends, a full one is a single copy, in the colour of what it met until its end. A completion on the peer's lane stands where its program polled it, so it may lie behind `freed` although "
    "its bytes had moved before. The answer leaves the broker at `returned`; the reclaimer's bar ends when its program has it."
)


def section(rows: Sequence[Json]) -> str:
    """Both are of the same event, if there are such rows; a comparison without either shows one run that it has."""
    kept = [row for row in rows if row["evidence"]]
    harmed = _drawn(sorted((r for r in kept if r["outcome"] == "CORRUPT"), key=_corrupting))
    event = harmed[0]["event"] if harmed else ""
    clean = [r for r in kept if r["outcome"] in {"OK", "OK+ERR"}]
    saved = _drawn(sorted(clean, key=lambda row: (row["event"] != event, *_telling(row))))
    shown = [found for found in (harmed, saved) if found] or [
        found for found in [_drawn(sorted(kept, key=_telling))] if found
    ]
    if not shown:
        return ""
    figures = "".join(_run(row, picture) for row, picture in shown)
    return f'<h2>Run by run, party by party</h2>{figures}{key()}<p class="footnote">{escape(CLOCKS)}</p>'


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
    return f"<h3>{escape(label)} {chip(row['outcome'])}</h3>{figure(picture, caption)}"


def _corrupting(row: Json) -> tuple[bool, float]:
    """Where the next owner comes soon: a device that is plugged again takes its time."""
    return "unplug" in row["event"], _took(row)


def _telling(row: Json) -> tuple[bool, bool, float]:
    """A revoke seen by a prompt holder first, and of those the one that was least disturbed."""
    return not row["notified"], row["holder"] != "prompt", _took(row)


def _took(row: Json) -> float:
    return float(row["reclaim_us"]["p50"]) if row["reclaim_us"] else 1e12


def key() -> str:
    items = "".join(
        f'<li><i style="background:var(--{shade})"></i>{escape(words)}</li>' for shade, words in KEY
    )
    return f'<ul class="key">{items}</ul>'
