"""What each manner does at a notice, at the event, and of its own accord."""

import pytest
from emu.clients.manners import AFTER, ROUND, Deed, Manners


@pytest.mark.parametrize(
    ("manner", "deed"),
    [("prompt", Deed.LET_GO), ("reregister", Deed.COME_BACK), ("slow", Deed.NOTHING), ("blocker", Deed.NOTHING),
     ("deaf", Deed.NOTHING), ("stopped", Deed.NOTHING)],
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


def test_who_is_dying_dies_of_the_notice():
    assert Manners("dying").noticed(0.0, 2.0) is Deed.DIE


def test_a_prompt_one_lets_go_when_its_peer_has_said_that_it_is_done():
    holder = Manners("prompt", awaits_peer=True)
    assert holder.noticed(10.0, 2.0) is Deed.NOTHING
    assert holder.peer_done() is Deed.LET_GO
    assert (holder.due, holder.noticed(11.0, 2.0), holder.peer_done()) == (None, Deed.NOTHING, Deed.NOTHING)


def test_a_peer_that_is_done_first_is_not_awaited():
    holder = Manners("prompt", awaits_peer=True)
    assert holder.peer_done() is Deed.NOTHING, "nobody has told the holder yet"
    assert holder.noticed(10.0, 2.0) is Deed.LET_GO


def test_a_peer_that_never_says_anything_is_awaited_for_half_of_the_time():
    holder = Manners("prompt", awaits_peer=True)
    holder.noticed(10.0, 2.0)
    assert (holder.due, holder.woken(10.9)) == (11.0, Deed.NOTHING)
    assert holder.woken(11.0) is Deed.LET_GO


def test_a_notice_that_gives_no_time_is_not_awaited():
    assert Manners("prompt", awaits_peer=True).noticed(10.0) is Deed.LET_GO


@pytest.mark.parametrize("manner", ["deaf", "slow", "reregister", "blocker", "stopped"])
def test_nobody_else_minds_the_peer(manner):
    holder = Manners(manner, awaits_peer=True)
    holder.noticed(10.0, 2.0)
    assert holder.peer_done() is Deed.NOTHING


@pytest.mark.parametrize("manner", ["slow", "reregister"])
def test_who_is_told_is_at_rest_behind_its_deed(manner):
    holder = Manners(manner)
    holder.told(0.0)
    assert holder.rest_in(0.0) == AFTER[manner]
    assert 0 < holder.rest_in(99.0) < ROUND, "late, and still to come"
    holder.woken(99.0)
    assert holder.rest_in(99.0) == 0


def test_one_that_blocks_for_ever_has_been_awaited_when_it_has_done_so_once():
    holder = Manners("blocker")
    holder.told(0.0)
    assert holder.rest_in(0.0) == ROUND
    holder.woken(ROUND)
    assert (holder.rest_in(ROUND), holder.due) == (0, 2 * ROUND)
