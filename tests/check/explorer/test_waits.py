"""The protocols that wait, refuse or deny, in the small world: what they promise holds, and what they do not promise shows where it must."""

from __future__ import annotations

import pytest

from emu.check.explorer.result import HOLDS
from emu.check.explorer.search import explore
from emu.check.model.setup import Setup
from emu.protocols import registry

PROTOCOLS = registry.load().protocols
QUIET = {"crashes": 0, "refusals": 0, "taker": False, "cancels": False}


def found(name, *reclaims, **more):
    result = explore(PROTOCOLS[name], reclaims[0], setup=Setup(reclaims=reclaims, **more))
    assert (result.breaches, result.missing, result.code) == ([], [], HOLDS)
    return result, {cost.invariant for cost in result.costs}


@pytest.mark.parametrize(
    ("name", "costs"),
    [
        ("refuse", set()),
        ("immutable", set()),
        ("wait", {"S7"}),
        ("wait-fair", {"S7"}),
        ("layout-lease", {"S7"}),
    ],
)
@pytest.mark.parametrize("event", ["truncate", "unplug"])
def test_what_is_asked_for_is_granted_denied_or_waited_for_and_nothing_is_spoilt(name, event, costs):
    assert found(name, event)[1] == costs


@pytest.mark.parametrize("name", ["refuse", "wait-fair"])
def test_a_surprise_spoils_nothing_where_nobody_is_pinned_or_the_pins_are_waited_for(name):
    assert found(name, "surprise-unplug")[1] <= {"S7"}


def test_a_surprise_under_a_mark_is_not_handled():
    assert {"S1", "S2", "S4", "S9"} <= found("immutable", "surprise-unplug")[1]


def test_a_lease_does_not_keep_its_owner_from_freeing_under_itself():
    result, costs = found("layout-lease", "self-truncate")
    assert {"S1", "S2", "S4", "S9", "V4", "V20"} <= costs
    assert ("start", "requested", "pinned and not leased and own") in result.rows


def test_the_pins_of_a_holder_that_died_have_no_lease_any_more():
    result, costs = found("layout-lease", "truncate")
    assert costs == {"S7"}, "and of one whose opener has ended nobody can be denied: they are waited for"
    assert ("start", "requested", "pinned and not leased and not own") in result.rows
    assert ("waiting", "unpinned", "") in result.rows


def test_a_holder_that_truncates_its_own_file_waits_for_itself():
    assert found("wait", "self-truncate", **QUIET)[1] == {"S7"}


def test_new_pins_come_in_while_wait_sleeps_and_not_while_wait_fair_does():
    assert "V23" in found("wait", "truncate", holders=2, **QUIET)[1]
    assert "V23" not in found("wait-fair", "truncate", holders=2, **QUIET)[1]


def test_registrations_that_wait_go_on_behind_a_punch_and_may_be_lost_with_whoever_asked():
    found("wait-fair", "punch", mrs=2, **(QUIET | {"crashes": 1}))
