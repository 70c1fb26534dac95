"""A story drawn: one column a party, time downwards, a row for each thing that happened; who hears of it at the arrow's end.

It takes data only: what a row says in words stands beside its dot. Rows have equal distances, since what counts is their order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from emu.report.svg import dot, line, picture, text

if TYPE_CHECKING:
    from collections.abc import Sequence

COLUMN, LEFT, TOP, ROW, FOOT = 108.0, 70.0, 34.0, 27.0, 14.0
LETTER = 5.9  # about, of the words beside the columns
KINDS = {"ask": "", "answer": "", "phase": "", "order": "", "told": "told", "good": "good", "bad": "bad"}


class Happening(NamedTuple):
    """lane, to: names of columns; `to` may be empty. ref: where it can be looked up. kind: of KINDS."""

    ref: str
    lane: str
    to: str
    words: str
    kind: str


def columns(story: Sequence[Happening]) -> list[str]:
    """Clients in order of appearance, then the broker, then the engine."""
    named = list(dict.fromkeys(name for one in story for name in (one.lane, one.to) if name))
    own = ("broker", "engine")
    return [name for name in named if name not in own] + [name for name in own if name in named]


def draw(story: Sequence[Happening], caption: str) -> str:
    """The figure, as SVG."""
    lanes = columns(story)
    x = {name: LEFT + COLUMN * (at + 0.5) for at, name in enumerate(lanes)}
    aside = LEFT + COLUMN * len(lanes) + 12
    width = aside + LETTER * max((len(one.words) for one in story), default=10) + 20
    bottom = TOP + ROW * len(story) + FOOT
    parts = []
    for name in lanes:
        parts += [text(x[name], 18, name, "label", "middle"), line(x[name], TOP - 8, x[name], bottom, "lane")]
    for at, one in enumerate(story):
        parts += _row(one, TOP + ROW * (at + 0.5), x, aside)
    return picture(width, bottom + 6, f"Space-time diagram: {caption}", parts)


def _row(one: Happening, y: float, x: dict[str, float], aside: float) -> list[str]:
    at = x[one.lane]
    parts = [text(LEFT - 10, y + 4, one.ref, "axis", "end"), line(at, y, aside - 6, y, "leader")]
    if one.to in x and one.to != one.lane:
        end = x[one.to]
        back = 6 if end > at else -6
        parts += [
            line(at, y, end, y, "message head"),
            line(end, y, end - back, y - 4, "message head"),
            line(end, y, end - back, y + 4, "message head"),
        ]
    parts += [
        dot(at, y, 4, f"dot {KINDS.get(one.kind, '')}".strip(), one.words),
        text(aside, y + 4, one.words),
    ]
    return parts
