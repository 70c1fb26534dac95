"""Reclaims that move or share blocks, as protocols decide them: who is asked, who loses what, what a refusal leaves."""

from __future__ import annotations

import errno

import pytest

from emu.core import effects as fx
from emu.core import events as ev
from emu.core import requests as rq
from emu.core.decision import END, START
from emu.protocols import registry
from emu.protocols.contract import Protocol, check, go, reply

BLOCK = 4096
MOVING = {
    "collapse": rq.FsFallocate("/mnt/a", "collapse", BLOCK, BLOCK),
    "insert": rq.FsFallocate("/mnt/a", "insert", BLOCK, BLOCK),
    "zero": rq.FsFallocate("/mnt/a", "zero", BLOCK, BLOCK),
    "reflink": rq.FsReflink("/mnt/a", "/mnt/b"),
    "migrate": rq.FsMigrate("/mnt/a"),
}
EVERY = {**MOVING, "poison": rq.FsPoison("/mnt/a", BLOCK), "umount": rq.FsUmount("/mnt")}


@pytest.mark.parametrize("kind", EVERY)
def test_mr_revoke_takes_the_keys_back_before_anything_moves(make_node, kind):
    node = make_node("mr-revoke")
    node.file()
    node.mr()
    request = node.send(EVERY[kind], 2)
    assert node.answer(request) is None
    (quiesce,) = node.of(fx.Quiesce)
    assert len(quiesce.keys) == 1
    node.go()
    assert isinstance(node.answer(request), fx.Reply)
    told = [effect for effect in node.of(fx.Notify) if effect.name == "MR_REVOKED"]
    assert [effect.fields["event"] for effect in told] == [kind]


@pytest.mark.parametrize("kind", EVERY)
def test_ebusy_refuses_while_somebody_pins_it(make_node, kind):
    node = make_node("ebusy")
    node.file()
    node.mr()
    layout = node.stat()["layout"]
    request = node.send(EVERY[kind], 2)
    answer = node.answer(request)
    assert (answer.errno, answer.definite) == (errno.EBUSY, kind != "poison")
    assert node.stat()["layout"] == layout + (kind == "poison"), "a failed block is a fact, whoever refuses"


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("protocol", ["none", "ebusy", "mr-revoke"])
def test_with_no_pin_everything_is_done_at_once(make_node, kind, protocol):
    node = make_node(protocol)
    node.file()
    node.ask(EVERY[kind], 2)
    assert "ended" in node.phases()


@pytest.mark.parametrize("kind", ["collapse", "insert"])
def test_only_pins_behind_the_offset_are_met(make_node, kind):
    node = make_node("ebusy")
    node.file()
    node.mr(length=BLOCK)
    node.ask(MOVING[kind], 2)


def test_collapse_and_insert_want_whole_blocks_within_the_file(make_node):
    node = make_node("none")
    node.file()
    for mode in ("collapse", "insert"):
        assert node.refused(rq.FsFallocate("/mnt/a", mode, 100, BLOCK))[0] == "EINVAL"
        assert node.refused(rq.FsFallocate("/mnt/a", mode, 0, 100))[0] == "EINVAL"
        assert node.refused(rq.FsFallocate("/mnt/a", mode, 4 * BLOCK, BLOCK))[0] == "EINVAL"
        assert node.refused(rq.FsFallocate("/mnt/a", mode, 0, 0))[0] == "EINVAL"
    assert node.refused(rq.FsFallocate("/mnt/a", "collapse", BLOCK, 3 * BLOCK))[0] == "EINVAL"
    assert node.refused(rq.FsFallocate("/mnt/a", "insert", 0, (1 << 63) - BLOCK))[0] == "EINVAL"
    assert "collapse, insert, zero" in node.refused(rq.FsFallocate("/mnt/a", "punch", 0, BLOCK))[1]


def test_a_clone_is_made_beside_its_file_under_a_new_name(make_node):
    node = make_node("none")
    node.file()
    node.file("/mnt/b")
    assert node.refused(rq.FsReflink("/mnt/a", "/mnt/b"))[0] == "EEXIST"
    assert node.refused(rq.FsReflink("/mnt/a", "/cold/b"))[0] == "EXDEV"
    assert node.refused(rq.FsReflink("/mnt/x", "/mnt/c"))[0] == "ENOENT"


