"""V1, V2, V12, V22: the gate, the notice inside it, registrations on their way, reclaims that were interrupted."""

import pytest
from build import BLOCK, Story, revoked
from verdicts import breaches, broken, verdict

from emu.core import effects as fx
from emu.core import events as ev
from emu.core import requests as rq


def on_its_way(protocol):
    """A key is being installed when the memory goes."""
    story = Story(protocol)
    holder = story.session("holder")
    story.create("/mnt/a", 2)
    story.register(holder, "/mnt/a", 2, answers=False)
    story.reclaim("truncate", answers=False)
    story.answer()
    return story


def test_a_success_that_leaves_out_a_key_on_its_way_breaks_v12():
    assert "was being installed, was not revoked" in breaches(on_its_way("none").history(), "V12")[0]
    assert verdict(on_its_way("mr-revoke").history(), "V12") == "kept"


def held(protocol="mr-revoke", blocks=4):
    """A file whose blocks a holder has pinned."""
    story = Story(protocol)
    story.holder = story.session("holder")
    story.create("/mnt/a", blocks)
    story.key = story.register(story.holder, "/mnt/a", blocks)
    return story


# ---- nothing is wrong


@pytest.mark.parametrize("kind", ["truncate", "punch", "unlink", "unplug", "surprise"])
def test_a_revoke_breaks_nothing(kind):
    assert broken(revoked(kind).history()) == set()


def test_several_reclaims_files_and_mrs_at_once_break_nothing():
    story = Story()
    one, other = story.session("one"), story.session("other")
    for path in ("/mnt/a", "/mnt/b"):
        story.create(path, 4)
    keys = [story.register(who, path, 4) for who in (one, other) for path in ("/mnt/a", "/mnt/b")]
    keys.append(story.register(one, "/mnt/a", 1))
    for key in keys:
        story.moved(key)
    story.reclaim("truncate", "/mnt/a", size=2 * BLOCK, answers=False)
    story.reclaim("punch", "/mnt/b", offset=BLOCK, length=BLOCK, answers=False)
    story.reclaim(
        "truncate", "/mnt/a", session=one, size=BLOCK, answers=False
    )  # its own file, behind the other
    story.dereg(other, keys[2], answers=False)
    story.lost(other)
    story.answer()
    assert broken(story.history()) == set()


def test_a_restart_breaks_nothing_though_numbers_come_again():
    story = revoked()
    story.reclaim("unlink", "/mnt/b", answers=False)
    story.restart()
    holder = story.session("again")
    story.create("/mnt/c", 4, holder)
    key = story.register(holder, "/mnt/c", 4)
    assert key == story.key
    story.moved(key)
    story.reclaim("truncate", "/mnt/c", session=holder)
    story.answer()
    assert broken(story.history()) == set()
    assert verdict(story.history(), "V4") == "kept"


# ---- V1


def test_a_registration_behind_the_gate_that_is_refused_keeps_v1():
    story = held()
    story.reclaim("truncate", answers=False)
    story.register(story.session("late"), "/mnt/a", 2)
    story.answer()
    assert verdict(story.history(), "V1") == "kept"


def behind_the_gate(path="/mnt/a", offset=0):
    """A registration that the gate did not stop: its Fail is left out, its key installed."""
    story = held()
    if path != "/mnt/a":
        story.create(path, 8)
    story.reclaim("truncate", size=BLOCK, answers=False)
    late = story.session("late")
    number = story.requests + 1
    story.event(ev.Requested(late, number, rq.RegMr(9, 2 * BLOCK, 7, 0, "dax", path, offset)))
    story.effect(fx.InstallKey(0x900, 9, 7, 0, 1, 0, 2 * BLOCK, ((9 * BLOCK, 2 * BLOCK),)))
    story.event(ev.KeyInstalled(0x900))
    story.owed = [event for event in story.owed if event != ev.KeyInstalled(0x900)]
    story.effect(fx.Reply(late, number, {"lkey": 0x900, "handle": 0x900}))
    story.answer()
    return story.history()


def test_a_registration_behind_the_gate_breaks_v1():
    history = behind_the_gate(offset=BLOCK)
    assert "bytes 4096 to 12288 of /mnt/a were registered behind the gate" in breaches(history, "V1")[0]


@pytest.mark.parametrize(("path", "offset"), [("/mnt/b", BLOCK), ("/mnt/a", -2 * BLOCK)])
def test_a_registration_outside_the_range_may_come_at_any_time(path, offset):
    assert breaches(behind_the_gate(path, offset), "V1") == []


def test_another_file_under_the_old_path_is_another_file():
    story = held()
    story.reclaim("unlink")
    story.answer()
    story.create("/mnt/a", 2)
    story.register(story.holder, "/mnt/a", 2)
    ended = story.phase("ended")
    story.move(ended, story.lines[-1])  # the unlink ends late: the new file is none of its business
    assert breaches(story.history(), "V1") == []


