"""Retarget: which pages lead where afterwards, and who works on."""

from __future__ import annotations

import errno

import pytest

from emu.core import effects as fx
from emu.core import events as ev
from emu.core import requests as rq
from emu.core.decision import END, START
from emu.protocols import registry, retarget
from emu.protocols.contract import Protocol, go, reply
from emu.protocols.contract import retarget as switch

BLOCK = 4096
SCRATCH = 64 * BLOCK  # behind the last block of the node's device
PROTOCOLS = {**registry.load().protocols, "retarget": retarget.PROTOCOL}


@pytest.fixture
def node(make_node):
    return make_node("retarget", protocols=PROTOCOLS)


def remaps(node):
    return node.of(fx.Remap)


def test_the_pages_of_the_range_lead_to_the_scratch_page_and_the_mr_lives(node):
    node.file()
    key = node.mr()
    node.ask(rq.FsPunch("/mnt/a", BLOCK, 2 * BLOCK), 3)
    (remap,) = remaps(node)
    assert remap.extents == ((0, BLOCK), (SCRATCH, BLOCK), (SCRATCH, BLOCK), (3 * BLOCK, BLOCK))
    row = node.books.mrs[key]
    assert (row.state, row.revoked, row.runs) == ("live", False, remap.extents)
    assert not node.of(fx.Unmap)
    assert not node.of(fx.Notify)
    assert [node.blocks()[name] for name in ("free", "owned", "quarantined")] == [62, 2, 0]
    node.ask(rq.DeregMr(key))
    assert node.blocks()["free"] == 62


def test_it_is_switched_before_anything_is_freed(node):
    node.file()
    node.mr()
    node.ask(rq.FsTruncate("/mnt/a", 0), 3)
    phases = node.phases()
    assert phases[-6:] == ["retargeting", "retargeted", "applied", "freed", "returned", "ended"]
    names = [type(effect).__name__ for effect in node.effects]
    assert names.index("Quiesce") < names.index("Remap") < names.index("Release")


def test_a_second_reclaim_switches_what_is_left(node):
    node.file()
    key = node.mr()
    node.ask(rq.FsPunch("/mnt/a", 0, BLOCK), 3)
    node.ask(rq.FsTruncate("/mnt/a", 2 * BLOCK), 3)
    runs = node.books.mrs[key].runs
    assert runs == ((SCRATCH, BLOCK), (BLOCK, BLOCK), (SCRATCH, BLOCK), (SCRATCH, BLOCK))
    node.ask(rq.FsUnlink("/mnt/a"), 3)
    assert {at for at, _size in node.books.mrs[key].runs} == {SCRATCH}
    assert node.blocks()["free"] == 64


def test_a_block_that_the_file_keeps_in_part_stays_the_files(node):
    node.file()
    key = node.mr(length=2 * BLOCK + 100)
    node.ask(rq.FsTruncate("/mnt/a", BLOCK + 5), 3)
    assert node.books.mrs[key].runs == ((0, 2 * BLOCK), (SCRATCH, 100))
    assert node.stat()["pins"] == 1


def test_the_last_block_goes_whole_where_a_punch_reaches_the_end_of_the_file(node):
    """Of it nothing stays behind the hole: it is freed, so it has to be switched."""
    node.file()
    key = node.mr()
    node.ask(rq.FsTruncate("/mnt/a", 2 * BLOCK + 2048), 3)
    node.ask(rq.FsPunch("/mnt/a", BLOCK + 2048, BLOCK), 3)
    runs = node.books.mrs[key].runs
    assert runs == ((0, 2 * BLOCK), (SCRATCH, BLOCK), (SCRATCH, BLOCK))
    assert [node.blocks()[name] for name in ("free", "owned", "quarantined")] == [62, 2, 0]


