"""The small world with fences: one that fails counts for nothing, unless another has shut the same client out already."""

from __future__ import annotations

from emu.check.model.setup import Setup
from emu.check.model.world import World
from emu.protocols import registry

RECALL_FENCE = registry.load().get("recall-fence")
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


def broken(*labels):
    """What the last of these moves breaks."""
    small = World(RECALL_FENCE, Setup(("surprise-unplug", "truncate"), registrations=0), direct=True)
    state, found = small.start(), ()
    for label in labels:
        there = list(small.choices(state))
        choice = next((choice for choice in there if choice.label.startswith(label)), None)
        assert choice is not None, f"{label}: there are {[choice.label for choice in there]}"
        move = small.take(choice)
        state, found = move.state, move.broken
    return state, [invariant for invariant, _sentence in found]


def test_a_fence_that_fails_behind_another_that_was_confirmed_is_no_refusal():
    state, found = broken(*BOTH_FENCE, "engine: fenced 1", "fault: fence 2 fails")
    assert found == []
    assert state.todo[0][0] == "unmap", "the client is out: its translations go"


def test_a_fence_that_fails_first_is_asked_for_again():
    state, found = broken(*BOTH_FENCE, "fault: fence 2 fails", "engine: fenced 1")
    assert found == []
    assert all(effect[0] != "unmap" for effect in state.todo), "its own fence has failed, and is tried again"
