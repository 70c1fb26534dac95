"""What each manner does at a notice, at the event, and of its own accord."""

import pytest
from emu.clients.manners import AFTER, ROUND, Deed, Manners


@pytest.mark.parametrize(
    ("manner", "deed"),
    [("prompt", Deed.LET_GO), ("reregister", Deed.COME_BACK), ("slow", Deed.NOTHING), ("blocker", Deed.NOTHING),
     ("deaf", Deed.NOTHING), ("stopped", Deed.NOTHING), ("dying", Deed.NOTHING)],
)  # fmt: skip
def test_at_the_notice(manner, deed):
    holder = Manners(manner)
    assert holder.noticed(0.0) is deed
    assert holder.noticed(0.0) is Deed.NOTHING, "once"


@pytest.mark.parametrize(("manner", "deed"), [("slow", Deed.LET_GO), ("reregister", Deed.COME_BACK)])
def test_who_is_told_acts_a_while_later_and_once(manner, deed):
    holder = Manners(manner)
    assert holder.told(10.0) is Deed.NOTHING
    assert holder.due == 10.0 + AFTER[manner]
    assert holder.woken(holder.due - 0.001) is Deed.NOTHING
    assert holder.woken(holder.due) is deed
    assert (holder.due, holder.woken(99.0), holder.told(99.0)) == (None, Deed.NOTHING, Deed.NOTHING)


def test_a_blocker_registers_again_and_again():
    holder = Manners("blocker")
    holder.told(0.0)
    for turn in range(1, 4):
        assert holder.woken(holder.due) is Deed.ANOTHER
        assert holder.due == pytest.approx(ROUND * (turn + 1))


@pytest.mark.parametrize("manner", ["prompt", "deaf", "stopped", "dying"])
def test_nobody_else_does_anything_unasked(manner):
    holder = Manners(manner)
    holder.told(0.0)
    assert (holder.due, holder.woken(99.0)) == (None, Deed.NOTHING)
