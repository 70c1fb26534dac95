"""Memory on demand: what a reclaim leaves of an MR, what a page fault is answered with, and who waits for whom."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from emu.core import effects as fx
from emu.core import events as ev
from emu.core import requests as rq
from emu.core.decision import END, START
from emu.core.memory.faults import GONE, VACANT
from emu.protocols import mr_revoke, odp, registry
from emu.protocols.contract import deny, go

BLOCK = 4096
ON_DEMAND = 1 << 6
MIXED = replace(mr_revoke.PROTOCOL, name="mixed", aliases=(), importers=("sync-revocable", "dynamic"))
NEVER = replace(
    mr_revoke.PROTOCOL, name="never", aliases=(), importers=("dynamic",),
    table={(START, event): go(deny("EBUSY"), to=END) for event in ("requested", "surprise")},
)  # fmt: skip
PROTOCOLS = {
    **registry.load().protocols,
    **{each.name: each for each in (odp.PROTOCOL, MIXED, NEVER)},
}


@pytest.fixture
def node(make_node):
    return make_node("odp", protocols=PROTOCOLS)


def miss(node, key, offset=0, length=64, write=True, sequence=None):
    """The engine's: a fault with the sequence that its key has."""
    now = sum(key in effect.keys for effect in node.of(fx.Invalidate))
    return node.step(ev.Missed(key, now if sequence is None else sequence, offset, length, write))


def remaps(effects):
    return [effect for effect in effects if isinstance(effect, fx.Remap)]


def wake(node):
    """The timer behind which whoever waited for a reclaim is answered."""
    return node.step(ev.TimerFired(node.of(fx.Arm)[-1].timer))


def kinds(effects):
    return [type(effect).__name__ for effect in effects if not isinstance(effect, fx.Phase)]


def gated(node, op=None):
    """A reclaim that waits for the drain."""
    return node.send(op or rq.FsTruncate("/mnt/a", BLOCK), 3)


def test_a_reclaim_drains_and_drops_the_translation_and_the_mr_stays(node):
    ino = node.file()
    key = node.mr()
    assert node.books.mrs[key].importer == "dynamic"
    request = gated(node)
    assert (node.books.mrs[key].state, node.books.mrs[key].revoked) == ("parked", False)
    node.go()
    assert isinstance(node.answer(request), fx.Reply)
    assert kinds(node.effects)[-4:] == ["Invalidate", "Unmap", "Release", "Reply"]
    row = node.books.mrs[key]
    assert (row.state, row.runs, row.revoked, row.ino) == ("absent", (), False, ino)
    assert not node.of(fx.Quiesce)
    assert not node.of(fx.Notify)
    assert node.stat()["pins"] == 0
    assert node.blocks()["free"] == 63


def test_the_next_access_maps_what_the_file_has_and_fails_behind_its_end(node):
    node.file()
    key = node.mr()
    node.ask(rq.FsTruncate("/mnt/a", BLOCK), 3)
    (remap,) = remaps(miss(node, key))
    assert (remap.key, remap.sequence, remap.extents) == (key, 1, ((0, BLOCK), (GONE, 3 * BLOCK)))
    node.go()
    assert node.books.mrs[key].state == "live"
    assert node.stat()["pins"] == 1
    assert not len(node.books.faults)
    (remap,) = remaps(miss(node, key, 2 * BLOCK))
    assert remap.extents == ((0, BLOCK), (GONE, 3 * BLOCK))


def test_a_file_that_is_extended_again_works_again_on_new_blocks(node):
    node.file()
    key = node.mr()
    node.ask(rq.FsTruncate("/mnt/a", BLOCK), 3)
    node.ask(rq.FsTruncate("/mnt/a", 3 * BLOCK), 3)
    made = miss(node, key, BLOCK, 2 * BLOCK)
    assert kinds(made) == ["Allocate", "Remap"]
    (remap,) = remaps(made)
    assert sum(size for at, size in remap.extents if at >= 0) == 3 * BLOCK
    assert remap.extents[-1] == (GONE, BLOCK)
    node.go()
    assert node.stat()["blocks"] == 3


