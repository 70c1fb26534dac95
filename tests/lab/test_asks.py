"""Who is refused asks again: as often as it was told, and while somebody is still to let go."""

import errno

import pytest
from emu.clients import asks

from emu.verbs.pyverbs_error import PyverbsRDMAError


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(asks, "BETWEEN", 0.0)


def refused():
    raise PyverbsRDMAError("truncate", errno.EBUSY)


def test_a_refused_one_asks_as_often_as_it_was_told():
    assert len(asks.insist(refused, 4)["tries"]) == 5


def test_it_goes_on_until_nobody_is_to_let_go_and_a_little_beyond():
    looks = iter([False] * 40 + [True] * asks.LAST)
    assert len(asks.insist(refused, 4, enough=lambda: next(looks))["tries"]) == 41 + asks.LAST


def test_enough_said_early_shortens_nothing():
    assert len(asks.insist(refused, 20, enough=lambda: True)["tries"]) == 21


def test_who_is_answered_asks_no_more():
    answers = iter([True, True, False])

    def call():
        if next(answers):
            refused()

    tries = asks.insist(call, 20, enough=lambda: False)["tries"]
    assert [found["errno"] for found in tries] == ["EBUSY", "EBUSY", None]
