"""Breadth first through every state of a small world: what holds in all of them, and the shortest story of what does not.

A protocol declares which invariants it promises. Promised and broken is a breach; not promised and broken is its cost. The
rules of the contract (`contract:...`) are promised by everybody. `sometimes` guards say that the search saw what it was
meant to see: a verdict without them is unknown, as is one whose bound was hit.

S7 is judged on the graph: from every state in which the reclaim is under way, the moves of shell, engine and timers alone
(no help of the holder, no cancel, no crash) can lead to its end.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from emu.check.model.setup import Setup
from emu.check.model.state import KINDS
from emu.check.model.world import World
from emu.core.decision import CONTRACT

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.check.model.state import State
    from emu.core.machine import Core
    from emu.protocols.contract import Protocol

HOLDS, BREACH, UNKNOWN = 0, 1, 2
WORD: Final = {HOLDS: "holds", BREACH: "breach", UNKNOWN: "unknown"}
HELP: Final = ("holder", "fault", "crash", "taker", "reclaimer")  # whose moves S7 does not count on
GUARDS: Final = ("DMA in flight when the reclaim began", "holder crashed", "broker crashed")
REVOKED: Final = "an MR was revoked"
CHECKED: Final = (
    *("S1", "S2", "S3", "S4", "S5", "S6", "S7", "S9"),
    *("V1", "V3", "V4", "V9", "V10", "V11", "V12", "V13", "V15", "V19", "V20", "V22", "V24"),
)


@dataclass(frozen=True)
class Finding:
    """An invariant that does not hold, and the shortest way there."""

    invariant: str
    sentence: str
    story: tuple[str, ...]


@dataclass
class Result:
    protocol: str
    event: str
    states: int = 0
    transitions: int = 0
    depth: int = 0
    seconds: float = 0.0
    bound_hit: bool = False
    promised: tuple[str, ...] = ()
    breaches: list[Finding] = field(default_factory=list)
    costs: list[Finding] = field(default_factory=list)
    sometimes: dict[str, int] = field(default_factory=dict)

    @property
    def missing(self) -> list[str]:
        """Guards that no move met."""
        return [guard for guard, count in self.sometimes.items() if not count and guard in (*GUARDS, REVOKED)]

    @property
    def code(self) -> int:
        if self.breaches:
            return BREACH
        return UNKNOWN if self.bound_hit or self.missing else HOLDS

    def as_row(self) -> dict[str, Any]:
        findings = {"breaches": self.breaches, "costs": self.costs}
        lists = {name: [vars(finding) for finding in found] for name, found in findings.items()}
        names = ("protocol", "event", "states", "transitions", "depth", "bound_hit", "sometimes")
        plain: dict[str, Any] = {name: getattr(self, name) for name in names}
        checked = [name for name in CHECKED if name in self.promised]
        speed = {
            "seconds": round(self.seconds, 3),
            "states_per_second": round(self.states / max(self.seconds, 1e-9)),
        }
        return {
            **plain,
            **speed,
            "verdict": WORD[self.code],
            "checked": checked,
            "missing": self.missing,
            **lists,
        }


class Search:
    """One breadth-first search. Kept: a digest a state, where it was first reached from, and the edges for S7."""

    def __init__(self, protocol: Protocol, event: str, core: Callable[..., Core] | None = None) -> None:
        self.protocol = protocol
        setup = Setup((event,), registrations=0)
        self.world = World(protocol, setup) if core is None else World(protocol, setup, core)
        self.result = Result(protocol.name, event, promised=protocol.promised(promise_kind(event)))
        self.result.sometimes = dict.fromkeys(GUARDS, 0)
        if any(action.verb == "quiesce" for action in actions_of(protocol)):
            self.result.sometimes[REVOKED] = 0
        self._seen: dict[bytes, int] = {}
        self._from: list[tuple[int, str]] = []
        self._depth: list[int] = []
        self._under_way: list[bool] = []
        self._back: list[list[int]] = []  # edges that S7 may use, backwards
        self._queue: deque[tuple[int, State]] = deque()
        self._found: dict[str, Finding] = {}

    def run(self, max_states: int) -> Result:
        began = time.perf_counter()
        self._visit(self.world.start(), -1, "")
        while self._queue:
            if len(self._seen) > max_states:
                self.result.bound_hit = True
                break
            self._expand(*self._queue.popleft())
        if not self.result.bound_hit:
            self._can_end()
        self.result.states, self.result.depth = len(self._seen), max(self._depth)
        self.result.seconds = time.perf_counter() - began
        self._sort()
        return self.result

    def _expand(self, number: int, state: State) -> None:
        for move in self.world.moves(state):
            self.result.transitions += 1
            for guard in move.met:
                self.result.sometimes[guard] = self.result.sometimes.get(guard, 0) + 1
            for invariant, sentence in move.broken:
                self._note(invariant, sentence, number, move.label)
            after = self._visit(move.state, number, move.label)
            if not move.label.startswith(HELP):
                self._back[after].append(number)

    def _visit(self, state: State, source: int, label: str) -> int:
        digest = hashlib.blake2b(self.world.canonical(state), digest_size=16).digest()
        known = self._seen.get(digest)
        if known is not None:
            return known
        number = len(self._seen)
        self._seen[digest] = number
        self._from.append((source, label))
        self._depth.append(self._depth[source] + 1 if source >= 0 else 0)
        self._under_way.append(state.alive and any(row.state == "asked" for row in state.reclaimers))
        self._back.append([])
        self._queue.append((number, state))
        return number

    def _note(self, invariant: str, sentence: str, number: int, label: str) -> None:
        if invariant not in self._found:
            self._found[invariant] = Finding(invariant, sentence, (*self._story(number), label))

    def _story(self, number: int) -> tuple[str, ...]:
        told: list[str] = []
        while number > 0:
            number, label = self._from[number]
            told.append(label)
        return tuple(reversed(told))

    def _can_end(self) -> None:
        """Backwards from the states in which no reclaim is under way."""
        reached = [not under_way for under_way in self._under_way]
        todo = [number for number, done in enumerate(reached) if done]
        while todo:
            for before in self._back[todo.pop()]:
                if not reached[before]:
                    reached[before] = True
                    todo.append(before)
        stuck = next((number for number, done in enumerate(reached) if not done), None)
        if stuck is not None:
            self._found["S7"] = Finding(
                "S7", "from here on the reclaim cannot end by itself", self._story(stuck)
            )

    def _sort(self) -> None:
        for name in sorted(self._found):
            binding = name in self.result.promised or name.startswith(CONTRACT)
            (self.result.breaches if binding else self.result.costs).append(self._found[name])


def promise_kind(event: str) -> str:
    """The kind of reclaim that `Protocol.excepts` names."""
    return "surprise" if event == "surprise-unplug" else event


def actions_of(protocol: Protocol) -> list[Any]:
    from emu.protocols.contract import rules_of  # noqa: PLC0415 - only here

    return [
        action for entry in protocol.table.values() for rule in rules_of(entry) for action in rule.actions
    ]


def explore(
    protocol: Protocol, event: str, max_states: int = 1_000_000, core: Callable[..., Core] | None = None
) -> Result:
    """Run one protocol through one event. `core` makes a changed Core: that is how mutants are tried."""
    return Search(protocol, event, core).run(max_states)


__all__ = ["KINDS", "Finding", "Result", "explore"]
