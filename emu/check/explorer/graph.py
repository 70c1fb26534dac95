"""The graph of reachable states, kept small: a digest a state, numbers in arrays, no state itself.

    seen      digest (16 bytes) -> number of the state, in the order in which states were found
    parent    where each was first found from, and by which choice there: the shortest way to it
    owed      which reclaims are under way and which holders were notified and not heard (bits, holders above HOLDERS_FROM)
    edges     of state n: first[n] up to first[n + 1] in target, choice, klass, turn

`klass` says who owes the move (fairness.py), `turn` how the target's holders must be exchanged to get the state that was really reached
(symmetry.py; 0: not at all). States are expanded in the order of their numbers, so edges are only ever appended. About 200 bytes a
state with four edges each; `bytes` says how many it is.
"""

from __future__ import annotations

import sys
from array import array
from typing import Final

DIGEST: Final = 16
ENTRY: Final = DIGEST + 33 + 32  # a digest and its number, as Python objects
HOLDERS_FROM: Final = 16  # the first bit of `owed` that speaks of a holder


class Graph:
    """See above. `depth` is that of the last layer that was begun."""

    def __init__(self) -> None:
        self.seen: dict[bytes, int] = {}
        self.parent = array("I")
        self.by = array("H")
        self.owed = array("I")
        self.layers: list[int] = [0]
        self.first = array("Q", [0])
        self.target = array("I")
        self.choice = array("H")
        self.klass = array("B")
        self.turn = array("B")

    def __len__(self) -> int:
        return len(self.parent)

    def add(self, digest: bytes, parent: int, choice: int, owed: int) -> int:
        number = len(self.parent)
        self.seen[digest] = number
        self.parent.append(parent)
        self.by.append(choice)
        self.owed.append(owed)
        return number

    def edge(self, target: int, choice: int, klass: int, turn: int) -> None:
        """Of the state that is being expanded."""
        self.target.append(target)
        self.choice.append(choice)
        self.klass.append(klass)
        self.turn.append(turn)

    def expanded(self) -> None:
        """All edges of the next state are there."""
        self.first.append(len(self.target))

    @property
    def depth(self) -> int:
        return len(self.layers) - 1

    def way(self, number: int) -> list[int]:
        """Choices from the start to this state, a shortest way."""
        choices = []
        while number:
            choices.append(self.by[number])
            number = self.parent[number]
        return choices[::-1]

    def states_on(self, number: int) -> list[int]:
        """The states of that way, the first and the last included."""
        states = [number]
        while number:
            number = self.parent[number]
            states.append(number)
        return states[::-1]

    @property
    def bytes(self) -> int:
        arrays = (
            self.parent,
            self.by,
            self.owed,
            self.first,
            self.target,
            self.choice,
            self.klass,
            self.turn,
        )
        return sys.getsizeof(self.seen) + ENTRY * len(self.seen) + sum(a.itemsize * len(a) for a in arrays)
