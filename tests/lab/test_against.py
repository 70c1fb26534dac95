"""Two results side by side: changed outcomes, new and missing rows, ratios of latency."""

from emu.lab.against import against, words


def row(protocol, *outcomes, p50=10.0):
    took = {"p50": p50, "p99": None, "max": p50, "n": 1} if p50 else None
    return {
        "protocol": protocol,
        "event": "truncate",
        "backing": "dax",
        "holder": "deaf",
        "outcomes": list(outcomes),
        "reclaim_us": took,
    }


def test_changed_rows_tell_what_they_were():
    found = against(
        {"rows": [row("a", "OK"), row("b", "HANG")]}, {"rows": [row("a", "CORRUPT"), row("b", "HANG")]}
    )
    (changed,) = found["changed"]
    assert (changed["protocol"], changed["was"], changed["is"]) == ("a", ["OK"], ["CORRUPT"])
    assert "a truncate dax deaf: was OK, is CORRUPT" in list(words(found))


def test_rows_that_came_and_went():
    found = against({"rows": [row("a", "OK")]}, {"rows": [row("b", "OK")]})
    assert [r["protocol"] for r in found["new"]] == ["b"]
    assert [r["protocol"] for r in found["gone"]] == ["a"]


def test_latency_is_a_ratio_and_absent_where_one_side_has_none():
    old = {"rows": [row("a", "OK", p50=10.0), row("b", "OK", p50=10.0), row("c", "HANG", p50=None)]}
    new = {"rows": [row("a", "OK", p50=20.0), row("b", "OK", p50=40.0), row("c", "OK", p50=5.0)]}
    found = against(old, new)["latency"]
    assert found["median_ratio"] == 3.0
    assert [(r["protocol"], r["ratio"]) for r in found["rows"]] == [("a", 2.0), ("b", 4.0)]


def test_nothing_to_compare_is_said_with_nothing():
    assert list(words(against({"rows": []}, {"rows": []}))) == []
