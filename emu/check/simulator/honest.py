"""A protocol that is asked everything twice: one that answers differently remembers, guesses or looks at something, and is named for it.

Protocols are pure (docs/protocols.md): the same phase, event and facts give the same decision. One that differs between two calls raises
ProtocolBroke with the rule `deterministic`; one that differs more rarely shows when a seed is run a second time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emu.core.errors import ProtocolBroke

if TYPE_CHECKING:
    from emu.core.decision import Deciding, Decision, Facts

DETERMINISTIC = "deterministic"


class Honest:
    """Everything else is the protocol's own."""

    def __init__(self, protocol: Deciding) -> None:
        self._protocol = protocol

    def __getattr__(self, name: str) -> Any:
        return getattr(self._protocol, name)

    def decide(self, phase: str, event: str, facts: Facts) -> Decision | None:
        first = self._protocol.decide(phase, event, facts)
        second = self._protocol.decide(phase, event, facts)
        if first != second:
            raise ProtocolBroke(
                self._protocol.name,
                DETERMINISTIC,
                f"{event} in phase {phase} was decided as {first!r}, and then as {second!r}",
            )
        return first
