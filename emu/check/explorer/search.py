"""One protocol, one setup: explored, judged, told.

    explore(protocol, "truncate")                                     one holder, one reclaim: seconds
    explore(protocol, "punch", setup=setup_of("punch", 2, 1, 2, 1))   two holders, two reclaims: a minute

`core` makes a changed Core, `engine` is a changed Engine: that is how mutants are tried.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from emu.check.explorer.breadth import DEADLINE, Bounds, Search
from emu.check.explorer.coverage import BACKING, Watched, leads_to, rows_of
from emu.check.explorer.result import BOUND_BY, BREACH, HOLDS, UNKNOWN, WORD, Finding, Result
from emu.check.explorer.small import Small
from emu.check.explorer.symmetry import Orders
from emu.check.explorer.tell import story_of
from emu.check.model.setup import Setup
from emu.check.model.state import KINDS, LAYOUT, NONE_ADMITTED, SELF_TRUNCATE
from emu.core.decision import CONTRACT, START
from emu.protocols.contract import rules_of
from emu.protocols.runner import paths

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from emu.check.explorer.breadth import Broken
    from emu.check.model.engine import Engine
    from emu.check.model.state import State
    from emu.core.machine import Core
    from emu.protocols.contract import Protocol

MAX_STATES: Final = 5_000_000
IN_FLIGHT: Final = "DMA in flight when the reclaim began"
REVOKED: Final = "an MR was revoked"
CRASHES: Final = ("holder crashed", "broker crashed")


# What is asked for beside an event: what overlaps it, and is another thing than the event beside its partner.
BESIDE: Final = {"truncate": ("punch", "truncate"), "punch": ("punch", "truncate")}
ELSE: Final = ("truncate", "punch")


def setup_of(event: str, holders: int = 1, mrs: int = 1, reclaims: int = 1, crashes: int = 1) -> Setup:
    """The small world of an event (docs/explorer.md). `reclaims`: 1 to 3."""
    return Setup(
        blocks=5 if event in {"migrate", "reflink"} else 3,
        reclaims=(event, *BESIDE.get(event, ELSE)[: reclaims - 1]),
        holders=holders,
        mrs=mrs,
        crashes=crashes,
        registrations=int(holders == mrs == reclaims == 1),
    )


def events_of(protocol: Protocol) -> tuple[str, ...]:
    """What is asked for where nobody chose: a holder's own truncate too, if the protocol asks whose the pins are."""
    asked = {
        fact for entry in protocol.table.values() for path, _rule in paths(entry) for fact, _holds in path
    }
    return (*KINDS, SELF_TRUNCATE) if "own" in asked else tuple(KINDS)


def explore(
    protocol: Protocol,
    event: str,
    max_states: int = MAX_STATES,
    core: Callable[..., Core] | None = None,
    *,
    engine: Engine | None = None,
    setup: Setup | None = None,
    reduction: bool = True,
    symmetry: bool = True,
    max_memory: int = 0,
    progress: Callable[[Search], None] | None = None,
    named: Any = None,
    until: str = "",
) -> Result:
    """Every interleaving. `named`: how scripts name the protocol (a name, or {"file": path}). `until`: stop when this is broken."""
    setup = setup or setup_of(event)
    alike = symmetry and setup.holders_alike
    watched, orders = Watched(protocol), Orders(setup.holders, alike=alike)
    search = Search(
        Small(watched, setup, core, orders, engine),
        orders,
        reduce=reduction,
        binds=partial(binds, protocol, setup),
    )
    cpu = time.process_time()
    search.run(Bounds(max_states, max_memory, until), progress)
    result = _result(protocol, event, setup, search)
    result.rows = tuple(sorted(watched.rows))
    result.reductions = tuple(
        name for name, on in (("independent steps", reduction), ("holders alike", alike)) if on
    )
    linear = Small(Watched(protocol), setup, core, orders, engine, linear=True)
    for invariant in sorted(search.broken):
        found = search.broken[invariant]
        result.note(_finding(search, found, linear, named or protocol.name, protocol.name), owed=found.owed)
    result.seconds, result.cpu_seconds = time.perf_counter() - search.began, time.process_time() - cpu
    return result


def _result(protocol: Protocol, event: str, setup: Setup, search: Search) -> Result:
    graph = search.graph
    return Result(
        protocol.name,
        event,
        setup.reclaims,
        setup.holders,
        len(graph),
        len(graph.target),
        graph.depth,
        left_out=left_out(setup),
        bound_hit=search.bound_hit,
        memory=graph.bytes,
        resident=search.resident,
        promised=promised(protocol, setup),
        sometimes=dict(sorted(search.met.items())),
        required=required(protocol, setup),
    )