def test_only_what_was_asked_for_is_filled(node):
    node.file(blocks=8)
    key = node.mr(length=8 * BLOCK)
    node.ask(rq.FsPunch("/mnt/a", BLOCK, 6 * BLOCK), 3)
    (remap,) = remaps(miss(node, key, 3 * BLOCK + 10, 64))
    assert [(min(0, at), size // BLOCK) for at, size in remap.extents] == [
        (0, 1), (VACANT, 2), (0, 1), (VACANT, 3), (0, 1),
    ]  # fmt: skip
    node.go()
    assert node.stat()["blocks"] == 3
    miss(node, key, BLOCK, 6 * BLOCK)
    node.go()
    assert node.stat()["blocks"] == 8


def test_a_fault_waits_until_the_reclaim_has_ended(node):
    node.file()
    key = node.mr()
    gated(node)
    assert miss(node, key, 0) == ()
    assert len(node.books.faults) == 1
    assert miss(node, key, 0, sequence=9) == (), "told anew, it is the same fault"
    assert [fault.sequence for _n, fault in node.books.faults.items()] == [9]
    node.go(ev.Quiesced)
    assert not remaps(node.effects)
    node.go(ev.Unmapped)
    assert not remaps(node.effects), "a step of its own, behind the one in which the reclaim ended"
    wake(node)
    (remap,) = remaps(node.effects)
    assert (remap.sequence, remap.extents[0]) == (9, (0, BLOCK))
    names = [type(e).__name__ for e in node.effects]
    assert names.index("Release") < names.index("Remap")
    node.go()
    assert not len(node.books.faults)


def test_faults_elsewhere_do_not_wait(node):
    node.file()
    node.file("/mnt/b")
    key, other = node.mr(), node.mr("/mnt/b")
    node.ask(rq.FsPunch("/mnt/b", 0, BLOCK), 3)
    gated(node)
    assert remaps(miss(node, other))
    assert not remaps(miss(node, key))


def test_a_stale_answer_is_forgotten_since_the_fault_comes_again(node):
    node.file()
    key = node.mr()
    node.ask(rq.FsPunch("/mnt/a", 0, BLOCK), 3)
    (remap,) = remaps(node.core.step(ev.Missed(key, 0, 0, 64, True)))
    assert remap.sequence == 0
    node.step(ev.Answered(remap.token, errno.ESTALE))
    assert not len(node.books.faults)
    assert remaps(miss(node, key))
    node.go()
    assert node.books.mrs[key].state == "live"


def test_an_answer_that_the_engine_has_no_room_for_is_given_again(node):
    node.file()
    key = node.mr()
    node.ask(rq.FsPunch("/mnt/a", 0, BLOCK), 3)
    (remap,) = remaps(node.core.step(ev.Missed(key, 1, 0, 64, True)))
    made = node.step(ev.Answered(remap.token, errno.ENOMEM))
    (armed,) = [effect for effect in made if isinstance(effect, fx.Arm)]
    assert remaps(node.step(ev.TimerFired(armed.timer)))
    node.go()
    assert not len(node.books.faults)


def test_an_interrupted_reclaim_leaves_the_same_memory(node):
    node.file()
    key = node.mr()
    before = node.books.mrs[key].runs
    request = gated(node)
    miss(node, key)
    node.ask(rq.Cancel(request), 3)
    assert node.answer(request).errno == errno.EINTR
    wake(node)
    (remap,) = remaps(node.effects)
    assert remap.extents == before
    node.go()
    assert node.books.mrs[key].state == "live"
    assert node.stat()["size"] == 4 * BLOCK


def test_without_room_the_access_fails(make_node):
    node = make_node("odp", blocks=4, protocols=PROTOCOLS)
    node.file()
    key = node.mr()
    node.ask(rq.FsPunch("/mnt/a", 0, 2 * BLOCK), 3)
    node.file("/mnt/b", blocks=1)
    (remap,) = remaps(miss(node, key, 0, 2 * BLOCK))
    assert [(min(0, at), size // BLOCK) for at, size in remap.extents] == [(0, 1), (VACANT, 1), (0, 2)]
    node.go()
    assert node.blocks()["free"] == 0
    (remap,) = remaps(miss(node, key, BLOCK, BLOCK))
    assert [(min(0, at), size // BLOCK) for at, size in remap.extents] == [(0, 1), (GONE, 1), (0, 2)]


def test_who_has_room_does_not_fail_because_another_has_none(node):
    node.file(blocks=8)
    key = node.mr(length=8 * BLOCK)
    node.ask(rq.FsPunch("/mnt/a", 4 * BLOCK, 4 * BLOCK), 3)
    node.ask(rq.FsPoison("/mnt/a", 0), 3)
    node.go()
    (remap,) = remaps(miss(node, key, 0, 64))
    assert [(min(0, at), size // BLOCK) for at, size in remap.extents] == [
        (GONE, 1),
        (0, 3),
        (VACANT, 4),
    ]
    node.go()
    (remap,) = remaps(miss(node, key, 6 * BLOCK, 64))
    assert [min(0, at) for at, _size in remap.extents] == [VACANT, 0, VACANT, 0, VACANT]
    node.go()
    assert not len(node.books.faults)


def test_a_fault_told_while_its_answer_is_under_way_gets_one_of_its_own(node):
    node.file()
    key = node.mr()
    node.ask(rq.FsPunch("/mnt/a", 0, BLOCK), 3)
    (first,) = remaps(node.core.step(ev.Missed(key, 0, 0, 64, True)))
    (second,) = remaps(node.core.step(ev.Missed(key, 1, 0, 64, True)))
    node.step(ev.Answered(first.token, errno.ESTALE))
    node.step(ev.Answered(second.token))
    assert (first.sequence, second.sequence) == (0, 1)
    assert not len(node.books.faults)


@pytest.mark.parametrize("op", [rq.FsUnlink("/mnt/a"), rq.FsUnplug("/mnt/a"), rq.FsUnplug("pm0"),
                                rq.FsUnplug("pm0", surprise=True)], ids=lambda op: type(op).__name__)  # fmt: skip
def test_behind_the_end_of_its_file_every_access_fails(node, op):
    node.file()
    key = node.mr()
    node.ask(op, 3)
    (remap,) = remaps(miss(node, key))
    assert remap.extents == ((GONE, 4 * BLOCK),)
    node.go()
    if isinstance(op, rq.FsUnplug) and op.target == "pm0":
        node.ask(rq.FsPlug("pm0"), 3)
        node.file()
        (remap,) = remaps(miss(node, key))
        assert remap.extents == ((GONE, 4 * BLOCK),)
        node.go()
    node.ask(rq.DeregMr(key))
    assert key not in node.books.mrs


def test_deregistration_needs_no_engine_where_nothing_is_mapped(node):
    node.file()
    key = node.mr()
    node.ask(rq.FsTruncate("/mnt/a", BLOCK), 3)
    before = len(node.effects)
    node.ask(rq.DeregMr(key))
    assert kinds(node.effects[before:]) == ["RemoveKey", "Reply"]
    assert miss(node, key) == ()


def test_faults_of_who_leaves_are_forgotten(node):
    node.file()
    key = node.mr()
    gated(node)
    miss(node, key)
    node.lose(1)
    node.go()
    assert not len(node.books.faults)
    assert not remaps(node.effects)
    assert 1 not in node.books.sessions
    assert node.stat()["size"] == BLOCK


def test_a_registration_that_a_reclaim_meets_fails_as_any_other(node):
    node.file()
    pd = node.pd()
    request = node.send(rq.RegMr(pd, 4 * BLOCK, 7, 0, "dax", "/mnt/a", 0))
    (key,) = node.books.mrs
    other = gated(node)
    assert node.books.mrs[key].revoked
    node.go()
    assert node.answer(request).errno == errno.EBUSY
    assert isinstance(node.answer(other), fx.Reply)
    assert key not in node.books.mrs


def test_both_classes_in_one_reclaim_are_taken_one_behind_the_other(make_node):
    node = make_node("mixed", protocols=PROTOCOLS)
    node.file()
    plain, demand = node.mr(), node.mr(access=7 | ON_DEMAND)
    assert [node.books.mrs[key].importer for key in (plain, demand)] == ["sync-revocable", "dynamic"]
    request = gated(node)
    assert [e.keys for e in node.of(fx.Invalidate)] == [(demand,)]
    assert not node.of(fx.Quiesce)
    node.go(ev.Quiesced)
    assert [e.keys for e in node.of(fx.Quiesce)] == [(plain,)]
    assert [e.keys for e in node.of(fx.Unmap)] == [(plain, demand)]
    node.go()
    assert isinstance(node.answer(request), fx.Reply)
    assert [node.books.mrs[key].state for key in (plain, demand)] == ["unmapped", "absent"]
    assert {e.fields["mr"] for e in node.of(fx.Notify) if e.name == "MR_REVOKED"} == {plain}


def test_a_drain_that_is_refused_is_asked_for_again(node):
    node.file()
    node.mr()
    gated(node)
    (asked,) = node.of(fx.Invalidate)
    node.waiting.clear()
    made = node.step(ev.Quiesced(asked.cookie, errno.EIO))
    (armed,) = [effect for effect in made if isinstance(effect, fx.Arm)]
    node.step(ev.TimerFired(armed.timer))
    assert len(node.of(fx.Invalidate)) == 2
    node.go()
    assert node.stat()["size"] == BLOCK


def test_on_demand_is_a_class_that_the_protocol_must_take(make_node):
    node = make_node("recall-fence", protocols=PROTOCOLS)
    node.file()
    why, sentence = node.refused(rq.RegMr(node.pd(), BLOCK, 7 | ON_DEMAND, 0, "dax", "/mnt/a"))
    assert why == "EOPNOTSUPP"
    assert "dynamic" in sentence


def test_a_write_to_shared_blocks_waits_for_blocks_of_the_files_own(node):
    node.file()
    key = node.mr()
    node.ask(rq.FsReflink("/mnt/a", "/mnt/b"), 3)
    assert node.books.mrs[key].state == "absent"
    made = miss(node, key, BLOCK, 64)
    assert kinds(made) == ["Allocate", "Copy", "Share", "Remap"]
    (remap,) = remaps(made)
    assert [min(0, at) for at, _size in remap.extents] == [VACANT, 0, VACANT]
    blocks = {start for file in ("/mnt/a", "/mnt/b") for _at, start, _n, _since in node.stat(file)["extents"]}
    assert len(blocks) >= 2


def test_where_the_copy_is_refused_the_write_fails(make_node):
    node = make_node("odp", protocols=PROTOCOLS)
    node.file()
    key = node.mr()
    node.ask(rq.FsReflink("/mnt/a", "/mnt/b"), 3)
    node.ask(rq.SetProtocol("/mnt", "never"), 3)
    (remap,) = remaps(miss(node, key, BLOCK, 64))
    assert remap.extents == ((VACANT, BLOCK), (GONE, BLOCK), (VACANT, 2 * BLOCK))
    node.go()
    assert not len(node.books.faults)


def test_host_files_and_raw_memory_come_back_where_they_were(make_node, host):
    node = make_node("odp", protocols=PROTOCOLS)
    node.ask(rq.SetProtocol("host", "odp"), 3)
    op = rq.RegMr(node.pd(), 2 * BLOCK, 7, 0, "host", "", BLOCK)
    key = node.ask(op, host=host())["handle"]
    node.ask(rq.FsTruncate("", BLOCK, host=True), 3, host=host(51))
    assert node.books.mrs[key].state == "absent"
    (remap,) = remaps(miss(node, key))
    assert remap.extents == ((BLOCK, 2 * BLOCK),)


def test_a_failed_block_of_a_raw_device_is_gone_and_the_others_are_served(make_node):
    node = make_node("odp", protocols=PROTOCOLS, bare=True)
    node.step(ev.DeviceAdded("pm0", 16))
    node.step(ev.MountAdded("/dev/dax0", "pm0", dax=False, protocol="odp", raw=True))
    for session in (1, 3):
        node.step(ev.SessionOpened(session, f"s{session}", door=True, wants=True))
    op = rq.RegMr(node.pd(), 4 * BLOCK, 7, 0, "devdax", "/dev/dax0", BLOCK, importer="dynamic")
    key = node.ask(op)["handle"]
    for block in (4, 2, 0, 5):  # the last two are beside it
        node.ask(rq.FsPoison("/dev/dax0", block * BLOCK), 3)
    assert node.books.mrs[key].state == "absent"
    (remap,) = remaps(miss(node, key, BLOCK))
    assert remap.extents == ((BLOCK, BLOCK), (GONE, BLOCK), (3 * BLOCK, BLOCK), (GONE, BLOCK))
    node.go()
    assert node.books.mrs[key].runs == ((BLOCK, BLOCK), (3 * BLOCK, BLOCK))
    node.ask(rq.FsPoison("/dev/dax0", 2 * BLOCK), 3)
    assert node.books.mrs[key].state == "live", "it does not pin what has failed"


def test_a_host_file_that_was_taken_away_is_not_mapped_again(make_node, host):
    node = make_node("odp", protocols=PROTOCOLS)
    node.ask(rq.SetProtocol("host", "odp"), 3)
    answer = node.ask(rq.RegMr(node.pd(), 2 * BLOCK, 7, 0, "host", "", BLOCK), host=host())
    assert answer["importer"] == "dynamic"
    node.ask(rq.FsUnplug("", host=True), 3, host=host(51))
    (remap,) = remaps(miss(node, answer["handle"]))
    assert remap.extents == ((-1, 2 * BLOCK),)


def cold(node, path="/cold/a", blocks=4):
    """An MR on demand over the page cache, whose pages have other numbers than its blocks."""
    node.file("/cold/pad", 2)
    node.file(path, blocks)
    return node.ask(rq.RegMr(node.pd(1), 2 * BLOCK, 7, 0, "page-cache", path, 0))["handle"]


@pytest.mark.parametrize("again", [None, False, True])
def test_a_file_is_gone_while_its_mount_is_away_or_of_another_kind(node, again):
    key = cold(node)
    node.ask(rq.FsUmount("/cold"), 2)
    if again is not None:
        node.ask(rq.FsMount("/cold", "pm1", again, "odp"), 2)
    (remap,) = remaps(miss(node, key))
    node.go()
    if again is False:  # as it was: its pages come again
        assert [at < 0 for at, _size in remap.extents] == [False, True]
        assert node.stat("/cold/a")["pages"]
    else:
        assert remap.extents == ((GONE, 2 * BLOCK),)
        assert node.books.mrs[key].runs == ()


def test_a_dax_file_whose_device_is_mounted_without_dax_is_gone(node):
    node.file()
    key = node.mr()
    node.ask(rq.FsUmount("/mnt"), 2)
    node.ask(rq.FsMount("/mnt", "pm0", False, "odp"), 2)
    (remap,) = remaps(miss(node, key))
    assert remap.extents == ((GONE, 4 * BLOCK),)


def test_shared_blocks_of_a_file_whose_mount_is_away_are_gone(node):
    node.file()
    key = node.mr()
    node.ask(rq.FsReflink("/mnt/a", "/mnt/b"), 2)
    node.ask(rq.FsUmount("/mnt"), 2)
    (remap,) = remaps(miss(node, key))
    assert remap.extents == ((GONE, 4 * BLOCK),)


def test_a_fault_that_waits_while_its_mount_goes_is_answered_behind_it(node):
    node.file()
    key = node.mr()
    node.ask(rq.FsReflink("/mnt/a", "/mnt/b"), 2)
    node.mr("/mnt/b", session=2, access=4)
    node.send(rq.FsUmount("/mnt"), 3)
    miss(node, key)
    node.go()
    wake(node)
    assert remaps(node.effects)[-1].extents == ((GONE, 4 * BLOCK),)
    node.go()
    assert not len(node.books.faults)


def test_a_fault_whose_context_is_destroyed_maps_nothing(node):
    node.file()
    key = node.mr()
    gated(node, rq.FsTruncate("/mnt/a", 2 * BLOCK))
    node.go(ev.Quiesced)
    miss(node, key)
    node.ask(rq.FsUnplug("emu0"), 3)
    for arm in node.of(fx.Arm):
        node.step(ev.TimerFired(arm.timer))
        node.go()
    assert not len(node.books.faults)
    assert not remaps(node.effects)
    assert node.books.mrs[key].runs == ()
    assert not remaps(miss(node, key))


def test_blocks_that_are_shared_again_while_a_fault_waits_are_copied_again(node):
    node.file(blocks=2)
    node.ask(rq.FsReflink("/mnt/a", "/mnt/b"), 2)
    key = node.mr(length=2 * BLOCK)
    node.ask(rq.FsReflink("/mnt/a", "/mnt/c"), 2)
    node.mr(session=2, length=2 * BLOCK, access=4)
    miss(node, key)  # a cow-write, and behind it:
    node.ask(rq.FsReflink("/mnt/a", "/mnt/d"), 3)
    for _turn in range(2):
        wake(node)
        node.go()
    last = remaps(node.effects)[-1].extents
    assert last[0][0] >= 0, last
    assert not len(node.books.faults)


@pytest.mark.parametrize(
    ("backing", "path", "how"),
    [
        ("dax", "/mnt/a", {"importer": "dynamic"}),
        ("dax", "/mnt/a", {"access": 7 | ON_DEMAND}),
        ("page-cache", "/cold/a", {"access": 4 | ON_DEMAND}),
        ("anon", "", {"access": 7 | ON_DEMAND}),
    ],
)
def test_refuse_admits_nobody_on_demand_since_it_drains_nobody(make_node, backing, path, how):
    node = make_node("refuse")
    node.ask(rq.SetProtocol("anon", "refuse"))
    if path:
        node.file(path)
    op = replace(rq.RegMr(node.pd(), BLOCK, 7, 0, backing, path), **how)
    assert node.refused(op)[0] == "EOPNOTSUPP"


def test_a_fault_that_is_to_be_answered_again_goes_with_its_mr(node):
    node.file()
    key = node.mr()
    gated(node)
    miss(node, key)
    node.go()
    timer = node.of(fx.Arm)[-1].timer
    node.ask(rq.DeregMr(key))
    assert [effect.timer for effect in node.of(fx.Disarm)] == [timer]


def test_what_a_file_gets_is_as_old_as_itself_again_when_nobody_has_it_on_demand(node):
    ino = node.file()
    one, other = node.mr(), node.mr(session=2)

    def since():
        node.ask(rq.FsTruncate("/mnt/a", 0), 3)
        node.ask(rq.FsWrite("/mnt/a", 0, b"x"), 3)
        row = node.books.files[ino]
        return [(extent[3], row.layout) for extent in row.extents]

    node.ask(rq.DeregMr(one))
    assert [told for told, _layout in since()] == [0]
    node.ask(rq.DeregMr(other), 2)
    assert [told == layout for told, layout in since()] == [True]
