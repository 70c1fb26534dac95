"""S1, S2 and S4: each kept by a story in which all is well, and broken by one change of it."""

import pytest
from build import BLOCK, READ, Story, revoked

from emu.check.invariants import judge
from emu.core import requests as rq
from emu.history.oplog import Kind

KINDS = ("truncate", "punch", "unlink", "unplug", "surprise")


def judged(story, name, **parts):
    return next(judgement for judgement in judge(story.history(**parts)) if judgement.name == name)


def broken(story, **parts):
    """Names of S that do not hold."""
    return {j.name for j in judge(story.history(**parts)) if j.breaches and j.name.startswith("S")}


def untested(story, name):
    return judged(story, name).untested


def pinned(protocol="none", blocks=4):
    """A holder with an MR over /mnt/a, and nothing else yet."""
    story = Story(protocol)
    story.holder = story.session("holder")
    story.create("/mnt/a", blocks)
    story.key = story.register(story.holder, "/mnt/a", blocks)
    return story


@pytest.mark.parametrize("kind", KINDS)
def test_a_revoke_that_went_well_breaks_nothing(kind):
    story = revoked(kind)
    assert broken(story) == set()
    for name in ("S1", "S2", "S4"):
        assert judged(story, name).verdict == "kept"


def test_several_reclaims_of_several_files_in_two_lives_of_the_broker_break_nothing():
    story = revoked()
    story.reclaim("punch", "/mnt/b", offset=100, length=5000)
    story.restart()
    story.sessions = 0
    story.names.clear()
    holder = story.session("holder")
    story.create("/mnt/c", 3)
    key = story.register(holder, "/mnt/c", 3)
    story.moved(key, 1)
    story.reclaim("truncate", "/mnt/c", size=10)
    story.ask(story.admin(), rq.FsTruncate("/mnt/c", 2 * BLOCK))
    story.reclaim("unlink", "/mnt/b")
    assert broken(story) == set()


# ---- S1


def test_a_quantum_in_a_block_that_another_file_has_breaks_s1_and_names_who_got_it():
    story = pinned()
    story.reclaim("truncate", size=BLOCK)
    story.create("/mnt/b", 3)
    story.moved(story.key, 2)
    found = judged(story, "S1").breaches
    assert [breach.sentence for breach in found] == [
        "the engine moved 4096 bytes under key 0x100 in memory that had been freed, or changed hands"
    ]
    types = {story.lines[n]["type"] for n in found[0].lines}
    assert {"InstallKey", "Phase", "Allocate"} == types
    assert found[0].records == ((0, 0),)


def test_a_read_of_anothers_block_breaks_s1():
    story = pinned()
    story.reclaim("truncate", size=BLOCK)
    story.create("/mnt/b", 3)
    story.moved(story.key, 2, opcode=READ)
    assert "S1" in broken(story)


def test_the_same_file_grown_again_is_another_owner():
    story = pinned()
    story.reclaim("truncate", size=BLOCK)
    story.ask(story.admin(), rq.FsWrite("/mnt/a", BLOCK, b"x" * BLOCK))
    story.moved(story.key, 3)
    story.moved(story.key, 1)
    assert "S1" in broken(story)


def test_generations_that_differ_by_two_break_s1_whatever_the_flags_say():
    story = pinned()
    story.moved(story.key, 1, flags=0, gen_translated=2, gen_first=2, gen_last=4)
    assert broken(story) == {"S1"}


def test_a_sum_tells_no_generations_of_its_members():
    story = pinned()
    story.moved(story.key, 1, kind=Kind.SUM, quanta=2, gen_translated=2, gen_first=2, gen_last=4)
    assert broken(story) == set()


def test_a_block_that_is_merely_free_has_another_generation_too():
    story = pinned()
    story.reclaim("truncate", size=BLOCK)
    story.moved(story.key, 2)
    assert len(judged(story, "S1").breaches) == 1


def test_a_cell_of_another_file_in_the_memory_breaks_s1_without_any_log():
    story = revoked()
    story.stamp(1, 128, ino=1, offset=BLOCK)
    assert judged(story, "S1").breaches[0].sentence == (
        "128 stamped bytes lie in memory that had changed hands (/mnt/b)"
    )


def test_cells_that_a_reader_saw_of_others_break_s1():
    story = revoked()
    story.row = lab_row(leaked={"0": ""})
    assert [b.sentence for b in judged(story, "S1").breaches] == ["64 bytes of somebody else's were read"]


def test_without_a_byte_moved_s1_is_untested():
    assert untested(pinned(), "S1") == "the engine moved no byte"


def lab_row(**changes):
    """What a lab writes beside a history."""
    return {
        "event": "truncate", "backing": "dax", "holder": "deaf", "dma": True, "pinned": True, "refused": None,
        "victim": {"path": "/mnt/a"}, "before": {"size": 4 * BLOCK, "holes": [], "kept": []},
        "expected": {"size": BLOCK, "holes": [], "kept": []}, "reclaim": {"returned": True, "errno": None}, "leaked": {},
        "recovery_qps": [], "taken": None, "bystander": {"qps": [], "mr_lost": False}, "drained": ["peer"], "killed": [],
        "blocks": {}, **changes,
    }  # fmt: skip


