"""From runs to rows: the worst run is shown, controls must flip, promises decide what a breach is."""

from dataclasses import replace
from pathlib import Path

import pytest

from emu.check.verdict import Verdict
from emu.lab.plan.controls import DENIES_NOTHING, FIFO, LET_GO, NO_DMA, NO_MOVER, NO_PIN, PROMPT
from emu.lab.plan.spec import RowSpec
from emu.lab.rows import RowResult, RunResult, breaches, claimed, exit_code, spread

SPEC = RowSpec("none", "truncate", "dax", "deaf")


def run(*outcomes, us=10.0, errno=None, **fields):
    return RunResult(Verdict(outcomes[0], list(outcomes), **fields), Path("x"), errno, True, None, us)


FLIPPED = {"no-mover": "OK", "no-pin": "OK", "no-dma": "OK"}


def row(*runs, controls=FLIPPED, promises=(), spec=SPEC):
    return RowResult(spec, 1, list(runs), dict(controls)).as_json(promises)


def controlled(seen, *controls):
    """A row that showed this, and the runs of its controls."""
    result = RowResult(SPEC, 1, [run(*seen)])
    for control, end in controls:
        result.controlled(control, end)
    return result.as_json(())


def test_the_worst_run_is_the_rows():
    found = row(run("OK"), run("CORRUPT", "LOST", foreign_bytes=64), run("LOST"))
    assert (found["outcome"], found["outcomes"], found["foreign_bytes"]) == (
        "CORRUPT",
        ["CORRUPT", "LOST", "OK"],
        64,
    )
    assert found["runs"] == 3


def test_a_control_that_does_not_flip_makes_the_row_unknown():
    found = controlled(["CORRUPT"], (NO_DMA, run("CORRUPT")), (FIFO, run("LOST", freed_bytes=64)))
    assert (found["outcome"], found["outcomes"]) == ("UNKNOWN", ["CORRUPT", "UNKNOWN"])
    assert (found["flipped"], found["unflipped"]) == ({"CORRUPT": ["fifo"]}, [])
    assert found["reason"] == "the control no-dma ended in CORRUPT too"


@pytest.mark.parametrize("seen", ["CORRUPT", "FAULT", "KILL", "HANG", "LEAK", "LOST", "STALE", "DENY"])
def test_what_no_control_flips_is_said(seen):
    found = row(run(seen), controls={})
    assert (found["outcome"], found["unflipped"], found["reason"]) == (
        "UNKNOWN",
        [seen],
        f"no control flips {seen}",
    )
    assert row(run(seen))["unflipped"] == []


def test_each_outcome_has_to_be_flipped():
    found = controlled(["CORRUPT", "LEAK"], (NO_DMA, run("LEAK")))
    assert (found["flipped"], found["unflipped"]) == ({"CORRUPT": ["no-dma"], "LEAK": []}, ["LEAK"])
    assert found["outcome"] == "UNKNOWN"
    both = controlled(["CORRUPT", "LEAK"], (NO_DMA, run("LEAK")), (NO_PIN, run("OK")))
    assert (both["outcome"], both["unflipped"], both["reason"]) == ("CORRUPT", [], None)


@pytest.mark.parametrize("control", [NO_DMA, NO_PIN, NO_MOVER])
@pytest.mark.parametrize("end", ["UNKNOWN", "HANG", "KILL", "LEAK"])
def test_a_control_that_shows_nothing_or_other_harm_is_no_flip(control, end):
    found = controlled(["CORRUPT"], (control, run(end)))
    assert (found["outcome"], found["unflipped"]) == ("UNKNOWN", ["CORRUPT"])
    assert found["reason"].startswith(f"the control {control.name} ended in {end}")
    assert exit_code([found]) == 2


@pytest.mark.parametrize(("control", "flips"), [(NO_PIN, False), (NO_MOVER, False), (NO_DMA, True)])
def test_dma_goes_on_in_a_control_that_is_about_something_else(control, flips):
    found = controlled(["CORRUPT"], (control, replace(run("OK"), moved=0)))
    assert (found["unflipped"] == []) is flips


def test_a_hang_that_letting_go_does_not_break_needs_one_that_is_broken_without_a_pin():
    found = controlled(["HANG"], (LET_GO, run("HANG")), (NO_PIN, run("OK")))
    assert (found["outcome"], found["reason"]) == (
        "HANG",
        "the control let-go ended in HANG too: it is no holder that is waited for",
    )
    hangs = controlled(["HANG"], (LET_GO, run("HANG")), (NO_PIN, run("HANG")))
    assert (hangs["outcome"], hangs["unflipped"]) == ("UNKNOWN", ["HANG"])
    answered = (DENIES_NOTHING, run("OK"))
    silent = controlled(["HANG"], (LET_GO, run("HANG")), (NO_PIN, run("HANG")), answered)
    assert (silent["outcome"], silent["flipped"]["HANG"]) == ("HANG", ["none"])
    assert controlled(["HANG"], (LET_GO, run("OK+ERR")))["reason"] is None


