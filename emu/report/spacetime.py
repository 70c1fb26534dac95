"""A scene drawn: time to the right, a lane for each party, messages as lines between lanes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.report.scene import LANES
from emu.report.svg import box, dot, line, picture, text
from emu.report.words import span

if TYPE_CHECKING:
    from emu.report.scene import Scene

WIDTH, LEFT, RIGHT, TOP, LANE = 1080.0, 92.0, 24.0, 26.0, 84.0
LABEL_STEP, LABEL_LEVELS, LETTER = 13.0, 4, 6.2
TICKS = 6


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


def draw(scene: Scene) -> str:
    axis = Axis(scene)
    bottom = TOP + LANE * len(LANES)
    parts = [*_frame(axis, bottom), *_messages(scene, axis), *_bars(scene, axis), *_marks(scene, axis)]
    return picture(WIDTH, bottom + 26, f"Space-time diagram of one run: {scene.caption}", parts)


def lane_y(name: str) -> float:
    """The line of a lane; its labels stand above it."""
    return TOP + LANE * LANES.index(name) + LANE - 16


def _frame(axis: Axis, bottom: float) -> list[str]:
    parts = []
    for x, label in axis.ticks():
        parts += [line(x, TOP, x, bottom, "grid"), text(x, bottom + 16, label, "axis", "middle")]
    for name in LANES:
        parts += [
            line(LEFT, lane_y(name), WIDTH - RIGHT, lane_y(name), "lane"),
            text(LEFT - 12, lane_y(name) + 4, name, "label", "end"),
        ]
    return parts


def _messages(scene: Scene, axis: Axis) -> list[str]:
    return [
        line(axis.x(m.sent), lane_y(m.source), axis.x(m.heard), lane_y(m.target), "message")
        for m in scene.messages
    ]


def _bars(scene: Scene, axis: Axis) -> list[str]:
    parts = []
    for bar in scene.bars:
        start, end = axis.x(bar.start), axis.x(bar.end)
        tip = f"{bar.label}, {span((bar.end - bar.start) / 1000)}"
        parts.append(box(start, lane_y(bar.lane) - 7, max(1.2, end - start), 14, f"bar {bar.kind}", tip))
        if bar.kind == "call":
            parts.append(text(start, lane_y(bar.lane) - 12, tip, "note"))
    return parts


def _marks(scene: Scene, axis: Axis) -> list[str]:
    parts = []
    ends: dict[str, list[float]] = {}
    for mark in sorted(scene.marks, key=lambda m: m.time):
        x, y = axis.x(mark.time), lane_y(mark.lane)
        if mark.kind in {"good", "error"}:
            parts.append(line(x, y - 6, x, y + 6, f"tick {mark.kind}"))
        else:
            parts.append(
                dot(x, y, 3.5, f"dot {mark.kind}", f"{mark.label}, {span((mark.time - scene.begin) / 1000)}")
            )
        if mark.label:
            parts += _label(mark.label, x, y, ends.setdefault(mark.lane, [0.0] * LABEL_LEVELS))
    return parts


def _label(words: str, x: float, y: float, ends: list[float]) -> list[str]:
    """On the lowest level where it overlaps nothing; not at all where every level is taken (the dot's tip has it)."""
    width = LETTER * len(words)
    left = min(x, WIDTH - RIGHT - width)
    level = next((i for i, end in enumerate(ends) if end <= left), None)
    if level is None:
        return []
    ends[level] = left + width + 6
    top = y - 12 - LABEL_STEP * level
    return [line(x, y - 4, x, top + 2, "leader"), text(left, top, words, "note")]
