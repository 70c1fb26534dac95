"""A protocol's table as a state diagram, in Mermaid. Input: the data of `emu protocol --diagram --json`.

An arrow says which events lead there, under which condition, and what is done on the way:

    requested [pinned] / gate, notify MR_REVOKING, arm 0.05 s

Rows that go the same way with the same actions share an arrow. The phase `end` is Mermaid's [*]; ignored events are not drawn.
A stranger's words are written so that Mermaid cannot take them for its own.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Json = dict[str, Any]

END: Final = "[*]"
PLAIN: Final = re.compile(r"[a-z][a-z0-9]*")
TAKEN: Final = frozenset(("accdescr", "acctitle", "class", "classdef", "default", "hide", "note", "scale", "state", "style"))  # fmt: skip
LOUD: Final = re.compile(r"[^\w .,/()\[\]+-]")  # what may mean something to Mermaid


def mermaid(listing: Mapping[str, Any]) -> str:
    """The diagram's text."""
    names = _names(listing)
    lines = [
        f'    state "{_quiet(phase)}" as {name}' for phase, name in names.items() if name not in {phase, END}
    ]
    lines.append(f"    {END} --> {names['start']}")
    lines += [
        f"    {names[source]} --> {names[target]}: {label}"
        for (source, target), labels in _arrows(listing["rows"]).items()
        for label in labels
    ]
    return "\n".join(["stateDiagram-v2", *lines]) + "\n"


def _names(listing: Mapping[str, Any]) -> dict[str, str]:
    """Phase -> how Mermaid calls it."""
    names = {"end": END}
    for at, phase in enumerate(listing["phases"]):
        plain = PLAIN.fullmatch(phase) and phase not in TAKEN
        names.setdefault(phase, phase if plain else f"phase_{at}")
    return names


def _arrows(rows: Sequence[Json]) -> dict[tuple[str, str], list[str]]:
    """(from, to) -> labels. Events with the same actions are one label."""
    events: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        event = f"{row['event']} [{row['if']}]" if row["if"] else row["event"]
        events.setdefault((row["phase"], row["to"], _actions(row["actions"])), []).append(_quiet(event))
    found: dict[tuple[str, str], list[str]] = {}
    for (source, target, actions), names in events.items():
        label = ", ".join(names) + (f" / {actions}" if actions else "")
        found.setdefault((source, target), []).append(label)
    return found


def _actions(actions: Sequence[Sequence[Any]]) -> str:
    return ", ".join(_quiet(_words(*action)) for action in actions)


def _words(verb: str, text: str, number: float) -> str:
    """`notify MR_REVOKED`, `arm 0.05 s`."""
    return " ".join([verb, *([text] if text else []), *([f"{number:g} s"] if number else [])])


def _quiet(words: str) -> str:
    return LOUD.sub("_", words)
