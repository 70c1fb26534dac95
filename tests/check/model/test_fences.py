"""What stops keys for two reclaims at once: a fence that fails beside one that is confirmed; a key that was switched, and is parked once more."""

from __future__ import annotations

import pytest

from emu.check.model.setup import Setup
from emu.check.model.world import World
from emu.protocols import registry

BOTH_FENCE = (  # a truncate whose deadline has passed, and a surprise beside it; the truncate is interrupted
    "holder1: reg_mr",
    "shell: install",
    "reclaimer2: truncate",
    "timer 1 fires",
    "shell: fence 1",
    "reclaimer1: surprise-unplug",
    "shell: offline",
    "shell: fence 2",
    "reclaimer2: cancel",
)


def broken(protocol, *labels):
    """What the last of these moves breaks."""
    small = World(
        registry.load().get(protocol), Setup(("surprise-unplug", "truncate"), registrations=0), direct=True
    )
    state, found = small.start(), ()
    for label in labels:
        there = list(small.choices(state))
        choice = next((choice for choice in there if choice.label.startswith(label)), None)
        assert choice is not None, f"{label}: there are {[choice.label for choice in there]}"
        move = small.take(choice)
        state, found = move.state, move.broken
    return state, [invariant for invariant, _sentence in found]


def test_a_fence_that_fails_behind_another_that_was_confirmed_is_no_refusal():
    state, found = broken("recall-fence", *BOTH_FENCE, "engine: fenced 1", "fault: fence 2 fails")
    assert found == []
    assert state.todo[0][0] == "unmap", "the client is out: its translations go"


def test_a_fence_that_fails_first_is_asked_for_again():
    state, found = broken("recall-fence", *BOTH_FENCE, "fault: fence 2 fails", "engine: fenced 1")
    assert found == []
    assert all(effect[0] != "unmap" for effect in state.todo), "its own fence has failed, and is tried again"


PARKED_AGAIN = (  # switched by the surprise, whose answer is on its way; the truncate asks for the key once more, and is interrupted
    "holder1: reg_mr",
    "shell: install",
    "engine: installed",
    "peer1: WRITE",
    "reclaimer2: truncate",
    "shell: invalidate 1",
    "fault: quiesced 1 is refused",
    "reclaimer1: surprise-unplug",
    "shell: offline",
    "shell: invalidate 2",
    "engine: quiesced 2",
    "shell: remap 1",
    "engine: peer1 enters 0",
    "timer 1 fires",
    "shell: invalidate 3",
    "reclaimer2: cancel",
)
LET_GO_OF = (  # switched by the truncate in the middle of a deregistration that the hardware refuses; the surprise asks for the key once more
    "holder1: reg_mr",
    "shell: install",
    "engine: installed",
    "peer1: WRITE",
    "engine: peer1 enters 0",
    "engine: peer1 leaves 0",
    "holder1: dereg_mr",
    "shell: quiesce 1",
    "reclaimer2: truncate",
    "shell: quiesce 2",
    "fault: quiesced 1 is refused",
    "engine: quiesced 2",
    "shell: remap 1",
    "engine: peer1 enters 1",
    "reclaimer1: surprise-unplug",
    "shell: offline",
    "shell: quiesce 3",
)


@pytest.mark.parametrize(("story", "quantum"), [(PARKED_AGAIN, 0), (LET_GO_OF, 1)])
def test_a_key_that_lives_again_is_quiet_by_no_earlier_answer(story, quantum):
    _state, found = broken("retarget", *story, "engine: answered 1", f"engine: peer1 leaves {quantum}")
    assert not {"V3", "V9"} & set(found), (
        "it runs where the switch led it, and nobody has confirmed that it is over"
    )
