"""Retarget: which pages lead where afterwards, and who works on."""

from __future__ import annotations

import errno

import pytest

from emu.core import effects as fx
from emu.core import events as ev
from emu.core import requests as rq
from emu.core.decision import END, START
from emu.protocols import registry, retarget
from emu.protocols.contract import Protocol, apply, deny, free, gate, go, quiesce, reply
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
    assert names.index("Invalidate") < names.index("Remap") < names.index("Release")


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


def test_what_waits_for_the_switch_is_parked_and_not_revoked(node):
    node.file()
    key = node.mr()
    node.send(rq.FsTruncate("/mnt/a", 0), 3)
    (parked,) = node.of(fx.Invalidate)
    assert (parked.keys, parked.others) == ((key,), True)
    assert not node.of(fx.Quiesce)
    assert (node.books.mrs[key].state, node.books.mrs[key].revoked) == ("parked", False)
    node.go()
    assert node.books.mrs[key].state == "live"


def interrupted(node):
    """A key that a reclaim had parked, and that is to go on where it led."""
    node.file()
    key = node.mr()
    request = node.send(rq.FsTruncate("/mnt/a", 0), 3)
    node.ask(rq.Cancel(request), 3)
    assert node.answer(request).errno == errno.EINTR
    return key


def test_an_interruption_before_the_switch_lets_the_keys_go_on_where_they_led(node):
    key = interrupted(node)
    node.go()
    (remap,) = remaps(node)
    assert (remap.key, remap.extents) == (key, ((0, 4 * BLOCK),))
    row = node.books.mrs[key]
    assert (row.state, row.revoked, row.runs) == ("live", False, ((0, 4 * BLOCK),))
    assert not len(node.books.faults)
    node.ask(rq.FsTruncate("/mnt/a", 0), 3)
    assert node.books.mrs[key].runs == ((SCRATCH, BLOCK),) * 4


def test_what_goes_on_is_asked_for_again_while_the_engine_has_no_room(make_node):
    node = make_node("retarget", protocols=PROTOCOLS)
    node.file()
    key = node.mr()
    request = node.send(rq.FsTruncate("/mnt/a", 0), 3)
    node.send(rq.Cancel(request), 3)
    (remap,) = remaps(node)
    (armed,) = [e for e in node.step(ev.Answered(remap.token, errno.ENOMEM)) if isinstance(e, fx.Arm)]
    assert node.books.mrs[key].state == "parked"
    (again,) = [e for e in node.step(ev.TimerFired(armed.timer)) if isinstance(e, fx.Remap)]
    node.step(ev.Answered(again.token, 0))
    assert node.books.mrs[key].state == "live"


def test_what_has_nothing_to_go_on_with_is_revoked(node):
    node.file()
    key = node.mr()
    request = node.send(rq.FsTruncate("/mnt/a", 0), 3)
    node.send(rq.Cancel(request), 3)
    (remap,) = remaps(node)
    (stop,) = [e for e in node.step(ev.Answered(remap.token, errno.ENODEV)) if isinstance(e, fx.Quiesce)]
    assert stop.keys == (key,)
    assert (node.books.mrs[key].state, node.books.mrs[key].revoked) == ("live", True)


def test_a_reclaim_that_meets_what_is_about_to_go_on_parks_it_again(node):
    node.file()
    key = node.mr()
    first = node.send(rq.FsTruncate("/mnt/a", 0), 3)
    node.send(rq.Cancel(first), 3)
    second = node.send(rq.FsTruncate("/mnt/a", 0), 3)
    node.go()
    assert isinstance(node.answer(second), fx.Reply)
    assert (node.books.mrs[key].state, node.books.mrs[key].runs) == ("live", ((SCRATCH, BLOCK),) * 4)
    assert not len(node.books.faults)
    assert [type(e) for e in node.effects if isinstance(e, fx.Invalidate | fx.Remap)] == [
        fx.Invalidate,
        fx.Remap,
        fx.Invalidate,
        fx.Remap,
    ]


