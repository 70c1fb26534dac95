"""Ways of the graph told as stories: gone again, in a world whose numbers are the core's own.

A way is the places of its choices. Whoever goes them again from the start reaches the very states that were kept, so a replay is exact; the
labels that it meets are the story. A loop is told behind its stem: states of the graph stand for all that are like them but for the names of
holders, so its next move is the one that leads to the next state of the loop, and it is gone round until the state itself is there again.

Stories are shortest ways of the graph that was searched. Where independent steps were reduced it may hold only longer ones: steps that are
not needed are taken out again, so that each that is left is needed by what comes behind it.

A protocol that changes its mind cannot always be followed: what happened once need not happen again. Then the way is told as far as it goes,
and the story says so (`untold`).
"""

from __future__ import annotations

import hashlib
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from emu.check.explorer.fairness import NOBODY
from emu.check.explorer.graph import DIGEST
from emu.check.explorer.result import DEFECT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.check.explorer.breadth import Broken, Search
    from emu.check.explorer.space import Space
    from emu.check.model.state import Choice, Move

ROUNDS: Final = 24  # how often a loop is gone round at most until it closes: enough for four holders
UNTOLD: Final = "gone again, its way led elsewhere: the protocol does not answer alike when it is asked alike, so this is told as far as it could be followed"


class Story(NamedTuple):
    """Labels of stem and loop. loop None: broken by the last step; (): nobody owes a move behind the stem. untold: why it is not whole."""

    stem: tuple[str, ...]
    loop: tuple[str, ...] | None = None
    untold: str = ""


class Strayed(Exception):
    """Gone again, the way does not lead where it led; `labels`: those that could be made."""

    def __init__(self, labels: Sequence[str]) -> None:
        super().__init__("the way does not lead where it led")
        self.labels = tuple(labels)


def story_of(search: Search, broken: Broken, linear: Space) -> Story:
    """Told in `linear`; never raises for what the protocol does."""
    try:
        return _story(search, broken, linear)
    except Strayed as strayed:
        return Story(strayed.labels, None if broken.lasso is None else (), UNTOLD)


def _story(search: Search, broken: Broken, linear: Space) -> Story:
    way = search.graph.way(broken.state)
    if broken.lasso is None:
        labels = _labels(linear, way, broken)
        return Story(tuple(shortened(linear, labels, broken.invariant)))
    stem, state = told(linear, way)
    if _place(search, linear, state) != broken.state:
        raise Strayed(stem)
    if not broken.lasso.nodes:
        return Story(tuple(stem), ())
    try:
        return Story(tuple(stem), tuple(_round(search, broken.lasso.nodes, broken.state, linear, state)))
    except Strayed:
        raise Strayed(stem) from None


def _labels(linear: Space, way: Sequence[int], broken: Broken) -> list[str]:
    """Of a way, and of the choice at its end that breaks the invariant: a defect is one that the core does not survive."""
    labels, state = told(linear, way)
    choices = linear.choices(state)
    if broken.choice >= len(choices):
        raise Strayed(labels)
    labels.append(choices[broken.choice].label)
    try:
        move = linear.take(choices[broken.choice])
    except Exception:  # noqa: BLE001 - whatever it is, the search has told it
        if broken.invariant == DEFECT:
            return labels
        raise Strayed(labels) from None
    if all(name != broken.invariant for name, _sentence in move.broken):
        raise Strayed(labels)
    return labels


def told(space: Space, way: Sequence[int]) -> tuple[list[str], Any]:
    """The labels of a way, and the state at its end. Raises Strayed."""
    labels: list[str] = []
    state = space.start()
    for choice in way:
        choices = space.choices(state)
        if choice >= len(choices):
            raise Strayed(labels)
        labels.append(choices[choice].label)
        state = _taken(space, choices[choice], labels).state
    return labels, state


def _taken(space: Space, choice: Choice, labels: Sequence[str]) -> Move:
    """The core may raise when it is led astray."""
    try:
        return space.take(choice)
    except Exception:  # noqa: BLE001 - whatever it is, the search has told what it found
        raise Strayed(labels) from None


