"""The ranking: what is bad counts, weights move it, and a rank that hangs on the cost of an invalidation is not given."""

from __future__ import annotations

import base64
import hashlib
import json
import re

import pytest

from emu.report import leastbad, ranking
from emu.report.html import page

PAIRS = [(event, "prompt") for event in ("truncate", "punch", "collapse", "unlink")]
EVEN = dict.fromkeys(ranking.NAMES, 1)


def row(protocol, pair, *outcomes, took=100.0, backing="dax"):
    times = None if "HANG" in outcomes else {"p50": took, "p99": None, "max": took, "n": 1}
    return {
        "protocol": protocol, "event": pair[0], "holder": pair[1], "backing": backing, "outcome": outcomes[0],
        "outcomes": list(outcomes), "reclaim_us": times,
    }  # fmt: skip


def every(protocol, *outcomes, **more):
    return [row(protocol, pair, *outcomes, **more) for pair in PAIRS]


def board(*rows, sweep=()):
    return ranking.boards({"rows": list(rows), "sweep": list(sweep)})["dax"]


def order(found, weights):
    return [place.protocol for place in ranking.rank(found, weights)]


def test_badness_is_the_share_of_rows_that_showed_it():
    found = board(
        *every("clean", "OK"),
        *every("half", "OK")[:2],
        row("half", PAIRS[2], "CORRUPT"),
        row("half", PAIRS[3], "LOST", "OK"),
    )
    assert found["rows"] == 4
    assert found["badness"]["clean"]["safety"] == 0
    assert (found["badness"]["half"]["safety"], found["badness"]["half"]["data"]) == (0.25, 0.25)


def test_weights_decide_who_is_least_bad():
    found = board(*every("killer", "KILL"), *every("leaker", "LEAK"), *every("denier", "DENY"))
    assert order(found, {"kills": 10, "space": 1, "availability": 5})[0] == "leaker"
    assert order(found, {"kills": 1, "space": 10, "availability": 5})[0] == "killer"
    assert order(found, {"kills": 5, "space": 6, "availability": 1})[0] == "denier"


def test_a_hang_is_as_slow_as_can_be_and_time_is_logarithmic():
    found = board(
        *every("hangs", "HANG"), *every("quick", "OK", took=10.0), *every("middling", "OK", took=10_000.0)
    )
    times = {name: mine["time"] for name, mine in found["badness"].items()}
    assert times == {"hangs": 1.0, "quick": 0.0, "middling": pytest.approx(0.5)}


def test_only_events_that_all_have_a_row_of_count_and_it_is_said_which_do_not():
    found = board(
        *every("a", "OK"), *every("b", "OK")[:3], row("b", PAIRS[3], "N/A"), row("c", PAIRS[0], "OK")
    )
    assert found["rows"] == 3
    assert found["left_out"] == {"c": "1 measured rows here"}
    assert found["dropped"] == {"unlink": ["b"]}
    assert "unlink does not count: no row of b" in found["about"]
    assert ranking.boards({"rows": every("a", "N/A")}) == {}


def test_an_unknown_row_is_a_gap_of_its_own_protocol_only():
    rows = [
        *every("a", "CORRUPT"),
        *every("b", "OK")[:3],
        row("b", PAIRS[3], "UNKNOWN"),
        *every("c", "OK")[:3],
    ]
    found = board(*rows, row("c", PAIRS[3], "LOST"))
    assert (found["rows"], found["gaps"], found["left_out"]) == (4, {"b": ["unlink"]}, {})
    assert found["badness"]["c"]["data"] == 0.25
    assert found["badness"]["b"]["data"] == 0
    assert "b is ranked without unlink" in found["about"]


def test_who_has_little_in_common_with_the_others_empties_no_board():
    odd = [row("odd", pair, "OK") for pair in (*PAIRS[:2], ("umount", "prompt"))]
    found = board(*every("a", "OK"), *every("b", "OK"), *odd)
    assert (found["rows"], sorted(found["badness"])) == (4, ["a", "b"])
    assert "odd" in found["left_out"]
    unknown = [*every("mostly", "UNKNOWN")[:2], *every("mostly", "OK")[2:]]
    assert sorted(board(*every("a", "OK"), *every("b", "OK"), *unknown)["badness"]) == ["a", "b"]


