"""A node's own lease-break time reaches the table that runs, and the one that a history is held against."""

from __future__ import annotations

import pytest

from emu.protocols import registry
from emu.protocols.contract import actions_of

KNOWN = registry.load().protocols


def seconds(protocols):
    table = protocols["lease-signal"]
    return {action.number for action in actions_of(table) if action.verb in {"arm", "notify"}}


def test_every_rung_has_the_nodes_time():
    assert seconds(KNOWN) == {2.0}
    assert seconds(registry.load(lease_break=45).protocols) == {45.0}
    assert seconds(registry.paced(KNOWN, 0.5)) == {0.5}
    assert seconds(KNOWN) == {2.0}, "others keep theirs"


@pytest.mark.parametrize("what", [None, True, "5", -1, 0, float("nan"), float("inf"), 1e30, [5]])
def test_what_is_no_time_changes_nothing(what):
    assert registry.paced(KNOWN, what) == KNOWN


def test_a_strangers_lease_signal_is_left_alone():
    mine = {"lease-signal": KNOWN["none"]}
    assert registry.paced(mine, 5.0) == mine