# ---- S2


def test_success_with_a_translation_that_reaches_what_was_freed_breaks_s2():
    story = pinned()
    story.reclaim("truncate", size=BLOCK)
    found = judged(story, "S2").breaches
    assert "key 0x100 translated to 3 blocks" in found[0].sentence
    assert story.find("InstallKey")["n"] in found[0].lines


def test_a_device_that_is_gone_under_a_mapped_key_breaks_s2():
    story = pinned("ebusy")
    story.reclaim("surprise", "pm0")
    assert broken(story) == {"S2"}


def test_bytes_in_freed_blocks_by_operations_that_began_behind_the_answer_break_s2():
    story = revoked()
    story.moved(story.key, 3)
    sentences = [breach.sentence for breach in judged(story, "S2").breaches]
    assert sentences == [
        "4096 bytes moved in freed or absent memory after reclaim 1 (truncate of /mnt/a) had returned success"
    ]


def test_bytes_that_began_before_it_do_not():
    story = revoked()
    began = story.phase("requested")["epoch"]
    story.moved(story.key, 3, op_epoch=began - 1, first=began, last=began)
    assert judged(story, "S2").verdict == "kept"


@pytest.mark.parametrize("kind", ["truncate", "punch", "unlink", "unplug"])
def test_success_without_the_change_breaks_s2(kind):
    story = revoked(kind)
    first, last = story.phase("requested")["n"], story.phase("returned")["n"]
    story._renumber(
        [line for line in story.lines if line["type"] != "Commit" or not first < line["n"] < last]
    )
    assert "S2" in {j.name for j in judge(story.history()) if j.breaches}


def test_a_restart_that_lost_what_was_committed_breaks_s2():
    story = revoked()
    story.restart()
    loaded = [line for line in story.lines if line["type"] == "Loaded"][-1]
    loaded["delta"] = [change for change in loaded["delta"] if change[0] != "files" or change[1] != 2]
    assert "file 2 is not as it was committed before the restart" in {
        breach.sentence for breach in judged(story, "S2").breaches
    }


def test_a_file_that_is_not_as_a_lab_expects_breaks_s2():
    story = revoked()
    story.row = lab_row(expected={"size": 17, "holes": [], "kept": []})
    assert [b.sentence for b in judged(story, "S2").breaches] == [
        "the file has 4096 bytes and should have 17"
    ]


def test_without_a_success_s2_is_untested():
    story = pinned("ebusy")
    story.reclaim("truncate", size=BLOCK)
    assert untested(story, "S2") == "no reclaim succeeded"


# ---- S4


def late_success(story, block, wr_id):
    story.posted("peer", wr_id, story.key)
    story.moved(story.key, block)
    story.polled("peer", wr_id)


def test_a_success_into_freed_memory_breaks_s4():
    story = pinned()
    story.reclaim("truncate", size=BLOCK)
    late_success(story, 2, 1)
    assert "4096 bytes were acknowledged behind reclaim 1" in judged(story, "S4").breaches[0].sentence


def test_a_success_whose_last_quantum_ran_behind_the_detachment_is_lost_even_before_the_answer():
    story = pinned()
    story.reclaim("truncate", size=BLOCK)
    freed = story.find("Release")["epoch"]
    story.posted("peer", 1, story.key)
    story.moved(story.key, 2, op_epoch=freed - 2, first=freed, last=freed)
    story.polled("peer", 1)
    assert "S4" in broken(story)


def half_freed(last_epoch):
    """A quantum into a block that a truncate takes: it begins before, and ends in the epoch of this phase."""
    story = Story("none")
    holder = story.session("holder")
    story.create("/mnt/a", 2)
    key = story.register(holder, "/mnt/a", 2)
    began = story.epoch
    story.posted("peer", 1, key)
    story.reclaim("truncate", size=BLOCK)
    last = began if last_epoch == "before" else story.phase(last_epoch)["epoch"]
    story.moved(key, 1, op=1, op_epoch=began, first=began, last=last, gen_first=2, gen_last=2, flags=0)
    story.polled("peer", 1)
    return story


def test_a_write_whose_last_quantum_ends_behind_the_detachment_is_lost_before_its_block_is_freed():
    assert "4096 bytes were acknowledged behind" in judged(half_freed("applied"), "S4").breaches[0].sentence
    assert judged(half_freed("before"), "S4").verdict == "kept"


def test_a_write_that_failed_or_was_never_answered_is_not_lost():
    story = pinned()
    story.reclaim("truncate", size=BLOCK)
    story.posted("peer", 1, story.key)
    story.moved(story.key, 2)
    story.polled("peer", 1, status=10)
    assert "S4" not in broken(story)


def test_a_write_that_is_not_in_the_memory_breaks_s4():
    story = pinned("mr-revoke")
    story.posted("peer", 1, story.key, ino=1, offset=BLOCK)
    story.moved(story.key, 1)
    story.polled("peer", 1)
    assert broken(story) == {"S4"}
    story.stamp(1, ino=1, offset=BLOCK)
    assert broken(story) == set()


def test_without_a_journal_s4_is_untested():
    story = pinned()
    story.moved(story.key, 1)
    assert untested(story, "S4") == "no client saw a request succeed, or none kept a journal"
