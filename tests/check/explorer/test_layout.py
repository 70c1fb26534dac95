"""The small world with blocks that move, are copied, or are shared: what is promised holds, and what it costs is found."""

import pytest

from emu.check.explorer.search import LAYOUT, explore, setup_of
from emu.check.promises import runnable

TABLE = runnable()


@pytest.mark.parametrize("event", LAYOUT)
def test_what_ebusy_promises_holds(event):
    assert explore(TABLE["ebusy"], event).as_row()["verdict"] == "holds"


@pytest.mark.parametrize("event", ["collapse", "reflink"])
def test_what_mr_revoke_promises_holds(event):
    made = explore(TABLE["mr-revoke"], event, setup=setup_of(event))
    assert made.as_row()["verdict"] == "holds"
    assert not made.bound_hit


@pytest.mark.parametrize("event", LAYOUT)
def test_without_a_word_to_anybody_dma_reaches_what_is_somebody_elses(event):
    broken = {finding.invariant for finding in explore(TABLE["none"], event).costs}
    assert "S1" in broken
    assert ("S2" in broken) == (event != "reflink"), "sharing frees nothing"
