"""The explorer: exact numbers of states, what each protocol costs, and wrong protocols that it must catch."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from emu.check import model
from emu.check.explorer import search as explorer
from emu.check.explorer.result import CHECKED
from emu.check.explorer.search import BREACH, HOLDS, UNKNOWN, explore
from emu.check.model.state import KINDS
from emu.core.decision import END, EVENTS, START
from emu.core.memory.pins import pins_over
from emu.core.reclaims import scope
from emu.protocols import contract, registry
from emu.protocols.contract import (
    Protocol,
    apply,
    arm,
    deny,
    free,
    gate,
    go,
    quiesce,
    reply,
    unmap,
    when_pinned,
)

PROTOCOLS = registry.load().protocols

# (states, moves) with independent steps reduced, and without. A change of these numbers is a change of what can happen: say why in the
# commit.
REACHABLE = {
    ("none", "truncate"): (1778, 3451, 4532, 11850),
    ("none", "punch"): (1978, 3794, 4872, 12654),
    ("none", "unlink"): (1496, 3004, 3716, 9817),
    ("none", "unplug"): (4195, 9641, 11055, 32431),
    ("none", "surprise-unplug"): (3933, 8782, 10481, 29831),
    ("ebusy", "truncate"): (1434, 2726, 3753, 9997),
    ("ebusy", "punch"): (1610, 3045, 4045, 10705),
    ("ebusy", "unlink"): (975, 1901, 2449, 6665),
    ("ebusy", "unplug"): (1100, 2201, 2740, 7596),
    ("ebusy", "surprise-unplug"): (3933, 8782, 10481, 29831),
    ("mr-revoke", "truncate"): (8406, 17048, 28412, 84483),
    ("mr-revoke", "punch"): (9128, 18480, 29878, 88419),
    ("mr-revoke", "unlink"): (6793, 13855, 25241, 76407),
    ("mr-revoke", "unplug"): (7974, 17681, 29172, 91728),
    ("mr-revoke", "surprise-unplug"): (8680, 20911, 27231, 88191),
}

FREED = ["S1", "S2", "S4", "S9", "V12", "V20", "V4"]
GONE = ["S1", "S2", "S4", "S9", "V20"]
COSTS = {
    ("none", "truncate"): FREED,
    ("none", "punch"): FREED,
    ("none", "unlink"): FREED,
    ("none", "unplug"): ["S2", "S4", "V20"],
    ("none", "surprise-unplug"): GONE,
    ("ebusy", "surprise-unplug"): GONE,
}


def names(findings):
    return [finding.invariant for finding in findings]


@pytest.mark.parametrize(("name", "event"), sorted(REACHABLE))
def test_every_reachable_state_keeps_what_the_protocol_promises(name, event):
    result = explore(PROTOCOLS[name], event)
    assert names(result.breaches) == [], result.breaches
    assert names(result.costs) == COSTS.get((name, event), [])
    assert result.code == HOLDS, result.missing
    assert (result.states, result.transitions) == REACHABLE[name, event][:2]


def test_what_is_called_checked_is_what_the_model_can_see_broken():
    sources = Path(model.__file__).parent.glob("*.py")
    named = {name for source in sources for name in re.findall(r'"([SV]\d+)"', source.read_text())}
    assert set(CHECKED) == named | {"S7"}


def test_all_events_are_pinned():
    assert {event for _name, event in REACHABLE} == set(KINDS)


def test_the_bound_gives_unknown_not_holds():
    result = explore(PROTOCOLS["mr-revoke"], "truncate", max_states=100)
    assert result.bound_hit
    assert result.code == UNKNOWN
    assert result.as_row()["verdict"] == "unknown"


def test_a_guard_that_no_move_met_gives_unknown(monkeypatch):
    monkeypatch.setattr(explorer, "CRASHES", (*explorer.CRASHES, "pigs fly"))
    result = explore(PROTOCOLS["none"], "unplug")
    assert result.missing == ["pigs fly"]
    assert result.code == UNKNOWN


def test_a_guard_that_the_table_cannot_lead_to_from_here_is_not_asked_for():
    """After a surprise a timer is armed for a refused quiesce alone, and nothing refuses here; before a truncate holders are asked."""
    asks = dataclasses.replace(
        PROTOCOLS["mr-revoke"],
        table={
            **PROTOCOLS["mr-revoke"].table,
            (START, "requested"): go(arm(0.1), to="refused"),
        },
    )
    setup = dataclasses.replace(explorer.setup_of("surprise-unplug"), refusals=0)
    assert explorer.DEADLINE not in explorer.required(asks, setup)
    assert explorer.DEADLINE in explorer.required(asks, dataclasses.replace(setup, refusals=1))
    assert explorer.DEADLINE in explorer.required(asks, dataclasses.replace(setup, reclaims=("truncate",)))


def wrong(name, table, **more):
    """A protocol that promises what mr-revoke promises and does not keep it."""
    table = {(START, "surprise"): go(reply(), to=END), **table}
    protocol = Protocol(
        name=name,
        summary="wrong",
        origin="a test",
        table=table,
        ignored={"*": tuple(EVENTS)},
        **{"promises": ("S1", "S2", "S3", "S6"), "disposal": "now", **more},
    )
    return contract.check(protocol)


def shortest(result, invariant):
    return next(finding.story for finding in result.breaches if finding.invariant == invariant)


def test_freeing_before_the_unmap_is_answered_leaves_a_translation_to_freed_blocks():
    table = {
        (START, "requested"): go(gate(), quiesce(), to="fencing"),
        ("fencing", "quiesced"): go(unmap(), apply(), free(), reply(), to=END),
    }
    result = explore(wrong("hasty", table, disposal="after-unmap"), "truncate")
    assert names(result.breaches) == ["contract:free-after-unmap"]
    assert result.code == BREACH


def test_forgetting_the_unmap_leaves_a_translation_to_freed_blocks():
    table = {
        (START, "requested"): go(gate(), quiesce(), to="fencing"),
        ("fencing", "quiesced"): go(apply(), free(), reply(), to=END),
    }
    result = explore(wrong("no-unmap", table), "truncate")
    assert names(result.breaches) == ["S2"]
    assert shortest(result, "S2")[0] == "holder1: reg_mr"


def test_forgetting_the_quiesce_lets_a_quantum_run_on_freed_blocks():
    table = {(START, "requested"): go(gate(), apply(), free(), reply(), to=END)}
    result = explore(wrong("no-quiesce", table), "truncate")
    assert names(result.breaches) == ["S1", "S2"]
    assert any(" enters " in move for move in shortest(result, "S1"))


def test_unmapping_without_the_answer_of_the_quiesce_breaks_a_rule():
    table = {(START, "requested"): go(gate(), quiesce(), unmap(), apply(), free(), reply(), to=END)}
    assert "contract:unmap-after-quiesce" in names(explore(wrong("two-in-one", table), "punch").breaches)


def test_check_then_act_frees_under_a_pin_that_came_between():
    table = {
        (START, "requested"): when_pinned(go(deny("EBUSY"), to=END), go(arm(1.0), to="checked")),
        ("checked", "deadline"): go(apply(), free(), reply(), to=END),
    }
    result = explore(wrong("check-then-act", table), "truncate")
    assert names(result.breaches) == ["S1", "S2"]
    story = shortest(result, "S2")
    assert story.index("reclaimer1: truncate") < story.index("holder1: reg_mr")


def test_check_then_act_with_a_gate_between_holds():
    table = {
        (START, "requested"): when_pinned(go(deny("EBUSY"), to=END), go(gate(), arm(1.0), to="checked")),
        ("checked", "deadline"): go(apply(), free(), reply(), to=END),
        ("checked", "cancelled"): go(deny("EINTR"), to=END),
    }
    result = explore(wrong("gated", table), "truncate")
    assert names(result.breaches) == []


def test_a_revoke_lost_between_pin_and_installed_key_is_found(monkeypatch):
    def only_live(books, space, runs):
        return tuple(key for key in pins_over(books, space, runs) if books.mrs[key].state == "live")

    monkeypatch.setattr(scope, "pins_over", only_live)
    result = explore(PROTOCOLS["mr-revoke"], "truncate")
    assert "S2" in names(result.breaches)
    story = shortest(result, "S2")
    assert story.index("holder1: reg_mr") < story.index("reclaimer1: truncate")
    assert not any(label.startswith("engine: installed") for label in story)


def test_a_reclaim_that_waits_for_the_holder_cannot_promise_to_end():
    table = {
        (START, "requested"): when_pinned(
            go(gate(), to="waiting"), go(gate(), apply(), free(), reply(), to=END)
        ),
        ("waiting", "unpinned"): go(apply(), free(), reply(), to=END),
        ("waiting", "cancelled"): go(deny("EINTR"), to=END),
    }
    waiting = wrong("waiting", table, disposal="after-unmap")
    assert names(explore(waiting, "truncate").costs) == ["S7"]
    assert names(explore(dataclasses.replace(waiting, promises=("S7",)), "truncate").breaches) == ["S7"]


def test_an_error_after_the_change_breaks_a_rule():
    table = {(START, "requested"): go(apply(), deny("EBUSY"), to=END)}
    assert "contract:deny-before-apply" in names(explore(wrong("liar", table), "truncate").breaches)


def test_a_success_without_the_change_is_found():
    table = {(START, "requested"): go(reply(), to=END)}
    assert "S2" in names(explore(wrong("talker", table), "truncate").breaches)
