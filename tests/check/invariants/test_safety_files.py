"""S3, S6, S9 and S10: layouts, owners of blocks, zeros, and one order, replayed from the committed rows."""

import pytest
from build import BLOCK, Story, revoked
from test_safety_bytes import broken, judged, lab_row, pinned, untested

from emu.check.invariants import judge
from emu.core import effects as fx
from emu.core import requests as rq


def denied():
    story = pinned("ebusy")
    story.reclaim("truncate", size=BLOCK)
    return story


def files_line(story, ino=1):
    """The last Commit that wrote this file's row, and the row."""
    found = [
        (line, change)
        for line in story.lines
        if line["type"] == "Commit"
        for change in line["delta"]
        if change[:2] == ["files", ino]
    ]
    return found[-1]


def two_holes(protocol="none"):
    """The second hole waits for the first, whose edges take time: both change the file in front of their edges' zeros."""
    story = pinned(protocol)
    story.reclaim("punch", offset=100, length=2 * BLOCK, answers=False)
    story.reclaim("punch", offset=BLOCK + 200, length=2 * BLOCK, answers=False)
    story.answer()
    applied, begun = story.phase("applied"), story.phase("requested", reclaim=2)
    assert not [line for line in story.lines[applied["n"] : begun["n"]] if line["kind"] == "event"]
    return story


def test_each_of_two_holes_of_one_step_answers_for_its_own_blocks():
    found = [breach.sentence.split(" returned")[0] for breach in judged(two_holes(), "S2").breaches]
    assert found == ["reclaim 1 (punch of /mnt/a)", "reclaim 2 (punch of /mnt/a)"]


def test_a_second_hole_that_is_not_there_breaks_s2_though_the_first_is():
    story = two_holes()
    rows = [
        row
        for line in story.lines
        if line["type"] == "Commit"
        for book, _, row in line["delta"]
        if book == "files"
    ]
    rows[-1][3] = rows[-2][3]
    found = [breach.sentence for breach in judged(story, "S2").breaches]
    assert any("reclaim 2" in words and "its change is not there" in words for words in found)


# ---- S3


def test_a_refused_reclaim_that_changed_nothing_keeps_s3():
    assert judged(denied(), "S3").verdict == "kept"


def test_an_interrupted_one_too():
    story = pinned("mr-revoke")
    session = story.admin()
    request = story.reclaim("truncate", size=BLOCK, session=session, answers=False)
    story.ask(session, rq.Cancel(request))
    story.answer()
    assert judged(story, "S3").verdict == "kept"


def test_a_refused_reclaim_that_changed_the_layout_breaks_s3():
    story = denied()
    row = ["/mnt/a", "pm0", BLOCK, [[0, 0, 1, 1]], 2, 1, False]
    story.insert(story.phase("requested"), "commit", "Commit", changes=1, delta=[["files", 1, row]])
    assert (
        judged(story, "S3").breaches[0].sentence
        == "reclaim 1 (truncate of /mnt/a) failed with EBUSY, and changed the file"
    )


def test_a_refused_punch_that_zeroed_its_edges_breaks_s3():
    story = pinned("ebusy")
    story.reclaim("punch", offset=100, length=200)
    zero = fx.Zero(9, 1, ((100, 200),))
    story.insert(story.phase("returned"), "effect", "Zero", token=zero.token, aperture=1, runs=zero.runs)
    assert "S3" in broken(story)


def test_a_change_that_another_had_asked_for_meanwhile_is_no_breach():
    story = pinned("mr-revoke")
    session = story.admin()
    request = story.reclaim("truncate", size=BLOCK, session=session, answers=False)
    story.ask(story.holder, rq.FsTruncate("/mnt/a", 5 * BLOCK), answers=False)
    story.ask(session, rq.Cancel(request), answers=False)
    story.answer()
    assert broken(story) == set()


def test_a_lab_whose_file_is_not_as_before_breaks_s3():
    story = denied()
    before = {"size": BLOCK, "holes": [], "kept": []}
    story.row = lab_row(reclaim={"returned": True, "errno": "EBUSY"}, before=before)
    assert [b.sentence for b in judged(story, "S3").breaches] == [
        "the file has 16384 bytes and should have 4096"
    ]


def test_without_a_refusal_s3_is_untested():
    assert untested(revoked(), "S3") == "no reclaim was refused or interrupted"


# ---- S6


@pytest.mark.parametrize("kind", ["truncate", "punch", "unlink", "unplug", "surprise"])
def test_every_block_is_in_one_place(kind):
    assert judged(revoked(kind), "S6").verdict == "kept"


