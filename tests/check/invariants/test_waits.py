"""V3, V4, V9, V18, V20: what moved before, between and behind the two waits, and what was reused."""

import pytest
from build import BLOCK, READ, Story, revoked
from verdicts import breaches, broken, verdict

from emu.core import effects as fx
from emu.core import events as ev
from emu.core import requests as rq


def waited(importer="sync-revocable", protocol="mr-revoke"):
    """A truncate that waits for its quiesce; a key that was used."""
    story = Story(protocol)
    story.holder = story.session("holder")
    story.create("/mnt/a", 4)
    story.key = story.register(story.holder, "/mnt/a", 4, importer=importer)
    story.moved(story.key)
    story.reclaim("truncate", size=BLOCK, answers=False)
    return story


# ---- V3, V9


@pytest.mark.parametrize("name", ["V3", "V9"])
def test_a_quantum_that_ended_before_the_answer_is_well(name):
    story = waited()
    story.moved(story.key, 2)
    story.answer(ev.Quiesced)
    story.answer()
    assert verdict(story.history(), name) == "kept"


def test_a_write_behind_the_fence_breaks_v3_and_v9():
    story = waited()
    story.answer(ev.Quiesced)
    story.moved(story.key, 2)
    story.answer()
    assert "written under key 0x100 behind the fence" in breaches(story.history(), "V3")[0]
    assert "after its quiesce was confirmed" in breaches(story.history(), "V9")[0]


def test_a_read_behind_the_fence_breaks_v9_alone():
    story = waited()
    story.answer(ev.Quiesced)
    story.moved(story.key, 2, opcode=READ)
    story.answer()
    assert broken(story.history()) & {"V3", "V9"} == {"V9"}


def test_a_quantum_that_began_before_and_ended_behind_breaks_v9():
    story = waited()
    epoch = story.epoch
    story.answer()
    story.moved(story.key, 0, first=epoch, op_epoch=epoch)
    assert "V9" in broken(story.history())


def test_any_use_behind_the_unmap_breaks_v3():
    story = waited()
    story.answer()
    story.moved(story.key, 0, opcode=READ)
    assert "without a translation" in breaches(story.history(), "V3")[0]


def test_a_read_into_a_local_key_is_a_write_there():
    story = waited()
    story.answer(ev.Quiesced)
    story.moved(story.key, 2, opcode=READ, rkey=0x700, lkey=story.key)
    story.answer()
    assert "V3" in broken(story.history())


def test_the_same_epoch_as_the_answer_says_nothing():
    story = waited()
    story.answer(ev.Quiesced)
    last = story.find("Quiesced")["epoch"]
    story.moved(story.key, 2, first=last, last=last, op_epoch=last)
    story.answer()
    assert verdict(story.history(), "V9") == "kept"


def test_a_deferred_importer_may_read_behind_its_fence():
    story = waited("deferred-unmap", "none")
    key, epoch = story.key, story.epoch
    for effect, answer in ((fx.Quiesce(7, (key,)), ev.Quiesced(7)), (fx.Phase(9, "fenced", (key,)), None)):
        story.effect(effect)
        if answer:
            story.event(answer)
    story.moved(key, 0, opcode=READ, first=story.epoch + 1, last=story.epoch + 1)
    assert epoch < story.epoch
    assert broken(story.history()) & {"V3", "V9"} == set()


def test_a_number_that_was_installed_again_is_somebody_elses():
    story = waited()
    story.answer()
    key = story.key
    story.dereg(story.holder, key)
    story.effect(fx.InstallKey(key, 1, 7, 0, 1, 0, BLOCK, ((8 * BLOCK, BLOCK),)))
    story.effect(fx.Phase(9, "requested"))
    story.moved(key, 0)
    assert breaches(story.history(), "V9") == []


@pytest.mark.parametrize("name", ["V3", "V9"])
def test_nothing_moved_under_revoked_keys_leaves_it_untested(name):
    story = waited()
    story.answer()
    story.records.clear()
    assert verdict(story.history(), name) == "untested"


# ---- V4


@pytest.mark.parametrize("kind", ["truncate", "punch", "unlink", "unplug", "surprise"])
def test_memory_that_is_reused_behind_both_waits_keeps_v4(kind):
    assert verdict(revoked(kind).history(), "V4") == "kept"


@pytest.mark.parametrize(("kind", "words"), [
    ("truncate", "blocks were freed"), ("punch", "blocks were freed"), ("unlink", "blocks were freed"),
    ("unplug", "the device was taken away"), ("surprise", "a new namespace came"),
])  # fmt: skip
def test_memory_that_is_reused_while_a_key_is_mapped_breaks_v4(kind, words):
    assert words in breaches(revoked(kind, "none").history(), "V4")[0]


