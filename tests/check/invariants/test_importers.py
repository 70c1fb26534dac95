"""V5, V6, V7, V8: what importers of each class promise, and what an owner may build on it."""

from dataclasses import replace

import pytest
from build import BLOCK, READ, Story, revoked
from verdicts import breaches, verdict

from emu.core import effects as fx
from emu.core import events as ev

SECOND = 1_000_000_000


def registered(importer, bound=None):
    """An owner that admits everybody, and one importer of its file."""
    story = Story("none")
    story.holder = story.session("holder")
    story.create("/mnt/a", 4)
    story.key = story.register(story.holder, "/mnt/a", 4, importer=importer)
    asked = next(line for line in story.lines if line.get("op", {}).get("type") == "RegMr")
    asked["op"]["bound"] = bound or 0.0
    return story


def taken(story, *phases, after=0):
    """A reclaim by hand: fence, `after` seconds, unmap. phases: what the owner says of it in between."""
    key = story.key
    story.effect(
        fx.Phase(
            1, "requested", (key,), {"kind": "truncate", "path": "/mnt/a", "ino": 1, "lo": 0, "hi": 1 << 63}
        )
    )
    story.effect(fx.Phase(1, "gated", (key,)))
    story.effect(fx.Phase(1, "fencing", (key,)))
    story.effect(fx.Quiesce(7, (key,)))
    story.event(ev.Quiesced(7))
    story.effect(fx.Phase(1, "fenced", (key,)))
    story.effect(fx.Phase(1, "unmapping", (key,)))
    story.effect(fx.Unmap(8, (key,)))
    story.owed.clear()
    for phase in phases:
        story.effect(fx.Phase(1, phase, (key,)))
    story.now += int(after * SECOND)
    story.event(ev.Unmapped(8))
    story.effect(fx.Phase(1, "unmapped", (key,)))
    return story


# ---- V5


def test_a_deferred_importer_that_unmaps_in_time_keeps_v5():
    assert verdict(taken(registered("deferred-unmap", bound=2.0), after=1).history(), "V5") == "kept"


def test_one_that_is_late_and_nobody_says_so_breaks_v5():
    assert (
        "within its bound of 2 s"
        in breaches(taken(registered("deferred-unmap", bound=2.0), after=3).history(), "V5")[0]
    )


@pytest.mark.parametrize(
    ("scale", "late", "found"), [(1, 0.2, "kept"), (0.1, 0.2, "broken"), (4, 0.8, "kept")]
)
def test_how_late_a_timer_may_ring_goes_with_the_scale_of_time(scale, late, found):
    story = taken(registered("deferred-unmap", bound=2.0), after=2 * scale + late)
    history = story.history()
    assert verdict(replace(history, meta={**history.meta, "time_scale": scale}), "V5") == found


def test_an_owner_that_says_so_and_waits_on_keeps_v5():
    assert (
        verdict(taken(registered("deferred-unmap", bound=2.0), "overdue", after=3).history(), "V5") == "kept"
    )


def test_reuse_at_the_timeout_breaks_v5_even_with_a_word():
    story = taken(registered("deferred-unmap", bound=2.0), "overdue", after=3)
    story.insert(story.find("Unmapped"), "effect", "Release", aperture=1, runs=[[0, 4 * BLOCK]])
    assert "before the deferred importer of key 0x100 had unmapped" in breaches(story.history(), "V5")[0]


def test_no_deferred_importer_leaves_v5_untested():
    assert verdict(revoked().history(), "V5") == "untested"


# ---- V6


def test_an_owner_that_refuses_who_cannot_promise_keeps_v6():
    story = Story("mr-revoke")
    holder = story.session("holder")
    story.create("/mnt/a", 4)
    assert story.register(holder, "/mnt/a", 4, importer="non-revocable") == 0
    assert verdict(story.history(), "V6") == "kept"


@pytest.mark.parametrize("importer", ["non-revocable", "deferred-unmap"])
def test_an_owner_that_waits_for_who_cannot_promise_breaks_v6(importer):
    assert "never promised that" in breaches(taken(registered(importer)).history(), "V6")[0]


def test_a_deferred_importer_with_a_bound_can_promise():
    assert breaches(taken(registered("deferred-unmap", bound=2.0)).history(), "V6") == []


def test_an_owner_that_waits_for_no_unmap_may_admit_anybody():
    assert verdict(registered("non-revocable").history(), "V6") == "kept"


def test_an_owner_that_admits_whom_it_says_it_cannot_take_from_breaks_v6():
    history = registered("non-revocable").history(meta={"declared": {"importers": ["sync-revocable"]}})
    assert "was admitted by an owner" in breaches(history, "V6")[0]


def test_nobody_who_cannot_promise_leaves_v6_untested():
    assert verdict(revoked().history(), "V6") == "untested"


# ---- V7


def given_back(importer="sync-revocable", done=True):
    """A reclaim for a time; then the owner gives the range back."""
    story = taken(registered(importer))
    story.lines[-1]["epoch"] = story.epoch
    story.phase("requested")["detail"]["permanent"] = False
    story.line("effect", "Restore", reclaim=1, keys=[story.key])
    if done:
        story.effect(fx.Phase(1, "restored", (story.key,)))
    return story


def test_a_restore_that_a_pinned_importer_ignores_keeps_v7():
    assert verdict(given_back().history(), "V7") == "kept"


def test_a_restore_that_maps_a_pinned_importer_again_breaks_v7():
    story = given_back()
    story.line("effect", "Remap", key=story.key, aperture=1, extents=[[8 * BLOCK, 4 * BLOCK]])
    assert "though its revoke may have been final" in breaches(story.history(), "V7")[0]


def test_a_restore_that_waits_for_a_pinned_importer_breaks_v7():
    assert "which may ignore it" in breaches(given_back(done=False).history(), "V7")[0]


def test_no_restore_leaves_v7_untested():
    assert verdict(revoked().history(), "V7") == "untested"


# ---- V8


def moved(again=True, at=8):
    """A dynamic importer is used, taken from, perhaps mapped again at block `at`, and used at block 8."""
    story = registered("dynamic")
    story.moved(story.key, 0)
    taken(story)
    story.effect(fx.Phase(1, "applied", ()))
    if again:
        story.line("effect", "Remap", key=story.key, aperture=1, extents=[[at * BLOCK, 4 * BLOCK]])
        story.effect(fx.Phase(1, "ended", ()))
    story.moved(story.key, 0, dst_offset=8 * BLOCK)
    return story


def test_a_dynamic_importer_that_maps_again_before_more_dma_keeps_v8():
    assert verdict(moved().history(), "V8") == "kept"


def test_dma_before_it_is_mapped_again_breaks_v8():
    assert "before it was mapped again" in breaches(moved(again=False).history(), "V8")[0]


def test_dma_to_the_old_place_breaks_v8():
    assert "not where it is mapped now" in breaches(moved(at=2).history(), "V8")[0]


def test_a_read_is_looked_at_where_it_reads():
    story = moved()
    story.moved(story.key, 0, opcode=READ, src_offset=0)
    assert "used at offset 0" in breaches(story.history(), "V8")[0]


def test_no_dynamic_importer_that_moved_leaves_v8_untested():
    assert verdict(registered("dynamic").history(), "V8") == "untested"
