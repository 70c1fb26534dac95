"""Many reclaims one behind the other, on live processes; and the rate at which goodput halves."""

from __future__ import annotations

import pytest

from emu.lab import rates


def point(rate, ratio, succeeded=5):
    return {
        "rate": rate,
        "ratio": ratio,
        "succeeded": succeeded,
        "seconds": succeeded / rate if rate else 1.0,
    }


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([point(10, 1.0), point(100, 0.5)], 100),
        ([point(10, 0.75), point(100, 0.25)], 10 * 10**0.5),
        ([point(10, 0.9), point(100, 0.8)], None),
        ([point(10, 0.0, succeeded=0), point(100, 0.1, succeeded=0)], None),
        ([point(10, None)], None),
        ([point(10, 0.5)], None),
        ([point(2, 0.4), point(10, 1.0), point(100, 0.5)], 100),
        ([point(2, 0.4), point(10, 0.9)], None),
        ([], None),
    ],
)
def test_the_rate_at_which_goodput_halves_lies_between_two_measured_ones(points, expected):
    assert rates.half_rate(points) == (pytest.approx(expected) if expected is not None else None)


def test_reclaims_count_at_the_rate_at_which_they_came_to_pass():
    asked = {**point(250, 0.25), "succeeded": 20, "seconds": 1.0}
    assert rates.half_rate([point(10, 0.75), asked]) == pytest.approx((10 * 20) ** 0.5)


@pytest.fixture
def ran(tmp_path):
    """A short measurement of one protocol, with two reclaims at least."""

    def run(protocol, rate, seconds=0.1, options=()):
        with (tmp_path / "log").open("wb") as log, rates.Stage(protocol, log, options) as stage:
            return stage.run(rate, seconds, least=2)

    return run


def test_a_revoke_comes_back_after_every_reclaim(ran):
    tally = ran("mr-revoke", 15)
    assert tally.succeeded >= 2
    assert (tally.denied, tally.hung, tally.restarts) == (0, 0, 0)
    assert tally.bytes > 0
    assert len(tally.reclaim_us) == tally.succeeded


def test_a_denied_reclaim_disturbs_nobody(ran):
    tally = ran("ebusy", 15)
    assert tally.denied == tally.asked >= 2
    assert tally.bytes > 0


def test_a_reclaim_that_waits_for_nothing_has_hung_and_one_that_is_slow_has_not(tmp_path, monkeypatch):
    monkeypatch.setattr(rates, "PATIENCE", 0.01)
    with (tmp_path / "log").open("wb") as log:
        with rates.Stage("wait", log) as stage:
            hung = stage.run(50, 0.1, least=2)
        with rates.Stage("mr-revoke", log, ("--invalidation-cost", "100000")) as stage:
            slow = stage.run(50, 0.1, least=2)
    assert (hung.hung, hung.succeeded, hung.denied, hung.unknown) == (hung.asked, 0, 0, 0)
    assert (slow.succeeded, slow.hung, slow.denied, slow.unknown) == (slow.asked, 0, 0, 0)


def test_an_invalidation_that_costs_makes_a_reclaim_last(ran):
    tally = ran("mr-revoke", 15, options=("--invalidation-cost", "20000"))
    assert min(tally.reclaim_us) >= 20_000


def test_a_row_has_every_rate_and_its_own_rest(monkeypatch, tmp_path):
    monkeypatch.setattr(rates, "RATES", (10.0,))
    monkeypatch.setattr(rates, "SECONDS", 0.3)
    monkeypatch.setattr(rates, "REST", 0.1)
    with (tmp_path / "log").open("wb") as log:
        row = rates.rate_row("none", log)
    assert row["undisturbed_bytes_s"] > 0
    assert [found["rate"] for found in row["points"]] == [10.0]
    assert row["points"][0]["ratio"] > 0
