"""A leaseholder's signals, taken one by one."""

from __future__ import annotations

import signal
import threading

from emu.verbs.breaks import BREAKS, Breaks


def send(number):
    signal.pthread_kill(
        threading.get_ident(), number
    )  # to nobody else: other threads of a test run would die of it


def test_signals_of_the_ladder_are_taken_in_place_of_dying_of_them():
    with Breaks() as breaks:
        assert breaks.wait(0) is None
        send(signal.SIGIO)
        assert breaks.wait() == signal.SIGIO
        send(signal.SIGBUS)
        assert breaks.wait(60) == signal.SIGBUS
        assert breaks.wait(0) is None


def test_behind_it_everything_is_as_before_and_what_was_not_taken_kills_nobody():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with Breaks():
        send(signal.SIGIO)
        assert set(BREAKS) <= signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
