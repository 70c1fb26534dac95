"""S5, S7 and S8: completions, ends, and bystanders."""

import pytest
from build import BLOCK, Story, revoked
from test_safety_bytes import broken, judged, lab_row, pinned, untested

from emu.core import effects as fx
from emu.core import events as ev
from emu.core import requests as rq
from emu.history.journal import Kind

# ---- S5


def queue(*happenings):
    """A peer's journal: ("posted", wr_id) and ("polled", wr_id) in this order."""
    story = Story()
    story.session("peer")
    for what, wr_id in happenings:
        getattr(story, what)("peer", wr_id)
    return story


def test_each_request_that_completes_once_and_in_order_keeps_s5():
    assert judged(queue(("posted", 1), ("posted", 2), ("polled", 1), ("polled", 2)), "S5").verdict == "kept"


@pytest.mark.parametrize(
    "happenings",
    [
        [("posted", 1), ("polled", 1), ("polled", 1)],
        [("posted", 1), ("posted", 2), ("polled", 2), ("polled", 1)],
        [("posted", 1), ("polled", 7)],
    ],
)
def test_twice_out_of_order_and_never_posted_break_s5(happenings):
    story = queue(*happenings)
    assert broken(story) == {"S5"}
    assert "queue pair 11 of peer" in judged(story, "S5").breaches[0].sentence


def test_a_request_that_never_completed_breaks_s5_only_where_the_lab_waited_for_it():
    story = queue(("posted", 1), ("posted", 2), ("polled", 1))
    assert broken(story) == set()
    story.row = lab_row(reclaim={"returned": False, "errno": None})
    assert "request 2 never completed" in judged(story, "S5").breaches[0].sentence


def test_an_unsignaled_request_owes_no_completion():
    story = queue()
    story.note("peer", Kind.POSTED, wr_id=1, qp_num=11, code=1)
    story.posted("peer", 2)
    story.polled("peer", 2)
    assert judged(story, "S5").verdict == "kept"


def test_what_was_posted_before_a_reset_may_be_gone():
    story = queue(("posted", 1), ("posted", 2))
    story.effect(fx.SetQp(1, 11, 1, {"state": 0}))
    story.posted("peer", 3)
    story.polled("peer", 3)
    assert judged(story, "S5").verdict == "kept"


def test_without_a_journal_s5_is_untested():
    assert untested(pinned(), "S5") == "no client kept a journal of what it posted"


# ---- S7


def test_reclaims_that_returned_keep_s7():
    assert judged(revoked(), "S7").verdict == "kept"


def test_a_reclaim_that_waits_for_an_answer_is_not_judged():
    story = pinned("mr-revoke")
    story.reclaim("truncate", size=BLOCK, answers=False)
    assert untested(story, "S7") == "the history ends while a reclaim waits for the answer to Quiesce 1"


def test_a_reclaim_for_which_nothing_is_outstanding_breaks_s7():
    story = pinned("mr-revoke")
    story.reclaim("truncate", size=BLOCK, answers=False)
    story.event(ev.Quiesced(1))
    found = judged(story, "S7").breaches
    assert "did not return, and nothing is left that could advance it" in found[0].sentence
    assert story.phase("requested")["n"] in found[0].lines


def test_a_timer_can_still_advance_it():
    story = pinned("mr-revoke")
    story.reclaim("truncate", size=BLOCK, answers=False)
    story.event(ev.Quiesced(1))
    story.effect(fx.Arm(5, 0.1))
    assert untested(story, "S7") == "the history ends while a reclaim waits for timer 5"
    story.event(ev.TimerFired(5))
    assert broken(story) == {"S7"}


def test_a_reclaim_that_waits_behind_another_that_hangs_breaks_s7_too():
    story = pinned("mr-revoke")
    story.reclaim("truncate", size=BLOCK, answers=False)
    story.reclaim("unlink", answers=False)
    story.event(ev.Quiesced(1))
    assert {b.sentence.split(",")[0] for b in judged(story, "S7").breaches} == {
        "reclaim 1 (truncate of /mnt/a) did not return",
        "a unlink was never answered",
    }


def test_an_answer_whose_commit_failed_comes_again_and_can_still_advance_it():
    story = pinned("mr-revoke")
    story.reclaim("truncate", size=BLOCK, answers=False)
    story.event(ev.Quiesced(1))
    story.line("shell", "Undone", event="Quiesced", errno=28, error="no space left on device")
    assert untested(story, "S7") == "the history ends while a reclaim waits for the answer to Quiesce 1"
    story.event(ev.Quiesced(1))
    assert broken(story) == {"S7"}


def test_a_step_that_a_defect_ended_does_not_come_again():
    story = pinned("mr-revoke")
    story.reclaim("truncate", size=BLOCK, answers=False)
    story.event(ev.Quiesced(1))
    story.line("shell", "Defect", event="Quiesced", error="KeyError: 7")
    assert broken(story) == {"S7"}


