"""S1 to S10 and V1 to V25 of the revoke contract, each one function over a history.

    judge(history, promised, excepts) -> Judgement a invariant: kept, broken (each occasion a Breach), or untested (why this history cannot show it)

A function looks at what happened and never at a protocol's name: lines come to it without that and without the sentences it may occur
in. Whether a broken invariant is a *breach* (it was promised) or the protocol's *cost* is the reader's to say: `Judgement.promised`. What
the core itself found to break the contract is a breach whatever was promised (`contract:RULE`).

Where lines are missing (a bounded history keeps its head and its newest tail) nothing is concluded from those that are there.

If you add one: its module's INVARIANTS, a history that keeps it and one that breaks it in tests/check/invariants, docs/invariants.md.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from emu.check.invariants import contract, safety
from emu.check.invariants.invariant import Breach, Invariant, Judgement
from emu.check.invariants.laid import Promises
from emu.core.decision import CONTRACT, RULES

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from emu.check.history import History

INVARIANTS: tuple[Invariant, ...] = (*safety.INVARIANTS, *contract.INVARIANTS)
WITHOUT_LINES = frozenset(
    {"S1"}
)  # shown by generations in the engine's log and by stamps in the memory alone


def judge(
    history: History, promised: Collection[str] = (), excepts: Mapping[str, Collection[str]] | None = None
) -> list[Judgement]:
    """All invariants, in the order of their numbers; then the core's rules that were broken. `excepts` as a protocol declares it."""
    seen = history.blind
    promises = Promises(seen, promised, excepts or {})
    return [_owed(promises, _judge(invariant, seen)) for invariant in INVARIANTS] + _rules(seen)


def _owed(promises: Promises, found: Judgement) -> Judgement:
    """What was promised where it broke is told first."""
    owed = [promises.owed(breach) for breach in found.breaches]
    order = sorted(range(len(owed)), key=lambda at: not owed[at])
    promised = any(owed) if owed else promises.some(found.name)
    return replace(found, promised=promised, breaches=tuple(found.breaches[at] for at in order))


def _judge(invariant: Invariant, history: History) -> Judgement:
    if missing := lines_missing(history):
        return _with_a_gap(invariant, history, missing)
    breaches = tuple(invariant.breaches(history))
    untested = "" if breaches else invariant.untested(history)
    if not breaches and not untested and history.gaps:
        untested = f"{history.gaps} lines or records are missing: what was not seen may have been there"
    return Judgement(invariant.name, False, breaches, untested)


def lines_missing(history: History) -> int:
    return sum(line["last"] - line["first"] + 1 for line in history.of("gap"))


def _with_a_gap(invariant: Invariant, history: History, missing: int) -> Judgement:
    """Lines tell nothing when others between them are gone: who held, asked or answered may be told there. What needs none is seen."""
    needs_none = replace(history, events=[])
    breaches = tuple(invariant.breaches(needs_none)) if invariant.name in WITHOUT_LINES else ()
    seen = (
        "; foreign bytes in the memory and in the engine's log would be seen"
        if invariant.name in WITHOUT_LINES
        else ""
    )
    untested = f"{missing} lines are missing: what was not seen may have been there{seen}"
    return Judgement(invariant.name, False, breaches, "" if breaches else untested)


def _rules(history: History) -> list[Judgement]:
    """What the core found a protocol to break, and stopped."""
    found: dict[str, list[Breach]] = {}
    for line in history.of("Phase"):
        if line["phase"] == "broken":
            rule = str(line["detail"].get("rule", "?"))
            name = f"{CONTRACT}{rule}"
            found.setdefault(name, []).append(
                Breach(name, f"the core stopped it: {RULES.get(rule, rule)}", (line["n"],))
            )
    return [Judgement(name, True, tuple(breaches)) for name, breaches in found.items()]