@pytest.mark.parametrize(("gone", "lacks"), [("Unmapped", "its unmap"), ("Quiesced", "its fence")])
def test_one_answer_is_not_enough_for_v4(gone, lacks):
    story = revoked()
    story.drop(gone)
    assert lacks in breaches(story.history(), "V4")[0]


def test_an_answer_to_anybody_who_asked_will_do():
    """The holder deregisters while the reclaim waits: whose answer comes first does not matter."""
    story = waited()
    story.dereg(story.holder, story.key, answers=False)
    story.answer()
    assert broken(story.history()) == set()


def test_blocks_beside_those_that_a_key_maps_may_be_freed():
    story = Story("none")
    holder = story.session("holder")
    story.create("/mnt/a", 4)
    story.register(holder, "/mnt/a", 1)
    story.reclaim("truncate", size=BLOCK)
    assert verdict(story.history(), "V4") == "untested"


def test_a_dynamic_importer_may_be_moved_behind_its_fence():
    story = Story("none")
    holder = story.session("holder")
    story.create("/mnt/a", 4)
    key = story.register(holder, "/mnt/a", 4, importer="dynamic")
    story.effect(fx.Quiesce(7, (key,)))
    story.event(ev.Quiesced(7))
    story.effect(fx.Release(1, ((BLOCK, BLOCK),)))
    assert verdict(story.history(), "V4") == "kept"


# ---- V18


def test_two_waits_that_show_apart_keep_v18():
    assert verdict(revoked().history(), "V18") == "kept"


def test_the_unmap_over_before_the_fence_breaks_v18():
    story = revoked()
    story.move(story.phase("fenced"), story.phase("applied"))
    assert "was over before its fence" in breaches(story.history(), "V18")[0]


def test_a_fence_that_the_engine_had_not_answered_breaks_v18():
    story = revoked()
    story.move(story.phase("fenced"), story.find("Quiesced"))
    assert "the engine had not answered" in breaches(story.history(), "V18")[0]


@pytest.mark.parametrize("kind", ["truncate", "unplug"])
def test_memory_that_parts_without_the_waits_breaks_v18(kind):
    assert "fenced and unmapped" in breaches(revoked(kind, "none").history(), "V18")[0]


def test_who_deregistered_in_time_needs_no_wait():
    story = Story("ebusy")
    holder = story.session("holder")
    story.create("/mnt/a", 4)
    story.dereg(holder, story.register(holder, "/mnt/a", 4))
    story.reclaim("truncate")
    assert verdict(story.history(), "V18") == "untested"
    assert broken(story.history()) == set()


# ---- V20


def test_nothing_mapped_behind_the_second_wait_keeps_v20():
    assert verdict(revoked().history(), "V20") == "kept"


def test_an_unmap_said_to_be_over_that_was_not_breaks_v20():
    story = revoked()
    story.move(story.phase("unmapped"), story.find("Unmapped"))
    assert (
        "was mapped when the unmap of reclaim 1 (truncate) was said to be over"
        in breaches(story.history(), "V20")[0]
    )


def test_a_key_that_slipped_in_and_the_core_forgot_breaks_v20():
    story = waited()
    story.effect(fx.InstallKey(0x900, 1, 7, 0, 1, 0, BLOCK, ((BLOCK, BLOCK),)))
    story.owed = [event for event in story.owed if event != ev.KeyInstalled(0x900)]
    story.answer()
    assert any("0x900" in sentence for sentence in breaches(story.history(), "V20"))


def test_a_stale_translation_of_other_blocks_is_not_the_ranges():
    """An MR over blocks that the file once had pins nothing of the range that the file has now."""
    story = Story("none")
    holder, other = story.session("holder"), story.session("other")
    story.create("/mnt/a", 2)
    story.register(holder, "/mnt/a", 2)
    story.reclaim("truncate")
    story.create("/mnt/wedge", 2)
    story.ask(story.admin(), rq.FsTruncate("/mnt/a", 2 * BLOCK))
    story.ask(story.admin(), rq.SetProtocol("/mnt", "mr-revoke"))
    story.register(other, "/mnt/a", 2)
    story.reclaim("truncate")
    story.answer()
    assert story.phase("unmapped", reclaim=2)
    assert all("reclaim 2" not in sentence for sentence in breaches(story.history(), "V20"))


def test_success_without_a_second_wait_over_a_live_key_breaks_v20():
    assert "returned success while key" in breaches(revoked("truncate", "none").history(), "V20")[0]


def test_no_second_wait_and_nobody_there_leaves_v20_untested():
    story = Story("none")
    holder = story.session("holder")
    story.create("/mnt/a", 2)
    story.dereg(holder, story.register(holder, "/mnt/a", 2))
    story.reclaim("truncate")
    assert verdict(story.history(), "V20") == "untested"
