"""Model and history say the same of the same run: what the explorer finds broken, the history of the very story breaks too; and what a seed
leaves behind is a history that the model allows.

A history knows less than the model: it has lines and bytes, not the books of the core nor the memory of the engine. Where that shows, the
table says why; an entry that is true no more fails.
"""

from random import Random

import pytest

from emu.check.explorer.search import explore
from emu.check.invariants import judge
from emu.check.model.setup import Setup
from emu.check.model.state import KINDS
from emu.check.mutants import hunt
from emu.check.mutants.catalogue import MUTANTS, find
from emu.check.simulator.cast import draw_cast
from emu.check.simulator.run import Subject, replay, simulate
from emu.check.simulator.script import Script, script_of
from emu.check.validate import validate
from emu.protocols import registry

PROTOCOLS = registry.load().protocols
HERE = {protocol.name: protocol for protocol in PROTOCOLS.values()}

LIES = "its engine answers that the translation is gone: only bytes that move afterwards tell otherwise"
GENERATIONS = "the table of generations is the engine's memory, and nothing touched the block: no line has it"
AT_REST = "which keys rest, and how, is a book of the core that no line has: the history tells when a key is issued again"
LATER = "what may still be on its way when the last line is written is told one step later"
ANSWER = "the engine still owes an answer: a history cannot know that it never comes, and is untested"
EARLY = 150  # steps, of a story that has about 400
UNSEEN = {
    "second-install": LIES,
    "unmap-undone": LIES,
    "no-generation": GENERATIONS,
    "old-namespace": GENERATIONS,
    "crash-before-effect": GENERATIONS,
    "fence-unseen": "until the quiesce is answered, a use from before the fence and one from behind it have the same lines",
    "revived": "posted before the fence, in memory that is nobody's: a history calls that S1, not V10",
    "key-of-revoked": AT_REST,
    "key-generation": AT_REST,
    "session-forgotten": LATER,
    "second-reference": ANSWER,
    "lost-ack": ANSWER,
    "never-ends": "the reclaim was answered: a history asks no more of it",
    "revoke-taken-back": "the core's own note of what is revoked is in no line, and nobody used the key",
    "unplug-forgotten": "nobody had been answered, so nothing was promised: the model knows what was committed",
    "no-completion": "whoever does not drain its queues (a lab does) cannot say that nothing more will come",
    "callback-on-freed": "a defect of the core is found by whoever runs it, and is told by the world",
}


def broken_by(subject, script):
    """What the history of a story breaks."""
    return {found.name for found in judge(replay(subject, script_of(script)).history) if found.breaches}


@pytest.mark.parametrize("event", KINDS)
@pytest.mark.parametrize("name", HERE)
def test_a_story_of_the_explorer_breaks_the_same_in_its_history(name, event):
    result = explore(HERE[name], event)
    for finding in (*result.breaches, *result.costs):
        assert finding.invariant in broken_by(Subject(HERE[name]), finding.script), finding.sentence


def test_the_costs_of_none_are_told_by_both():
    costs = {finding.invariant for event in KINDS for finding in explore(HERE["none"], event).costs}
    assert {"S1", "S2", "S4", "S9", "V4", "V12", "V20"} <= costs


@pytest.mark.parametrize("name", [mutant.name for mutant in MUTANTS])
def test_what_catches_a_mutant_is_broken_in_its_history(name):
    mutant, caught = find(name), hunt.hunt(find(name))
    assert caught.by, f"{name} was not caught: there is no story"
    seen = caught.by in broken_by(Subject(mutant.protocol, mutant=mutant), caught.script)
    if name in UNSEEN:
        assert not seen, f"the history tells now: take {name} out of the table"
    else:
        assert seen, f"{caught.by} is broken in the model, and not in the history: {caught.sentence}"


def test_the_table_names_mutants_that_are_there():
    assert {mutant.name for mutant in MUTANTS} >= UNSEEN.keys()


@pytest.mark.parametrize("name", HERE)
def test_what_a_seed_leaves_is_a_history_that_the_model_allows(name):
    restarted = [
        seed for seed in range(1, 200) if draw_cast(Random(seed)).crashes.get("broker", EARLY) < EARLY
    ]
    runs = [simulate(Subject(HERE[name]), seed) for seed in (*range(1, 11), *restarted[:4])]
    for run in runs:
        assert [str(refusal) for refusal in validate(run.history, PROTOCOLS)] == [], run.seed
    assert any(run.setup.fabric for run in runs)
    assert any(len(run.history.of("Loaded")) > 1 for run in runs), "no broker was killed"
    assert any(run.met.get("holder crashed") for run in runs)


def test_two_reclaims_of_one_holder_are_two_requests_and_a_plug_behind_a_restart_has_a_session():
    revoke = Subject(HERE["mr-revoke"])
    own = Setup(("self-truncate 4096", "self-truncate 0"), crashes=0)
    steps = (
        *("holder1: reg_mr", "shell: install 256 (0, 1) 7", "engine: installed 256"),
        *("holder1: self-truncate 4096", "shell: quiesce 1 (256,)", "holder1: self-truncate 0"),
    )
    assert validate(replay(revoke, Script("mr-revoke", own, steps)).history, PROTOCOLS) == []
    gone = Setup(("surprise-unplug",), returns=True)
    steps = (
        *("reclaimer1: surprise-unplug", "shell: offline 0"),
        *("crash: broker, and its start", "reclaimer1: plug"),
    )
    assert validate(replay(revoke, Script("mr-revoke", gone, steps)).history, PROTOCOLS) == []


def test_keys_that_were_taken_back_are_tried():
    """So that V10 and V19 can be seen to be kept."""
    kept = []
    for seed in range(1, 17):
        judged = judge(simulate(Subject(HERE["mr-revoke"]), seed).history)
        kept += [found.name for found in judged if found.verdict == "kept"]
    assert {"V10", "V19"} <= set(kept)