def test_what_is_owed_to_another_reclaim_advances_nobody_else():
    story = two_files()
    story.reclaim("truncate", size=BLOCK, answers=False)
    story.event(ev.Quiesced(1))
    story.reclaim("truncate", "/mnt/other", answers=False)
    assert [breach.sentence.split(",")[0] for breach in judged(story, "S7").breaches] == [
        "reclaim 1 (truncate of /mnt/a) did not return"
    ]


def test_a_crash_ends_what_was_under_way():
    story = pinned("mr-revoke")
    story.reclaim("truncate", size=BLOCK, answers=False)
    story.restart()
    assert broken(story) == set()


def test_without_a_reclaim_s7_is_untested():
    assert untested(pinned(), "S7") == "nobody reclaimed anything"


# ---- S8


def two_files(protocol="mr-revoke"):
    story = pinned(protocol)
    story.create("/mnt/other", 2)
    story.other = story.register(story.session("bystander"), "/mnt/other", 2)
    return story


def test_a_key_of_another_file_that_goes_on_keeps_s8():
    story = two_files()
    story.reclaim("truncate", size=BLOCK)
    assert judged(story, "S8").verdict == "kept"


def test_a_key_of_another_file_that_is_stopped_breaks_s8():
    story = two_files()
    story.reclaim("truncate", size=BLOCK)
    quiesce = story.find("Quiesce")
    quiesce["keys"] = [*quiesce["keys"], story.other]
    found = judged(story, "S8").breaches
    assert f"stopped key {story.other:#x}, which has nothing in the range" in found[0].sentence


def test_it_is_excused_where_the_whole_device_is_what_is_declared_to_be_lost():
    story = two_files()
    story.reclaim("truncate", size=BLOCK)
    quiesce = story.find("Quiesce")
    quiesce["keys"] = [*quiesce["keys"], story.other]
    meta = story.meta()
    meta["declared"]["loss"] = "device"
    assert not judged(story, "S8", meta=meta).breaches


def test_a_lost_context_excuses_its_own_keys_and_nobody_elses():
    story = two_files()
    story.create("/mnt/third", 1)
    mine = story.register(story.holder, "/mnt/third", 1)
    story.reclaim("truncate", size=BLOCK)
    quiesce = story.find("Quiesce")
    meta = story.meta()
    meta["declared"]["loss"] = "context"
    quiesce["keys"] = [story.key, mine]
    assert not judged(story, "S8", meta=meta).breaches
    quiesce["keys"] = [story.key, story.other]
    assert judged(story, "S8", meta=meta).breaches


def test_a_dereg_beside_a_reclaim_hurts_nobody():
    story = two_files()
    story.dereg(2, story.other)
    story.reclaim("truncate", size=BLOCK)
    assert not judged(story, "S8").breaches


def test_errors_of_a_labs_bystander_break_s8():
    story = revoked()
    story.polled("peer", 99, status=10, qp=77)
    story.row = lab_row(bystander={"qps": [77], "mr_lost": True}, drained=[])
    assert [b.sentence for b in judged(story, "S8").breaches] == ["2 objects outside the range were hurt"]


def test_with_nobody_outside_s8_is_untested():
    assert untested(revoked(), "S8") == "nobody had anything outside the ranges that were reclaimed"


def test_a_story_helper_that_asks_nothing_promises_nothing():
    story = Story()
    assert story.ask(story.admin(), rq.QueryBooks()) == 1


def test_a_bystander_of_the_holders_goes_with_a_context_that_is_the_unit_of_loss():
    story = Story()
    story.row = lab_row(bystander={"qps": [11], "mr_lost": True})
    for loss, verdict in (("mr", "cost"), ("context", "kept"), ("process", "kept")):
        meta = story.meta()
        meta["declared"]["loss"] = loss
        history = story.history(meta=meta)
        assert history.blind.blind.meta == history.blind.meta, "a second blindfold takes nothing away"
        assert judged(story, "S8", meta=meta).verdict == verdict, loss


def test_what_was_posted_to_a_queue_pair_of_a_destroyed_context_completes_no_more():
    story = queue(("posted", 1), ("posted", 2), ("polled", 1))
    story.row = lab_row(drained=["peer"])
    assert "request 2 never completed" in judged(story, "S5").breaches[0].sentence
    story.line("effect", "Reply", session=1, request=90, result={"handle": 5, "qp_num": 11}, descriptors=0)
    story.line("effect", "Notify", session=1, name="DEVICE_FATAL", fields={"destroyed": True})
    story.line("effect", "EndQp", token=3, qp_num=11)
    assert not judged(story, "S5").breaches