def left_out(setup: Setup) -> tuple[str, ...]:
    """What a verdict of this setup says nothing about."""
    words = ((setup.crashes, "crashes"), (setup.refusals, "refusals of the hardware"))
    return tuple(word for number, word in words if not number)


def promised(protocol: Protocol, setup: Setup) -> tuple[str, ...]:
    """What it promises for some of these reclaims."""
    kinds = _kinds(setup.reclaims)
    return tuple(name for name in protocol.promises if any(name in protocol.promised(kind) for kind in kinds))


def binds(protocol: Protocol, setup: Setup, invariant: str, state: State | None) -> bool:
    """Whether what breaks in this state was promised: by the kinds of all reclaims that had been asked for by then. None: of all there are."""
    name = BOUND_BY.get(invariant, invariant)
    rows = state.reclaimers if state else ()
    begun = [reclaim for reclaim, row in zip(setup.reclaims, rows, strict=False) if row.state != "new"]
    kinds = _kinds(begun if state else setup.reclaims)
    return name.startswith(CONTRACT) or (
        name in protocol.promises and all(name in protocol.promised(kind) for kind in kinds)
    )


def _kinds(reclaims: Sequence[str]) -> list[str]:
    return [promise_kind(reclaim.split()[0]) for reclaim in reclaims]


def promise_kind(event: str) -> str:
    """The kind of reclaim that `Protocol.excepts` names."""
    return {"surprise-unplug": "surprise", SELF_TRUNCATE: "truncate"}.get(event, event)


def required(protocol: Protocol, setup: Setup) -> tuple[str, ...]:
    """Guards that this protocol must meet in this setup, or nothing is known."""
    verbs = _verbs_within(protocol, setup)
    crashes = CRASHES if setup.crashes else ()
    if BACKING in protocol.refuses:  # there is no MR to be in flight, to be revoked or to be waited for
        return NONE_ADMITTED, *crashes
    guards = [IN_FLIGHT, *crashes]
    if verbs & {"quiesce", "fence"}:
        guards.append(REVOKED)
    if "arm" in verbs:
        guards.append(DEADLINE)
    return tuple(guards)


def _verbs_within(protocol: Protocol, setup: Setup) -> set[str]:
    """The actions that its table can lead to from these reclaims: a timer that is armed for refusals alone fires where there are some."""
    first = {
        "surprise" if setup.kind(at) == "surprise-unplug" else "requested"
        for at in range(len(setup.reclaims))
    }
    never = set() if setup.refusals else {"quiesce_failed", "fence_failed"}
    verbs: set[str] = set()
    found, left = {START}, [START]
    while left:
        phase = left.pop()
        for (here, event), entry in protocol.table.items():
            if here == phase and event not in never and (phase != START or event in first):
                verbs |= {action.verb for rule in rules_of(entry) for action in rule.actions}
                left += sorted({rule.to for rule in rules_of(entry)} - found)
                found |= {rule.to for rule in rules_of(entry)}
    return verbs


def _finding(search: Search, broken: Broken, linear: Small, named: Any, name: str) -> Finding:
    stem, loop, untold = story_of(search, broken, linear)
    script = {
        "schema": 1,
        "protocol": named,
        "name": name,
        "setup": linear.setup.as_json(),
        "mutant": None,
        "steps": list(stem),
        "breaks": {"invariant": broken.invariant, "sentence": broken.sentence},
    }
    if loop is not None:
        script["loop"] = list(loop)
    if untold:
        script["untold"] = untold
    return Finding(broken.invariant, broken.sentence, stem, loop or (), untold, script)


def unreached(protocol: Protocol, results: list[Result]) -> list[tuple[str, str, str]]:
    """Rows of the table that no search has executed, and that the core could ask for: nobody can cancel a surprise."""
    seen = {row for result in results for row in result.rows}
    surprised = leads_to(protocol, "surprise") - leads_to(protocol, "requested")
    return [
        row
        for row in rows_of(protocol)
        if row not in seen and not (row[1] == "cancelled" and row[0] in surprised)
    ]


__all__ = [
    "BREACH",
    "HOLDS",
    "KINDS",
    "LAYOUT",
    "UNKNOWN",
    "WORD",
    "Finding",
    "Result",
    "events_of",
    "explore",
    "setup_of",
    "unreached",
]
