"""Runs a table: one event in a phase -> the decision, None if it is ignored. Nothing is kept between two calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from emu.core.decision import FACTS, Decision
from emu.core.errors import ProtocolBroke

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.core.decision import Action, Facts
    from emu.protocols.contract import Protocol


class Rule(NamedTuple):
    """Actions in order, then the next phase."""

    actions: tuple[Action, ...]
    to: str


class Choice(NamedTuple):
    """One rule if the fact (FACTS) holds at this moment, another if not; either may be a choice. Looked at and acted on in one step."""

    fact: str
    yes: Rule | Choice
    no: Rule | Choice


def decide(protocol: Protocol, phase: str, event: str, facts: Facts) -> Decision | None:
    entry = protocol.table.get((phase, event))
    if entry is None:
        if event in protocol.ignored.get(phase, ()) or event in protocol.ignored.get("*", ()):
            return None
        raise ProtocolBroke(
            protocol.name, "total", f"{event} in phase {phase} was declared impossible, and it came"
        )
    while not isinstance(entry, Rule):
        entry = entry.yes if getattr(facts, entry.fact) else entry.no
    return Decision(entry.actions, entry.to)


def arm_of(entry: Rule | Choice, facts: Facts) -> str:
    """Which way it goes, in words: `pinned, not own`; "" where the row does not ask."""
    words = []
    while not isinstance(entry, Rule):
        holds = bool(getattr(facts, entry.fact))
        words.append(FACTS[entry.fact][0 if holds else 1])
        entry = entry.yes if holds else entry.no
    return ", ".join(words)


def arms(entry: Rule | Choice, before: tuple[str, ...] = ()) -> Iterator[tuple[str, Rule]]:
    """All its ways, each with its words, in the order of the file."""
    if isinstance(entry, Rule):
        yield ", ".join(before), entry
        return
    for word, then in zip(FACTS[entry.fact], (entry.yes, entry.no), strict=True):
        yield from arms(then, (*before, word))
