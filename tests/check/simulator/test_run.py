"""One seed is one history, wherever it is made; its script gives it again."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import pytest

from emu.check.history import History
from emu.check.simulator.campaign import Source
from emu.check.simulator.run import CannotReplay, Subject, replay, simulate
from emu.check.simulator.script import Script, read_script
from emu.protocols import registry

REVOKE = Subject(registry.load().get("mr-revoke"))
MAKE = """
import sys
from emu.cli import main
sys.exit(main(["simulate", sys.argv[1], "--seed", sys.argv[2], "--out", sys.argv[3], "--json", sys.argv[3] + ".json"]))
"""


@pytest.fixture(scope="module")
def runs():
    """A handful of seeds: with a fabric and without, with a crash of the broker, with somebody stopped."""
    found = {}
    for seed in range(200):
        run = simulate(REVOKE, seed)
        kinds = {"fabric": run.setup.fabric, "broker": run.met.get("broker crashed"), "stopped": run.stops}
        for kind, there in kinds.items():
            if there:
                found.setdefault(kind, run)
        if len(found) == len(kinds):
            return found
    raise AssertionError(f"200 seeds show only {list(found)}")


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("seed", ["4", "11"])
def test_a_seed_gives_the_same_bytes_in_two_processes_with_other_hashes(tmp_path, seed):
    made = []
    for hashes in ("1", "77"):
        folder = tmp_path / hashes / "run"
        folder.parent.mkdir()
        subprocess.run(
            [sys.executable, "-c", MAKE, "mr-revoke", seed, str(folder)],
            env={**os.environ, "PYTHONHASHSEED": hashes},
            cwd=folder.parent,
            check=False,
            timeout=120,
        )
        made.append(files(folder))
    assert made[0] == made[1]
    assert {
        "meta.json",
        "events.jsonl",
        "oplog-0.bin",
        "pm0.img",
        "filemap.json",
        "script.json",
        "manifest.json",
    } <= set(made[0])
    assert not any(str(tmp_path).encode() in content for content in made[0].values())


def test_other_seeds_give_other_stories():
    assert len({tuple(simulate(REVOKE, seed).labels) for seed in range(5)}) == 5


@pytest.mark.parametrize("kind", ["fabric", "broker", "stopped"])
def test_a_folder_read_back_is_the_history_that_was_written(tmp_path, runs, kind):
    history = runs[kind].history
    history.finish(history.write(tmp_path / "run"))
    read = History.read(tmp_path / "run")
    for part in ("meta", "events", "logs", "journals", "row", "filemap"):
        assert getattr(read, part) == getattr(history, part), part
    assert bytes(read.image) == history.image


@pytest.mark.parametrize("kind", ["fabric", "broker", "stopped"])
def test_its_script_gives_the_same_history_again(tmp_path, runs, kind):
    run = runs[kind]
    run.script("mr-revoke").write(tmp_path / "script.json")
    again = replay(REVOKE, read_script(tmp_path / "script.json"))
    assert again.labels == run.labels
    for part in ("events", "logs", "journals", "filemap", "image"):
        assert getattr(again.history, part) == getattr(run.history, part), part


def test_times_never_go_back_and_lines_are_numbered(runs):
    for run in runs.values():
        events = run.history.events
        assert [line["n"] for line in events] == list(range(len(events)))
        assert all(a["t"] < b["t"] and a["epoch"] <= b["epoch"] for a, b in pairwise(events))
        for journal in run.history.journals.values():
            times = [record.time for record in journal.records]
            assert times == sorted(times), journal.name


def test_every_quantum_is_in_the_log_with_its_epochs_and_generations(runs):
    run = runs["broker"]
    (log,) = run.history.logs
    ended = [label for label in run.labels if ": peer" in label and " leaves " in label]
    assert len(ended) == sum(record.bytes > 0 for record in log.records)
    assert [record.seq for record in log.records] == list(range(len(log.records)))
    assert all(record.epoch_first <= record.epoch_last for record in log.records)
    assert all(record.time_first <= record.time_last for record in log.records)


def test_each_life_of_the_broker_begins_with_what_was_committed(runs):
    loaded = runs["broker"].history.of("Loaded")
    assert loaded[0]["delta"] == []
    assert len(loaded) >= 2
    assert {"devices", "files"} <= {book for book, _key, _row in loaded[1]["delta"]}


def test_a_step_that_cannot_be_taken_is_named_with_what_can():
    setup = simulate(REVOKE, 1).setup
    script = Script("mr-revoke", setup, ("holder1: reg_mr", "engine: quiesced 7"))
    with pytest.raises(
        CannotReplay,
        match=r"step 2, 'engine: quiesced 7', cannot be taken there; what can: .*'shell: install",
    ):
        replay(REVOKE, script)


def test_steps_without_times_take_a_microsecond_each():
    run = simulate(REVOKE, 1)
    script = replace(run.script("mr-revoke"), times=(), stops={})
    again = replay(REVOKE, script)
    assert again.labels == run.labels
    assert again.times[:3] == [1000, 2000, 3000]


def test_a_mutant_is_run_in_its_own_core_and_engine():
    subject = Source(mutant="warns-only-engine").load()
    found = {name for seed in range(8) for name in simulate(subject, seed).found}
    assert "V9" in found
    assert not any(simulate(REVOKE, seed).found for seed in range(8))


def test_the_meta_says_what_was_declared_and_nothing_of_the_machine(runs):
    meta = runs["stopped"].history.meta
    assert meta["source"] == "simulated"
    assert meta["declared"]["protocol"] == "mr-revoke"
    assert "V9" in meta["declared"]["promises"]
    assert {"pid", "argv", "machine", "wall", "monotonic_ns"}.isdisjoint(meta)
    assert json.loads(json.dumps(meta)) == meta