def test_a_reclaim_in_several_steps_without_a_gate_breaks_v1():
    story = revoked()
    story.drop("Phase", phase="gated")
    assert "closed no gate" in breaches(story.history(), "V1")[0]


def test_who_looks_and_acts_in_one_step_needs_no_gate():
    assert verdict(revoked("truncate", "none").history(), "V1") == "untested"


# ---- V2


def test_holders_told_in_the_step_of_the_gate_keep_v2():
    assert verdict(revoked().history(), "V2") == "kept"


def test_holders_told_in_a_later_step_break_v2():
    story = revoked()
    story.move(story.phase("notified"), story.phase("unmapping"))
    assert "after it had left the gate's critical section" in breaches(story.history(), "V2")[0]


def test_holders_told_before_the_gate_break_v2():
    story = revoked()
    story.move(story.phase("notified"), story.phase("gated"))
    assert "before it closed the gate" in breaches(story.history(), "V2")[0]


def test_a_mapping_between_gate_and_notice_breaks_v2():
    story = held()
    story.reclaim("truncate")
    story.answer()
    install = story.find("InstallKey")
    story.move(story.phase("gated"), install)
    assert "was mapped between the gate" in breaches(story.history(), "V2")[0] or breaches(
        story.history(), "V2"
    )


def test_a_shell_that_left_its_lock_before_it_told_breaks_v2():
    story = revoked()
    story.insert(story.phase("gated"), "shell", "Enter", reclaim=1)
    story.insert(story.phase("notified"), "shell", "Leave", reclaim=1)
    assert verdict(story.history(), "V2") == "broken"


def test_a_protocol_that_tells_nobody_leaves_v2_untested():
    assert verdict(revoked("truncate", "none").history(), "V2") == "untested"


# ---- V12


def met_on_the_way():
    """A reclaim takes the range back while its registration waits for the engine."""
    story = Story()
    story.holder = story.session("holder")
    story.create("/mnt/a", 4)
    story.register(story.holder, "/mnt/a", 4, answers=False)
    story.reclaim("truncate", answers=False)
    story.answer()
    return story


def test_a_registration_that_a_reclaim_met_fails_and_v12_is_kept():
    history = met_on_the_way().history()
    assert verdict(history, "V12") == "kept"
    assert broken(history) == set()


def test_a_key_that_is_handed_out_although_it_was_revoked_breaks_v12():
    story = met_on_the_way()
    fail = next(line for line in story.lines if line["type"] == "Fail")
    key = story.find("InstallKey")["key"]
    del fail["errno"], fail["definite"]
    fail |= {"type": "Reply", "result": {"lkey": key}}
    assert "handed out" in breaches(story.history(), "V12")[0]


def test_a_key_that_is_installed_after_it_was_revoked_breaks_v12():
    story = met_on_the_way()
    story.move(story.find("InstallKey"), story.phase("unmapping"))
    assert "was installed although" in breaches(story.history(), "V12")[0]


def test_a_key_that_the_engine_refused_was_never_mapped():
    story = Story()
    holder = story.session("holder")
    story.create("/mnt/a", 4)
    story.register(holder, "/mnt/a", 4, answers=False)
    story.reclaim("truncate", answers=False)
    asked = next(event for event in story.owed if isinstance(event, ev.KeyInstalled))
    story.owed.remove(asked)
    story.step(ev.KeyInstalled(asked.key, 12))
    story.answer()
    assert broken(story.history()) == set()


def test_a_notice_about_an_mr_that_is_gone_breaks_v12():
    story = held()
    story.dereg(story.holder, story.key)
    story.effect(fx.Notify(story.holder, "MR_REVOKED", {"mr": story.key}))
    assert "tells of MR" in breaches(story.history(), "V12")[0]


@pytest.mark.parametrize("again", [fx.Quiesce, fx.Unmap])
def test_an_order_about_a_key_that_is_gone_breaks_v12(again):
    story = held()
    story.dereg(story.holder, story.key)
    story.effect(again(99, (story.key,)))
    assert "was removed before" in breaches(story.history(), "V12")[0]


def test_nothing_on_its_way_leaves_v12_untested():
    assert verdict(held().history(), "V12") == "untested"


# ---- V22


def interrupted():
    story = held()
    admin = story.admin()
    number = story.reclaim("truncate", session=admin, answers=False)
    story.ask(admin, rq.Cancel(number), answers=False)
    story.answer()
    return story


def test_an_interrupted_reclaim_that_changed_nothing_keeps_v22():
    assert verdict(interrupted().history(), "V22") == "kept"


def test_a_denied_reclaim_keeps_v22():
    assert verdict(revoked("truncate", "ebusy").history(), "V22") == "kept"


