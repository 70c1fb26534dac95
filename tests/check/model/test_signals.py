"""The small world with signals: who is sent a SIGKILL dies, who took over from the opener does not, a destroyed context is closed."""

from __future__ import annotations

import pytest

from emu.check.explorer.fairness import Classes, class_of
from emu.check.model.setup import Setup
from emu.check.model.world import World
from emu.protocols import registry

PROTOCOLS = registry.load().protocols
HOLD = ("holder1: reg_mr", "shell: install", "engine: installed")


def world(name, **setup):
    return World(PROTOCOLS[name], Setup(**{"registrations": 0, "taker": False, **setup}), direct=True)


def go(where, state, *labels):
    """By labels, each as far as it is given; what broke is nobody's fault here."""
    for label in labels:
        found = next((choice for choice in where.choices(state) if choice.label.startswith(label)), None)
        assert found is not None, f"{label}: there are {[choice.label for choice in where.choices(state)]}"
        state = where.take(found).state
    return state


def labels(where, state):
    return [choice.label for choice in where.choices(state)]


@pytest.mark.parametrize("crash", [False, True], ids=["", "a stranger was killed before"])
def test_a_sigkill_that_is_carried_out_ends_the_holder_and_costs_no_crash(crash):
    small = world("kill-process", holders=2)
    state = go(small, small.start(), *HOLD, "reclaimer1: truncate")
    assert "holder1: dies of SIGKILL" not in labels(small, state), "not before the shell has sent it"
    state = go(small, state, "shell: signal 1 9")
    if crash:
        state = go(small, state, "crash: holder2")
    left = state.crashes
    state = go(small, state, "holder1: dies of SIGKILL")
    assert (state.crashes, state.holders[0].session) == (left, 0)
    state = go(small, state, "shell: quiesce", "engine: quiesced", "shell: unmap", "engine: unmapped")
    while state.todo:
        state = go(small, state, "shell:")
    assert state.reclaimers[0].state == "0"


def test_a_survivor_is_sent_no_signal():
    small = world("kill-process")
    state = go(small, small.start(), *HOLD, "crash: opener1", "reclaimer1: truncate")
    assert not any(label.startswith(("shell: signal", "holder1: dies")) for label in labels(small, state))
    assert "crash: opener1, its descriptor lives on" not in labels(small, state)


def test_openers_do_not_matter_to_a_protocol_that_signals_nobody():
    small = world("mr-revoke")
    state = go(small, small.start(), *HOLD)
    assert not any("opener" in label for label in labels(small, state))


def test_sigio_and_sigbus_are_notices():
    small = world("lease-signal")
    state = small.start()
    if any(label.startswith("holder1: lease") for label in labels(small, state)):
        state = go(small, state, "holder1: lease")
    state = go(small, state, *HOLD, "reclaimer1: truncate", "shell: signal 1 29")
    assert not state.holders[0].killed
    state = go(small, state, "timer", "shell: signal 1 7", "timer", "shell: signal 1 9")
    assert state.holders[0].killed


def test_a_destroyed_context_asks_in_vain_and_is_closed():
    small = world("kill-context", mrs=2, returns=True, registrations=1)
    state = go(small, small.start(), *HOLD, "reclaimer1: truncate")
    assert state.holders[0].dead
    state = go(small, state, "shell: quiesce", "engine: quiesced", "shell: unmap", "engine: unmapped")
    while state.todo:
        state = go(small, state, "shell:")
    assert state.reclaimers[0].state == "0"
    state = go(small, state, "holder1: reg_mr")
    assert [mr.state for mr in state.holders[0].mrs] == ["has", "idle"], "refused"
    state = go(small, state, "holder1: closes")
    while state.todo:
        state = go(small, state, "shell:")
    state = go(small, state, "holder1: comes back", "holder1: reg_mr")
    assert not state.holders[0].dead


def test_a_death_is_owed_by_its_holder_whatever_it_is_called():
    assert class_of("holder2: dies of SIGKILL") == "holder2"
    assert class_of("holder2: reg_mr") == ""
    classes = Classes()
    one, two = (classes.of(f"holder{number}: dies of SIGKILL") for number in (1, 2))
    assert classes.kind(one) == classes.kind(two)
    assert classes.turned((1, 0))[one] == two