def test_a_clone_that_was_overtaken_by_another_file_is_refused(make_node):
    node = make_node("mr-revoke")
    node.file()
    node.mr()
    request = node.send(rq.FsReflink("/mnt/a", "/mnt/b"), 2)
    node.file("/mnt/b")
    node.go()
    assert node.answer(request).errno == errno.EEXIST


# ---- migrate


def test_a_migration_without_space_takes_nothing_from_anybody(make_node):
    node = make_node("mr-revoke", blocks=6)
    node.file(blocks=4)
    node.mr()
    assert node.refused(rq.FsMigrate("/mnt/a"), 2)[0] == "ENOSPC"
    assert not node.of(fx.Quiesce)


def test_a_migration_that_finds_its_space_gone_changes_nothing(make_node):
    node = make_node("mr-revoke", blocks=8)
    node.file(blocks=4)
    node.mr()
    before = node.stat()
    request = node.send(rq.FsMigrate("/mnt/a"), 2)
    node.file("/mnt/b", blocks=1)
    node.go()
    answer = node.answer(request)
    assert (answer.errno, answer.definite) == (errno.ENOSPC, True)
    after = node.stat()
    assert (after["extents"], after["layout"]) == (before["extents"], before["layout"])
    assert node.blocks()["free"] == 3


def test_a_migration_copies_behind_the_quiesce_and_before_the_commit(make_node):
    node = make_node("mr-revoke")
    node.file()
    node.mr()
    node.send(rq.FsMigrate("/mnt/a"), 2)
    node.go(ev.Quiesced)
    assert not node.of(fx.Copy)
    (made,) = [answer for answer in node.waiting if isinstance(answer, ev.Unmapped)]
    node.waiting.remove(made)
    effects = node.step(made)
    names = [type(effect).__name__ for effect in effects if not isinstance(effect, fx.Phase)]
    assert names == ["Allocate", "Copy", "Release", "Reply"]
    assert fx.Copy.before_commit
    assert sum(size for _from, _to, size in node.of(fx.Copy)[0].pieces) == 4 * BLOCK


# ---- cow-write


def test_a_write_to_shared_blocks_is_a_reclaim_of_those_blocks(make_node):
    node = make_node("ebusy")
    node.file()
    node.ask(rq.FsReflink("/mnt/a", "/mnt/b"), 3)
    node.mr(access=4)  # a reader's: it may share
    request = node.send(rq.FsWrite("/mnt/b", 10, b"x"), 2)
    assert node.answer(request).errno == errno.EBUSY
    assert not node.of(fx.Store)
    request = node.send(rq.FsWrite("/mnt/b", 4 * BLOCK, b"x"), 2)
    node.go()
    assert isinstance(node.answer(request), fx.Reply), "what it does not share is its own to write"


def test_the_write_goes_on_when_the_blocks_are_its_own(make_node):
    node = make_node("mr-revoke")
    node.file()
    node.ask(rq.FsReflink("/mnt/a", "/mnt/b"), 3)
    node.mr(access=4)
    request = node.send(rq.FsWrite("/mnt/b", BLOCK, b"x"), 2)
    assert node.answer(request) is None
    node.go()
    assert node.answer(request).result == {"written": 1}
    (copy,) = node.of(fx.Copy)
    (store,) = node.of(fx.Store)
    assert [store.runs[0][0]] == [copy.pieces[0][1]], "what is written lies in the copy"


