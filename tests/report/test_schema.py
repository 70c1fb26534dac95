"""The schema that ships with the package: what the lab writes fits it, and what departs from it is named."""

import copy

import pytest

from emu.lab import names
from emu.report.schema import problems, schema


def test_what_the_lab_makes_fits(result):
    assert problems(result) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda r: r.pop("machine"), "$ lacks machine"),
        (lambda r: r["rows"][0].pop("foreign_bytes"), "$.rows[0] lacks foreign_bytes"),
        (lambda r: r["rows"][0].update(outcome="FINE"), "$.rows[0].outcome is 'FINE'"),
        (lambda r: r["rows"][0].update(foreign_bytes=-1), "$.rows[0].foreign_bytes is -1, out of its range"),
        (lambda r: r["rows"][0].update(foreign_bytes=True), "$.rows[0].foreign_bytes is True"),
        (lambda r: r["rows"][0].update(foreign_bytes=0.5), "$.rows[0].foreign_bytes is 0.5"),
        (lambda r: r["rows"][0].update(outcomes=[]), "$.rows[0].outcomes has 0 items"),
        (lambda r: r["rows"][0].update(surprise=1), "$.rows[0] has a key 'surprise'"),
        (lambda r: r["rows"][0]["error_completions"].update(X=0), "$.rows[0].error_completions.X is 0"),
        (lambda r: r["rows"][0]["reclaim_us"].pop("n"), "$.rows[0].reclaim_us lacks n"),
        (lambda r: r["rows"][0]["controls"].update(fifo="?"), "$.rows[0].controls.fifo is '?'"),
        (lambda r: r["rows"][0].update(breaches=[["S1"]]), "$.rows[0].breaches[0] has 1 items"),
    ],
)
def test_a_departure_is_named(result, change, named):
    broken = copy.deepcopy(result)
    change(broken)
    assert any(problem.startswith(named) for problem in problems(broken)), problems(broken)


def test_the_schema_knows_every_name():
    row = schema()["$defs"]["row"]["properties"]
    assert tuple(schema()["$defs"]["outcome"]["enum"]) == names.OUTCOMES + names.BESIDE
    assert tuple(row["backing"]["enum"]) == names.BACKINGS
    assert tuple(row["holder"]["enum"]) == names.HOLDERS


def test_an_empty_comparison_fits(result):
    assert problems({**result, "rows": []}) == []
