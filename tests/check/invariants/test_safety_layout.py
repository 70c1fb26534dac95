"""S2, S3, S6, S9 and S10 where blocks move, are copied, are shared, or fail: kept as it was, broken as soon as a row or a line is another."""

import pytest
from build import BLOCK, Story
from verdicts import breaches, verdict

from emu.core import requests as rq

KINDS = ("collapse", "insert", "zero", "migrate", "reflink", "cow-write", "poison", "umount")
SAFE = ("S2", "S3", "S6", "S9", "S10")


def told(protocol, kind):
    """A file, held by somebody who reads it, and taken in this way; a cow-write of a file with a clone."""
    story = Story(protocol)
    story.create("/mnt/a", 4)
    if kind == "cow-write":
        story.reclaim("reflink")
    story.register(story.session("holder"), "/mnt/a", 4, access=4)
    story.reclaim(kind)
    return story


def rows(story, book):
    """(line, change) of every row of this book that was committed."""
    return [
        (line, change)
        for line in story.lines
        if line["type"] == "Commit"
        for change in line["delta"]
        if change[0] == book and change[2]
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("protocol", ["none", "ebusy", "mr-revoke"])
def test_what_happened_breaks_nothing(protocol, kind):
    history = told(protocol, kind).history()
    kept = SAFE[1:] if protocol == "none" else SAFE  # it lets translations to what it frees live
    assert {name: breaches(history, name) for name in kept} == {name: [] for name in kept}
    assert verdict(history, "S6") == "kept"


@pytest.mark.parametrize("kind", ["collapse", "insert", "zero", "migrate", "cow-write"])
def test_a_success_whose_layout_is_as_before_breaks_s2(kind):
    story = told("mr-revoke", kind)
    files = [change for _line, change in rows(story, "files") if change[1] == 1]
    files[-1][2][3] = files[0][2][3]
    assert any("its change is not there" in sentence for sentence in breaches(story.history(), "S2"))


def test_a_clone_that_lacks_a_block_breaks_s2():
    story = told("mr-revoke", "reflink")
    (clone,) = [change for _line, change in rows(story, "files") if change[1] == 2]
    clone[2][3] = [[0, 0, 3, 1]]
    assert breaches(story.history(), "S2")


def test_a_mount_whose_files_are_reached_behind_its_umount_breaks_s2():
    story = told("mr-revoke", "umount")
    story.ask(story.admin(), rq.FsMount("/mnt", "pm0", dax=True, protocol="mr-revoke"))
    story.ask(story.admin(), rq.FsStat("/mnt/a"))
    assert not breaches(story.history(), "S2")
    (mounted,) = [line for line in story.lines if line.get("op", {}).get("type") == "FsMount"]
    mounted["op"] = {"type": "QueryBooks"}
    assert breaches(story.history(), "S2")


@pytest.mark.parametrize("kind", ["reflink", "cow-write"])
def test_blocks_that_other_files_have_without_a_word_break_s6(kind):
    story = told("mr-revoke", kind)
    last = [line for line in story.lines if line["type"] == "Share"][-1]
    story.drop("Share", n=last["n"])
    assert any("nobody says so" in sentence for sentence in breaches(story.history(), "S6"))


def test_a_word_about_blocks_that_nobody_else_has_breaks_s6():
    story = told("mr-revoke", "reflink")
    (line,) = [line for line in story.lines if line["type"] == "Share"]
    line["runs"] = [[0, 5 * BLOCK]]
    assert any("was said to" in sentence for sentence in breaches(story.history(), "S6"))


def test_two_files_with_one_block_and_no_family_break_s6():
    story = told("mr-revoke", "reflink")
    for _line, change in rows(story, "files"):
        change[2][7] = 0
    assert any("belongs to" in sentence for sentence in breaches(story.history(), "S6"))


def test_a_failed_block_that_is_given_away_breaks_s6():
    story = told("mr-revoke", "poison")
    (bad,) = [change for _line, change in rows(story, "bad")]
    story.create("/mnt/b", 2)
    (given,) = [line for line in story.lines if line["type"] == "Allocate"][-1:]
    bad[2][1] = given["runs"][0][0] // BLOCK
    assert any("its memory had failed" in sentence for sentence in breaches(story.history(), "S6"))


def test_a_clone_of_what_nobody_had_zeroed_breaks_s9():
    story = told("mr-revoke", "reflink")
    (clone,) = [change for _line, change in rows(story, "files") if change[1] == 2]
    clone[2][3] = [[0, 9, 4, 1]]
    assert any("without having been overwritten" in sentence for sentence in breaches(story.history(), "S9"))


def test_edges_of_a_zeroed_range_that_were_left_break_s9():
    story = Story("mr-revoke")
    story.create("/mnt/a", 4)
    story.reclaim("zero", offset=100, length=2 * BLOCK)
    assert not breaches(story.history(), "S9")
    next(line for line in story.lines if line["type"] == "Zero")["runs"] = []
    assert any("left the edges" in sentence for sentence in breaches(story.history(), "S9"))


@pytest.mark.parametrize("kind", ["reflink", "poison"])
def test_a_change_of_a_file_that_nobody_asked_for_breaks_s10(kind):
    story = told("mr-revoke", kind)
    change = rows(story, "files")[-1][1]
    change[2][0] = "/mnt/z"
    if kind == "poison":
        change[2][2] = 7
    assert breaches(story.history(), "S10")


@pytest.mark.parametrize("size", [0, 2 * BLOCK])
def test_a_cow_write_that_shortens_its_file_breaks_s2(size):
    story = told("mr-revoke", "cow-write")
    files = [change for _line, change in rows(story, "files") if change[1] == 1]
    files[-1][2][2] = size
    assert any("its change is not there" in sentence for sentence in breaches(story.history(), "S2"))


def test_a_cow_write_that_moves_what_nobody_wrote_to_breaks_s2():
    story = told("mr-revoke", "cow-write")
    before, after = [change for _line, change in rows(story, "files") if change[1] == 1][-2:]
    kept = {at: extent for extent in before[2][3] for at in range(extent[0], extent[0] + extent[2])}
    wrong = [
        [extent[0], extent[1] + (8 if extent[0] in kept and extent[0] else 0), *extent[2:]]
        for extent in after[2][3]
    ]
    after[2][3] = wrong
    assert breaches(story.history(), "S2")
