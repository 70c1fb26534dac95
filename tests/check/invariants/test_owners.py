"""V16, V17, V23, V24, V25: who holds what, and who waits for whom."""

import pytest
from build import BLOCK, Story, revoked
from verdicts import BY_NAME, breaches, broken, verdict

from emu.core import effects as fx
from emu.core import events as ev
from emu.core import requests as rq
from emu.core.decision import END, START
from emu.protocols import contract as do
from emu.protocols.contract import go

# What waits for the holders alone, as a truncate on dax does: the check is made again at every unpin, new pins may come in between.
WAIT = do.Protocol(
    name="wait",
    summary="wait for the last unpin",
    origin="a test",
    table={
        (START, "requested"): do.when_pinned(go(to="waiting"), go(do.apply(), do.free(), do.reply(), to=END)),
        (START, "surprise"): go(do.reply(), to=END),
        ("waiting", "unpinned"): go(do.apply(), do.free(), do.reply(), to=END),
        ("waiting", "cancelled"): go(do.deny("EINTR"), to=END),
    },
    ignored={"*": ("acknowledged", "holder_lost")},
    impossible={
        "*": (
            "requested",
            "surprise",
            "deadline",
            "quiesced",
            "quiesce_failed",
            "unmapped",
            "unpinned",
            "cancelled",
        )
    },
    backings=("dax",),
)


def held(protocol="mr-revoke", protocols=None):
    story = Story(protocol, **({"protocols": protocols} if protocols else {}))
    story.holder = story.session("holder")
    story.create("/mnt/a", 4)
    story.key = story.register(story.holder, "/mnt/a", 4)
    return story


def waiting():
    return held("wait", {"wait": do.check(WAIT)})


# ---- V16


def unmap_wait():
    story = held()
    story.reclaim("truncate", answers=False)
    story.answer(ev.Quiesced)
    return story


def test_others_are_served_during_the_unmap_wait_and_v16_is_kept():
    story = unmap_wait()
    story.ask(story.admin(), rq.FsLs(), answers=False)
    story.answer()
    assert verdict(story.history(), "V16") == "kept"


def test_an_unmap_answered_in_the_step_that_asked_breaks_v16():
    story = unmap_wait()
    story.effect(fx.Phase(1, "unmapped", (story.key,)))
    assert "within the step that asked for it" in breaches(story.history(), "V16")[0]


@pytest.mark.parametrize("leaves", [True, False])
def test_a_lock_that_is_held_during_the_wait_breaks_v16(leaves):
    story = unmap_wait()
    story.insert(story.find("Unmap"), "shell", "Enter", reclaim=1)
    story.ask(story.admin(), rq.FsLs(), answers=False)
    story.answer(ev.Unmapped)
    if leaves:
        story.insert(story.phase("unmapped"), "shell", "Leave", reclaim=1)
    assert "held its lock" in breaches(story.history(), "V16")[0]


def test_a_lock_that_is_left_before_the_wait_keeps_v16():
    story = unmap_wait()
    story.insert(story.find("Unmap"), "shell", "Enter", reclaim=1)
    story.insert(story.find("Unmap"), "shell", "Leave", reclaim=1)
    story.ask(story.admin(), rq.FsLs(), answers=False)
    story.answer()
    assert verdict(story.history(), "V16") == "kept"


def test_an_answer_that_comes_next_leaves_v16_untested():
    story = unmap_wait()
    story.answer()
    assert verdict(story.history(), "V16") == "untested"


# ---- V17


@pytest.mark.parametrize("protocol", ["mr-revoke", "none", "ebusy"])
def test_a_reclaim_that_ends_while_its_holders_do_nothing_keeps_v17(protocol):
    assert verdict(revoked("truncate", protocol).history(), "V17") == "kept"


def test_a_reclaim_that_waits_for_its_holders_breaks_v17():
    story = waiting()
    story.reclaim("truncate")
    story.ask(story.admin(), rq.FsLs())
    story.dereg(story.holder, story.key)
    assert "nothing left that could advance it but its holders" in breaches(story.history(), "V17")[0]


def test_a_holder_that_takes_part_leaves_v17_untested():
    story = held()
    story.reclaim("truncate", answers=False)
    story.dereg(story.holder, story.key, answers=False)
    story.answer()
    assert verdict(story.history(), "V17") == "untested"


