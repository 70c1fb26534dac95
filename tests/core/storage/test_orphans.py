"""Blocks that outlive their file under a pin: counted, noted where a restart finds them, gone with the last pin; and truncates that are undone."""

from __future__ import annotations

import pytest

from emu.core import effects as fx
from emu.core import events as ev
from emu.core import requests as rq
from emu.core.machine import Core
from emu.protocols import registry

BLOCK = 4096
FREE, OWNED, KEPT = "free", "owned", "orphaned"


@pytest.fixture
def node(make_node):
    made = make_node("deferred-free")
    made.file()
    return made


@pytest.fixture
def pretender(make_node):
    made = make_node("virtual-truncate")
    made.file()
    return made


def restarted(core):
    """Another life, from what was durable."""
    again = Core(registry.load().protocols)
    again.load(core.durable())
    again.step(ev.DeviceAdded("pm0", 64))
    again.committed()
    return again


def counts(core, session=99):
    core.step(ev.SessionOpened(session, "who", door=False, wants=False))
    (reply,) = core.step(ev.Requested(session, 1, rq.QueryBooks()))
    return reply.result["devices"]["pm0"]


# ---- deferred-free


def test_what_is_pinned_is_kept_and_the_rest_is_free_at_once(node):
    node.mr(length=BLOCK, offset=2 * BLOCK)
    node.ask(rq.FsTruncate("/mnt/a", 0), 3)
    assert node.stat()["blocks"] == 0
    found = node.blocks()
    assert (found[FREE], found[OWNED], found["quarantined"], found[KEPT]) == (63, 0, 1, 1)


def test_each_pin_keeps_its_own_blocks_and_gives_them_up_with_its_end(node):
    first = node.mr(length=2 * BLOCK)
    second = node.mr(length=2 * BLOCK, offset=BLOCK)
    node.ask(rq.FsUnlink("/mnt/a"), 3)
    assert node.blocks()[KEPT] == 3
    node.ask(rq.DeregMr(first))
    assert node.blocks()[KEPT] == 2
    node.ask(rq.DeregMr(second))
    found = node.blocks()
    assert (found[KEPT], found[FREE]) == (0, 64)


def test_a_holder_who_ends_leaves_none(node):
    node.mr()
    node.ask(rq.FsUnlink("/mnt/a"), 3)
    node.lose(1)
    node.go()
    assert node.blocks()[FREE] == 64
    assert not len(node.books.orphans)


def test_there_is_no_space_meanwhile(node):
    key = node.mr()
    node.ask(rq.FsTruncate("/mnt/a", 0), 3)
    code, sentence = node.refused(rq.FsCreate("/mnt/b", 61 * BLOCK), 3)
    assert code == "ENOSPC"
    assert "4 more are kept for DMA under pins" in sentence
    node.ask(rq.DeregMr(key))
    node.ask(rq.FsCreate("/mnt/b", 61 * BLOCK), 3)


def test_the_record_is_committed_with_the_file_and_dropped_with_the_release(node):
    key = node.mr()
    node.core.committed()
    node.step(ev.Requested(3, 900, rq.FsTruncate("/mnt/a", BLOCK)), commit=False)
    assert {name for name, _key, row in node.core.delta() if row} == {"files", "orphans"}
    node.core.committed()
    node.send(rq.DeregMr(key))
    node.waiting, ready = [], node.waiting
    while ready:
        made = node.core.step(ready.pop(0))
        if any(isinstance(effect, fx.Release) for effect in made):
            assert [(name, row) for name, _key, row in node.core.delta()] == [("orphans", None)]
        node.core.committed()
        ready += [answer for effect in made if (answer := node.answer_to(effect))]


def test_a_restart_frees_them_and_forgets(node):
    node.mr(length=BLOCK, offset=BLOCK)
    node.ask(rq.FsTruncate("/mnt/a", 0), 3)
    assert len(node.books.orphans) == 1
    again = restarted(node.core)
    assert not len(again.books.orphans)
    found = counts(again)
    assert (found["total"], found[FREE], found[KEPT]) == (64, 64, 0)
    assert counts(restarted(again))[FREE] == 64


def test_a_new_namespace_has_none(node):
    node.mr()
    node.ask(rq.FsUnlink("/mnt/a"), 3)
    node.ask(rq.FsUnplug("pm0"), 3)
    node.ask(rq.FsPlug("pm0"), 3)
    assert not len(node.books.orphans)
    assert node.blocks()[FREE] == 64


