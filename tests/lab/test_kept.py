"""What a comparison keeps: a second start of the same question goes on, of another one it does not, and what can be read is whole."""

import json

import pytest

from emu.lab.kept import Kept
from emu.lab.plan.spec import RowSpec

SPECS = [RowSpec("none", "truncate", "dax", "deaf"), RowSpec("ebusy", "truncate", "dax", "deaf")]
QUESTION = {"schema": 1, "seed": 1}
ROW = {"outcome": "OK"}


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
