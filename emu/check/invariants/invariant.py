"""What an invariant is, and what is said about a history."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from emu.check.history import History


class Breach(NamedTuple):
    """One occasion on which an invariant does not hold. `lines`: numbers (`n`) of the events that tell it, in order.

    `records`: (thread, seq) of the engine's log that show it. A story is told from both.
    """

    invariant: str
    sentence: str
    lines: tuple[int, ...] = ()
    records: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Invariant:
    """`breaches` yields every occasion, in order. `untested` says why this history cannot show a breach; "" if it can."""

    name: str
    title: str
    breaches: Callable[[History], Iterator[Breach]]
    untested: Callable[[History], str]


@dataclass(frozen=True)
class Judgement:
    """kept: `breaches` is empty and `untested` too. promised: where the first of them was broken; else at some reclaim of the history."""

    name: str
    promised: bool
    breaches: tuple[Breach, ...] = ()
    untested: str = ""

    @property
    def verdict(self) -> str:
        """The word for it: breach (promised and broken), cost (broken), untested, kept."""
        if self.breaches:
            return "breach" if self.promised else "cost"
        return "untested" if self.untested else "kept"
