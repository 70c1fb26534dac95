"""A promise that is excepted for one kind of reclaim binds all the others, in histories, in seeds and in the explorer."""

from dataclasses import replace

import pytest

from emu.check.explorer.search import explore
from emu.check.history import History
from emu.check.invariants import judge
from emu.check.invariants.invariant import Breach
from emu.check.invariants.laid import Promises
from emu.check.model.setup import Setup
from emu.check.simulator.run import Subject, simulate
from emu.check.simulator.verdict import verdict_of
from emu.protocols import registry

NONE = registry.load().get("none")
EXCEPTS = {"surprise": ("S1", "V4")}
CLAIMS = replace(NONE, name="claims", promises=("S1", "V4"), excepts=EXCEPTS)
PUNCH_THEN_SURPRISE = 7  # a seed: memory is freed under DMA, then the device goes


def lines(*kinds):
    """One step for each reclaim: its event, what frees, and three of its phases."""
    found = [{"kind": "commit", "type": "Loaded", "delta": []}]
    for number, kind in enumerate(kinds, 1):
        phase = {"kind": "effect", "type": "Phase", "reclaim": number, "keys": [], "inflight": 0}
        found += [
            {"kind": "event", "type": "Requested"},
            {**phase, "phase": "requested", "detail": {"kind": kind}},
            {"kind": "effect", "type": "Release"},
            {"kind": "event", "type": "Answered"},
            {**phase, "phase": "returned", "detail": {}},
        ]
    return [{"n": n, "t": n, "epoch": n, **line} for n, line in enumerate(found)]


def owed(*where, kinds=("truncate", "surprise", "punch")):
    history = History({}, lines(*kinds))
    return Promises(history, ("S1",), EXCEPTS).owed(Breach("S1", "", where))


@pytest.mark.parametrize(
    ("where", "is_owed"),
    [
        ((2,), True), ((5,), True), ((7,), False), ((10,), False), ((12,), True),  # phases: of the truncate, the surprise, the punch
        ((3,), True), ((8,), False), ((13,), True),  # a Release in a step of theirs
        ((1,), True), ((4,), True), ((6,), False), ((14,), False),  # nobody's: before the surprise, and not
        ((), False), ((2, 7), False), ((2, 12), True),
    ],
)  # fmt: skip
def test_the_kind_of_the_reclaim_that_a_breach_is_laid_at_decides(where, is_owed):
    assert owed(*where) is is_owed


def test_a_promise_is_one_while_some_reclaim_of_the_history_is_bound_by_it():
    def some(*kinds):
        return Promises(History({}, lines(*kinds)), ("S1",), EXCEPTS).some("S1")

    assert (some("truncate", "surprise"), some("surprise"), some()) == (True, False, True)


def test_a_surprise_later_on_spares_no_punch():
    history = simulate(Subject(NONE), PUNCH_THEN_SURPRISE).history
    kinds = [line["detail"]["kind"] for line in history.of("Phase") if line["phase"] == "requested"]
    assert kinds == ["punch", "surprise"]
    found = {j.name: j.verdict for j in judge(history, ("V4",), {"surprise": ("V4",)})}
    assert found["V4"] == "breach"


def test_a_seed_with_a_surprise_in_it_breaks_the_promise_all_the_same():
    assert "V4" in {
        found.invariant for found in verdict_of(simulate(Subject(CLAIMS), PUNCH_THEN_SURPRISE)).breaches
    }


def test_what_a_protocol_excepts_is_no_breach_of_it():
    ebusy = registry.load().get("ebusy")
    found = verdict_of(simulate(Subject(ebusy), PUNCH_THEN_SURPRISE))
    assert found.breaches == ()
    assert "V4" in {cost.invariant for cost in found.costs}


def test_the_explorer_finds_the_breach_beside_the_cost():
    beside = Setup(
        reclaims=("truncate", "surprise-unplug"), crashes=0, refusals=0, registrations=0, cancels=False
    )
    result = explore(CLAIMS, "truncate", setup=beside)
    assert {"S1", "V4"} & {found.invariant for found in result.breaches}
    assert all("surprise" not in label for found in result.breaches for label in found.story)


def test_the_explorer_spares_what_only_the_excepted_reclaim_broke():
    alone = replace(CLAIMS, excepts={"surprise": ("S1", "V4"), "truncate": ("S1", "V4")})
    beside = Setup(
        reclaims=("truncate", "surprise-unplug"), crashes=0, refusals=0, registrations=0, cancels=False
    )
    assert not explore(alone, "truncate", setup=beside).breaches
