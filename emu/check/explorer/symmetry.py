"""Holders are alike: a state in which two of them have exchanged their roles has the same future, with the names exchanged.

Only one state of such a group is kept, the one that was reached first; its digest is that of the least canonical form over all orders
of the holders. An *order* o calls holder n (from 0) o[n]; orders are numbered, 0 is the one that changes nothing. Each edge notes its
*turn*: the order by which the kept target becomes the state that was really reached. For what must hold in a single state this is not
needed; a *cycle* of kept states closes only when the turns along it have brought every holder back into its own role (liveness.py).

The exchange is exact because nothing in world, core or protocol asks which holder is which: sessions are numbers that are only compared,
and all orders of books go by creation, which the canonical form under an order follows. A setup in which holders differ (the first
truncates its own file) has one order only.
"""

from __future__ import annotations

from itertools import permutations

Order = tuple[int, ...]


class Orders:
    """All orders of so many holders, with their products and inverses by number; only the first if they are not alike."""

    def __init__(self, holders: int, *, alike: bool = True) -> None:
        self.all: list[Order] = list(permutations(range(holders)))[: None if alike else 1]
        number = self.number = {order: at for at, order in enumerate(self.all)}
        self.inverse = [number[_inverse(order)] for order in self.all]
        self.product = [
            [number[tuple(one[n] for n in other)] for other in self.all] for one in self.all
        ]  # product[a][b]: first b, then a

    def __len__(self) -> int:
        return len(self.all)

    def turn(self, kept: int, reached: int) -> int:
        """kept, reached: the orders that bring both states to their common least form. What makes the one of the other."""
        return self.product[self.inverse[reached]][kept]


def _inverse(order: Order) -> Order:
    found = [0] * len(order)
    for place, name in enumerate(order):
        found[name] = place
    return tuple(found)
