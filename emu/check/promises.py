"""What installed protocols promise, so that what a run broke can be told apart from what it merely cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.core.decision import CONTRACT
from emu.protocols.contract import declaration, rules_of
from emu.protocols.registry import load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.protocols.contract import Protocol

KINDS = {"surprise-unplug": "surprise"}  # the core's word for the event, where it differs


def installed() -> list[str]:
    """Protocols that can be run, each under its own name (not its aliases)."""
    return sorted({protocol.name for protocol in load().protocols.values()})


def runnable() -> dict[str, Protocol]:
    """Protocols by name, aliases too."""
    return load().protocols


def promised(protocol: str, event: str) -> tuple[str, ...]:
    """Invariants that the protocol says it keeps under this event. Raises UnknownProtocol."""
    return load().get(protocol).promised(KINDS.get(event, event))


def declared(protocol: str) -> dict[str, object]:
    """All that it declares, as a run's meta.json holds it. Raises UnknownProtocol."""
    return declaration(load().get(protocol))


def tells_holders(protocol: str) -> bool:
    """Whether any rule of it notifies holders: else a prompt one does what a deaf one does. Raises UnknownProtocol."""
    table = load().get(protocol).table.values()
    return any(
        action.verb == "notify" for entry in table for rule in rules_of(entry) for action in rule.actions
    )


def is_breach(rule: str, promises: Sequence[str]) -> bool:
    """Whether breaking the rule is more than a cost: it was promised, or it is one that the core holds every protocol to."""
    return rule in promises or rule.startswith(CONTRACT)
