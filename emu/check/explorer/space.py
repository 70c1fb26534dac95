"""What the explorer asks of a small world: labelled choices of immutable states, their canonical bytes, and questions about what is owed.

The place of a choice in `choices` is all that the explorer keeps of a way: a story is told by going it again, in a world that need not
be the fast one. So the order of choices must depend on nothing but the way by which the state was reached (not on interning, not on which
number a representative carries).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.check.model.state import Choice, Move


class Space(Protocol):
    """States are opaque here."""

    def start(self) -> Any:
        """The first state."""

    def choices(self, state: Any) -> Sequence[Choice]:
        """What can happen next, none of it made yet; empty when the story is over."""

    def forced(self, state: Any, choices: Sequence[Choice]) -> int:
        """The place of the one choice that is enough (reduction.py), -1 if all are needed."""

    def take(self, choice: Choice) -> Move:
        """Made, and judged."""

    def least(self, state: Any) -> tuple[bytes, int]:
        """Equal bytes: the same future, but for the names of holders; and the number of the order that gave them (symmetry.py)."""

    def exact(self, state: Any) -> bytes:
        """Equal bytes: the same future."""

    def owed(self, state: Any) -> int:
        """Bit n: reclaim n was asked for, has not ended, and the story is not over. Bit HOLDERS_FROM + n: holder n was told MR_REVOKING and
        is neither heard nor quiesced.
        """

    def never(self, bit: int) -> tuple[str, str]:
        """The invariant that is broken if this bit stays set for ever, and the sentence that says so."""
