"""Runs a table: one event in a phase -> the decision, None if it is ignored. Nothing is kept between two calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from emu.core.decision import FACTS, Decision
from emu.core.errors import ProtocolBroke

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.core.decision import Action, Facts
    from emu.protocols.contract import Protocol


Path = tuple[tuple[str, bool], ...]  # facts, and whether they hold


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
            protocol.name, "total", f"{event} in phase {phase} was not to be possible, and it came"
        )
    while not isinstance(entry, Rule):
        entry = entry.yes if facts.holds(entry.fact) else entry.no
    return Decision(entry.actions, entry.to)


def words_for(fact: str) -> tuple[str, str]:
    """Where it holds, where it does not: `pinned`, `free`; `unplug`, `not unplug`."""
    value = fact.partition("=")[2]
    return (value, f"not {value}") if value else FACTS[fact]


def words_of(path: Path) -> str:
    return " and ".join(words_for(fact)[0 if holds else 1] for fact, holds in path)


def arm_of(entry: Rule | Choice, facts: Facts) -> str:
    """Which way it goes, in words: `pinned and not own`; "" where the row does not ask."""
    return next(
        words_of(path) for path, _rule in paths(entry) if all(facts.holds(f) == holds for f, holds in path)
    )


def paths(entry: Rule | Choice, before: Path = ()) -> Iterator[tuple[Path, Rule]]:
    """All its ways, each with the facts that it takes and whether they hold."""
    if isinstance(entry, Rule):
        yield before, entry
        return
    for holds, then in ((True, entry.yes), (False, entry.no)):
        yield from paths(then, (*before, (entry.fact, holds)))


def arms(entry: Rule | Choice) -> Iterator[tuple[str, Rule]]:
    """The same, each with its words."""
    for path, rule in paths(entry):
        yield words_of(path), rule
