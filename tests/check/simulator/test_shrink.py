"""A failing seed becomes a story that anybody can read, and it breaks the same each time."""

import pytest

from emu.check.simulator.campaign import Source
from emu.check.simulator.run import Subject, replay, simulate
from emu.check.simulator.script import read_script
from emu.check.simulator.shrink import NotBroken, breaks, shrink
from emu.protocols import registry

NONE = Subject(registry.load().get("none"))
REVOKE = Subject(registry.load().get("mr-revoke"))


def first_with(subject, invariant):
    for seed in range(100):
        run = simulate(subject, seed)
        if breaks(run, invariant):
            return run
    raise AssertionError(f"100 seeds do not break {invariant}")


@pytest.fixture(scope="module")
def short():
    return shrink(NONE, first_with(NONE, "S1").script("none"), "S1")


def test_the_least_story_of_a_free_under_dma(short):
    assert len(short.steps) <= 20
    assert any("WRITE" in step for step in short.steps)
    assert any(step.startswith("reclaimer") for step in short.steps)
    assert short.breaks["invariant"] == "S1"


def test_no_step_of_it_can_be_spared(short):
    for at in range(len(short.steps)):
        script = type(short)(short.protocol, short.setup, short.steps[:at] + short.steps[at + 1 :])
        run = replay(NONE, script, lenient=True)
        assert not breaks(run, "S1") or len(run.labels) >= len(short.steps), short.steps[at]


def test_it_is_replayed_to_the_same_history_each_time(short, tmp_path):
    short.write(tmp_path / "minimal.json")
    script = read_script(tmp_path / "minimal.json")
    made = [replay(NONE, script).history for _ in range(2)]
    assert made[0] == made[1]
    for number, history in enumerate(made):
        history.finish(history.write(tmp_path / str(number)))
    folders = [{p.name: p.read_bytes() for p in (tmp_path / n).rglob("*") if p.is_file()} for n in "01"]
    assert folders[0] == folders[1]
    assert breaks(replay(NONE, script), "S1").sentence == short.breaks["sentence"]


def test_it_shrinks_to_the_same_script_each_time(short):
    again = shrink(NONE, first_with(NONE, "S1").script("none"), "S1")
    assert again == short


def test_a_breach_that_only_the_history_shows_is_shrunk_too():
    run = first_with(NONE, "V18")
    script = shrink(NONE, run.script("none"), "V18")
    assert len(script.steps) < len(run.labels) / 4
    assert breaks(replay(NONE, script), "V18")


def test_a_mutants_story_names_the_mutant():
    subject = Source(mutant="one-quantum-early").load()
    script = shrink(subject, first_with(subject, "V9").script("mr-revoke"), "V9")
    assert script.mutant == "one-quantum-early"
    assert breaks(replay(subject, script), "V9")
    assert not replay(REVOKE, script, lenient=True).found


def test_what_is_not_broken_is_not_shrunk():
    with pytest.raises(NotBroken, match=r"S1 is not broken by these \d+ steps"):
        shrink(REVOKE, simulate(REVOKE, 3).script("mr-revoke"), "S1")
