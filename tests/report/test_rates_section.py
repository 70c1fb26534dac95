"""The section of many reclaims and slow invalidations."""

from __future__ import annotations

from markup import HOSTILE, parsed

from emu.report.html import page
from emu.report.schema import problems

POINT = {
    "rate": 10.0, "ratio": 0.25, "seconds": 1.0, "asked": 9, "succeeded": 8, "denied": 1, "hung": 0, "refused": 0, "restarts": 2,
    "reclaim_us": {"p50": 100.0, "p99": None, "max": 120.0, "n": 8},
}  # fmt: skip
RATE = {
    "protocol": "mr-revoke",
    "undisturbed_bytes_s": 3e9,
    "refused": False,
    "points": [POINT],
    "half_rate": 5.5,
}
COST = {
    "protocol": "mr-revoke", "cost_us": 1000.0, "reclaim_us": POINT["reclaim_us"], "denied": 0, "hung": 0, "refused": 0,
}  # fmt: skip


def test_it_shows_what_is_left_and_what_happened(result):
    found = {
        **result,
        "rates": [RATE],
        "sweep": [COST, {**COST, "cost_us": 1.0, "reclaim_us": None, "denied": 8}],
    }
    assert problems(found) == []
    text = page(found)
    parsed(text)
    assert "0.25 <small>(8 of 9)</small>" in text
    assert "1 denied, 0 hung, 2 processes started again" in text
    assert "3.00 GB/s" in text
    assert "5.5/s" in text
    assert ">denied</td>" in text


def test_what_was_refused_and_what_was_not_measured_say_so(result):
    none = {**RATE, "refused": True, "half_rate": None, "points": [{**POINT, "ratio": None}]}
    text = page({**result, "rates": [none]})
    assert ">refused</td>" in text
    assert ">not measured</td>" in text


def test_hostile_names_stay_text(result):
    text = page(
        {**result, "rates": [{**RATE, "protocol": HOSTILE}], "sweep": [{**COST, "protocol": HOSTILE}]}
    )
    assert HOSTILE not in text


def test_without_a_sweep_there_is_no_section(result):
    assert "Many reclaims" not in page(result)