def test_a_step_that_was_undone_is_owed():
    """The commit failed: the answer of the engine comes to the core again later."""
    story = unmap_wait()
    answer = next(event for event in story.owed if isinstance(event, ev.Unmapped))
    story.event(answer)
    story.line("shell", "Undone", event="Unmapped", errno=28)
    story.ask(story.admin(), rq.FsLs())
    story.answer()
    assert breaches(story.history(), "V17") == []


def test_somebody_elses_timer_does_not_hide_a_wait_for_the_holders():
    story = waiting()
    story.ask(story.admin(), rq.FsLs())
    story.effect(fx.Arm(99, 1e6))
    story.reclaim("truncate")
    story.ask(story.admin(), rq.FsLs())
    story.dereg(story.holder, story.key)
    assert "nothing left that could advance it but its holders" in breaches(story.history(), "V17")[0]


def test_another_reclaims_timer_does_not_hide_it_either():
    story = waiting()
    story.create("/mnt/b", 2)
    story.register(story.holder, "/mnt/b", 2)
    story.reclaim("truncate", "/mnt/b")
    story.effect(fx.Arm(99, 1e6))
    story.reclaim("truncate")
    story.ask(story.admin(), rq.FsLs())
    story.dereg(story.holder, story.key)
    named = [sentence.split(" waited")[0] for sentence in breaches(story.history(), "V17")]
    assert named == ["reclaim 2 (truncate)"]


def test_a_timer_that_may_be_anybodys_leaves_v17_untested():
    story = waiting()
    story.create("/mnt/b", 2)
    story.register(story.holder, "/mnt/b", 2)
    story.lost(story.session("passer-by"))
    story.effect(fx.Arm(99, 1e6))  # whoever heard of that may have armed it
    story.reclaim("truncate", "/mnt/b")
    story.reclaim("truncate")
    story.ask(story.admin(), rq.FsLs())
    assert breaches(story.history(), "V17") == []
    words = BY_NAME["V17"].untested(story.history().blind)
    assert words.startswith("no line tells whether what was still to come was owed to reclaim 1")


# ---- V23


def test_a_registration_refused_behind_a_waiting_reclaim_keeps_v23():
    story = held()
    late = story.session("late")
    story.ask(late, rq.AllocPd())
    story.reclaim("truncate", answers=False)
    story.ask(late, rq.RegMr(2, BLOCK, 7, 0, "dax", "/mnt/a"), answers=False)
    story.answer()
    assert verdict(story.history(), "V23") == "kept"


def test_a_new_pin_that_overtakes_a_waiting_reclaim_breaks_v23():
    story = waiting()
    story.reclaim("truncate")
    story.register(story.session("late"), "/mnt/a", 1)
    assert "were pinned while a truncate of them waited" in breaches(story.history(), "V23")[0]


def test_pins_elsewhere_overtake_nobody():
    story = waiting()
    story.create("/mnt/b", 2)
    story.reclaim("truncate", size=2 * BLOCK)
    late = story.session("late")
    story.register(late, "/mnt/b", 1)
    story.register(late, "/mnt/a", 1)
    assert verdict(story.history(), "V23") == "untested"


def test_a_reclaim_whose_asker_is_gone_waits_no_longer():
    story = waiting()
    asker = story.session("asker")
    story.reclaim("truncate", session=asker)
    story.lost(asker)
    story.register(story.session("late"), "/mnt/a", 1)
    assert breaches(story.history(), "V23") == []


def test_nobody_behind_a_waiting_reclaim_leaves_v23_untested():
    assert verdict(revoked().history(), "V23") == "untested"


# ---- V24


@pytest.mark.parametrize("protocol", ["mr-revoke", "none", "ebusy"])
def test_a_session_that_ends_takes_its_pins_along_and_v24_is_kept(protocol):
    story = held(protocol)
    story.lost(story.holder)
    story.answer()
    story.ask(story.admin(), rq.FsLs())
    assert verdict(story.history(), "V24") == "kept"
    assert broken(story.history()) == set()


def test_a_teardown_under_way_is_no_orphan():
    story = held()
    story.lost(story.holder)
    story.ask(story.admin(), rq.FsLs(), answers=False)
    assert verdict(story.history(), "V24") == "kept"


def test_a_registration_under_way_is_no_orphan():
    story = Story()
    holder = story.session("holder")
    story.create("/mnt/a", 4)
    story.register(holder, "/mnt/a", 4, answers=False)
    story.lost(holder)
    story.ask(story.admin(), rq.FsLs(), answers=False)
    assert verdict(story.history(), "V24") == "kept"


