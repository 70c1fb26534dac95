"""What a comparison keeps: a second start of the same question goes on, of another one it does not, and what can be read is whole."""

import json

import pytest

from emu.lab.kept import Kept
from emu.lab.plan.spec import RowSpec
from emu.report.schema import is_row

SPECS = [RowSpec("none", "truncate", "dax", "deaf"), RowSpec("ebusy", "truncate", "dax", "deaf")]
QUESTION = {"schema": 1, "seed": 1, "emu": "1.0"}
ROW = {"protocol": "none", "event": "truncate", "backing": "dax", "holder": "deaf", "outcome": "OK"}


def begun(folder, question=QUESTION):
    return Kept.begin(folder, question, SPECS)


def test_what_was_not_finished_goes_on(tmp_path):
    begun(tmp_path).row(SPECS[0].label, ROW)
    assert begun(tmp_path).rows == {SPECS[0].label: ROW}


def test_what_was_finished_is_measured_anew(tmp_path):
    kept = begun(tmp_path)
    kept.row(SPECS[0].label, ROW)
    kept.finish()
    assert begun(tmp_path).rows == {}
    assert not (tmp_path / SPECS[0].label).exists()


def test_another_question_has_other_answers(tmp_path):
    begun(tmp_path).row(SPECS[0].label, ROW)
    assert begun(tmp_path, {**QUESTION, "seed": 2}).rows == {}


def test_a_row_without_a_result_is_measured_again(tmp_path):
    begun(tmp_path)
    half = tmp_path / SPECS[1].label
    (half / "run-1").mkdir(parents=True)
    assert begun(tmp_path).rows == {}
    assert not half.exists()


@pytest.mark.parametrize("text", ["", "[", "[1]"])
def test_what_cannot_be_read_is_not_there(tmp_path, text):
    begun(tmp_path).row(SPECS[0].label, ROW)
    (tmp_path / SPECS[0].label / "result.json").write_text(text)
    assert begun(tmp_path).rows == {}


def test_files_are_whole_or_not_there(tmp_path):
    begun(tmp_path).row(SPECS[0].label, ROW)
    assert json.loads((tmp_path / SPECS[0].label / "result.json").read_text()) == ROW
    assert not list(tmp_path.rglob("*.new"))


@pytest.mark.parametrize(
    "other", [{"emu": "1.1"}, {"protocol_files": {"mine": "digest"}}, {"formats": {"oplog": 2}}]
)
def test_rows_of_another_emu_or_of_another_text_are_not_mixed_in_and_that_is_said(tmp_path, other):
    begun(tmp_path).row(SPECS[0].label, ROW)
    (tmp_path / "rates.json").write_text("{}")
    again = begun(tmp_path, {**QUESTION, **other})
    assert (again.rows, again.other) == ({}, tuple(other))
    assert not (tmp_path / "rates.json").exists()


def test_going_on_and_beginning_differ_in_nothing(tmp_path):
    assert begun(tmp_path).other == ()
    (tmp_path / "rates.json").write_text("{}")
    kept = begun(tmp_path)
    assert kept.other == ()
    assert (tmp_path / "rates.json").exists()
    kept.finish()
    assert begun(tmp_path, {**QUESTION, "seed": 2}).other == ()


@pytest.mark.parametrize(
    "wrong", [{"outcome": "UNKNOWN"}, {"unknown_runs": 1}, {"protocol": "ebusy"}, {"holder": "slow"}]
)
def test_rows_that_failed_or_are_anothers_are_measured_again(tmp_path, wrong):
    begun(tmp_path).row(SPECS[0].label, {**ROW, **wrong})
    assert begun(tmp_path).rows == {}


def test_a_row_that_does_not_fit_the_schema_is_measured_again(tmp_path):
    begun(tmp_path).row(SPECS[0].label, ROW)
    assert Kept.begin(tmp_path, QUESTION, SPECS, is_row).rows == {}
