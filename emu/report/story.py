"""A story of the small world drawn: its steps as a list, as a space-time diagram (SVG, one self-contained HTML page) and in Mermaid.

Input is a script as the explorer writes it (docs/explorer.md): labels in order, what they break, and the loop if the story goes on for
ever. Time runs down, one step a row; a lane a party. The last row, or the loop, is where the invariant breaks.
"""

from __future__ import annotations

import re
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from emu.report.svg import box, dot, element, line, picture, text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Json = dict[str, Any]

PARTY: Final = re.compile(r"(holder\d+|reclaimer\d+|peer\d+|taker|network)\b")
LANE, ROW, TOP, LEFT, TAIL = 128.0, 24.0, 40.0, 64.0, 240.0
POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"


class Step(NamedTuple):
    """source -> target says `words`; both the same where somebody does something by himself. kind: message, act, fault."""

    source: str
    target: str
    words: str
    kind: str


# Effects in words: the shell's labels are the core's own fields.
EFFECTS: Final = (
    (re.compile(r"shell: install (\d+) \(([^)]*)\) \d+$"), "installs key {0} over {1}"),
    (re.compile(r"shell: release \(([^)]*)\)$"), "{0} become free"),
    (re.compile(r"shell: allocate \(([^)]*)\)$"), "{0} are given out"),
)


def in_words(label: str) -> str:
    """A label for people: as it is, but for effects whose fields need words."""
    for form, words in EFFECTS:
        found = form.match(label)
        if found:
            *numbers, blocks = found.groups()
            return "shell: " + _agreed(words.format(*numbers, _blocks(blocks)), blocks)
    return label


def _blocks(told: str) -> str:
    """`0, 1` as blocks 0-1."""
    numbers = [int(number) for number in told.split(",") if number.strip()]
    if len(numbers) == 1:
        return f"block {numbers[0]}"
    if numbers and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"blocks {numbers[0]}-{numbers[-1]}"
    return f"blocks {', '.join(map(str, numbers)) or 'none'}"


def _agreed(words: str, blocks: str) -> str:
    """One block becomes, several become."""
    if len([number for number in blocks.split(",") if number.strip()]) != 1:
        return words
    return words.replace(" become ", " becomes ").replace(" are ", " is ")


def step_of(label: str) -> Step:
    """Who tells whom, by the label's grammar."""
    label = in_words(label)
    who, _, what = label.partition(": ")
    if not what:
        return (
            Step("timer", "broker", label, "message")
            if label.startswith("timer")
            else Step("broker", "broker", label, "act")
        )
    named = PARTY.match(what)
    match who:
        case "shell":
            return Step("broker", "engine", what, "message")
        case "engine" if named:
            return Step("engine", "engine", what, "act")
        case "engine":
            return Step("engine", "broker", what, "message")
        case "fault":
            return Step("engine", "broker", what, "fault")
        case "crash":
            place = named[1] if named else "broker"
            return Step(place, place, f"crash: {what}", "fault")
        case "network":
            return Step("network", "network", what, "act")
    target = "engine" if who.startswith("peer") else "broker"
    return Step(who, target, what, "message")


def lanes_of(steps: Sequence[Step]) -> list[str]:
    """Clients on the left, then broker and engine, then peers."""
    seen = {name for step in steps for name in (step.source, step.target)} | {"broker", "engine"}

    def place(name: str) -> tuple[int, str]:
        order = ("reclaimer", "holder", "taker", "timer", "broker", "engine", "network", "peer")
        return next((at for at, start in enumerate(order) if name.startswith(start)), len(order)), name

    return sorted(seen, key=place)


def told(script: Mapping[str, Any]) -> str:
    """The story as text, a step a line."""
    stem, loop = _parts(script)
    lines = [title(script), f"  {broken(script)}", ""]
    lines += [f"{at:4}. {in_words(label)}" for at, label in enumerate(stem, 1)]
    if loop is not None:
        lines += [
            "",
            "      and from there for ever:" if loop else "      and nobody owes a move any more",
            "",
        ]
        lines += [f"{at:4}. {in_words(label)}" for at, label in enumerate(loop, len(stem) + 1)]
    if script.get("untold"):
        lines += ["", f"      {script['untold']}"]
    return "\n".join(lines) + "\n"


def title(script: Mapping[str, Any]) -> str:
    protocol = script["protocol"]
    name = script.get("name") or (protocol if isinstance(protocol, str) else protocol["file"])
    return f"{name}: {', '.join(script['setup']['reclaims'])}"


def broken(script: Mapping[str, Any]) -> str:
    found = script["breaks"] or {}
    return f"{found.get('invariant', 'nothing')}: {found.get('sentence', 'breaks')}"