def test_a_pin_that_outlives_its_session_breaks_v24():
    story = held()
    story.event(ev.SessionLost(story.holder))
    story.ask(story.admin(), rq.FsLs())
    assert "stays pinned for nobody" in breaches(story.history(), "V24")[0]


def test_a_session_forgotten_before_its_pin_is_gone_breaks_v24():
    story = held()
    story.event(ev.SessionLost(story.holder))
    story.effect(fx.EndSession(story.holder))
    assert "was forgotten while key 0x100 was its" in breaches(story.history(), "V24")[0]


def test_a_pin_of_nobody_that_was_ever_opened_breaks_v24():
    story = held()
    story.drop("SessionOpened", name="holder")
    assert "which nobody opened" in breaches(story.history(), "V24")[0]


def test_no_session_that_ended_leaves_v24_untested():
    assert verdict(held().history(), "V24") == "untested"


# ---- V25


def with_queue_pairs():
    """Holder (session 1) and peer have a queue pair each: 11 and 12."""
    story = held()
    story.other = story.session("other")
    for session, number in ((story.holder, 11), (story.other, 12)):
        story.effect(fx.MakeQp(100 + number, session, 1, 1, 1, 2, 1, 1, 1, 1, False))
        story.event(ev.Answered(100 + number, 0, {"qp_num": number}))
    story.effect(fx.Phase(9, "requested"))
    story.owed.clear()
    return story


def test_a_local_key_used_by_its_own_context_keeps_v25():
    story = with_queue_pairs()
    story.moved(story.key, 0, lkey=story.key, rkey=0, qp=11)
    assert verdict(story.history(), "V25") == "kept"


def test_a_local_key_used_by_another_context_breaks_v25():
    story = with_queue_pairs()
    story.moved(story.key, 0, lkey=story.key, rkey=0, qp=12)
    assert (
        "queue pair 12 of session 3 used local key 0x100 of session 1" in breaches(story.history(), "V25")[0]
    )


def test_a_notice_to_the_context_that_has_the_mr_keeps_v25():
    assert verdict(revoked().history(), "V25") == "kept"


def test_a_notice_that_goes_to_another_context_breaks_v25():
    story = held()
    other = story.session("opener")
    story.effect(fx.Notify(other, "MR_REVOKING", {"mr": story.key}))
    assert "went to session" in breaches(story.history(), "V25")[0]


def facts(story, *steps):
    for name, who in steps:
        story.line("shell", name, session=story.holder, who=who)
    story.ask(story.admin(), rq.FsLs())
    return story.history()


def test_a_context_that_was_passed_on_stays_the_owner_and_v25_is_kept():
    assert (
        verdict(facts(held(), ("Holds", "opener"), ("Holds", "heir"), ("LetsGo", "opener")), "V25") == "kept"
    )


def test_a_pin_whose_context_nobody_holds_breaks_v25():
    assert (
        "nobody holds the context"
        in breaches(facts(held(), ("Holds", "opener"), ("LetsGo", "opener")), "V25")[0]
    )


def test_a_context_taken_down_under_its_heir_breaks_v25():
    story = held()
    facts(story, ("Holds", "opener"), ("Holds", "heir"), ("LetsGo", "opener"))
    story.lost(story.holder)
    story.answer()
    assert "was taken down while heir held its context" in breaches(story.history(), "V25")[0]


def test_the_labs_own_facts_are_as_good_as_lines():
    story = held()
    story.ask(story.admin(), rq.FsLs())
    row = {
        "holds": [{"t": 1, "session": story.holder, "who": "opener"}],
        "letsgo": [{"t": 2, "session": story.holder, "who": "opener"}],
    }
    assert verdict(story.history(row=row), "V25") == "broken"


@pytest.mark.parametrize(("named", "seen"), [(1, "kept"), (2, "broken"), (None, "broken")])
def test_an_answer_that_names_owners_must_name_the_right_ones(named, seen):
    story = held()
    owners = [{"key": story.key, "session": named}] if named else []
    story.effect(fx.Reply(9, 99, {"ino": 1, "owners": owners}))
    assert verdict(story.history(), "V25") == seen


def test_nothing_known_of_uses_leaves_v25_untested():
    assert verdict(held().history(), "V25") == "untested"