def shortened(space: Space, labels: list[str], invariant: str) -> list[str]:
    """Without the steps that are not needed: a search that makes independent steps at once may have made more than a story wants."""
    at = len(labels) - 2
    while at >= 0:
        less = labels[:at] + labels[at + 1 :]
        if _breaks(space, less, invariant):
            labels, at = less, len(less) - 1
        at -= 1
    return labels


def _breaks(space: Space, labels: Sequence[str], invariant: str) -> bool:
    """Can these steps be made one behind the other, and does the last one break the invariant?"""
    state, broken = space.start(), False
    for at, label in enumerate(labels):
        choice = next((choice for choice in space.choices(state) if choice.label == label), None)
        if choice is None:
            return False
        try:
            move = space.take(choice)
        except Exception:  # noqa: BLE001 - a defect is a finding, as the search has it
            return at == len(labels) - 1 and invariant == DEFECT
        state, broken = move.state, any(name == invariant for name, _sentence in move.broken)
    return broken


def _round(
    search: Search, nodes: frozenset[tuple[int, int]], state: int, linear: Space, here: Any
) -> list[str]:
    """Labels from this state round the loop, with a move of each class that owes one on the way."""
    begin, labels = linear.exact(here), []
    path = _closed(search, nodes, state)
    for _ in range(ROUNDS):
        for after, klass in path:
            label, here = _step(search, linear, here, after, klass)
            labels.append(label)
        if linear.exact(here) == begin:
            break
    return labels


def _step(search: Search, linear: Space, here: Any, after: int, klass: int) -> tuple[str, Any]:
    """The choice that leads to this state of the graph, one of the right class if there are several."""
    found = []
    for choice in linear.choices(here):
        move = _taken(linear, choice, ())
        if _place(search, linear, move.state) == after:
            found.append((choice.label, move.state))
    if not found:
        raise Strayed(())
    kind = search.classes.kind(klass)
    return next((pair for pair in found if search.classes.kind(search.classes.of(pair[0])) == kind), found[0])


def _place(search: Search, linear: Space, state: Any) -> int | None:
    """Which state of the graph this one is; None: the search did not meet it."""
    form, _order = search.space.least(state) if linear is search.space else linear.least(state)
    return search.graph.seen.get(hashlib.blake2b(form, digest_size=DIGEST).digest())


def _closed(search: Search, nodes: frozenset[tuple[int, int]], state: int) -> list[tuple[int, int]]:
    """(state, class) of each edge of a closed walk from `state` through the loop's states that is fair: whoever owes a move on it moves.

    The shortest closed walk, made longer by a move of each class that is owed on it and missing, until none is.
    """
    graph, inside = search.graph, frozenset(state for state, _order in nodes)

    def edges(source: int) -> list[tuple[int, int]]:
        span = range(graph.first[source], graph.first[source + 1])
        return [(graph.target[edge], graph.klass[edge]) for edge in span]

    def to(source: int, wanted: int) -> list[tuple[int, int]]:
        """A shortest walk inside whose last edge is of this class; NOBODY: that ends at `state`."""
        before: dict[int, tuple[int, tuple[int, int]]] = {}
        queue = deque([source])
        while queue:
            node = queue.popleft()
            for edge in edges(node):
                if edge[0] not in inside:
                    continue
                if edge[1] == wanted if wanted else edge[0] == state:
                    return [*_back(before, source, node), edge]
                if edge[0] not in before and edge[0] != source:
                    before[edge[0]] = (node, edge)
                    queue.append(edge[0])
        return []

    missing: set[int] = set()
    walk = to(state, NOBODY)
    while True:
        owed = {klass for node, _klass in walk for _after, klass in edges(node) if klass}
        more = owed - missing - {klass for _after, klass in walk}
        if not more:
            return walk
        missing |= more
        walk = []
        for klass in sorted(missing):
            if all(made != klass for _after, made in walk):
                walk += to(walk[-1][0] if walk else state, klass)
        if not walk:
            raise Strayed(())
        if walk[-1][0] != state:
            walk += to(walk[-1][0], NOBODY)


def _back(before: dict[int, tuple[int, tuple[int, int]]], source: int, node: int) -> list[tuple[int, int]]:
    """The edges from `source` to this node, as a search has left them."""
    walk = []
    while node != source:
        node, edge = before[node]
        walk.append(edge)
    return walk[::-1]