def test_fs_ls_shows_them(node):
    node.mr(length=BLOCK)
    node.ask(rq.FsUnlink("/mnt/a"), 3)
    assert node.ask(rq.FsLs(), 3)["devices"][0][KEPT] == 1


# ---- virtual-truncate


def extents(node):
    return [(at // BLOCK, length // BLOCK) for at, _device, length, _since in node.stat()["extents"]]


def test_a_pinned_file_keeps_what_is_pinned_and_ends_behind_it(pretender):
    pretender.mr(length=BLOCK, offset=2 * BLOCK)
    pretender.ask(rq.FsTruncate("/mnt/a", BLOCK), 3)
    assert pretender.stat()["size"] == 3 * BLOCK
    assert extents(pretender) == [(0, 1), (2, 1)]
    assert pretender.blocks()[FREE] == 62


def test_a_file_that_nobody_pins_is_truncated(pretender):
    pretender.ask(rq.FsTruncate("/mnt/a", BLOCK), 3)
    assert (pretender.stat()["size"], extents(pretender)) == (BLOCK, [(0, 1)])


@pytest.mark.parametrize(
    ("size", "pin", "left"),
    [
        (100, 0, BLOCK),
        (3 * BLOCK + 100, 3, 3 * BLOCK + 500),
        (BLOCK + 100, 1, 2 * BLOCK),
        (0, 3, 3 * BLOCK + 500),
    ],
)
def test_no_file_is_longer_than_it_was_nor_shorter_than_its_pins(pretender, size, pin, left):
    pretender.ask(rq.FsTruncate("/mnt/a", 3 * BLOCK + 500), 3)
    pretender.mr(length=BLOCK if pin < 3 else 500, offset=pin * BLOCK)
    pretender.ask(rq.FsTruncate("/mnt/a", size), 3)
    assert pretender.stat()["size"] == left


def test_a_hole_that_has_failed_goes_with_what_nobody_pins(pretender):
    pretender.mr(length=BLOCK)
    pretender.ask(rq.FsPoison("/mnt/a", 2 * BLOCK), 3)
    pretender.ask(rq.FsPunch("/mnt/a", 0, 4 * BLOCK), 3)
    assert not pretender.ask(rq.FsRead("/mnt/a", 2 * BLOCK, BLOCK), 3)["data"].strip(b"\0")


def test_a_hole_spares_what_is_pinned(pretender):
    pretender.mr(length=BLOCK, offset=BLOCK)
    pretender.ask(rq.FsPunch("/mnt/a", 0, 4 * BLOCK), 3)
    assert extents(pretender) == [(1, 1)]
    assert pretender.blocks()[FREE] == 63


@pytest.mark.parametrize("pinned", [0, 2])
def test_edges_are_zeroed_where_nobody_pins(pretender, pinned):
    """Bytes 1000 to 9000: half of block 0, all of 1, the beginning of 2."""
    pretender.mr(length=BLOCK, offset=pinned * BLOCK)
    pretender.ask(rq.FsPunch("/mnt/a", 1000, 8000), 3)
    runs = [run for effect in pretender.of(fx.Zero) for run in effect.runs]
    wanted = {0: [(2 * BLOCK, 9000 - 2 * BLOCK)], 2: [(1000, BLOCK - 1000)]}[pinned]
    assert runs == wanted
    assert (0, 1) in extents(pretender)


def test_a_truncate_behind_another_finds_what_is_left(pretender):
    pretender.mr(length=BLOCK, offset=3 * BLOCK)
    pretender.ask(rq.FsTruncate("/mnt/a", 2 * BLOCK), 3)
    pretender.ask(rq.FsTruncate("/mnt/a", 0), 3)
    assert extents(pretender) == [(3, 1)]
    assert pretender.stat()["size"] == 4 * BLOCK


def test_an_unlinked_name_goes_and_pinned_blocks_are_orphans(pretender):
    key = pretender.mr(length=BLOCK)
    pretender.ask(rq.FsUnlink("/mnt/a"), 3)
    assert pretender.refused(rq.FsStat("/mnt/a"), 3)[0] == "ENOENT"
    assert pretender.blocks()[KEPT] == 1
    pretender.ask(rq.DeregMr(key))
    assert pretender.blocks()[FREE] == 64


def test_what_is_kept_under_the_pin_is_the_files_for_good(pretender):
    """The unpin changes nothing: the writer has extended the file."""
    key = pretender.mr(length=BLOCK, offset=3 * BLOCK)
    pretender.ask(rq.FsTruncate("/mnt/a", 0), 3)
    pretender.ask(rq.DeregMr(key))
    assert extents(pretender) == [(3, 1)]
