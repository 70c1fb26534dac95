"""The terminal's table: every row is in it, and what is surprising is said."""

from emu.report.table import render
from emu.report.words import agreement, controlled, findings


def test_the_matrix_has_a_block_for_each_backing_and_holder(result):
    text = render(result)
    for title in ("dax, deaf holder", "dax, prompt holder", "host, deaf holder"):
        assert f"{title}\n" in text


def test_outcomes_stand_in_their_cells(result):
    block = render(result).split("\n\n")[0].splitlines()
    assert block[1].split() == ["truncate", "punch", "unlink", "unplug", "surprise-unplug"]
    assert block[2].split() == [
        "none",
        "CORRUPT",
        "CORRUPT",
        "CORRUPT",
        "CORRUPT",
        "FAULT",
        "CORRUPT",
        "FAULT",
    ]
    assert block[3].split()[:3] == ["ebusy", "DENY", "EBUSY"]


def test_columns_are_aligned(result):
    block = render(result).split("\n\n")[0].splitlines()[1:]
    column = block[0].index("punch")
    assert all(line[column - 1] == " " and line[column] != " " for line in block)


def test_na_is_explained(result):
    assert "N/A: the name of a host file belongs to the host" in render(result)


def test_a_claim_that_does_not_hold_is_a_finding(make, seen):
    wrong = make(seen("CORRUPT", foreign_bytes=64), promises=["S1"])
    assert any(
        "claimed OK+ERR (Moroni), measured CORRUPT" in sentence for sentence in findings(wrong["rows"])
    )


def test_a_broken_promise_is_the_first_finding(make, seen):
    bad = seen("CORRUPT", foreign_bytes=64, violated=[["S1", "64 stamped bytes lie elsewhere"]])
    first = findings(make(bad, promises=["S1"])["rows"])[0]
    assert first.startswith("mr-revoke + truncate (dax, deaf holder) broke its promise S1: 64 stamped bytes")


def test_the_figures_say_what_they_count(result):
    text = render(result)
    assert "each write counted" in text
    assert text.index("hurt") < text.index("each write counted") < text.index("N/A:")


def test_what_we_inferred_ourselves_is_counted_apart(result):
    said = {"agrees": True, "claimed_by": "Wilcox"}
    own = {"agrees": True, "claimed_by": "inferred"}
    open_ = {"agrees": None, "claimed_by": None}
    assert agreement([said, said, own, {**own, "agrees": False}, open_]) == (
        "2 of 2 rows about which somebody made a claim agree with it; 1 of 2 that we inferred ourselves."
    )
    assert "inferred" not in agreement([said, {**said, "agrees": False}])
    judged = [row for row in result["rows"] if row["agrees"] is not None]
    assert f"of {len(judged)} rows" not in agreement(result["rows"])


def test_events_that_nobody_claims_are_named(result):
    assert any("unlink: nobody claims anything" in sentence for sentence in findings(result["rows"]))


def test_an_empty_result_still_prints(result):
    assert "0 of 0 rows" in render({**result, "rows": []})


def test_the_text_is_plain_ascii(result):
    render(result).encode("ascii")


def test_the_last_line_tells_of_the_controls(result, make, seen):
    assert render(result).endswith("is flipped by a control.")
    wrong = make(seen("CORRUPT", foreign_bytes=64), protocol="none", controls={"no-dma": "CORRUPT"})
    last = render(wrong).splitlines()[-1]
    assert last == (
        "Controls: 1 of 1 rows have an outcome that no control flips: none + truncate (dax, deaf holder): CORRUPT."
    )
    assert controlled(make(seen("OK"))["rows"]) == ""
