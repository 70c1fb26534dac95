"""Timers fire in order, once, scaled; what was disarmed or moved does not fire."""

from emu.broker.timers import Timers


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def make(scale=1.0):
    clock = Clock()
    return clock, Timers(scale, clock)


def test_what_is_due_comes_earliest_first_and_once():
    clock, timers = make()
    timers.arm(1, 5)
    timers.arm(2, 1)
    timers.arm("retry", 3)
    assert timers.wait() == 1
    assert timers.due() == []
    clock.now += 4
    assert timers.due() == [2, "retry"]
    assert timers.due() == []
    assert timers.wait() == 1


def test_a_disarmed_timer_does_not_fire():
    clock, timers = make()
    timers.arm(1, 1)
    timers.arm(2, 2)
    timers.disarm(1)
    timers.disarm(77)
    assert timers.wait() == 2
    clock.now += 5
    assert timers.due() == [2]
    assert timers.wait() is None


def test_arming_again_moves_a_timer():
    clock, timers = make()
    timers.arm(1, 1)
    timers.arm(1, 10)
    clock.now += 5
    assert timers.due() == []
    clock.now += 5
    assert timers.due() == [1]


def test_the_scale_multiplies():
    clock, timers = make(scale=0.1)
    timers.arm(1, 30)
    assert timers.wait() == 3
    clock.now += 3
    assert timers.due() == [1]


def test_one_turn_takes_a_bounded_share():
    clock, timers = make()
    for n in range(100):
        timers.arm(n, 1)
    clock.now += 2
    assert timers.due(limit=64) == list(range(64))
    assert timers.wait() == 0
    assert timers.due(limit=64) == list(range(64, 100))
