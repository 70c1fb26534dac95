"""How runs are tried, and controls shared; the runs themselves are made up here, the live ones are in tests/live."""

import asyncio
from dataclasses import replace

import pytest

from emu.check.verdict import NO_DMA_AT_GATE, Verdict
from emu.lab import compare as module
from emu.lab.compare import TRIES, Comparison, Options
from emu.lab.plan.spec import RowSpec
from emu.lab.process import LabError
from emu.lab.rows import exit_code


@pytest.fixture
def lab(monkeypatch, tmp_path):
    """A comparison whose runs end as `script` says, by label and control; `made` lists them."""

    class Lab:
        def __init__(self):
            self.script, self.made, self.told = {}, [], []
            self.comparison = Comparison(
                Options(out=tmp_path, progress=self.told.append), asyncio.Semaphore(2), asyncio.Semaphore(1)
            )

        def row(self, *labels):
            specs = [
                RowSpec(*label.split(), "deaf") if label.count(" ") == 2 else RowSpec(*label.split())
                for label in labels
            ]

            async def work():
                return await asyncio.gather(*(self.comparison.row(spec, len(specs)) for spec in specs))

            return asyncio.run(work())

    made, ended = Lab(), {}

    class FakeRun:
        def __init__(self, spec, folder, seed, control, _nursery, _stage):
            self.folder, self.key = folder, (spec.event, control.name)
            self.spec, self.seed, self.control = spec, seed, control
            ended[folder] = self
            folder.mkdir(parents=True, exist_ok=True)
            self.facts = {
                "peer": {"good": {"write": 9, "read": 9}},
                "reclaim": {"returned": True, "errno": None, "began": 0, "ended": 5000},
            }
            made.made.append((*self.key, seed))

        async def carry_out(self):
            outcomes = made.script.get(self.key, ["OK"])
            self.outcome = outcomes.pop(0) if len(outcomes) > 1 else outcomes[0]
            if self.outcome == "broken":
                raise LabError("the peer ended")
            if self.outcome == "machine":
                raise OSError("no space")
            if self.outcome == "unforeseen":
                raise KeyError("nobody thought of it")

    async def close_run(folder, _more):
        run = ended[folder]
        if run.outcome == "unjudged":
            raise LabError("nobody could judge it: judge-2 ended")
        names = run.outcome.split("/")
        why = [NO_DMA_AT_GATE] if "UNKNOWN" in names else ["a gap"] if "GAP" in names else []
        names = ["UNKNOWN" if name == "GAP" else name for name in names]
        return Verdict(names[0], names, why=why, freed_bytes=64)

    monkeypatch.setattr(module, "Run", FakeRun)
    monkeypatch.setattr(made.comparison.judges, "close_run", close_run)
    return made


def test_an_unknown_run_is_tried_again_with_another_seed(lab):
    lab.script = {("truncate", ""): ["UNKNOWN", "UNKNOWN", "OK"]}
    (row,) = lab.row("none truncate dax")
    assert row.outcomes == ["OK"]
    assert len(lab.made) == 3
    assert len({seed for *_, seed in lab.made}) == 3
    assert row.as_json(())["failed_tries"] == [f"run 1: {NO_DMA_AT_GATE}"] * 2


def test_a_run_that_saw_something_but_not_all_is_tried_again_too(lab):
    lab.script = {("truncate", ""): ["CORRUPT/UNKNOWN", "CORRUPT"], ("truncate", "fifo"): ["LOST"]}
    (row,) = lab.row("none truncate dax")
    assert row.outcomes == ["CORRUPT"]


def test_harm_that_a_try_saw_is_not_tried_away(lab, tmp_path):
    lab.script = {("truncate", ""): ["CORRUPT/UNKNOWN", "OK"], ("truncate", "fifo"): ["LOST"]}
    (row,) = lab.row("none truncate dax")
    assert row.outcomes == ["CORRUPT", "UNKNOWN"]
    assert row.worst.folder == tmp_path / "none-truncate-dax-deaf" / "run-1-try-1"
    assert row.worst.folder.is_dir()


def test_a_run_that_stays_unknown_is_given_up_and_has_no_controls(lab):
    lab.script = {("truncate", ""): ["UNKNOWN"]}
    (row,) = lab.row("none truncate dax")
    assert (row.outcomes, row.controls, len(lab.made)) == (["UNKNOWN"], {}, TRIES)
    assert NO_DMA_AT_GATE in lab.told[0]


def test_a_run_that_breaks_is_unknown_and_says_why(lab):
    lab.script = {("truncate", ""): ["broken"]}
    (row,) = lab.row("none truncate dax")
    assert row.outcomes == ["UNKNOWN"]
    assert row.worst.verdict.why == ["the run failed: the peer ended"]


@pytest.mark.parametrize(
    ("end", "why"),
    [
        ("broken", "the run failed: the peer ended"),
        ("GAP", "a gap"),
        ("machine", "the run failed: no space"),
        ("unjudged", "the run failed: nobody could judge it: judge-2 ended"),
    ],
)
def test_what_is_no_chance_is_not_tried_again_and_stays_in_the_row(lab, end, why):
    lab.script = {("truncate", ""): [end, "OK"]}
    (row,) = lab.row("none truncate dax")
    found = row.as_json(())
    assert (len(lab.made), found["outcome"], found["reason"]) == (1, "UNKNOWN", why)
    assert found["failed_tries"] == [f"run 1: {why}"]
    assert exit_code([found]) == 2