def test_a_registration_for_writing_gets_blocks_of_its_own(make_node):
    node = make_node("mr-revoke")
    node.file()
    node.ask(rq.FsReflink("/mnt/a", "/mnt/b"), 3)
    reader = node.mr("/mnt/b", access=4)
    assert not node.of(fx.Copy), "reading shares"
    writer = node.mr("/mnt/b", session=2)
    assert len(node.of(fx.Copy)) == 1
    assert node.books.mrs[reader].revoked
    assert not node.books.mrs[writer].revoked
    blocks = {start // BLOCK for start, _size in node.books.mrs[writer].runs}
    assert blocks.isdisjoint(extent[1] // BLOCK for extent in node.stat("/mnt/a")["extents"])


def test_a_write_that_waits_can_be_interrupted(make_node):
    node = make_node("mr-revoke")
    node.file()
    node.ask(rq.FsReflink("/mnt/a", "/mnt/b"), 3)
    node.mr(access=4)
    request = node.send(rq.FsWrite("/mnt/b", 0, b"x"), 2)
    node.send(rq.Cancel(request), 2)
    assert node.answer(request).errno == errno.EINTR
    node.go()
    assert not node.of(fx.Store)


def test_a_write_whose_file_went_meanwhile_is_told_so(make_node):
    node = make_node("mr-revoke")
    node.file()
    node.ask(rq.FsReflink("/mnt/a", "/mnt/b"), 3)
    node.mr(access=4)
    write = node.send(rq.FsWrite("/mnt/b", 0, b"x"), 2)
    node.send(rq.FsUnplug("pm0", surprise=True), 3)
    node.go()
    assert node.answer(write).errno == errno.ENODEV


def test_nobody_registers_what_a_clones_reclaim_has_gated(make_node):
    node = make_node("mr-revoke")
    node.file()
    node.ask(rq.FsReflink("/mnt/a", "/mnt/b"), 3)
    node.mr(access=4)
    pd = node.pd(3)
    node.send(rq.FsTruncate("/mnt/a", 0), 2)
    code, sentence = node.refused(rq.RegMr(pd, BLOCK, 4, 0, "dax", "/mnt/b"), 3)
    assert code == "EBUSY"
    assert "/mnt/a" in sentence


def test_what_two_files_share_changes_hands_for_those_who_pinned_it(make_node):
    node = make_node("none")
    node.file()
    node.ask(rq.FsReflink("/mnt/a", "/mnt/b"), 3)
    shared = len(node.of(fx.Share))
    node.ask(rq.FsUnlink("/mnt/a"), 2)
    assert len(node.of(fx.Share)) == shared + 1
    assert not node.of(fx.Release)
    node.ask(rq.FsUnlink("/mnt/b"), 2)
    assert len(node.of(fx.Share)) == shared + 1
    assert len(node.of(fx.Release)) == 1


# ---- poison


def test_a_failed_block_is_given_to_nobody_and_its_hole_reads_eio(make_node):
    node = make_node("none", blocks=8)
    node.file(blocks=4)
    node.ask(rq.FsPoison("/mnt/a", BLOCK + 7), 2)
    counts = node.blocks()
    assert (counts["free"], counts["owned"], counts["quarantined"], counts["bad"]) == (4, 3, 0, 1)
    assert node.refused(rq.FsRead("/mnt/a", 0, 2 * BLOCK))[0] == "EIO"
    assert node.refused(rq.FsWrite("/mnt/a", BLOCK, b"part"))[0] == "EIO"
    pd = node.pd()
    assert node.refused(rq.RegMr(pd, 4 * BLOCK, 7, 0, "dax", "/mnt/a"))[0] == "EIO"
    node.ask(rq.FsRead("/mnt/a", 0, BLOCK))
    node.ask(rq.FsWrite("/mnt/a", BLOCK, b"w" * BLOCK))
    node.ask(rq.FsRead("/mnt/a", 0, 4 * BLOCK))
    assert node.refused(rq.FsCreate("/mnt/b", 4 * BLOCK))[0] == "ENOSPC"
    assert node.refused(rq.FsPoison("/mnt/a", 4 * BLOCK))[0] == "EINVAL"


def test_a_block_that_is_known_to_have_failed_is_asked_for_again(make_node):
    node = make_node("ebusy")
    node.file()
    key = node.mr()
    first = node.send(rq.FsPoison("/mnt/a", 0), 2)
    assert node.answer(first).errno == errno.EBUSY
    again = node.send(rq.FsPoison("/mnt/a", 0), 2)
    assert node.answer(again).errno == errno.EBUSY
    node.ask(rq.DeregMr(key))
    node.ask(rq.FsPoison("/mnt/a", 0), 2)
    assert len(node.of(fx.Poison)) == 1


def test_every_file_that_shared_the_block_has_lost_it(make_node):
    node = make_node("none")
    node.file()
    node.ask(rq.FsReflink("/mnt/a", "/mnt/b"), 3)
    node.ask(rq.FsPoison("/mnt/b", 0), 2)
    for path in ("/mnt/a", "/mnt/b"):
        assert node.refused(rq.FsRead(path, 0, 1))[0] == "EIO"
        assert node.stat(path)["lost"] == [[0, BLOCK]]


def test_a_failed_block_is_known_after_a_restart_and_forgotten_with_its_namespace(make_node):
    node = make_node("none", blocks=8)
    node.file()
    node.ask(rq.FsPoison("/mnt/a", 0), 2)
    again = make_node("none", bare=True)
    again.core.load(node.core.durable())
    again.step(ev.DeviceAdded("pm0", 8))
    again.step(ev.MountAdded("/mnt", "pm0", dax=True, protocol="none"))
    assert len(again.of(fx.Poison)) == 1
    assert again.of(fx.OpenDevice)[0].owned == tuple(
        (extent[1], extent[2]) for extent in node.stat()["extents"]
    )
    for op in (rq.FsUnplug("pm0"), rq.FsPlug("pm0")):
        node.ask(op, 2)
    assert node.blocks()["free"] == 8


def test_a_failed_block_is_told_although_another_reclaim_is_at_it(make_node):
    """The fact came first: its users are asked under the protocol of now, whoever waits for them already."""
    node = make_node("wait")
    node.file()
    key = node.mr()
    truncate = node.send(rq.FsTruncate("/mnt/a", 0), 2)
    node.ask(rq.SetProtocol("/mnt", "mr-revoke"), 3)
    node.ask(rq.FsPoison("/mnt/a", 0), 3)
    assert node.books.mrs[key].revoked
    assert isinstance(node.answer(truncate), fx.Reply)


def test_who_waits_for_a_pin_on_a_block_that_fails_waits_no_more(make_node):
    node = make_node("wait")
    node.file()
    key = node.mr(length=BLOCK)
    truncate = node.send(rq.FsTruncate("/mnt/a", 0), 2)
    poison = node.send(rq.FsPoison("/mnt/a", 0), 3)
    assert isinstance(node.answer(truncate), fx.Reply)
    assert node.answer(poison) is None
    node.ask(rq.DeregMr(key))
    assert isinstance(node.answer(poison), fx.Reply)
    assert (node.blocks()["free"], node.blocks()["bad"]) == (63, 1)


# ---- umount


def test_files_are_out_of_reach_while_their_mount_is_gone(make_node):
    node = make_node("none")
    node.file()
    before = node.stat()
    node.ask(rq.FsUmount("/mnt"), 2)
    assert node.refused(rq.FsStat("/mnt/a"))[0] == "ENOENT"
    assert node.refused(rq.FsUmount("/mnt"))[0] == "ENOENT"
    assert node.refused(rq.FsMount("/mnt", "pm9", dax=True, protocol="none"))[0] == "ENODEV"
    assert node.refused(rq.FsMount("/mnt", "pm1", dax=True, protocol="none"))[0] == "EBUSY"
    assert node.ask(rq.FsMount("/mnt", "pm0", dax=True, protocol="ebusy"))["protocol"] == "ebusy"
    assert node.stat() == before


def test_a_reclaim_that_waited_for_the_umount_finds_its_mount_gone(make_node):
    node = make_node("mr-revoke")
    node.file()
    node.mr()
    umount = node.send(rq.FsUmount("/mnt"), 2)
    truncate = node.send(rq.FsTruncate("/mnt/a", 0), 3)
    node.go()
    assert isinstance(node.answer(umount), fx.Reply)
    assert node.answer(truncate).errno == errno.ENOENT


def test_what_is_no_filesystem_cannot_be_unmounted(make_node):
    node = make_node("none")
    assert node.refused(rq.FsUmount("host"))[0] == "EINVAL"


def test_a_protocol_that_answers_a_cow_write_and_carries_nothing_out_is_told_so(make_node):
    yes = {(START, event): go(reply(), to=END) for event in ("requested", "surprise")}
    stranger = check(Protocol(name="yes", summary="says yes", origin="nobody", table=yes))
    node = make_node("yes", protocols={**registry.load().protocols, "yes": stranger})
    node.file()
    node.ask(rq.SetProtocol("/mnt", "ebusy"))
    node.ask(rq.FsReflink("/mnt/a", "/mnt/b"))
    node.ask(rq.SetProtocol("/mnt", "yes"))
    code, sentence = node.refused(rq.FsWrite("/mnt/a", 0, b"x"))
    assert (code, "protocol yes" in sentence) == ("EPROTO", True)
    node.ask(rq.SetProtocol("/mnt", "ebusy"))
    node.ask(rq.FsWrite("/mnt/a", 0, b"x"))
