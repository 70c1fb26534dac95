"""V14, V21: hardware that does not do as it is told."""

import pytest
from build import BLOCK, Story, revoked
from verdicts import breaches, broken, verdict

from emu.core import effects as fx
from emu.core import events as ev

EIO = 5


def refused(kind=ev.Quiesced):
    """A truncate whose quiesce (or unmap) the engine refuses once."""
    story = Story()
    story.holder = story.session("holder")
    story.create("/mnt/a", 4)
    story.key = story.register(story.holder, "/mnt/a", 4)
    story.reclaim("truncate", size=BLOCK, answers=False)
    if kind is ev.Unmapped:
        story.answer(ev.Quiesced)
    asked = next(event for event in story.owed if isinstance(event, kind))
    story.owed.remove(asked)
    story.step(kind(asked.cookie, EIO))
    return story


# ---- V14


@pytest.mark.parametrize("kind", [ev.Quiesced, ev.Unmapped])
def test_hardware_that_refuses_and_is_asked_again_keeps_v14(kind):
    story = refused(kind)
    story.answer()
    assert verdict(story.history(), "V14") == "kept"
    assert broken(story.history()) == set()


def test_hardware_that_is_reset_instead_keeps_v14():
    story = refused()
    story.line("effect", "Reset", cookie=5, keys=[story.key])
    story.line("event", "ResetDone", cookie=5, errno=0)
    story.effect(fx.Phase(1, "fenced", (story.key,)))
    story.effect(fx.Release(1, ((BLOCK, BLOCK),)))
    assert verdict(story.history(), "V14") == "kept"


def test_a_reset_that_failed_is_no_reset():
    story = refused()
    story.line("effect", "Reset", cookie=5, keys=[story.key])
    story.line("event", "ResetDone", cookie=5, errno=EIO)
    story.effect(fx.Release(1, ((BLOCK, BLOCK),)))
    assert verdict(story.history(), "V14") == "broken"


def test_a_reclaim_that_is_interrupted_behind_a_refusal_keeps_v14():
    story = refused()
    story.effect(fx.Phase(1, "returned", (story.key,), {"errno": 4}))
    story.effect(fx.Phase(1, "ended", (story.key,)))
    assert verdict(story.history(), "V14") == "kept"


@pytest.mark.parametrize("name", ["fenced", "applied", "freed"])
def test_a_reclaim_that_goes_on_behind_a_refusal_breaks_v14(name):
    story = refused()
    story.effect(fx.Phase(1, name, (story.key,)))
    assert (
        f"went on ({name}) with key 0x100 although the engine refused to quiesce it (EIO)"
        in breaches(story.history(), "V14")[0]
    )


def test_memory_that_is_freed_behind_a_refusal_breaks_v14():
    story = refused(ev.Unmapped)
    story.effect(fx.Release(1, ((BLOCK, BLOCK),)))
    assert "refused to unmap" in breaches(story.history(), "V14")[0]


def test_a_key_that_is_removed_behind_a_refusal_breaks_v14():
    story = refused()
    story.effect(fx.RemoveKey(story.key))
    assert "was removed although" in breaches(story.history(), "V14")[0]


def test_hardware_that_obeys_leaves_v14_untested():
    assert verdict(revoked().history(), "V14") == "untested"


# ---- V21


def rights(*steps):
    """A table of rights in which these things happen to right 1: grant, fence, ok, fails, returned, drop, arm."""
    story = Story("none")
    for step in steps:
        if step == "grant":
            story.line("effect", "GrantRight", right=1, session=1, path="/mnt/a", lo=0, hi=BLOCK)
        elif step == "fence":
            story.line("effect", "FenceRight", fence=7, right=1)
        elif step in {"ok", "fails"}:
            story.line("event", "RightFenced", fence=7, errno=0 if step == "ok" else EIO)
        elif step == "returned":
            story.line("event", "RightReturned", right=1)
        elif step == "arm":
            story.effect(fx.Arm(3, 0.1))
        else:
            story.line("effect", "DropRight", right=1)
    return story.history()


@pytest.mark.parametrize("steps", [
    ("grant", "fence", "ok", "drop"), ("grant", "returned", "drop"), ("grant", "fence", "fails", "fence", "ok", "drop"),
    ("grant", "fence", "fails", "arm"), ("grant", "fence", "fails", "fence"),
])  # fmt: skip
def test_a_right_that_leaves_behind_its_confirmed_fence_keeps_v21(steps):
    assert verdict(rights(*steps), "V21") == "kept"


@pytest.mark.parametrize(("steps", "words"), [
    (("grant", "fence", "drop"), "before its fence was confirmed"),
    (("grant", "drop"), "before its fence was confirmed"),
    (("grant", "fence", "fails", "drop"), "before its fence was confirmed"),
    (("grant", "fence", "ok", "drop", "grant", "drop"), "before its fence was confirmed"),
    (("grant", "fence", "fails"), "was not tried again"),
])  # fmt: skip
def test_a_right_that_leaves_before_or_a_fence_given_up_breaks_v21(steps, words):
    assert words in breaches(rights(*steps), "V21")[0]


def test_no_table_of_rights_leaves_v21_untested():
    assert verdict(revoked().history(), "V21") == "untested"