def test_what_nobody_foresaw_costs_one_row_and_says_where_it_came_from(lab, tmp_path):
    lab.script = {("truncate", ""): ["unforeseen"]}
    broken, well = lab.row("none truncate dax", "mr-revoke punch dax")
    assert (broken.outcomes, well.outcomes) == (["UNKNOWN"], ["OK"])
    why = "the run failed: KeyError: 'nobody thought of it'; see logs/lab.log"
    assert broken.as_json(())["failed_tries"] == [f"run 1: {why}"]
    log = (tmp_path / "none-truncate-dax-deaf" / "run-1" / "logs" / "lab.log").read_text()
    assert "in carry_out" in log


def test_a_control_that_breaks_makes_its_row_unknown(lab):
    lab.script = {("punch", ""): ["OK+ERR"], ("truncate", "no-mover"): ["broken", "OK"]}
    (row,) = lab.row("mr-revoke punch dax")
    found = row.as_json(())
    assert (found["outcome"], found["outcomes"]) == ("UNKNOWN", ["OK+ERR", "UNKNOWN"])
    assert found["failed_tries"] == ["control no-mover: the run failed: the peer ended"]
    assert exit_code([found]) == 2


def test_controls_run_although_one_of_several_runs_showed_nothing(lab):
    lab.comparison.options = replace(lab.comparison.options, runs=2)
    lab.script = {("punch", ""): ["broken", "OK+ERR"]}
    (row,) = lab.row("mr-revoke punch dax")
    assert (row.outcomes, row.controls) == (["OK+ERR", "UNKNOWN"], {"no-mover": "OK"})
    assert row.as_json(())["outcome"] == "UNKNOWN"


def test_rows_of_all_holders_and_events_share_the_run_without_a_mover(lab):
    lab.script = {("punch", ""): ["OK+ERR"], ("zero", ""): ["OK+ERR"]}
    rows = lab.row("mr-revoke punch dax deaf", "mr-revoke punch dax slow", "mr-revoke zero dax prompt")
    assert all(row.controls == {"no-mover": "OK"} for row in rows)
    assert [made[:2] for made in lab.made if made[1]] == [("truncate", "no-mover")]


def test_a_prompt_holders_row_is_the_control_of_a_deaf_ones_and_is_run_once(lab):
    lab.script = {("punch", ""): ["KILL", "OK"]}
    specs = [RowSpec("lease-signal", "punch", "dax", holder) for holder in ("deaf", "prompt")]
    lab.comparison.rows = frozenset(spec.label for spec in specs)
    deaf, prompt = lab.row(*("lease-signal punch dax " + spec.holder for spec in specs))
    assert (deaf.controls, prompt.outcomes) == ({"no-pin": "OK", "prompt": "OK"}, ["OK"])
    assert sum(not control for _, control, _ in lab.made) == 2


def test_no_row_is_made_to_be_a_control(lab):
    lab.script = {("punch", ""): ["KILL"]}
    (deaf,) = lab.row("lease-signal punch dax deaf")
    assert deaf.controls == {"no-pin": "OK"}


def test_the_same_seed_makes_the_same_runs(lab):
    lab.row("none truncate dax")
    first, lab.made[:] = list(lab.made), []
    lab.comparison.made.clear()
    lab.row("none truncate dax")
    assert lab.made == first


def test_a_row_that_makes_no_sense_runs_nothing(lab):
    (row,) = lab.row("none truncate host deaf why-not")
    assert (row.runs, lab.made, lab.told) == ([], [], ["[1/1] none truncate host deaf: N/A  (0 s)"])


# ---- other ways of the same scene


def test_what_an_earlier_start_left_does_not_end_a_comparison(lab, tmp_path):
    lab.script["truncate", ""] = ["UNKNOWN", "OK"]
    left = tmp_path / "mr-revoke-truncate-dax-deaf" / "run-1-try-1"
    left.mkdir(parents=True)
    (left / "row.json").write_text("{}")
    (row,) = lab.row("mr-revoke truncate dax")
    assert row.seen == ["OK"]
    assert not (left / "row.json").exists()


def test_where_peers_are_told_a_deaf_one_is_measured_too(lab):
    (row,) = lab.row("recall-fence truncate dax")
    assert set(row.ways) == {"peer-deaf"}
    told = row.as_json(())
    assert (told["peer"], told["ways"]["peer-deaf"]["outcome"]) == ("told", "OK")


def test_where_peers_are_told_nothing_there_is_one_way(lab):
    (row,) = lab.row("mr-revoke truncate dax")
    assert (row.as_json(())["peer"], row.ways) == ("deaf", {})


def test_a_way_that_showed_nothing_is_an_unknown_run(lab):
    lab.script["truncate", ""] = ["OK", "GAP"]
    (row,) = lab.row("recall-fence truncate dax")
    found = row.as_json(())
    assert (found["outcome"], found["ways"]["peer-deaf"]["outcome"], found["unknown_runs"]) == (
        "OK",
        "UNKNOWN",
        1,
    )
    assert exit_code([found]) == 2


def test_a_promise_that_is_broken_in_another_way_is_broken(lab):
    (row,) = lab.row("recall-fence truncate dax")
    row.ways["peer-deaf"].verdict.violated = [["S1", "bytes moved"]]
    assert row.as_json((), {"peer-deaf": ("S1",)})["breaches"] == [["S1", "peer-deaf: bytes moved"]]
    assert row.as_json((), {"peer-deaf": ()})["breaches"] == []
