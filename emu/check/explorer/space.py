"""What the explorer asks of a small world: labelled choices of immutable states, their canonical bytes, and two questions about what is owed.

    world.start() -> state
    world.choices(state) -> [(label, make), ...]     lazily made; empty when the story is over
    world.take(label, make) -> Move                  carried out and judged
    world.canonical(state) -> bytes                  equal bytes: the same future; with `symmetry` the least over all orders of the holders
    world.under_way(state) -> int                    bit n: reclaim n was asked for and has not ended, and its story is not over
    world.unheard(state) -> int                      bit n: holder n was told MR_REVOKING, and neither answered, nor let go, nor was lost, nor
                                                     is its key quiesced, nor did the reclaim fail

The place of a choice in `choices` is all that the explorer keeps of a way: a story is told by going it again, in a world that need not
be the fast one. So the order of choices must depend on nothing but the way by which the state was reached (not on interning, not on which
number a representative carries).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from emu.check.model.state import Move


class Space(Protocol):
    """See above. States are opaque here."""

    def start(self) -> Any: ...
    def choices(self, state: Any) -> Sequence[tuple[str, Callable[[], Any]]]: ...
    def take(self, label: str, make: Callable[[], Any]) -> Move: ...
    def canonical(self, state: Any) -> bytes: ...
    def under_way(self, state: Any) -> int: ...
    def unheard(self, state: Any) -> int: ...