def test_a_punch_that_ends_inside_of_the_file_leaves_the_block_of_its_end(node):
    node.file()
    key = node.mr()
    node.ask(rq.FsPunch("/mnt/a", BLOCK + 2048, BLOCK), 3)
    assert node.books.mrs[key].runs == ((0, 4 * BLOCK),)


@pytest.mark.parametrize("surprise", [False, True])
def test_when_the_device_goes_the_whole_mr_goes_to_a_page_of_the_nodes_own(node, surprise):
    node.file(blocks=2)
    key = node.mr(length=2 * BLOCK)
    node.ask(rq.FsUnplug("pm0", surprise=surprise), 3)
    (opened,) = node.of(fx.OpenScratch)
    (remap,) = remaps(node)
    assert (remap.aperture, remap.extents) == (opened.aperture, ((0, BLOCK), (0, BLOCK)))
    node.ask(rq.FsPlug("pm0"), 3)
    assert node.books.mrs[key].aperture == opened.aperture
    node.ask(rq.FsUnplug("pm0"), 3)
    assert len(remaps(node)) == 1, "nothing of it is on the device any more"
    node.ask(rq.DeregMr(key))


def test_what_the_engine_has_no_room_for_is_asked_for_again(node):
    node.file()
    first, second = node.mr(), node.mr(offset=BLOCK, length=BLOCK)
    request = node.send(rq.FsTruncate("/mnt/a", BLOCK), 3)
    node.go(ev.Quiesced)
    one, two = node.waiting
    node.waiting.clear()
    assert node.step(ev.Answered(one.token, errno.ENOMEM)) == ()
    (armed,) = [e for e in node.step(two) if isinstance(e, fx.Arm)]
    assert node.answer(request) is None
    made = node.step(ev.TimerFired(armed.timer))
    assert [e.key for e in made if isinstance(e, fx.Remap)] == [first]
    node.go()
    assert isinstance(node.answer(request), fx.Reply)
    assert not node.books.mrs[second].revoked


def test_an_interruption_before_the_switch_leaves_what_was_quiesced_revoked(node):
    node.file()
    key = node.mr()
    request = node.send(rq.FsTruncate("/mnt/a", 0), 3)
    node.ask(rq.Cancel(request), 3)
    assert node.answer(request).errno == errno.EINTR
    node.go()
    assert node.books.mrs[key].revoked
    assert not remaps(node)


def test_an_interruption_during_the_switch_is_too_late(node):
    node.file()
    node.mr()
    request = node.send(rq.FsTruncate("/mnt/a", 0), 3)
    node.go(ev.Quiesced)
    node.send(rq.Cancel(request), 3)
    node.go()
    assert isinstance(node.answer(request), fx.Reply)
    assert node.stat()["size"] == 0


def test_a_registration_that_is_under_way_is_switched_and_fails(node):
    node.file()
    request = node.send(rq.RegMr(node.pd(), 4 * BLOCK, 7, 0, "dax", "/mnt/a"))
    other = node.send(rq.FsTruncate("/mnt/a", 0), 3)
    node.go(ev.Quiesced, ev.Answered)
    assert isinstance(node.answer(other), fx.Reply)
    node.go()
    assert node.answer(request).errno == errno.EBUSY
    assert not len(node.books.mrs)


def test_who_switches_what_was_not_quiesced_breaks_a_rule(make_node):
    table = {
        (START, "requested"): go(switch(), to="switching"),
        (START, "surprise"): go(reply(), to=END),
        ("switching", "retargeted"): go(reply(), to=END),
    }
    own = Protocol(
        "own",
        "a test's",
        "a test",
        table,
        ignored={"*": ("acknowledged", "unpinned", "holder_lost", "cancelled")},
    )
    node = make_node("own", protocols={**PROTOCOLS, "own": own})
    node.file()
    node.mr()
    why, sentence = node.refused(rq.FsTruncate("/mnt/a", 0), 3)
    assert why == "EPROTO"
    assert "unmap-after-quiesce" in sentence