def test_a_block_of_two_files_breaks_s6():
    story = revoked()
    line, change = files_line(story, 2)
    change[2][3] = [[0, 0, 2, 1]]
    sentences = [breach.sentence for breach in judged(story, "S6", filemap={}).breaches]
    assert "block 0 belongs to /mnt/a and to /mnt/b" in sentences
    assert line["n"] in judged(story, "S6", filemap={}).breaches[0].lines


def test_a_block_that_is_given_away_twice_breaks_s6():
    story = revoked()
    story.effect(fx.Allocate(1, ((BLOCK, BLOCK),)))
    assert "block 1 was given away while it had an owner" in {
        b.sentence for b in judged(story, "S6").breaches
    }


def test_a_block_that_is_freed_twice_or_under_its_file_breaks_s6():
    story = revoked()
    story.effect(fx.Release(1, ((3 * BLOCK, BLOCK), (0, BLOCK))))
    sentences = {b.sentence for b in judged(story, "S6").breaches}
    assert {"block 3 was freed, and was free already", "block 0 was freed while a file had it"} <= sentences


def test_a_file_with_a_block_that_is_free_breaks_s6():
    story = revoked()
    story.drop("Allocate", n=story.lines[-3]["n"])
    assert "block 1 of /mnt/b is free" in {b.sentence for b in judged(story, "S6").breaches}


def test_blocks_that_nobody_has_and_nobody_frees_break_s6():
    story = revoked()
    story.drop("Release")
    story.drop("Allocate", runs=[[BLOCK, 2 * BLOCK]])
    story.ask(story.admin(), rq.FsStat("/mnt/a"))
    story.ask(story.admin(), rq.FsStat("/mnt/a"))
    assert "1 blocks are nobody's and not free, block 3 first" in {
        b.sentence for b in judged(story, "S6").breaches
    }


def test_a_file_map_that_says_otherwise_breaks_s6():
    story = revoked()
    filemap = story.filemap()
    filemap["files"][0]["extents"] = [[0, 9 * BLOCK, BLOCK, 1]]
    found = judged(story, "S6", filemap=filemap).breaches
    assert [b.sentence for b in found] == ["the file map and the committed rows do not agree about /mnt/a"]


def test_counts_that_do_not_add_up_break_s6():
    story = revoked()
    story.ask(story.admin(), rq.QueryBooks())
    assert judged(story, "S6").verdict == "kept"
    story.lines[-1]["result"]["devices"]["pm0"]["free"] += 1
    assert "do not add up" in judged(story, "S6").breaches[0].sentence


def test_without_a_device_s6_is_untested():
    assert judged(Story(mount=False), "S6", filemap={}).untested == "there was no device"


# ---- S9


def test_new_blocks_tails_and_edges_are_zeroed_first():
    story = Story("none")
    story.create("/mnt/a", 3)
    story.reclaim("punch", offset=100, length=BLOCK)
    story.reclaim("truncate", size=50)
    story.ask(story.admin(), rq.FsTruncate("/mnt/a", 2 * BLOCK))
    story.ask(story.admin(), rq.FsWrite("/mnt/a", BLOCK + 5, b"abc"))
    assert judged(story, "S9").verdict == "kept"
    assert broken(story) == set()


def test_a_block_that_comes_to_a_file_unwritten_breaks_s9():
    story = Story("none")
    story.create("/mnt/a", 3)
    story.drop("Allocate")
    assert "block 0 came to /mnt/a without having been overwritten" in {
        b.sentence for b in judged(story, "S9").breaches
    }


def test_a_tail_that_becomes_readable_as_it_was_breaks_s9():
    story = Story("none")
    story.create("/mnt/a", 1)
    story.reclaim("truncate", size=50)
    story.ask(story.admin(), rq.FsTruncate("/mnt/a", BLOCK))
    story.drop("Blank")
    assert [b.sentence for b in judged(story, "S9").breaches] == [
        "the tail of /mnt/a became readable without having been zeroed"
    ]


def test_a_hole_with_its_edges_as_they_were_breaks_s9():
    story = Story("none")
    story.create("/mnt/a", 3)
    story.reclaim("punch", offset=100, length=BLOCK)
    story.drop("Zero")
    assert "left the edges of its hole as they were" in judged(story, "S9").breaches[0].sentence


def test_an_edge_that_a_restart_forgot_breaks_s9():
    story = Story("none")
    story.create("/mnt/a", 3)
    story.reclaim("punch", offset=100, length=200, answers=False)
    story.restart()
    story.names.clear()
    story.session("late")
    assert "S9" not in broken(story)
    story.drop("Blank")
    assert "an edge that was to be zeroed before the restart was not" in {
        b.sentence for b in judged(story, "S9").breaches
    }


