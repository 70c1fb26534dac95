"""V10, V11, V13, V15, V19: what a key may still do, and when its number comes again."""

import pytest
from build import BLOCK, Story, revoked
from verdicts import breaches, broken, verdict

from emu.core import effects as fx
from emu.core import events as ev
from emu.core import requests as rq
from emu.core.memory import keys

REM_ACCESS_ERR = 10
REVOKED = 1001


def held(protocol="mr-revoke"):
    story = Story(protocol)
    story.holder, story.peer = story.session("holder"), story.session("peer", wants=False)
    story.create("/mnt/a", 4)
    story.key = story.register(story.holder, "/mnt/a", 4)
    return story


def used_late(status=REM_ACCESS_ERR):
    """A peer posts under a key that was revoked before."""
    story = revoked()
    story.posted("peer", 50, story.key)
    if not status:
        story.moved(story.key, 0, op=50)
    story.polled("peer", 50, status)
    return story


# ---- V10, V19


@pytest.mark.parametrize("name", ["V10", "V19"])
def test_use_of_a_revoked_key_that_fails_is_well(name):
    assert verdict(used_late().history(), name) == "kept"


@pytest.mark.parametrize("name", ["V10", "V19"])
def test_use_of_a_revoked_key_that_succeeds_breaks_it(name):
    assert verdict(used_late(0).history(), name) == "broken"


@pytest.mark.parametrize("name", ["V10", "V19"])
def test_nobody_who_tried_leaves_it_untested(name):
    assert verdict(revoked().history(), name) == "untested"


def test_use_of_a_key_whose_memory_changed_hands_breaks_v10_though_nobody_revoked_it():
    story = revoked("truncate", "none")
    story.moved(story.key, 1)
    assert "reached memory that had changed hands" in breaches(story.history(), "V10")[0]


def test_a_request_that_was_cut_shows_that_somebody_tried():
    story = revoked()
    story.moved(story.key, 0, size=0, status=REM_ACCESS_ERR)
    assert verdict(story.history(), "V10") == "kept"


def test_a_deregistered_key_is_revoked_too():
    story = held("none")
    story.dereg(story.holder, story.key)
    story.posted("peer", 50, story.key)
    story.polled("peer", 50)
    assert "with success after it was revoked" in breaches(story.history(), "V19")[0]


def test_what_was_posted_before_the_revoke_may_succeed():
    story = held()
    story.posted("peer", 1, story.key)
    story.reclaim("truncate", answers=False)
    story.moved(story.key, 0, op=1)
    story.answer()
    story.polled("peer", 1)
    assert broken(story.history()) == set()


def test_a_key_that_came_again_and_reaches_another_file_breaks_v10():
    """The client has kept an old key; its number is issued again for another file."""
    story = held()
    story.posted("peer", 1, story.key, ino=1)
    story.polled("peer", 1)
    story.dereg(story.holder, story.key)
    story.create("/mnt/b", 4)
    number = story.requests + 1
    story.effect(fx.InstallKey(story.key, 1, 7, 0, 1, 0, 4 * BLOCK, ((4 * BLOCK, 4 * BLOCK),)))
    wanted = {"type": "RegMr", "path": "/mnt/b", "offset": 0, "length": 4 * BLOCK}
    story.insert(
        story.find("InstallKey", extents=[[4 * BLOCK, 4 * BLOCK]]),
        "event",
        "Requested",
        session=1,
        request=number,
        op=wanted,
    )
    story.effect(fx.Reply(1, number, {"lkey": story.key, "ino": 2}))
    story.posted("peer", 2, story.key, ino=1)
    story.polled("peer", 2)
    assert "for file 1, and reached file 2" in breaches(story.history(), "V10")[0]


def test_a_dynamic_importers_key_is_not_revoked():
    story = Story("none")
    holder = story.session("holder")
    story.create("/mnt/a", 4)
    key = story.register(holder, "/mnt/a", 4, importer="dynamic")
    story.effect(fx.Quiesce(7, (key,)))
    story.event(ev.Quiesced(7))
    story.posted("peer", 1, key)
    story.polled("peer", 1)
    assert breaches(story.history(), "V19") == []


# ---- V11


@pytest.fixture
def soon(monkeypatch):
    """Keys come again after two others."""
    monkeypatch.setattr(keys, "KEY_REST", 2)


@pytest.mark.usefixtures("soon")
def test_keys_that_come_again_in_order_keep_v11():
    story = held()
    for _ in range(6):
        story.dereg(story.holder, story.key)
        story.key = story.register(story.holder, "/mnt/a", 1)
    assert story.key & 0xFF
    assert verdict(story.history(), "V11") == "kept"


@pytest.mark.usefixtures("soon")
def test_registrations_that_fail_on_their_way_do_not_upset_the_order():
    story = held()
    story.dereg(story.holder, story.key)
    for turn in range(8):
        key = story.register(story.holder, "/mnt/a", 1, answers=turn % 2 == 0)
        if turn % 2:
            install = [event for event in story.owed if isinstance(event, ev.KeyInstalled)]
            story.owed = [event for event in story.owed if event not in install]
            story.step(ev.KeyInstalled(install[0].key, 12))
        else:
            story.dereg(story.holder, key)
    assert breaches(story.history(), "V11") == []


def test_a_key_issued_again_while_it_is_there_breaks_v11():
    story = held()
    story.effect(fx.InstallKey(story.key, 1, 7, 0, 1, 0, BLOCK, ((0, BLOCK),)))
    assert "before 0x100 was removed" in breaches(story.history(), "V11")[0]