def mermaid(script: Mapping[str, Any]) -> str:
    """A sequence diagram for Mermaid."""
    stem, loop = _parts(script)
    steps = [step_of(label) for label in (*stem, *(loop or ()))]
    lines = ["sequenceDiagram", *(f"    participant {name}" for name in lanes_of(steps))]
    lines += [f"    {_arrow(step)}" for step in steps[: len(stem)]]
    if loop:
        lines += ["    loop for ever", *(f"        {_arrow(step)}" for step in steps[len(stem) :]), "    end"]
    lanes = lanes_of(steps)
    lines.append(f"    Note over {lanes[0]},{lanes[-1]}: {_plain(broken(script))}")
    return "\n".join(lines) + "\n"


def _arrow(step: Step) -> str:
    arrow = "-x" if step.kind == "fault" else "->>"
    return f"{step.source}{arrow}{step.target}: {_plain(step.words)}"


def _plain(words: str) -> str:
    """Mermaid ends a message at these."""
    return words.replace(";", ",").replace("#", "no. ").replace("\n", " ")


def draw(script: Mapping[str, Any]) -> str:
    """The diagram as an SVG element; its colours are the page's classes."""
    stem, loop = _parts(script)
    steps = [step_of(label) for label in (*stem, *(loop or ()))]
    lanes = lanes_of(steps)
    x = {name: LEFT + LANE * at for at, name in enumerate(lanes)}
    bottom = TOP + ROW * (len(steps) + 1)
    width = LEFT + LANE * (len(lanes) - 1) + TAIL
    parts = [_lane(name, x[name], bottom) for name in lanes]
    if loop is not None:
        parts.append(_loop(len(stem), len(steps), width))
    parts += [_row(step, at, x, last=at == len(steps) - 1) for at, step in enumerate(steps)]
    parts.append(text(LEFT, bottom + 16, broken(script), "label"))
    return picture(width, bottom + 30, f"Space-time diagram: {title(script)}", parts)


def _lane(name: str, x: float, bottom: float) -> str:
    return text(x, TOP - 14, name, "label", "middle") + line(x, TOP, x, bottom - ROW / 2, "lane")


def _loop(first: int, end: int, width: float) -> str:
    """Behind the steps that repeat; behind the last one where nothing does."""
    top, height = TOP + ROW * first, ROW * max(end - first, 1)
    words = "for ever" if end > first else "nobody owes a move any more"
    return box(4, top, width - 8, height, "forever") + text(width - 12, top + 15, words, "label", "end")


def _row(step: Step, at: int, x: Mapping[str, float], *, last: bool) -> str:
    y = TOP + ROW * at + ROW / 2
    begin, end = x[step.source], x[step.target]
    kind = "bad" if last else {"fault": "loss", "act": "good"}.get(step.kind, "phase")
    parts = [text(20, y + 4, str(at + 1), "axis", "middle"), dot(begin, y, 3.5, f"dot {kind}", step.words)]
    if begin != end:
        side = 6 if end > begin else -6
        parts += [line(begin, y, end, y, "message"), *(
            line(end, y, end - side, y + turn, "message head") for turn in (-4, 4)
        )]  # fmt: skip
    parts.append(text(max(begin, end) + 10, y + 4, step.words, "note"))
    return "".join(parts)


def svg(script: Mapping[str, Any]) -> str:
    """A file of its own, with a ground, since a page that shows it may be dark where its reader's system is light."""
    style = element("style", escape(_style() + ".figure { background: var(--panel); }\n"))
    found = draw(script)
    head = found.index(">") + 1
    return (
        found[:head].replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
        + style
        + found[head:]
        + "\n"
    )


def page(script: Mapping[str, Any]) -> str:
    """A page of its own: the diagram, and the steps as text."""
    heading = escape(title(script))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"<title>{heading}</title>\n<style>\n{_style()}</style>\n</head>\n<body>\n<h1>{heading}</h1>\n"
        f'<p class="verdict breach">{escape(broken(script))}</p>\n'
        f'<figure><div class="scroll" tabindex="0">{draw(script)}</div></figure>\n'
        f"<h2>Step by step</h2>\n<pre>{escape(told(script))}</pre>\n</body>\n</html>\n"
    )


def _style() -> str:
    style = files("emu.report").joinpath("page.css").read_text("utf-8")
    return style + ".figure .forever { fill: var(--bad-tint); }\n"


def _parts(script: Mapping[str, Any]) -> tuple[list[str], list[str] | None]:
    """Stem and loop; no loop: None."""
    return list(script["steps"]), script.get("loop")
