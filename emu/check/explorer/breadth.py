"""Breadth first through every state of a small world: what holds in all of them, and the shortest story of what does not.

A protocol declares which invariants it promises. Promised and broken is a breach; not promised and broken is its cost. The rules of
the contract (`contract:...`) are promised by everybody. Guards say that the search saw what it was meant to see: a verdict without
them is unknown, as is one whose bound was hit.

    safety      what a move breaks (Move.broken), the first time it is met: breadth first, so by a shortest way
    liveness    on the graph when it is whole (liveness.py)
    guards      what moves met (Move.met), timers that fired, rows of the protocol's table that were executed (coverage.py)

Nothing is kept of a state but what graph.py says; states that wait for their turn are whole. A core that raises is a finding too
(`contract:no-defect`), and the search goes on beside it.
"""

from __future__ import annotations

import gc
import hashlib
import time
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from emu.check.explorer.fairness import Classes
from emu.check.explorer.graph import DIGEST, Graph
from emu.check.explorer.liveness import Liveness
from emu.check.explorer.resident import resident
from emu.check.explorer.result import DEFECT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from emu.check.explorer.liveness import Lasso
    from emu.check.explorer.space import Space
    from emu.check.explorer.symmetry import Orders

DEADLINE: Final = "a deadline fired"
LOOK: Final = 512  # states between two looks at clock and memory


@dataclass(frozen=True)
class Bounds:
    """states: how many are kept. memory: bytes of this process. A search that reaches one stops there and says so.

    until: an invariant; when that is broken the search has found what it was sent for.
    """

    states: int = 5_000_000
    memory: int = 0  # 0: no bound
    until: str = ""


@dataclass(frozen=True)
class Broken:
    """An invariant, the state from which a choice broke it (or where a loop begins), and the loop's nodes if it is one.

    owed: it had been promised there.
    """

    invariant: str
    sentence: str
    state: int
    choice: int = -1
    lasso: Lasso | None = None
    owed: bool = True


class Search:
    """One search. After `run`: graph, broken, met, and in `bound_hit` the option of the bound that was reached ("": none)."""

    def __init__(
        self,
        space: Space,
        orders: Orders,
        *,
        reduce: bool = True,
        binds: Callable[[str, Any], bool] = lambda _invariant, _state: True,
    ) -> None:
        self.binds = binds  # whether an invariant that breaks in a state (None: in a loop) was promised there
        self.space, self.orders, self.reduce = space, orders, reduce
        self.graph, self.classes = Graph(), Classes()
        self.broken: dict[str, Broken] = {}
        self.met: dict[str, int] = {}
        self.bound_hit, self.resident, self.began = "", 0, 0.0
        self._queue: deque[Any] = deque()
        self._orders = bytearray()  # by which each kept state comes to its least form

    def run(self, bounds: Bounds, progress: Callable[[Search], None] | None = None) -> None:
        self.began = time.perf_counter()
        self._keep(self.space.start(), 0, 0)
        with without_collector():
            self._layers(bounds, progress)
        self.resident = max(self.resident, resident())
        if not self.bound_hit:
            for lasso in Liveness(self.graph, self.classes, self.orders).lassos():
                self._note_lasso(lasso)

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def _layers(self, bounds: Bounds, progress: Callable[[Search], None] | None) -> None:
        graph, queue, number = self.graph, self._queue, 0
        layer_ends = 1
        while queue:
            if number == layer_ends:
                graph.layers.append(number)
                layer_ends = len(graph)
            if len(graph) > bounds.states:
                self.bound_hit = "--max-states"
                return
            if number % LOOK == 0 and self._too_big(bounds, progress):
                self.bound_hit = "--max-memory"
                return
            self._expand(number, queue.popleft())
            number += 1
            if bounds.until in self.broken and self.broken[bounds.until].owed:
                self.bound_hit = "until"
                return

    def _too_big(self, bounds: Bounds, progress: Callable[[Search], None] | None) -> bool:
        self.resident = max(self.resident, resident())
        if progress:
            progress(self)
        return bool(bounds.memory) and self.resident > bounds.memory

    def _expand(self, number: int, state: Any) -> None:
        space, graph, seen, met = self.space, self.graph, self.graph.seen, self.met
        choices = space.choices(state)
        only = space.forced(state, choices) if self.reduce else -1
        for at in (only,) if only >= 0 else range(len(choices)):
            choice = choices[at]
            try:
                move = space.take(choice)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
                self._note(DEFECT, f"the core raised {error!r}", number, at)
                continue
            for guard in move.met:
                met[guard] = met.get(guard, 0) + 1
            for invariant, sentence in move.broken:
                self._note(invariant, sentence, number, at, move.state)
            klass = self.classes.of(choice.label)
            if choice.actor == "timer":
                met[DEADLINE] = met.get(DEADLINE, 0) + 1
            form, order = space.least(move.state)
            digest = hashlib.blake2b(form, digest_size=DIGEST).digest()
            after = seen.get(digest)
            if after is None:
                after = self._add(digest, order, move.state, number, at)
            graph.edge(after, at, klass, self.orders.turn(self._orders[after], order))
        graph.expanded()

    def _keep(self, state: Any, parent: int, choice: int) -> None:
        form, order = self.space.least(state)
        self._add(hashlib.blake2b(form, digest_size=DIGEST).digest(), order, state, parent, choice)

    def _add(self, digest: bytes, order: int, state: Any, parent: int, choice: int) -> int:
        self._orders.append(order)
        self._queue.append(state)
        return self.graph.add(digest, parent, choice, self.space.owed(state))

    def _note(self, invariant: str, sentence: str, number: int, choice: int, state: Any = None) -> None:
        """The first time, and the first time where it was promised."""
        known = self.broken.get(invariant)
        if known is None or not known.owed:
            owed = self.binds(invariant, state)
            if known is None or owed:
                self.broken[invariant] = Broken(invariant, sentence, number, choice, owed=owed)

    def _note_lasso(self, lasso: Lasso) -> None:
        invariant, sentence = self.space.never(lasso.bit)
        how = "goes on for ever" if lasso.nodes else "nobody owes a move any more"
        known, owed = self.broken.get(invariant), self.binds(invariant, None)
        if known is None or (owed and not known.owed):
            self.broken[invariant] = Broken(
                invariant, f"{sentence}: {how}", lasso.state, lasso=lasso, owed=owed
            )


@contextmanager
def without_collector() -> Iterator[None]:
    """States are tuples without cycles: the collector would look at millions of them, and find nothing."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