def test_who_refuses_has_as_many_rows_as_anybody_since_other_manners_are_not_ranked():
    manners = [
        row("a", (event, manner), "CORRUPT")
        for event, _ in PAIRS
        for manner in ("slow", "deaf", "blocker", "stopped")
    ]
    found = board(*every("a", "OK"), *manners, *every("refuse", "REFUSED"))
    assert (found["rows"], found["left_out"]) == (4, {})
    assert found["badness"]["a"]["safety"] == 0
    deaf = [row("tells-nobody", (event, "deaf"), "OK") for event, _ in PAIRS]
    assert "tells-nobody" in board(*every("a", "OK"), *deaf)["badness"]


def test_a_rank_that_hangs_on_the_cost_of_an_invalidation_is_a_range():
    def point(protocol, cost, took):
        return {"protocol": protocol, "cost_us": cost, "reclaim_us": {"p50": took}}

    rows = [
        *every("steady", "OK", took=1000.0),
        *every("invalidates", "OK", took=100.0),
        *every("corrupts", "CORRUPT"),
    ]
    sweep = [point("invalidates", 1, 100.0), point("invalidates", 10_000, 50_000.0)]
    places = {place.protocol: place for place in ranking.rank(board(*rows, sweep=sweep), EVEN)}
    assert (places["invalidates"].best, places["invalidates"].worst, places["invalidates"].survives) == (
        1,
        2,
        False,
    )
    assert (places["corrupts"].best, places["corrupts"].survives) == (3, True)


def test_they_stand_in_the_order_of_the_scores_shown():
    sweep = [{"protocol": "b", "cost_us": 1, "reclaim_us": {"p50": 9e6}}]
    found = ranking.rank(board(*every("a", "LEAK"), *every("b", "OK"), sweep=sweep), EVEN)
    assert [(place.protocol, place.best) for place in found] == [("b", 1), ("a", 2)]


def test_who_hangs_where_an_invalidation_is_slow_does_not_keep_its_rank():
    rows = [*every("steady", "OK", took=1000.0), *every("hangs", "OK", took=100.0)]
    sweep = [
        {"protocol": "hangs", "cost_us": 1, "reclaim_us": {"p50": 100.0}},
        {"protocol": "hangs", "cost_us": 10_000, "reclaim_us": None},
    ]
    places = {place.protocol: place for place in ranking.rank(board(*rows, sweep=sweep), EVEN)}
    assert (places["hangs"].best, places["hangs"].worst) == (1, 2)


def test_the_sweep_of_dax_says_nothing_of_other_memory():
    rows = [row | {"backing": "page-cache"} for row in (*every("a", "OK"), *every("b", "OK"))]
    point = {"protocol": "a", "cost_us": 1, "reclaim_us": {"p50": 1.0}}
    assert ranking.boards({"rows": rows, "sweep": [point]})["page-cache"]["sweep"] == []


def test_tries_that_were_denied_are_time_that_the_reclaimer_waited():
    rows = [{**row, "blocked_us": 10_000.0} for row in every("denies", "OK", took=10.0)]
    found = board(*rows, *every("quick", "OK", took=10.0))
    assert found["badness"]["denies"]["time"] == pytest.approx(0.5)


def test_equal_scores_share_a_rank():
    places = ranking.rank(board(*every("a", "OK"), *every("b", "OK")), EVEN)
    assert [place.best for place in places] == [1, 1]


def test_the_page_runs_its_own_script_and_no_other():
    text = leastbad.section({"rows": [*every("a", "OK"), *every("b", "DENY")]})
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert scripts == [leastbad.script()]
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert leastbad.policy() == f"script-src 'sha256-{digest}'"


def test_hostile_names_cannot_leave_the_data(result):
    name = "</script><script>alert(1)</script>"
    text = leastbad.section({"rows": [*every(name, "OK"), *every("b", "DENY")]})
    assert "alert(1)</script>" not in text
    held = re.search(r'id="ranking-data">(.*?)</script>', text, re.DOTALL).group(1)
    assert name in json.loads(held)["boards"]["dax"]["badness"]
    assert "script-src 'sha256-" in page(result)


def test_without_enough_rows_there_is_no_ranking():
    assert leastbad.section({"rows": every("a", "OK")[:2]}) == ""
