"""Answers of the hardware held back for what an invalidation costs."""

from __future__ import annotations

import pytest

from emu.broker.invalidation import TIMER, Invalidations
from emu.broker.options import OptionError, Options, check
from emu.broker.timers import Timers
from emu.core.events import Quiesced


class Desk:
    def __init__(self, cost, scale=1.0):
        self.now, self.given = 0.0, []
        self.timers = Timers(scale, lambda: self.now)
        self.held = Invalidations(
            cost, self.timers, lambda event: self.given.append(event.cookie), lambda: self.now
        )

    def at(self, now):
        self.now = now
        for name in self.timers.due():
            assert name == TIMER
            self.held.due()
        return self.given


def test_without_a_cost_answers_go_on_at_once():
    desk = Desk(0.0)
    desk.held.answered(Quiesced(1))
    assert desk.given == [1]
    assert desk.timers.wait() is None


def test_answers_wait_side_by_side_and_keep_their_order():
    desk = Desk(0.010)
    desk.held.answered(Quiesced(1))
    desk.now = 0.004
    desk.held.answered(Quiesced(2))
    assert desk.at(0.009) == []
    assert desk.at(0.011) == [1]
    assert desk.at(0.013) == [1]
    assert desk.at(0.015) == [1, 2]
    assert desk.timers.wait() is None
    desk.held.answered(Quiesced(3))
    assert desk.at(0.026) == [1, 2, 3]


def test_the_cost_is_the_hardwares_and_is_not_scaled():
    desk = Desk(0.010, scale=0.1)
    desk.held.answered(Quiesced(1))
    assert desk.at(0.005) == []
    assert desk.at(0.011) == [1]


@pytest.mark.parametrize("cost", [-1.0, float("nan"), 1e12])
def test_a_cost_that_nobody_can_mean_is_refused(tmp_path, cost):
    with pytest.raises(OptionError, match="--invalidation-cost"):
        check(Options(tmp_path, invalidation_us=cost))