def test_bytes_that_a_lab_found_not_to_be_zero_break_s9():
    story = revoked()
    taken = {"path": "/mnt/b", "written": [], "unzeroed": 8}
    story.row = lab_row(taken=taken)
    assert "8 bytes of newly allocated blocks were not zero" in {
        b.sentence for b in judged(story, "S9").breaches
    }


def test_without_a_new_byte_s9_is_untested():
    assert untested(Story(), "S9") == "no file was created or grew"


@pytest.mark.parametrize("dirty", [True, False])
def test_bytes_in_a_file_that_nobody_wrote_break_s9(dirty):
    story = Story()
    story.create("/mnt/a", 2)
    story.create("/mnt/b", 1)
    if dirty:
        story.stamp(2, 128, ino=1)
    found = [b.sentence for b in judged(story, "S9").breaches]
    assert len(found) == dirty
    assert all("bytes of /mnt/b, which nobody wrote to, are not zero" in sentence for sentence in found)


def test_bytes_in_a_file_that_a_key_was_registered_for_are_somebodys():
    story = Story()
    holder = story.session("holder")
    story.create("/mnt/a", 2)
    story.register(holder, "/mnt/a", 2)
    story.stamp(0, 128)
    assert "S9" not in broken(story)


def test_bytes_that_the_cpu_stored_are_somebodys():
    story = Story()
    story.create("/mnt/a", 2)
    story.effect(fx.Store(0, 1, ((0, 128),), b"x" * 128))
    story.stamp(0, 128)
    assert "S9" not in broken(story)


# ---- S10


def test_two_reclaims_of_one_range_one_behind_the_other_keep_s10():
    story = pinned("mr-revoke")
    one = story.session("one", wants=False)
    story.reclaim("truncate", size=BLOCK, session=one, answers=False)
    story.reclaim("punch", offset=0, length=2 * BLOCK, answers=False)
    story.answer()
    assert judged(story, "S10").verdict == "kept"


def test_two_reclaims_of_one_range_at_once_break_s10():
    story = pinned("mr-revoke")
    story.reclaim("truncate", size=BLOCK, answers=False)
    story.reclaim("punch", offset=0, length=4 * BLOCK, answers=False)
    story.answer()
    story.move(story.phase("requested", reclaim=2), before=story.phase("gated", reclaim=1))
    assert "ran at once" in judged(story, "S10").breaches[0].sentence


def test_a_registration_fills_holes_and_that_was_asked_for():
    story = pinned("mr-revoke")
    story.reclaim("punch", offset=BLOCK, length=BLOCK)
    assert story.register(story.holder, "/mnt/a", 4)
    assert broken(story) == set()


def test_a_change_that_nobody_asked_for_breaks_s10():
    story = revoked()
    story.ask(story.admin(), rq.FsStat("/mnt/a"))
    row = ["/mnt/a", "pm0", 17, [[0, 0, 1, 1]], 9, 1, False]
    story.insert(story.lines[-1], "commit", "Commit", changes=1, delta=[["files", 1, row]])
    assert "/mnt/a changed, and nobody had asked for that" in {
        b.sentence for b in judged(story, "S10").breaches
    }


def test_an_answer_that_is_not_what_was_committed_breaks_s10():
    story = revoked()
    story.ask(story.admin(), rq.FsStat("/mnt/a"))
    assert judged(story, "S10").verdict == "kept"
    story.lines[-1]["result"]["size"] += 1
    assert "was said to have 4097 bytes" in judged(story, "S10").breaches[0].sentence


def test_a_second_file_whose_bytes_vanished_breaks_s10():
    story = revoked()
    taken = {"path": "/mnt/b", "written": [[0, BLOCK]], "unzeroed": 0}
    story.row = lab_row(taken=taken)
    assert "4096 bytes that were written once to /mnt/b are not there" in {
        b.sentence for b in judged(story, "S10").breaches
    }
    story.stamp(1, ino=2)
    assert judged(story, "S10").verdict == "kept"


def test_without_a_change_s10_is_untested():
    assert untested(Story(), "S10") == "no file was changed"


# ---- all


def test_behind_a_gap_nothing_is_said_to_be_kept():
    story = revoked()
    events = [line for line in story.history().events if line["n"] != 9]
    events.insert(9, {"n": 9, "kind": "gap", "first": 9, "last": 9})
    found = judge(story.history(events=events))
    assert not [judgement for judgement in found if judgement.verdict in {"kept", "breach", "cost"}]


def test_what_the_core_found_is_a_breach_whatever_was_promised():
    story = revoked()
    story.insert(
        story.phase("ended"),
        "effect",
        "Phase",
        reclaim=1,
        phase="broken",
        keys=[],
        inflight=0,
        detail={"rule": "total"},
    )
    found = judge(story.history())[-1]
    assert (found.name, found.verdict) == ("contract:total", "breach")