def test_one_of_two_reclaims_that_is_interrupted_leaves_the_key_to_the_other(node):
    node.file()
    key = node.mr()
    first = node.send(rq.FsPunch("/mnt/a", 0, BLOCK), 3)
    second = node.send(rq.FsPunch("/mnt/a", 2 * BLOCK, BLOCK), 3)
    node.send(rq.Cancel(first), 3)
    assert not remaps(node)
    node.go()
    assert isinstance(node.answer(second), fx.Reply)
    assert node.books.mrs[key].state == "live"
    assert node.books.mrs[key].runs == ((0, 2 * BLOCK), (SCRATCH, BLOCK), (3 * BLOCK, BLOCK))


def test_two_reclaims_of_one_key_leave_it_alive_whoever_answers_first(node):
    """The second parks it while the first one's switch is under way: its answer is no leave to live."""
    node.file()
    key = node.mr()
    first = node.send(rq.FsPunch("/mnt/a", 0, BLOCK), 3)
    node.go(ev.Quiesced)
    second = node.send(rq.FsPunch("/mnt/a", 2 * BLOCK, BLOCK), 3)
    node.go(ev.Answered)
    assert node.books.mrs[key].state == "parked"
    node.go()
    assert isinstance(node.answer(first), fx.Reply)
    assert isinstance(node.answer(second), fx.Reply)
    assert node.books.mrs[key].state == "live"
    assert node.books.mrs[key].runs == (
        (SCRATCH, BLOCK),
        (BLOCK, BLOCK),
        (SCRATCH, BLOCK),
        (3 * BLOCK, BLOCK),
    )


def test_a_parked_key_can_be_deregistered(node):
    node.file()
    key = node.mr()
    request = node.send(rq.FsTruncate("/mnt/a", 0), 3)
    gone = node.send(rq.DeregMr(key))
    (stop,) = node.of(fx.Quiesce)
    assert stop.keys == (key,)
    node.go()
    assert isinstance(node.answer(gone), fx.Reply)
    assert isinstance(node.answer(request), fx.Reply)
    assert node.blocks()["free"] == 64


def test_another_protocols_reclaim_of_a_parked_key_refuses_who_waits(node):
    node.file()
    key = node.mr()
    first = node.send(rq.FsPunch("/mnt/a", 0, BLOCK), 3)
    node.ask(rq.SetProtocol("/mnt", "mr-revoke"), 3)
    second = node.send(rq.FsPunch("/mnt/a", 2 * BLOCK, BLOCK), 3)
    row = node.books.mrs[key]
    assert (row.state, row.revoked) == ("live", True)
    assert [stop.keys for stop in node.of(fx.Quiesce)] == [(key,)]
    node.go()
    assert isinstance(node.answer(first), fx.Reply)
    assert isinstance(node.answer(second), fx.Reply)


def test_a_reclaim_that_is_broken_off_in_the_switch_leaves_the_keys_where_they_led(make_node):
    table = {
        (START, "requested"): go(gate(), quiesce(), to="stopping"),
        (START, "surprise"): go(reply(), to=END),
        ("stopping", "quiesced"): go(switch(), to="switching"),
        ("switching", "cancelled"): go(deny("EINTR"), to=END),
        ("switching", "retargeted"): go(apply(), free(), reply(), to=END),
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
    key = node.mr()
    request = node.send(rq.FsTruncate("/mnt/a", 0), 3)
    node.go(ev.Quiesced)
    node.send(rq.Cancel(request), 3)
    node.go()
    assert node.answer(request).errno == errno.EINTR
    there, back = remaps(node)
    assert (there.extents, back.extents) == (((SCRATCH, BLOCK),) * 4, ((0, 4 * BLOCK),))
    between = node.effects[node.effects.index(there) : node.effects.index(back)]
    assert [e.keys for e in between if isinstance(e, fx.Invalidate)] == [(key,)]
    assert (node.books.mrs[key].state, node.books.mrs[key].runs) == ("live", ((0, 4 * BLOCK),))


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