@pytest.mark.parametrize("name", ["applied", "freed"])
def test_an_interrupted_reclaim_that_took_a_step_breaks_v22(name):
    story = interrupted()
    returned = story.phase("returned")
    story.insert(returned, "effect", "Phase", reclaim=1, phase=name, keys=[story.key], detail={}, inflight=0)
    assert f"took its {name} step" in breaches(story.history(), "V22")[0]


def test_an_interrupted_reclaim_whose_file_lost_blocks_breaks_v22():
    story = interrupted()
    row = story.core.books.files[1]._replace(extents=())
    story.insert(story.phase("ended"), "commit", "Commit", changes=1, delta=[["files", 1, list(row)]])
    assert "lost blocks" in breaches(story.history(), "V22")[0]


def test_an_error_that_says_something_has_changed_is_no_interruption():
    story = interrupted()
    story.find("Fail")["definite"] = False
    story.insert(story.phase("returned"), "effect", "Phase", reclaim=1, phase="applied", keys=[], detail={})
    story.move(story.find("Fail"), story.phase("returned"))
    assert verdict(story.history(), "V22") == "untested"


def test_a_hole_whose_edges_could_not_be_zeroed_for_nobody_is_no_interruption():
    """The hole is committed, the memory refuses the zeros, and whoever asked is gone."""
    story = Story("none")
    story.create("/mnt/a", 4)
    asker = story.session("asker")
    story.reclaim("punch", session=asker, offset=100, length=3 * BLOCK, answers=False)
    story.step(ev.SessionLost(asker))
    zero = next(event for event in story.owed if isinstance(event, ev.Answered))
    story.owed.remove(zero)
    story.step(ev.Answered(zero.token, 5))
    assert story.phase("returned")["detail"]["errno"] == 5
    assert verdict(story.history(), "V22") == "untested"


def test_no_denial_leaves_v22_untested():
    assert verdict(revoked().history(), "V22") == "untested"


def test_an_interrupted_reclaim_that_makes_way_for_the_next_keeps_v22():
    """The one that waited for it takes the same blocks in the step in which it ends."""
    story = held()
    reclaimer = story.session("reclaimer")
    request = story.reclaim("truncate", size=BLOCK, session=reclaimer, answers=False)
    story.reclaim("truncate", size=2 * BLOCK, answers=False)
    story.owed.clear()  # its quiesce takes long
    story.dereg(story.holder, story.key)
    story.ask(reclaimer, rq.Cancel(request))
    applied, ended = story.phase("applied", reclaim=2), story.phase("ended")
    assert not [line for line in story.lines[ended["n"] : applied["n"]] if line["kind"] == "event"]
    assert verdict(story.history(), "V22") == "kept"


def interrupted_before_a_hole(offset, length):
    """A hole whose edges take time waited for a truncate that is interrupted: it is committed in that very step, and applied later."""
    story = held()
    reclaimer = story.session("reclaimer")
    request = story.reclaim("truncate", size=BLOCK, session=reclaimer, answers=False)
    story.reclaim("punch", offset=offset, length=length, answers=False)
    story.owed.clear()  # its quiesce takes long
    story.dereg(story.holder, story.key)
    story.ask(reclaimer, rq.Cancel(request), answers=False)
    ended, begun = story.phase("ended"), story.phase("requested", reclaim=2)
    assert not [line for line in story.lines[ended["n"] : begun["n"]] if line["kind"] == "event"]
    story.answer()
    return story


def test_an_interrupted_reclaim_that_makes_way_for_a_hole_with_edges_keeps_v22():
    assert verdict(interrupted_before_a_hole(BLOCK + 100, 2 * BLOCK).history(), "V22") == "kept"


def test_who_makes_way_for_a_hole_has_still_lost_no_block_beside_it():
    story = interrupted_before_a_hole(BLOCK + 100, 2 * BLOCK)
    rows = [
        row
        for line in story.lines
        if line["type"] == "Commit"
        for book, _, row in line["delta"]
        if book == "files"
    ]
    rows[-1][3] = [extent for extent in rows[-1][3] if extent[0] != 3]
    assert "lost blocks" in breaches(story.history(), "V22")[0]


def test_what_the_one_in_front_took_in_the_step_in_which_it_began_is_not_laid_at_an_interrupted_reclaim():
    """The ladder of the first ends with a survivor, the second begins behind it, climbs, and is interrupted."""
    story = Story("lease-signal", survivors=True)
    story.create("/mnt/a", 4)
    story.register(story.session("holder"), "/mnt/a", 4)
    first, second = story.session("first", wants=False), story.session("second", wants=False)
    story.reclaim("truncate", session=first, size=2 * BLOCK, answers=False)
    request = story.reclaim("truncate", session=second, size=BLOCK, answers=False)
    for _ in range(3):
        fired = next(event for event in story.owed if isinstance(event, ev.TimerFired))
        story.owed.remove(fired)
        story.step(fired)
    story.ask(second, rq.Cancel(request))
    history = story.history()
    assert story.find("Fail", session=second)["errno"] == 4
    assert verdict(history, "V22") == "kept"
