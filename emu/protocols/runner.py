"""Runs a table: one event in a phase -> the decision, None if it is ignored. Nothing is kept between two calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from emu.core.decision import Decision
from emu.core.errors import ProtocolBroke

if TYPE_CHECKING:
    from emu.core.decision import Action, Facts
    from emu.protocols.contract import Protocol


class Rule(NamedTuple):
    """Actions in order, then the next phase."""

    actions: tuple[Action, ...]
    to: str


class Choice(NamedTuple):
    """One rule if an MR pins the range at this moment, another if none does. Looked at and acted on in one step."""

    pinned: Rule
    free: Rule


def decide(protocol: Protocol, phase: str, event: str, facts: Facts) -> Decision | None:
    entry = protocol.table.get((phase, event))
    if entry is None:
        if event in protocol.ignored.get(phase, ()) or event in protocol.ignored.get("*", ()):
            return None
        raise ProtocolBroke(
            protocol.name, "total", f"{event} in phase {phase} was declared impossible, and it came"
        )
    rule = entry if isinstance(entry, Rule) else entry.pinned if facts.pins else entry.free
    return Decision(rule.actions, rule.to)
