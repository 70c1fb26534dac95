"""A protocol as plain data, from the very table that runs: what `emu protocol --diagram` prints and draws, and the docs are made from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emu.protocols.contract import admission, declaration, phases
from emu.protocols.runner import arms

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.core.decision import Action
    from emu.protocols.contract import Protocol


def listing(protocol: Protocol) -> dict[str, Any]:
    """{"schema": 1, "protocol", "summary", ..., "rows": [{"phase", "event", "if", "actions": [[verb, text, number], ...], "to"}, ...]}.

    "if" is "pinned", "free", "pinned and not own" and their like (emu.core.decision.FACTS), or "" where the row does not ask. Rows are in the
    order of the file.
    """
    return {
        "schema": 1,
        **declaration(protocol),
        "summary": protocol.summary,
        "origin": protocol.origin,
        "aliases": list(protocol.aliases),
        "backings": list(protocol.backings),
        "disposal": protocol.disposal,
        **admission(protocol),
        "phases": list(phases(protocol)),
        "rows": list(_rows(protocol)),
        "ignored": {phase: list(events) for phase, events in protocol.ignored.items()},
        "impossible": {phase: list(events) for phase, events in protocol.impossible.items()},
    }


def _rows(protocol: Protocol) -> Iterator[dict[str, Any]]:
    for (phase, event), entry in protocol.table.items():
        for arm, rule in arms(entry):
            yield {
                "phase": phase,
                "event": event,
                "if": arm,
                "actions": [_action(action) for action in rule.actions],
                "to": rule.to,
            }


def _action(action: Action) -> list[Any]:
    return [action.verb, action.text, action.number]
