"""Strongly connected components, without recursion: Tarjan's algorithm over numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence


def components(nodes: Iterable[int], after: Callable[[int], Sequence[int]]) -> Iterator[list[int]]:
    """Each component of the graph that is reached from `nodes`, as a list of its nodes; `after` gives those that count only."""
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    on: set[int] = set()
    for root in nodes:
        if root in index:
            continue
        index[root] = low[root] = len(index)
        stack.append(root)
        on.add(root)
        work = [(root, iter(after(root)))]
        while work:
            node, rest = work[-1]
            for target in rest:
                if target not in index:
                    index[target] = low[target] = len(index)
                    stack.append(target)
                    on.add(target)
                    work.append((target, iter(after(target))))
                    break
                if target in on and index[target] < low[node]:
                    low[node] = index[target]
            else:
                work.pop()
                if work and low[node] < low[work[-1][0]]:
                    low[work[-1][0]] = low[node]
                if low[node] == index[node]:
                    yield _pop(stack, on, node)


def _pop(stack: list[int], on: set[int], node: int) -> list[int]:
    found = []
    while True:
        top = stack.pop()
        on.discard(top)
        found.append(top)
        if top == node:
            return found