def test_another_generation_of_a_key_that_is_there_breaks_v11():
    story = held()
    story.effect(fx.InstallKey(story.key + 1, 1, 7, 0, 1, 0, BLOCK, ((0, BLOCK),)))
    assert "before 0x100 was removed" in breaches(story.history(), "V11")[0]


def test_the_same_generation_again_breaks_v11():
    story = held()
    story.dereg(story.holder, story.key)
    story.effect(fx.InstallKey(story.key, 1, 7, 0, 1, 0, BLOCK, ((0, BLOCK),)))
    assert "same generation" in breaches(story.history(), "V11")[0]


@pytest.mark.usefixtures("soon")
def test_the_last_key_at_rest_issued_first_breaks_v11():
    story = held()
    other = story.register(story.holder, "/mnt/a", 1)
    third = story.register(story.holder, "/mnt/a", 1)
    for key in (story.key, other, third):
        story.dereg(story.holder, key)
    for key in (other, story.key):
        number = story.requests = story.requests + 1
        wanted = {"type": "RegMr", "path": "/mnt/a", "offset": 0, "length": BLOCK, "backing": "dax"}
        story.line("event", "Requested", session=1, request=number, op=wanted, host=None)
        story.effect(fx.InstallKey(key + 1, 1, 7, 0, 1, 0, BLOCK, ((0, BLOCK),)))
    assert "had rested longer" in breaches(story.history(), "V11")[0]


def test_keys_of_another_life_are_other_keys():
    story = held()
    story.restart()
    holder = story.session("again")
    story.create("/mnt/b", 1, holder)
    assert story.register(holder, "/mnt/b", 1) == story.key
    assert breaches(story.history(), "V11") == []


def test_no_key_behind_another_leaves_v11_untested():
    assert verdict(held().history(), "V11") == "untested"


# ---- V13


def test_a_revoke_told_once_keeps_v13():
    story = revoked()
    story.told("holder", REVOKED, story.key)
    assert verdict(story.history(), "V13") == "kept"


def test_a_revoke_told_twice_by_the_broker_breaks_v13():
    story = revoked()
    story.effect(fx.Notify(story.holder, "MR_REVOKED", {"mr": story.key}))
    assert "told twice" in breaches(story.history(), "V13")[0]


def test_a_revoke_heard_twice_breaks_v13():
    story = revoked()
    story.told("holder", REVOKED, story.key)
    story.told("holder", REVOKED, story.key)
    assert "holder was told 2 times" in breaches(story.history(), "V13")[0]


def test_two_lives_may_each_tell_of_the_same_number():
    story = revoked()
    story.told("holder", REVOKED, story.key)
    story.restart()
    holder = story.session("again")
    story.create("/mnt/c", 2, holder)
    key = story.register(holder, "/mnt/c", 2)
    story.reclaim("truncate", "/mnt/c", session=holder)
    story.answer()
    story.told("holder", REVOKED, key)
    assert key == story.key
    assert verdict(story.history(), "V13") == "kept"


def test_a_deregistration_that_revokes_nothing_breaks_v13():
    story = held()
    story.effect(fx.RemoveKey(story.key))
    assert "removed without having been revoked" in breaches(story.history(), "V13")[0]


def test_nobody_told_and_nobody_gone_leaves_v13_untested():
    assert verdict(held().history(), "V13") == "untested"


# ---- V15


def test_a_second_revoke_that_changes_nothing_keeps_v15():
    story = revoked()
    story.dereg(story.holder, story.key)
    assert verdict(story.history(), "V15") == "kept"


def test_two_reclaims_of_one_mr_keep_v15():
    story = held()
    story.reclaim("truncate", size=3 * BLOCK)
    story.reclaim("truncate", size=BLOCK)
    story.answer()
    assert broken(story.history()) == set()


def test_a_second_unmap_breaks_v15():
    story = revoked()
    story.effect(fx.Unmap(99, (story.key,)))
    assert "was to be unmapped again" in breaches(story.history(), "V15")[0]


def test_an_unmap_whose_answer_nobody_awaited_any_more_is_asked_for_again():
    story = held()
    reclaimer = story.session("reclaimer")
    request = story.reclaim("truncate", size=BLOCK, session=reclaimer, answers=False)
    story.answer(ev.Quiesced)
    story.ask(reclaimer, rq.Cancel(request), answers=False)
    story.answer(ev.Unmapped)
    story.dereg(story.holder, story.key)
    assert len([line for line in story.lines if line["type"] == "Unmap"]) == 2
    assert "V15" not in broken(story.history())


def test_a_revoked_key_that_is_mapped_again_breaks_v15():
    story = revoked()
    story.effect(fx.InstallKey(story.key, 1, 7, 0, 1, 0, BLOCK, ((0, BLOCK),)))
    assert "mapped again after it had been revoked for good" in breaches(story.history(), "V15")[0]


def test_a_restore_of_what_was_revoked_for_good_breaks_v15():
    story = revoked()
    story.line("effect", "Restore", reclaim=1, keys=[story.key])
    assert "was given back after" in breaches(story.history(), "V15")[0]


def test_a_restore_of_what_was_revoked_for_a_time_keeps_v15():
    story = revoked()
    story.phase("requested")["detail"]["permanent"] = False
    story.line("effect", "Restore", reclaim=1, keys=[story.key])
    story.dereg(story.holder, story.key)
    assert verdict(story.history(), "V15") == "kept"


def test_one_revoke_leaves_v15_untested():
    assert verdict(revoked().history(), "V15") == "untested"
