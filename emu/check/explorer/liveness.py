"""What must happen in the end, judged on the graph: every reclaim ends (S7), and every notified holder is heard or quiesced.

Broken by a way that is fair (fairness.py) and on which the bit in question stays set for ever. In a finite graph such a way ends in
one of two shapes:

    nobody owes a move in a state with the bit set       it is its own loop: everybody may stay as he is
    a fair component: strongly connected states with     the loop goes round it
    the bit set, and each class that owes a move
    in one of them has a move that stays inside

The second is found as Streett's condition is: take the strongly connected components of the states with the bit; where a class owes a
move and none of its moves stays inside, throw out the states in which it owes one, and look at the components of what is left.

With exchanged holders (symmetry.py) components are found among the kept states first, which can only join what is apart; each suspicious
one is then unfolded, one node (state, order) for each order, so that names of peers and bits of holders are what they are.

With reduced states (reduction.py) the one move that is kept is the shell's; what others owe there they owe behind it as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from emu.check.explorer.components import components
from emu.check.explorer.graph import HOLDERS_FROM

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from emu.check.explorer.fairness import Classes
    from emu.check.explorer.graph import Graph
    from emu.check.explorer.symmetry import Orders


class Lasso(NamedTuple):
    """bit: what never ends. state: where the loop begins. classes: who must move in it (by class), none if nobody owes anything."""

    bit: int
    state: int
    nodes: frozenset[tuple[int, int]]


class Liveness:
    """One graph, all bits. A node is (state, order): the kept state with its holders called by that order."""

    def __init__(self, graph: Graph, classes: Classes, orders: Orders) -> None:
        self.graph, self.orders = graph, orders
        self.turned = [classes.turned(order) for order in orders.all]
        self._owed_as = [{0: 0} for _ in orders.all]

    def lassos(self) -> Iterator[Lasso]:
        """One for each bit that can stay set for ever, with the shortest stem of its shape."""
        found: dict[int, Lasso] = {}
        for lasso in (*self._standing(), *self._going_round()):
            best = found.get(lasso.bit)
            if best is None or lasso.state < best.state:
                found[lasso.bit] = lasso
        yield from (found[bit] for bit in sorted(found))

    def _standing(self) -> Iterator[Lasso]:
        """States in which nobody owes a move."""
        graph = self.graph
        for state, owed in enumerate(graph.owed):
            if owed and not any(graph.klass[graph.first[state] : graph.first[state + 1]]):
                for bit in bits(owed):
                    yield Lasso(bit, state, frozenset())

    def _going_round(self) -> Iterator[Lasso]:
        graph = self.graph
        owed, first, target = graph.owed, graph.first, graph.target

        def after(state: int) -> list[int]:
            return [other for other in target[first[state] : first[state + 1]] if owed[other]]

        for component in components((state for state, bit in enumerate(owed) if bit), after):
            if len(component) > 1 or component[0] in target[first[component[0]] : first[component[0] + 1]]:
                yield from self._unfolded(component)

    def _unfolded(self, component: list[int]) -> Iterator[Lasso]:
        nodes = {(state, order) for state in component for order in range(len(self.orders))}
        seen: set[int] = set()
        for one in self._split(nodes):
            for bit in sorted({bit for node in one for bit in bits(self._owed(node))} - seen):
                fair = self._fair({node for node in one if self._owed(node) >> bit & 1})
                if fair:
                    seen.add(bit)
                    mine = [state for state, order in fair if not order] or [state for state, _order in fair]
                    yield Lasso(bit, min(mine), frozenset(fair))

    def _fair(self, nodes: set[tuple[int, int]]) -> set[tuple[int, int]] | None:
        """The part of these nodes that somebody can go round for ever and be fair; of several the one with the earliest state."""
        found: list[set[tuple[int, int]]] = []
        todo = list(self._split(nodes))
        while todo:
            one = todo.pop()
            bad = self._able(one) - self._inside(one)
            if not bad and self._turns(one):
                found.append(one)
            elif bad:
                left = {node for node in one if not bad & self._classes(node)}
                todo.extend(self._split(left))
        return min(found, key=min) if found else None

    def _split(self, nodes: set[tuple[int, int]]) -> Iterator[set[tuple[int, int]]]:
        """The strongly connected components of these nodes."""
        number = {node: at for at, node in enumerate(sorted(nodes))}
        back = list(number)

        def after(at: int) -> list[int]:
            return [number[node] for _klass, node in self._moves(back[at]) if node in number]

        for component in components(range(len(back)), after):
            yield {back[at] for at in component}

    def _moves(self, node: tuple[int, int]) -> Iterable[tuple[int, tuple[int, int]]]:
        """(class, node behind it) of each edge."""
        state, order = node
        graph, product, turned = self.graph, self.orders.product[order], self.turned[order]
        for edge in range(graph.first[state], graph.first[state + 1]):
            yield turned[graph.klass[edge]], (graph.target[edge], product[graph.turn[edge]])

    def _classes(self, node: tuple[int, int]) -> set[int]:
        return {klass for klass, _after in self._moves(node) if klass}

    def _able(self, nodes: set[tuple[int, int]]) -> set[int]:
        return {klass for node in nodes for klass in self._classes(node)}

    def _inside(self, nodes: set[tuple[int, int]]) -> set[int]:
        return {klass for node in nodes for klass, after in self._moves(node) if klass and after in nodes}

    def _turns(self, nodes: set[tuple[int, int]]) -> bool:
        return any(after in nodes for node in nodes for _klass, after in self._moves(node))

    def _owed(self, node: tuple[int, int]) -> int:
        """The bits that are set in it; those of holders by the names of its order."""
        state, order = node
        owed = self.graph.owed[state]
        known = self._owed_as[order].get(owed)
        if known is None:
            names = self.orders.all[order]
            known = owed & ((1 << HOLDERS_FROM) - 1)
            for holder, name in enumerate(names):
                known |= (owed >> (HOLDERS_FROM + holder) & 1) << (HOLDERS_FROM + name)
            self._owed_as[order][owed] = known
        return known


def bits(number: int) -> list[int]:
    return [bit for bit in range(number.bit_length()) if number >> bit & 1]
