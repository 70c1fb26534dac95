"""A scene drawn: time to the right, a lane for each party, messages as lines between lanes.

Labels stand above their marks in a staircase that falls to the right: whoever comes first stands highest, so that no text covers
another and no leader runs through one. A lane is as high as its staircase.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from emu.report.scene import LANES
from emu.report.svg import box, dot, line, picture, text
from emu.report.words import span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.report.scene import Mark, Scene

WIDTH, LEFT, RIGHT, TOP = 1080.0, 104.0, 30.0, 12.0
ABOVE, BELOW, STEP, LETTER = 16.0, 22.0, 13.0, 6.6  # of a lane's line; of labels
TICKS = 6
CLOCK = {
    "holder": "when it heard",
    "peer": "when it polled",
    "broker": "its history",
    "engine": "its own log",
    "reclaimer": "its call",
}


class Axis:
    """Nanoseconds to pixels."""

    def __init__(self, scene: Scene) -> None:
        self.begin, self.length = scene.begin, max(1, scene.end - scene.begin)

    def x(self, time: int) -> float:
        share = (time - self.begin) / self.length
        return LEFT + min(1.0, max(0.0, share)) * (WIDTH - LEFT - RIGHT)

    def ticks(self) -> list[tuple[float, str]]:
        step = self.length / TICKS
        return [(self.x(self.begin + int(step * i)), span(step * i / 1000)) for i in range(TICKS + 1)]


class Label(NamedTuple):
    x: float  # of its mark
    left: float
    level: int  # 0: right above the mark
    words: str


class Layout:
    """Where everything stands. y: a lane's line, by its name."""

    def __init__(self, scene: Scene) -> None:
        self.axis = Axis(scene)
        self.labels = {name: place(self._wanted(scene, name)) for name in LANES}
        self.y: dict[str, float] = {}
        top = TOP
        for name in LANES:
            levels = max((label.level + 1 for label in self.labels[name]), default=1)
            self.y[name] = top + ABOVE + STEP * levels
            top = self.y[name] + BELOW
        self.bottom = top

    def _wanted(self, scene: Scene, name: str) -> list[tuple[float, str]]:
        """A lane's labels in the order of time."""
        marks = [(m.time, m.label) for m in scene.marks if m.lane == name and m.label]
        calls = [
            (b.start, f"{b.label}; it took {span((b.end - b.start) / 1000)}")
            for b in scene.bars
            if b.lane == name and b.kind == "call"
        ]
        return [(self.axis.x(time), words) for time, words in sorted([*marks, *calls], key=lambda m: m[0])]


def place(wanted: Sequence[tuple[float, str]]) -> list[Label]:
    """From the right to the left, each on the lowest level where it ends before its neighbour begins."""
    begins: list[float] = []  # of the leftmost label of each level
    placed = []
    for x, words in reversed(wanted):
        width = LETTER * len(words) + 8
        left = max(0.0, min(x + 2, WIDTH - width))
        level = next((i for i, begin in enumerate(begins) if left + width <= begin), len(begins))
        begins[level : level + 1] = [left]
        for below in range(level):  # nobody comes to stand below it any more: its leader is there
            begins[below] = min(begins[below], x - 4)
        placed.append(Label(x, left, level, words))
    return placed[::-1]


def draw(scene: Scene) -> str:
    layout = Layout(scene)
    parts = [
        *_frame(layout),
        *_messages(scene, layout),
        *_bars(scene, layout),
        *_marks(scene, layout),
        *_labels(layout),
    ]
    return picture(WIDTH, layout.bottom + 26, f"Space-time diagram of one run: {scene.caption}", parts)


def _frame(layout: Layout) -> list[str]:
    parts = []
    for x, label in layout.axis.ticks():
        parts += [
            line(x, TOP, x, layout.bottom, "grid"),
            text(x, layout.bottom + 16, label, "axis", "middle"),
        ]
    for name in LANES:
        y = layout.y[name]
        parts += [
            line(LEFT, y, WIDTH - RIGHT, y, "lane"),
            text(LEFT - 12, y, name, "label", "end"),
            text(LEFT - 12, y + 13, CLOCK[name], "note", "end"),
        ]
    return parts


def _messages(scene: Scene, layout: Layout) -> list[str]:
    parts = []
    for m in scene.messages:
        x1, y1, x2, y2 = layout.axis.x(m.sent), layout.y[m.source], layout.axis.x(m.heard), layout.y[m.target]
        parts += [line(x1, y1, x2, y2, "message"), *_head(x1, y1, x2, y2)]
    return parts


def _head(x1: float, y1: float, x2: float, y2: float) -> list[str]:
    """The two strokes of an arrow's head, at its end."""
    angle = math.atan2(y2 - y1, x2 - x1)
    return [
        line(x2, y2, x2 - 8 * math.cos(angle + turn), y2 - 8 * math.sin(angle + turn), "message head")
        for turn in (-0.4, 0.4)
    ]


def _bars(scene: Scene, layout: Layout) -> list[str]:
    parts = []
    for bar in scene.bars:
        start, end = layout.axis.x(bar.start), layout.axis.x(bar.end)
        tip = f"{bar.label}, {span((bar.end - bar.start) / 1000)}"
        kind = f"bar {bar.kind} summed" if bar.summed else f"bar {bar.kind}"
        parts.append(box(start, layout.y[bar.lane] - 7, max(1.2, end - start), 14, kind, tip))
    return parts


def _marks(scene: Scene, layout: Layout) -> list[str]:
    return [_mark(m, layout.axis.x(m.time), layout.y[m.lane], m.time - scene.begin) for m in scene.marks]


def _mark(mark: Mark, x: float, y: float, since: int) -> str:
    if mark.kind in {"good", "error"}:
        return line(x, y - 6, x, y + 6, f"tick {mark.kind}")
    return dot(x, y, 3.5, f"dot {mark.kind}", f"{mark.label or mark.tip}, {span(since / 1000)}")


def _labels(layout: Layout) -> list[str]:
    parts = []
    for name, labels in layout.labels.items():
        for label in labels:
            top = layout.y[name] - 12 - STEP * label.level
            parts += [
                line(label.x, layout.y[name] - 4, label.x, top - 6, "leader"),
                text(label.left, top, label.words, "note"),
            ]
    return parts