def test_a_denial_that_needs_no_pin_counts_where_another_protocol_is_not_denied():
    denied = (NO_PIN, run("DENY"))
    found = controlled(["DENY"], denied, (DENIES_NOTHING, run("OK")))
    assert (found["outcome"], found["reason"]) == (
        "DENY",
        "the control no-pin ended in DENY too: pinned or not, it is refused",
    )
    assert controlled(["DENY"], denied)["outcome"] == "UNKNOWN"
    assert controlled(["DENY"], denied, (DENIES_NOTHING, run("DENY")))["outcome"] == "UNKNOWN"


@pytest.mark.parametrize("end", ["CORRUPT", "UNKNOWN", "KILL"])
def test_a_row_beside_it_flips_what_it_did_not_show_and_accuses_nobody(end):
    found = controlled(["KILL"], (NO_PIN, run("OK")), (PROMPT, run(end)))
    assert found["outcome"] == "KILL"
    assert found["flipped"]["KILL"] == (["no-pin", "prompt"] if end == "CORRUPT" else ["no-pin"])


def test_first_in_first_out_must_show_dma_in_freed_blocks():
    assert controlled(["CORRUPT"], (FIFO, run("LOST", freed_bytes=64)))["outcome"] == "CORRUPT"
    idle = controlled(["CORRUPT"], (FIFO, run("LOST", freed_bytes=0)))
    assert (idle["outcome"], "not by DMA into freed blocks" in idle["reason"]) == ("UNKNOWN", True)


def test_a_control_that_failed_is_told_with_its_reason():
    found = controlled(["CORRUPT"], (NO_DMA, run("UNKNOWN", why=["the run failed: no broker came up"])))
    assert (found["outcome"], found["controls"]) == ("UNKNOWN", {"no-dma": "UNKNOWN"})
    assert found["reason"].endswith("(the run failed: no broker came up)")


@pytest.mark.parametrize("good", ["OK", "OK+ERR", "DENY"])
def test_one_unknown_run_makes_a_row_without_harm_unknown(good):
    lost = run("UNKNOWN", why=["the run failed: peer ended"])
    found = row(run(good), lost, run(good))
    assert (found["outcome"], found["outcomes"]) == ("UNKNOWN", [good, "UNKNOWN"])
    assert (found["reason"], found["unknown_runs"]) == ("the run failed: peer ended", 1)
    assert exit_code([found]) == 2


def test_harm_that_one_run_saw_stays_beside_an_unknown_run():
    found = row(run("UNKNOWN", why=["the run failed"]), run("CORRUPT", foreign_bytes=64))
    assert (found["outcome"], found["foreign_bytes"], found["reason"]) == ("CORRUPT", 64, "the run failed")
    assert exit_code([found]) == 2


def test_controls_that_flip_leave_the_outcome():
    assert row(run("CORRUPT"), controls={"no-dma": "OK"})["outcome"] == "CORRUPT"


def test_p99_needs_a_hundred_values():
    assert spread([3.0, 1.0, 2.0]) == {"p50": 2.0, "p99": None, "max": 3.0, "n": 3}
    assert spread([float(n) for n in range(1, 101)]) == {"p50": 50.0, "p99": 99.0, "max": 100.0, "n": 100}
    assert spread([]) is None


def test_only_what_was_promised_is_a_breach():
    runs = [run("CORRUPT", violated=[["S1", "one"], ["S2", "two"], ["S1", "again"]])]
    assert breaches(runs, ["S1"]) == [["S1", "one"]]
    assert breaches(runs, []) == []


def test_promises_that_nothing_checked_are_told():
    found = row(run("OK", checked=["S1"]), run("OK", checked=["S2"]), promises=["S1", "S2", "V7"])
    assert found["unchecked"] == ["V7"]


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ([], 0),
        ([row(run("CORRUPT", violated=[["S1", "x"]]))], 0),
        ([row(run("UNKNOWN"))], 2),
        ([row(run("UNKNOWN")), row(run("OK", violated=[["S1", "x"]]), promises=["S1"])], 1),
    ],
)
def test_the_exit_code_is_the_promises(rows, code):
    assert exit_code(rows) == code


def test_a_pair_that_makes_no_sense_is_na_with_its_reason():
    found = row(spec=RowSpec("none", "truncate", "host", "deaf", "no orphans there"))
    assert (found["outcome"], found["reason"], found["runs"], found["agrees"]) == (
        "N/A",
        "no orphans there",
        0,
        None,
    )


def test_retries_are_absent_where_nothing_is_asked_again():
    assert row(run("DENY", errno="EBUSY"))["retries"] is None


def test_a_refusal_is_counted():
    found = row(run("DENY", errno="EBUSY"), run("DENY", errno="EBUSY"))
    assert (found["errno"], found["denied"], found["returned"]) == ("EBUSY", 2, 2)


def test_claims_are_held_against_what_was_measured_whenever_that_was():
    spec = RowSpec("none", "truncate", "dax", "deaf")
    assert claimed(spec, ["CORRUPT", "LOST"])["agrees"] is True
    assert claimed(spec, ["OK"])["agrees"] is False
    assert claimed(spec, None)["agrees"] is None
    assert claimed(spec, None)["claimed"] == claimed(spec, ["OK"])["claimed"] == "CORRUPT"
