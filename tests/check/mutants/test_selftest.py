"""emu check --self-test: what it says of mutants that are caught, of survivors, and of checks that always shout."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from emu.check.explorer.result import Result
from emu.check.explorer.search import IN_FLIGHT
from emu.check.model.engine import Engine
from emu.check.model.setup import Setup
from emu.check.mutants import hunt, selftest
from emu.check.mutants.catalogue import MUTANTS, find
from emu.check.simulator.run import Subject, replay
from emu.check.simulator.script import script_of
from emu.cli import main

SAMPLE = [
    "free-under-dma", "warns-only-engine", "revoke-lost", "second-reference", "callback-on-freed", "key-of-revoked", "wrong-party",
    "sleeps-on", "shared-zero-page", "no-completion", "one-quantum-early", "zeroing-forgotten", "cancelled-goes-on",
    "timer-left-armed", "deadline-off-by-one", "crash-before-effect", "never-ends", "gate-ignored", "fence-unseen", "revived",
    "cut-is-success", "detached-first",
]  # fmt: skip


@pytest.mark.parametrize("name", SAMPLE)
def test_a_mutant_is_caught_by_its_invariant_and_its_control_is_not(name):
    mutant = find(name)
    catch = hunt.hunt(mutant)
    assert (catch.verdict, catch.by) == (hunt.CAUGHT, mutant.caught_by), catch.sentence
    assert catch.story
    control = hunt.control(mutant.control, mutant.setup, "control")
    assert (control.verdict, control.whole) == (hunt.HOLDS, True), control.sentence


def test_a_write_behind_the_fence_is_seen_by_who_promises_nothing_else():
    """Between fence and unmap: no freed block is met, no translation is gone yet."""
    mutant = find("fence-forgotten")
    only = replace(mutant.protocol, name="only", promises=("V3",))
    catch = hunt.hunt(replace(mutant, protocol=only))
    assert (catch.by, catch.sentence) == ("V3", "a quantum wrote under key 1, behind the fence")
    assert not any("unmap" in label for label in catch.story)


def test_the_shared_page_is_another_files_not_a_free_one():
    catch = hunt.hunt(find("shared-zero-page"))
    assert (catch.by, catch.sentence) == ("S1", "a quantum ran on block 1, which is /mnt/b's")
    assert "taker: create /mnt/b" in catch.story


def test_every_mutant_has_a_control_in_its_own_setup():
    work = hunt.work()
    controls = [find(task.removeprefix(hunt.CONTROL)) for task in work if task.startswith(hunt.CONTROL)]
    assert {(m.control.name, m.setup) for m in MUTANTS} == {(m.control.name, m.setup) for m in controls}
    assert len({hunt.name_of(task) for task in work}) == len(work)


def test_a_survivor_is_an_open_hole(monkeypatch, capsys):
    harmless = replace(find("one-quantum-early"), name="harmless", engine=Engine)
    monkeypatch.setattr(hunt, "MUTANTS", (harmless,))
    monkeypatch.setattr(hunt, "find", lambda _name: harmless)
    assert selftest.run(None, 1) == selftest.BREACH
    said = capsys.readouterr().out
    assert "OPEN HOLE: harmless survived (V9 should catch it)" in said
    assert "0 of 1 mutants caught, 1 of 1 controls hold" in said


def test_a_check_that_shouts_at_what_is_right_is_told(monkeypatch, capsys):
    loud = replace(find("one-quantum-early"), name="loud", protocol=find("warn-only").protocol)
    monkeypatch.setattr(hunt, "MUTANTS", (loud,))
    monkeypatch.setattr(hunt, "find", lambda _name: loud)
    assert selftest.run(None, 1) == selftest.BREACH
    assert "A CHECK SHOUTS: warn-only, truncate" in capsys.readouterr().out


def test_a_control_that_was_not_seen_to_its_end_is_none(monkeypatch, capsys):
    mutant = find("one-quantum-early")
    cut = hunt.control(mutant.control, mutant.setup, "cut", most=50)
    assert (cut.verdict, cut.whole, cut.good) == (hunt.UNSEEN, False, False)
    monkeypatch.setattr(hunt, "MUTANTS", (mutant,))
    monkeypatch.setattr(hunt, "control", lambda _protocol, _setup, name: replace(cut, name=name))
    assert selftest.run(None, 1) == selftest.BREACH
    said = capsys.readouterr().out
    assert "0 of 1 controls hold" in said
    assert f"A CONTROL SAYS NOTHING: {mutant.control.name}, " in said
    assert "it stopped at its bound, " in said


def test_a_control_in_which_nothing_happened_is_none(monkeypatch):
    whole = Result("mr-revoke", "truncate", states=9, required=(IN_FLIGHT,), sometimes={IN_FLIGHT: 0})
    monkeypatch.setattr(hunt, "explore", lambda *_words, **_more: whole)
    mutant = find("one-quantum-early")
    idle = hunt.control(mutant.control, mutant.setup, "idle")
    assert (idle.verdict, idle.good, idle.whole) == (hunt.UNSEEN, False, True)
    assert idle.sentence == f"no move met: {IN_FLIGHT}"


def test_the_result_as_json(monkeypatch, tmp_path, capsys):
    few = tuple(find(name) for name in ("freed-twice", "no-generation"))
    monkeypatch.setattr(hunt, "MUTANTS", few)
    target = tmp_path / "self.json"
    assert main(["check", "--self-test", "--jobs", "1", "--json", str(target)]) == 0
    result = json.loads(target.read_text())
    assert (result["schema"], result["verdict"]) == (1, "holds")
    assert [row["name"] for row in result["rows"]] == ["freed-twice", "no-generation", "mr-revoke, truncate"]
    assert [row["by"] for row in result["rows"]] == ["contract:free-after-apply", "S6", ""]
    assert "2 of 2 mutants caught, 1 of 1 controls hold" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--self-test", "somewhere"], "name the folder of a run, or --self-test"),
        ([], "name the folder of a run, or --self-test"),
        (["--self-test", "--jobs", "0"], "use a number from 1"),
        (["--self-test", "--html", "x.html"], "--json and --jobs alone"),
        (["--self-test", "--json", "/nowhere/x.json"], "ENOENT"),
    ],
)
def test_wrong_usage_is_64(words, says, capsys):
    assert main(["check", *words]) == 64
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    [
        "one-quantum-early",
        "revoke-lost",
        "cancel-frees",
        "zeroing-forgotten",
        "fence-forgotten",
        "fence-unseen",
        "revived",
        "cut-is-success",
        "detached-first",
    ],
)
def test_the_simulator_replays_what_the_explorer_found(name):
    """Two drivers of one model: the counterexample's script breaks the same where the core runs straight through."""
    mutant = find(name)
    script = hunt.hunt(mutant).script
    run = replay(Subject(mutant.protocol, mutant=mutant), script_of(script))
    assert mutant.caught_by in run.found


def test_setups_are_told_in_words():
    assert hunt.told(Setup(crashes=0, refusals=0, registrations=0, cancels=False, taker=False)) == "truncate"
    assert "2 holders" in hunt.told(find("waits-for-one").setup)
