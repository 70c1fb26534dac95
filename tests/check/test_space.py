"""What a success owes in space: from the answer until the blocks can be allocated, and how many found none meanwhile."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "invariants"))

from build import BLOCK, Story

from emu.check.space import enospc_failures, owed, space_debt_byte_s, space_owed
from emu.core import requests as rq


def taken(protocol, pinned=4, **reclaim):
    """A file of four blocks, `pinned` of them under an MR; then a truncate to nothing."""
    story = Story(protocol)
    story.create("/mnt/a", 4)
    story.holder = story.session("holder")
    story.key = story.register(story.holder, "/mnt/a", pinned) if pinned else 0
    story.reclaim(reclaim.pop("kind", "truncate"), **reclaim)
    return story


@pytest.mark.parametrize("protocol", ["none", "mr-revoke"])
def test_what_is_freed_before_the_answer_is_not_owed(protocol):
    history = taken(protocol).history()
    assert len(owed(history)) == 4
    assert (space_debt_byte_s(history), space_owed(history)) == (0, 0)


def test_what_is_kept_under_a_pin_is_owed_until_it_is_released():
    story = taken("deferred-free", pinned=3)
    assert space_owed(story.history()) == 3 * BLOCK
    story.dereg(story.holder, story.key)
    history = story.history()
    told = next(line for line in history.of("Phase") if line["phase"] == "returned")
    freed = history.of("Release")[-1]
    assert space_owed(history) == 0
    assert space_debt_byte_s(history) == pytest.approx(3 * BLOCK * (freed["t"] - told["t"]) / 1e9)


def test_what_the_file_still_has_is_owed_to_the_end():
    story = taken("virtual-truncate", pinned=2)
    story.dereg(story.holder, story.key)
    history = story.history()
    told = next(line for line in history.of("Phase") if line["phase"] == "returned")
    assert space_owed(history) == 2 * BLOCK
    assert space_debt_byte_s(history) == pytest.approx(
        2 * BLOCK * (history.events[-1]["t"] - told["t"]) / 1e9
    )


def test_what_was_denied_was_not_promised():
    assert not owed(taken("ebusy").history())


def test_parts_of_blocks_were_not_promised():
    history = taken("none", kind="punch", offset=BLOCK // 2, length=2 * BLOCK).history()
    assert [one.block for one in owed(history)] == [1]


def test_a_hole_that_reaches_the_end_frees_the_last_block():
    history = taken("none", kind="punch", offset=2 * BLOCK, length=2 * BLOCK - 1).history()
    assert [one.block for one in owed(history)] == [2]
    history = taken("none", kind="punch", offset=2 * BLOCK, length=2 * BLOCK).history()
    assert [one.block for one in owed(history)] == [2, 3]


def test_a_restart_ends_the_debt():
    story = taken("deferred-free")
    story.restart()
    history = story.history()
    assert space_owed(history) == 0
    assert space_debt_byte_s(history) > 0


def test_a_device_that_goes_takes_its_debt_along():
    story = taken("deferred-free")
    story.reclaim("surprise", "pm0")
    assert space_owed(story.history()) == 0


def test_whoever_finds_no_space_behind_the_request_is_counted():
    story = Story("deferred-free")
    story.create("/mnt/a", 8)
    story.register(story.session("holder"), "/mnt/a", 8)
    story.ask(story.admin(), rq.FsCreate("/mnt/early", 9 * BLOCK))
    story.reclaim("truncate")
    for _try in range(2):
        story.ask(story.admin(), rq.FsCreate("/mnt/late", 9 * BLOCK))
    assert len(story.history().of("Fail")) == 3
    assert enospc_failures(story.history()) == 2


def test_at_a_time_between_answer_and_release_it_is_owed():
    story = taken("deferred-free", pinned=3)
    story.dereg(story.holder, story.key)
    history = story.history()
    told = next(line for line in history.of("Phase") if line["phase"] == "returned")
    freed = history.of("Release")[-1]
    owed_at = [
        space_owed(history, at) for at in (told["t"] - 1, told["t"] + 1, freed["t"] - 1, freed["t"] + 1)
    ]
    assert owed_at == [0, 3 * BLOCK, 3 * BLOCK, 0]


@pytest.mark.parametrize(
    ("kind", "target", "promised"),
    [
        ("migrate", "/mnt/a", 4),
        ("zero", "/mnt/a", 0),
        ("umount", "/mnt/a", 0),
        ("unplug", "pm0", 0),
        ("surprise", "pm0", 0),
    ],
)
def test_who_is_promised_space_goes_by_what_was_asked(kind, target, promised):
    story = Story("none")
    story.create("/mnt/a", 4)
    story.reclaim(kind, target, length=4 * BLOCK)
    assert len(owed(story.history())) == promised


@pytest.mark.parametrize(("kind", "spaces"), [("truncate", {1, 2}), ("memory-pressure", {2})])
def test_of_a_cached_file_its_pages_are_owed_too_and_by_pressure_nothing_else(kind, spaces):
    story = Story("deferred-free", cold=True)
    story.create("/mnt/a", 4)
    story.register(story.session("holder"), "/mnt/a", 3)
    story.reclaim(kind)
    history = story.history()
    assert {one.aperture for one in owed(history)} == spaces
    assert space_owed(history) == 3 * BLOCK
