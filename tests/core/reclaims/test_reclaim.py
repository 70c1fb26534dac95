"""Reclaims: order of effects, queue, cancel, lost sessions, unplug and plug, host files, and the rules for protocols."""

from __future__ import annotations

import errno
import sys
from types import MappingProxyType
from typing import TYPE_CHECKING

import pytest

from emu.core import effects as fx
from emu.core import events as ev
from emu.core import requests as rq
from emu.core.decision import END, EVENTS, RULES, START, Action, Decision
from emu.protocols import registry
from emu.protocols.contract import (
    Protocol,
    apply,
    arm,
    deny,
    disarm,
    free,
    gate,
    go,
    notify,
    quiesce,
    reply,
    unmap,
    when_pinned,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

BLOCK = 4096


def own(table, **more):
    """A protocol named `own` beside the built-in ones."""
    table = {(START, "surprise"): go(reply(), to=END), **table}
    protocol = Protocol("own", "a test's", "a test", table, ignored={"*": tuple(EVENTS)}, **more)
    return {**registry.load().protocols, "own": protocol}


WAIT = {
    (START, "requested"): when_pinned(
        go(gate(), notify("MR_REVOKING", 2.0), to="waiting"), go(gate(), apply(), free(), reply(), to=END)
    ),
    ("waiting", "unpinned"): go(apply(), free(), reply(), to=END),
    ("waiting", "cancelled"): go(deny("EINTR"), to=END),
}


# ---- mr-revoke, step by step


def test_mr_revoke_goes_through_the_owners_order(node):
    node.file()
    handle = node.mr()
    node.effects.clear()
    request = node.send(rq.FsTruncate("/mnt/a", 0), 2)
    assert node.phases() == ["requested", "gated", "notified", "fencing"]
    assert node.of(fx.Phase)[0].keys == (handle,)
    assert node.of(fx.Phase)[0].detail["kind"] == "truncate"
    (told,) = node.of(fx.Notify)
    assert (told.session, told.name, told.fields) == (
        1,
        "MR_REVOKED",
        {"mr": handle, "rkey": handle, "event": "truncate"},
    )
    assert node.answer(request) is None
    node.go(ev.Quiesced)
    assert node.phases()[4:] == ["fenced", "unmapping"]
    assert node.of(fx.Release) == []
    node.go(ev.Unmapped)
    assert node.phases()[6:] == ["unmapped", "applied", "freed", "returned", "ended"]
    assert node.answer(request).result == {}
    assert node.of(fx.Release) == [fx.Release(1, ((0, 4 * BLOCK),))]
    assert node.quiet()


def test_a_revoked_mr_stays_until_its_dereg_and_needs_no_engine(node):
    node.file()
    handle = node.mr()
    node.ask(rq.FsTruncate("/mnt/a", 0), 2)
    node.effects.clear()
    node.ask(rq.DeregMr(handle))
    assert [type(effect) for effect in node.effects] == [fx.RemoveKey, fx.Reply]


def test_a_revoke_is_told_once_for_an_mr(node):
    node.file()
    node.mr()
    node.send(rq.FsPunch("/mnt/a", 0, BLOCK), 2)
    node.send(rq.FsPunch("/mnt/a", 2 * BLOCK, BLOCK), 2)
    node.go()
    assert len(node.of(fx.Notify)) == 1
    assert len(node.of(fx.Quiesce)) == 2, (
        "disjoint ranges do not wait for each other, and quiesce is idempotent"
    )
    assert node.quiet()


def test_who_did_not_ask_for_events_hears_nothing(node):
    node.file()
    node.mr(session=2)
    node.ask(rq.FsTruncate("/mnt/a", 0), 3)
    assert node.of(fx.Notify) == []


def test_an_mr_on_the_surviving_tail_is_in_the_range(node):
    node.file()
    node.mr(length=BLOCK)
    node.ask(rq.FsTruncate("/mnt/a", 100), 2)
    assert len(node.of(fx.Quiesce)) == 1


def test_an_mr_before_the_range_is_left_alone(node):
    node.file()
    node.mr(length=100)
    node.ask(rq.FsTruncate("/mnt/a", BLOCK - 10), 2)
    node.ask(rq.FsPunch("/mnt/a", 200, 100), 2)
    assert node.of(fx.Quiesce) == []


def test_dereg_during_a_reclaim_of_the_same_mr(node):
    node.file()
    handle = node.mr()
    truncate = node.send(rq.FsTruncate("/mnt/a", 0), 2)
    dereg = node.send(rq.DeregMr(handle))
    node.go()
    assert isinstance(node.answer(truncate), fx.Reply)
    assert isinstance(node.answer(dereg), fx.Reply)
    assert node.quiet()
    assert len(node.books.mrs) == 0
    assert node.blocks()["free"] == 64


def test_a_refused_quiesce_is_asked_again_until_it_holds(node):
    node.file()
    node.mr()
    request = node.send(rq.FsTruncate("/mnt/a", 0), 2)
    node.waiting.clear()
    node.step(ev.Quiesced(node.of(fx.Quiesce)[-1].cookie, errno.EIO))
    (armed,) = node.of(fx.Arm)
    assert node.answer(request) is None
    node.step(ev.TimerFired(armed.timer))
    node.step(ev.TimerFired(armed.timer))
    node.go()
    assert isinstance(node.answer(request), fx.Reply)
    assert node.quiet()


def test_a_refused_quiesce_can_be_interrupted(node):
    node.file()
    node.mr()
    request = node.send(rq.FsTruncate("/mnt/a", 0), 2)
    node.waiting.clear()
    node.step(ev.Quiesced(node.of(fx.Quiesce)[-1].cookie, errno.EIO))
    node.ask(rq.Cancel(request), 2)
    assert node.answer(request).errno == errno.EINTR
    assert [effect.timer for effect in node.of(fx.Disarm)] == [node.of(fx.Arm)[0].timer]
    assert node.quiet()


def test_stale_answers_change_nothing(node):
    before = node.core.canonical()
    for event in (ev.Quiesced(77), ev.Unmapped(77), ev.Answered(77), ev.TimerFired(77), ev.KeyInstalled(77)):
        assert node.step(event) == ()
    assert node.core.canonical() == before


# ---- cancel


def test_cancel_frees_nothing_and_keys_stay_revoked(node):
    node.file()
    handle = node.mr()
    before = node.stat()
    request = node.send(rq.FsTruncate("/mnt/a", 0), 2)
    node.ask(rq.Cancel(request), 2)
    assert (node.answer(request).errno, node.answer(request).definite) == (errno.EINTR, True)
    assert {**node.stat(), "pins": 0} == {**before, "pins": 0}
    assert node.books.mrs[handle].revoked
    node.go()
    node.ask(rq.FsTruncate("/mnt/a", 0), 2)
    node.ask(rq.DeregMr(handle))
    assert node.blocks()["free"] == 64


@pytest.mark.parametrize("session", [1, 2])
def test_cancel_of_what_is_not_there_is_enoent(node, session):
    node.file()
    node.mr()
    request = node.send(rq.FsTruncate("/mnt/a", 0), 3)
    assert node.refused(rq.Cancel(request), session)[0] == "ENOENT"
    assert node.refused(rq.Cancel(0), session)[0] == "ENOENT"
    node.go()
    assert node.refused(rq.Cancel(request), 3)[0] == "ENOENT"


def test_cancel_while_the_host_applies_is_too_late(node, host):
    request = node.send(rq.FsTruncate("", 0, host=True), 2, host())
    assert node.refused(rq.Cancel(request), 2)[0] == "EALREADY"
    node.go()
    assert isinstance(node.answer(request), fx.Reply)


# ---- the queue


def test_two_reclaims_of_one_range_run_one_behind_the_other(node):
    node.file()
    node.mr()
    first = node.send(rq.FsTruncate("/mnt/a", BLOCK), 2)
    second = node.send(rq.FsTruncate("/mnt/a", 0), 3)
    assert node.phases().count("requested") == 1
    node.go()
    assert [type(node.answer(number)) for number in (first, second)] == [fx.Reply, fx.Reply]
    assert [effect.reclaim for effect in node.of(fx.Phase) if effect.phase == "ended"] == [1, 2]
    assert node.stat()["size"] == 0


def test_a_queued_reclaim_can_be_interrupted(node):
    node.file()
    node.mr()
    node.send(rq.FsTruncate("/mnt/a", BLOCK), 2)
    second = node.send(rq.FsTruncate("/mnt/a", 0), 3)
    node.ask(rq.Cancel(second), 3)
    assert node.answer(second).errno == errno.EINTR
    assert node.stat()["size"] == BLOCK


def test_what_was_unlinked_while_it_waited_is_enoent(node):
    node.file()
    node.mr()
    node.send(rq.FsUnlink("/mnt/a"), 2)
    second = node.send(rq.FsTruncate("/mnt/a", 0), 3)
    node.go()
    assert node.answer(second).errno == errno.ENOENT


def test_what_was_taken_away_while_it_waited_is_enodev(node):
    node.file()
    node.mr()
    node.send(rq.FsUnplug("/mnt/a"), 2)
    second = node.send(rq.FsTruncate("/mnt/a", 0), 3)
    third = node.send(rq.FsUnlink("/mnt/a"), 3)
    node.go()
    assert node.answer(second).errno == errno.ENODEV
    assert isinstance(node.answer(third), fx.Reply), "a file that was taken away can still be unlinked"


def test_whose_device_went_while_it_waited_is_enodev(node):
    node.file()
    node.mr()
    node.send(rq.FsUnplug("pm0"), 2)
    second = node.send(rq.FsTruncate("/mnt/a", 0), 3)
    third = node.send(rq.FsUnplug("pm0"), 3)
    node.go()
    assert node.answer(second).errno == node.answer(third).errno == errno.ENODEV


def test_a_long_queue_that_all_fails_is_answered(node):
    node.file()
    node.mr()
    node.send(rq.FsUnlink("/mnt/a"), 2)
    waiting = [node.send(rq.FsTruncate("/mnt/a", size), 3) for size in range(400)]
    node.go()
    assert {node.answer(request).errno for request in waiting} == {errno.ENOENT}
    assert node.quiet()


def test_reclaims_of_different_files_do_not_wait(node):
    node.file("/mnt/a")
    node.file("/mnt/b")
    node.mr("/mnt/a")
    node.send(rq.FsTruncate("/mnt/a", 0), 2)
    other = node.send(rq.FsTruncate("/mnt/b", 0), 3)
    assert isinstance(node.answer(other), fx.Reply)
    node.go()


# ---- lost sessions


def test_a_lost_reclaimer_is_interrupted_while_nothing_has_changed(make_node):
    node = make_node("own", protocols=own(WAIT))
    node.file()
    node.mr()
    node.send(rq.FsTruncate("/mnt/a", 0), 2)
    node.lose(2)
    assert node.quiet()
    assert node.of(fx.Fail) == []
    assert node.of(fx.EndSession) == [fx.EndSession(2)]
    assert node.stat()["size"] == 4 * BLOCK


def test_a_lost_reclaimer_whose_keys_are_revoked_goes_on_for_nobody(node):
    node.file()
    node.mr()
    request = node.send(rq.FsTruncate("/mnt/a", 0), 2)
    node.lose(2)
    node.go()
    assert node.answer(request) is None
    assert node.stat()["size"] == 0
    assert node.quiet()


def test_a_lost_reclaimer_with_two_of_a_range(node):
    node.file()
    node.mr()
    node.send(rq.FsTruncate("/mnt/a", BLOCK), 2)
    for size in (100, 50, 0):
        node.send(rq.FsTruncate("/mnt/a", size), 2)
    other = node.send(rq.FsTruncate("/mnt/a", 7), 3)
    node.lose(2)
    node.go()
    assert isinstance(node.answer(other), fx.Reply)
    assert node.stat()["size"] == 7
    assert node.quiet()


def test_a_lost_holder_ends_a_wait(make_node):
    node = make_node("own", protocols=own(WAIT))
    node.file()
    handle = node.mr()
    request = node.send(rq.FsTruncate("/mnt/a", 0), 2)
    assert node.of(fx.Notify)[0].fields == {"mr": handle, "rkey": handle, "event": "truncate", "seconds": 2.0}
    node.lose(1)
    assert node.answer(request) is None
    node.go()
    assert isinstance(node.answer(request), fx.Reply)
    assert node.of(fx.EndSession) == [fx.EndSession(1)]


def test_a_registration_that_fails_ends_a_wait(make_node):
    node = make_node("own", protocols=own(WAIT))
    node.file()
    pd = node.pd()
    node.send(rq.RegMr(pd, BLOCK, 7, 0, "dax", "/mnt/a"))
    request = node.send(rq.FsTruncate("/mnt/a", 0), 2)
    node.waiting.clear()
    node.step(ev.KeyInstalled(node.of(fx.InstallKey)[0].key, errno.ENOMEM))
    assert isinstance(node.answer(request), fx.Reply)


def test_an_acknowledgement_reaches_the_reclaims_of_the_mr(make_node):
    table = {
        **WAIT,
        ("waiting", "acknowledged"): go(quiesce(), to="fencing"),
        ("fencing", "quiesced"): go(unmap(), to="unmapping"),
    }
    table["unmapping", "unmapped"] = go(apply(), free(), reply(), to=END)
    node = make_node("own", protocols=own(table))
    node.file()
    node.file("/mnt/b")
    handle = node.mr()
    node.mr("/mnt/b", session=2)
    request = node.send(rq.FsTruncate("/mnt/a", 0), 2)
    node.send(rq.FsTruncate("/mnt/b", 0), 3)
    node.ask(rq.Acknowledge(handle))
    assert len(node.of(fx.Quiesce)) == 1, "the other reclaim is none of its business"
    assert isinstance(node.answer(request), fx.Reply)
    node.ask(rq.Acknowledge(handle))


# ---- none and ebusy


def test_none_frees_at_once_and_the_stale_pin_is_found_by_the_next_owner(make_node):
    node = make_node("none")
    node.file("/mnt/a", 4)
    handle = node.mr()
    node.ask(rq.FsTruncate("/mnt/a", 0), 2)
    assert node.of(fx.Quiesce) == []
    node.file("/mnt/b", 4)
    assert node.stat("/mnt/b")["extents"] == [[0, 0, 4 * BLOCK, 1]]
    assert node.stat("/mnt/b")["pins"] == 1
    node.ask(rq.SetProtocol("/mnt", "mr-revoke"))
    node.ask(rq.FsTruncate("/mnt/b", 0), 2)
    assert node.of(fx.Quiesce)[0].keys == (handle,)


def test_a_pin_that_the_protocol_cannot_take_back_makes_the_reclaim_fail(make_node):
    node = make_node("none")
    node.file()
    node.mr(importer="non-revocable")
    node.ask(rq.SetProtocol("/mnt", "mr-revoke"))
    code, sentence = node.refused(rq.FsTruncate("/mnt/a", 0), 2)
    assert (code, "non-revocable" in sentence) == ("EBUSY", True)
    assert node.quiet()


def test_ebusy_denies_while_pinned_and_changes_nothing(make_node):
    node = make_node("ebusy")
    node.file()
    handle = node.mr()
    for op in (
        rq.FsTruncate("/mnt/a", 0),
        rq.FsPunch("/mnt/a", 0, 1),
        rq.FsUnlink("/mnt/a"),
        rq.FsUnplug("pm0"),
        rq.FsUnplug("/mnt/a"),
    ):
        code, sentence = node.refused(op, 2)
        assert code == "EBUSY"
        assert "1 MRs of 1 contexts" in sentence
    node.ask(rq.DeregMr(handle))
    node.ask(rq.FsTruncate("/mnt/a", 0), 2)
    assert node.blocks()["free"] == 64


@pytest.mark.parametrize("protocol", ["none", "ebusy"])
def test_a_surprise_is_a_fact_and_stale_mrs_keep_their_translations(make_node, protocol):
    node = make_node(protocol)
    node.file()
    handle = node.mr()
    made = node.step(ev.Requested(2, 900, rq.FsUnplug("pm0", surprise=True)))
    assert isinstance(made[0], fx.Offline)
    assert isinstance(node.answer(900), fx.Reply)
    assert node.ask(rq.FsPlug("pm0")) == {"namespace": 2}
    assert not node.books.mrs[handle].revoked
    assert node.blocks() == {"total": 64, "free": 64, "owned": 0, "quarantined": 0, "orphaned": 0}
    node.ask(rq.DeregMr(handle))


# ---- unplug and plug


def test_an_orderly_unplug_revokes_first(node):
    node.file()
    node.mr()
    node.effects.clear()
    node.ask(rq.FsUnplug("pm0"), 2)
    kinds = [
        type(effect)
        for effect in node.effects
        if isinstance(effect, fx.Quiesce | fx.Unmap | fx.Offline | fx.Reply)
    ]
    assert kinds == [fx.Quiesce, fx.Unmap, fx.Offline, fx.Reply]
    for op in (
        rq.FsStat("/mnt/a"),
        rq.FsRead("/mnt/a", 0, 1),
        rq.FsCreate("/mnt/b"),
        rq.FsUnlink("/mnt/a"),
        rq.FsUnplug("pm0"),
    ):
        assert node.refused(op)[0] == "ENODEV"
    assert node.ask(rq.FsLs())["files"][0]["pins"] == 0


def test_a_surprise_unplug_tells_the_protocol_behind_the_fact(node):
    node.file()
    node.mr()
    node.effects.clear()
    node.ask(rq.FsUnplug("pm0", surprise=True), 2)
    kinds = [type(e) for e in node.effects if isinstance(e, fx.Quiesce | fx.Unmap | fx.Offline | fx.Reply)]
    assert kinds == [fx.Offline, fx.Quiesce, fx.Unmap, fx.Reply]
    assert "applied" not in node.phases()


def test_a_surprise_waits_for_nobody_and_stops_what_runs(node):
    node.file()
    node.mr()
    truncate = node.send(rq.FsTruncate("/mnt/a", 0), 2)
    surprise = node.send(rq.FsUnplug("pm0", surprise=True), 3)
    assert len(node.of(fx.Offline)) == 1
    assert node.refused(rq.FsPlug("pm0"))[0] == "EBUSY"
    node.go()
    assert node.answer(truncate).errno == errno.ENODEV
    assert isinstance(node.answer(surprise), fx.Reply)
    assert node.of(fx.Release) == []
    assert node.quiet()


def test_plug_brings_an_empty_namespace(node):
    node.file()
    assert node.refused(rq.FsPlug("pm0"))[0] == "EBUSY"
    assert node.refused(rq.FsPlug("pm7"))[0] == "ENODEV"
    assert node.refused(rq.FsUnplug("pm7"))[0] == "ENODEV"
    node.ask(rq.FsUnplug("pm0"))
    node.ask(rq.FsPlug("pm0"))
    assert node.of(fx.Online) == [fx.Online(node.of(fx.Online)[0].token, 1, "pm0", 2)]
    assert node.refused(rq.FsStat("/mnt/a"))[0] == "ENOENT"
    assert node.file() == 2


def test_a_file_that_is_taken_away_cannot_be_used_until_it_is_unlinked(node):
    node.file()
    node.mr()
    pd = node.pd()
    node.ask(rq.FsUnplug("/mnt/a"), 2)
    assert len(node.of(fx.Unmap)) == 1
    for op in (rq.FsRead("/mnt/a", 0, 1), rq.FsUnplug("/mnt/a"), rq.RegMr(pd, 1, 7, 0, "dax", "/mnt/a")):
        assert node.refused(op)[0] == "ENODEV"
    assert node.stat()["gone"]
    node.ask(rq.FsUnlink("/mnt/a"))
    node.file()
    assert node.blocks()["owned"] == 4


def test_only_a_device_can_be_surprised(node, host):
    node.file()
    assert node.refused(rq.FsUnplug("/mnt/a", surprise=True))[0] == "EINVAL"
    assert node.refused(rq.FsUnplug("", surprise=True, host=True), host=host())[0] == "EINVAL"
    assert node.of(fx.CloseHandle) == [fx.CloseHandle(50)]


def test_a_device_without_a_mount_can_be_unplugged(node):
    node.step(ev.DeviceAdded("pm2", 8))
    node.ask(rq.FsUnplug("pm2"))


# ---- host files


def reg_host(node, host, session=1, pd=1, **change):
    return node.ask(
        rq.RegMr(pd, change.pop("length", BLOCK), 7, 0, "host", offset=change.pop("offset", 0)), session, host
    )


def test_mrs_over_one_host_file_share_an_aperture(node, host):
    node.pd(1)
    node.pd(2)
    first = node.send(rq.RegMr(1, BLOCK, 7, 0, "host"), 1, host(50))
    second = node.send(rq.RegMr(2, BLOCK, 7, 0, "host", offset=BLOCK), 2, host(51))
    assert len(node.of(fx.OpenHost)) == 1
    assert node.of(fx.InstallKey) == []
    node.go()
    assert len({effect.aperture for effect in node.of(fx.InstallKey)}) == 1
    handles = [node.answer(request).result["handle"] for request in (first, second)]
    assert node.answer(first).descriptors == 0
    node.ask(rq.DeregMr(handles[0]))
    assert node.of(fx.DropAperture) == []
    node.ask(rq.DeregMr(handles[1]), 2)
    assert len(node.of(fx.DropAperture)) == 1
    assert sorted(effect.handle for effect in node.of(fx.CloseHandle)) == [50, 51]
    assert len(node.books.hosts) == 0


def test_a_host_file_that_grew_is_opened_anew_and_is_still_one_file(node, host):
    node.pd()
    reg_host(node, host(50))
    reg_host(node, host(51, size=9 * BLOCK), offset=8 * BLOCK)
    assert len(node.of(fx.OpenHost)) == 2
    reg_host(node, host(52, size=9 * BLOCK), offset=7 * BLOCK)
    assert len(node.of(fx.OpenHost)) == 2
    node.ask(rq.FsTruncate("", 0, host=True), 2, host(53, size=9 * BLOCK))
    assert len(node.of(fx.Quiesce)[0].keys) == 3


def test_an_opening_that_fails_fails_all_who_wait_for_it(node, host):
    node.pd()
    requests = [node.send(rq.RegMr(1, BLOCK, 7, 0, "host"), 1, host(handle)) for handle in (50, 51)]
    node.waiting.clear()
    node.step(ev.Answered(node.of(fx.OpenHost)[0].token, errno.EACCES))
    assert [node.answer(request).errno for request in requests] == [errno.EACCES] * 2
    assert node.of(fx.DropAperture) == []
    assert len(node.books.mrs) == len(node.books.hosts) == 0
    reg_host(node, host(52))


@pytest.mark.parametrize(
    ("op", "effect"),
    [
        (rq.FsTruncate("", 100, host=True), fx.HostTruncate),
        (rq.FsPunch("", 0, BLOCK, host=True), fx.HostPunch),
    ],
)
def test_a_host_reclaim_revokes_and_then_acts_with_the_reclaimers_handle(node, host, op, effect):
    node.pd()
    reg_host(node, host(50))
    node.effects.clear()
    node.ask(op, 2, host(51))
    kinds = [
        type(e)
        for e in node.effects
        if isinstance(e, fx.Quiesce | fx.Unmap | effect | fx.Reply | fx.CloseHandle)
    ]
    assert kinds == [fx.Quiesce, fx.Unmap, effect, fx.Reply, fx.CloseHandle]
    assert node.of(effect)[0].handle == 51
    assert node.phases()[-4:] == ["applied", "freed", "returned", "ended"]
    assert node.quiet()


def test_a_host_file_that_nobody_registered_is_just_changed(node, host):
    node.ask(rq.FsTruncate("", 0, host=True), 2, host())
    assert len(node.of(fx.HostTruncate)) == 1
    assert len(node.books.hosts) == 0
    node.ask(rq.FsTruncate("", 1 << 20, host=True), 2, host())
    assert node.of(fx.HostTruncate)[-1].size == 1 << 20
    assert node.of(fx.Quiesce) == []


def test_growing_a_registered_host_file_revokes_nobody(node, host):
    node.pd()
    reg_host(node, host(50))
    node.ask(rq.FsTruncate("", 8 * BLOCK, host=True), 2, host(51))
    assert node.of(fx.Quiesce) == []


def test_an_error_of_the_host_is_the_answer(node, host):
    node.host_errno = errno.EOPNOTSUPP
    assert node.refused(rq.FsPunch("", 0, BLOCK, host=True), 2, host())[0] == "EOPNOTSUPP"
    assert node.of(fx.CloseHandle) == [fx.CloseHandle(50)]
    assert node.quiet()


def test_ebusy_on_a_host_file(node, host):
    node.ask(rq.SetProtocol("host", "ebusy"))
    node.pd()
    handle = reg_host(node, host(50))["handle"]
    assert node.refused(rq.FsTruncate("", 0, host=True), 2, host(51))[0] == "EBUSY"
    node.ask(rq.DeregMr(handle))
    node.ask(rq.FsTruncate("", 0, host=True), 2, host(52))
    assert sorted(effect.handle for effect in node.of(fx.CloseHandle)) == [50, 51, 52]


def test_a_host_file_that_is_taken_away_comes_back_when_nobody_refers_to_it(node, host):
    node.pd()
    handle = reg_host(node, host(50))["handle"]
    node.ask(rq.FsUnplug("", host=True), 2, host(51))
    assert node.refused(rq.RegMr(1, BLOCK, 7, 0, "host"), 1, host(52))[0] == "ENODEV"
    assert node.refused(rq.FsUnplug("", host=True), 2, host(53))[0] == "ENODEV"
    node.ask(rq.DeregMr(handle))
    reg_host(node, host(54))
    assert sorted(effect.handle for effect in node.of(fx.CloseHandle)) == [50, 51, 52, 53, 54]


def test_bad_host_requests_close_their_descriptor(node, host):
    node.pd()
    assert node.refused(rq.RegMr(1, BLOCK, 7, 0, "host"), 1, host(50, writable=False))[0] == "EACCES"
    assert node.refused(rq.RegMr(1, 5 * BLOCK, 7, 0, "host"), 1, host(51))[0] == "EINVAL"
    assert node.refused(rq.FsTruncate("", 0, host=True), 1, host(52, writable=False))[0] == "EINVAL"
    assert node.refused(rq.FsPunch("", 0, 0, host=True), 1, host(53))[0] == "EINVAL"
    assert node.refused(rq.FsTruncate("", -1, host=True), 1, host(54))[0] == "EINVAL"
    assert node.refused(rq.FsTruncate("", 0, host=True), 1)[0] == "EBADF"
    node.ask(rq.FsLs(), 1, host(55))
    node.lose(3)
    node.step(ev.Requested(3, 5, rq.FsLs(), host(56)))
    assert [effect.handle for effect in node.of(fx.CloseHandle)] == [50, 51, 52, 53, 54, 55, 56]


def test_a_read_only_descriptor_can_be_registered_for_reading(node, host):
    node.pd()
    node.ask(rq.RegMr(1, BLOCK, 4, 0, "host"), 1, host(50, writable=False))


def test_events_that_come_while_the_host_applies_are_told_behind_it(make_node, host):
    table = {
        (START, "requested"): go(gate(), arm(1.0), apply(), reply(), to="applied"),
        ("applied", "deadline"): go(free(), to=END),
    }
    node = make_node("own", protocols=own(table))
    node.ask(rq.SetProtocol("host", "own"))
    request = node.send(rq.FsTruncate("", 0, host=True), 2, host())
    node.step(ev.TimerFired(node.of(fx.Arm)[0].timer))
    assert node.answer(request) is None
    node.go()
    assert isinstance(node.answer(request), fx.Reply)
    assert node.phases()[-2:] == ["freed", "ended"]
    assert node.quiet()


# ---- disposal


KEEP = {(START, "requested"): go(apply(), free(), reply(), to=END)}


def test_keep_frees_what_is_not_pinned_and_the_rest_with_the_last_pin(make_node):
    node = make_node("own", protocols=own(KEEP, disposal="keep"))
    node.file("/mnt/a", 2)
    node.file("/mnt/b", 2)
    node.ask(rq.FsWrite("/mnt/a", 2 * BLOCK, b"x" * (2 * BLOCK)))
    handle = node.mr(length=2 * BLOCK)
    node.ask(rq.FsTruncate("/mnt/a", 0), 2)
    assert node.blocks() == {"total": 64, "free": 60, "owned": 2, "quarantined": 2, "orphaned": 2}
    node.ask(rq.DeregMr(handle))
    assert node.blocks() == {"total": 64, "free": 62, "owned": 2, "quarantined": 0, "orphaned": 0}


def test_blocks_that_are_never_freed_are_kept_until_their_last_pin_is_gone(make_node):
    table = {(START, "requested"): go(apply(), reply(), to=END)}
    node = make_node("own", protocols=own(table))
    node.file()
    handle = node.mr()
    node.ask(rq.FsTruncate("/mnt/a", 0), 2)
    assert node.blocks()["quarantined"] == 4
    node.ask(rq.DeregMr(handle))
    assert node.blocks()["free"] == 64


# ---- rules


def broken(make_node, table, **more):
    """The rule that this table breaks when a pinned file is truncated."""
    node = make_node("own", protocols=own(table, **more))
    return broken_on(node)


def broken_on(node):
    node.file()
    node.mr()
    before = node.blocks()
    request = node.send(rq.FsTruncate("/mnt/a", 0), 2)
    node.go()
    answer = node.answer(request)
    assert (answer.errno, node.blocks()) == (errno.EPROTO, before), "nothing was freed"
    assert node.quiet()
    node.file("/mnt/b", 1)
    (rule,) = [effect.detail["rule"] for effect in node.of(fx.Phase) if "rule" in effect.detail]
    assert rule in RULES
    assert rule in answer.sentence
    return rule


def start(*actions, to=END):
    return {(START, "requested"): go(*actions, to=to)}


@pytest.mark.parametrize(
    ("table", "rule"),
    [
        (start(apply(), free(), reply()), "free-after-unmap"),
        (start(unmap(), reply()), "unmap-after-quiesce"),
        (start(quiesce(), unmap(), reply()), "unmap-after-quiesce"),
        (start(free(), reply()), "free-after-apply"),
        (start(apply(), apply(), reply()), "apply-once"),
        (start(deny("EBUSY"), apply()), "deny-before-apply"),
        (start(apply(), deny("EBUSY")), "deny-before-apply"),
        (start(reply(), reply()), "one-answer"),
        (start(reply(), deny("EBUSY")), "one-answer"),
        (start(gate()), "one-answer"),
        (start(deny("EFISHY")), "known-answer"),
        (start(deny("")), "known-answer"),
        (start(notify("")), "known-answer"),
        (start(Action("pray")), "known-answer"),
        (start(arm(0.0)), "one-timer"),
        (start(arm(1.0), arm(1.0)), "one-timer"),
    ],
)
def test_rules(make_node, table, rule):
    assert broken(make_node, table) == rule


def test_an_impossible_event_that_comes_breaks_total(make_node):
    table = {(START, "requested"): go(quiesce(), to="next")}
    node = make_node(
        "own",
        protocols={
            **registry.load().protocols,
            "own": Protocol("own", "", "", table, impossible={"*": tuple(EVENTS)}),
        },
    )
    assert broken_on(node) == "total"


class Strange:
    """What an outsider's own object may do."""

    name = "own"
    promises = ()
    importers = ("sync-revocable",)
    backings = ("dax", "page-cache")
    disposal = "after-unmap"
    refuses: Mapping[str, str] = MappingProxyType({})
    needs = ""
    on_demand = queues_pins = fences = switches = False

    def __init__(self, answer):
        self.answer = answer

    def decide(self, phase, event, facts):
        return self.answer(phase, event, facts)


def raising(*_):
    raise RuntimeError("own fault")


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("not even that")


def raising_words():
    raise Unspeakable


@pytest.mark.parametrize(
    ("answer", "rule"),
    [
        (raising, "no-raise"),
        (lambda *_: "yes", "known-answer"),
        (lambda *_: Decision((), ""), "known-answer"),
        (lambda *_: Decision([], END), "known-answer"),
        (lambda *_: Decision(("gate",), END), "known-answer"),
        (lambda *_: Decision((), 7), "known-answer"),
        (lambda *_: Decision((Action([]),), END), "known-answer"),
        (lambda *_: Decision((Action("arm", "", float("nan")),), END), "known-answer"),
        (lambda *_: Decision((Action("arm", "", float("inf")),), END), "known-answer"),
        (lambda *_: Decision((Action("arm", "", "soon"),), END), "known-answer"),
        (lambda *_: Decision((Action("arm", "", -1.0),), END), "one-timer"),
        (lambda *_: Decision((Action("notify", 5),), END), "known-answer"),
        (lambda *_: type("Late", (Decision,), {})((reply(),), END), "known-answer"),
        (lambda *_: sys.exit(0), "no-raise"),
        (lambda *_: (_ for _ in ()).throw(GeneratorExit), "no-raise"),
        (lambda *_: raising_words(), "no-raise"),
    ],
)
def test_strange_objects(make_node, answer, rule):
    assert (
        broken_on(make_node("own", protocols={**registry.load().protocols, "own": Strange(answer)})) == rule
    )


def test_an_endless_chain_comes_to_an_end(make_node):
    endless = Strange(lambda *_: Decision((quiesce(),), "again"))
    node = make_node("own", protocols={**registry.load().protocols, "own": endless})
    node.file()
    request = node.send(rq.FsTruncate("/mnt/a", 0), 2)
    assert "at-rest" in node.answer(request).sentence
    assert node.quiet()


def test_breaking_a_rule_behind_the_answer_ends_the_reclaim_in_silence(make_node, host):
    table = {
        (START, "requested"): go(apply(), reply(), arm(1.0), to="later"),
        ("later", "deadline"): go(apply(), to=END),
    }
    node = make_node("own", protocols=own(table))
    node.file(blocks=1)
    request = node.send(rq.FsTruncate("/mnt/a", 0), 2)
    node.step(ev.TimerFired(node.of(fx.Arm)[0].timer))
    assert isinstance(node.answer(request), fx.Reply)
    assert node.quiet()
    node.ask(rq.SetProtocol("host", "own"))
    node.ask(rq.FsTruncate("", 0, host=True), 2, host())


def test_blocks_of_a_reclaim_that_broke_a_rule_behind_its_apply_are_not_lost(make_node):
    table = {
        (START, "requested"): go(gate(), quiesce(), to="fencing"),
        ("fencing", "quiesced"): go(unmap(), to="unmapping"),
        ("unmapping", "unmapped"): go(apply(), arm(1.0), to="later"),
        ("later", "deadline"): go(apply(), to=END),
    }
    node = make_node("own", protocols=own(table))
    node.file()
    node.mr()
    request = node.send(rq.FsTruncate("/mnt/a", 0), 2)
    node.go()
    assert node.blocks()["quarantined"] == 4
    node.step(ev.TimerFired(node.of(fx.Arm)[0].timer))
    assert (node.answer(request).errno, node.answer(request).definite) == (errno.EPROTO, False)
    assert node.blocks() == {"total": 64, "free": 64, "owned": 0, "quarantined": 0, "orphaned": 0}


def test_blocks_that_are_never_freed_are_free_at_the_end_when_nothing_pins_them(make_node):
    node = make_node("own", protocols=own({(START, "requested"): go(apply(), reply(), to=END)}))
    node.file()
    node.ask(rq.FsTruncate("/mnt/a", 0), 2)
    assert node.blocks()["free"] == 64


def test_breaking_a_rule_behind_the_hosts_answer(make_node, host):
    node = make_node("own", protocols=own(start(apply(), apply(), reply())))
    node.ask(rq.SetProtocol("host", "own"))
    request = node.send(rq.FsTruncate("", 0, host=True), 2, host())
    node.go()
    assert (node.answer(request).errno, node.answer(request).definite) == (errno.EPROTO, False)
    assert node.of(fx.CloseHandle) == [fx.CloseHandle(50)]


def test_disarm_without_a_timer_is_nothing(make_node):
    node = make_node("own", protocols=own(start(disarm(), apply(), free(), reply())))
    node.file()
    node.ask(rq.FsTruncate("/mnt/a", 0))


def test_a_second_quiesce_forgets_the_first_answer(make_node):
    table = {
        (START, "requested"): go(gate(), quiesce(), arm(1.0), to="fencing"),
        ("fencing", "deadline"): go(quiesce(), to="fencing"),
        ("fencing", "quiesced"): go(unmap(), to="unmapping"),
        ("unmapping", "unmapped"): go(apply(), free(), reply(), to=END),
    }
    node = make_node("own", protocols=own(table))
    node.file()
    node.mr()
    request = node.send(rq.FsTruncate("/mnt/a", 0), 2)
    node.step(ev.TimerFired(node.of(fx.Arm)[0].timer))
    first, second = node.of(fx.Quiesce)
    assert node.step(ev.Quiesced(first.cookie)) == ()
    node.waiting = [ev.Quiesced(second.cookie)]
    node.go()
    assert isinstance(node.answer(request), fx.Reply)


LATER = {
    (START, "requested"): go(apply(), reply(), arm(1.0), to="later"),
    ("later", "deadline"): go(free(), to=END),
}


def test_blocks_of_an_unlinked_file_can_be_freed_later(make_node):
    node = make_node("own", protocols=own(LATER))
    node.file()
    node.ask(rq.FsUnlink("/mnt/a"))
    node.go()
    assert node.blocks() == {"total": 64, "free": 60, "owned": 0, "quarantined": 4, "orphaned": 0}
    node.step(ev.TimerFired(node.of(fx.Arm)[0].timer))
    assert node.blocks()["free"] == 64


def test_a_plug_forgets_blocks_in_quarantine_and_in_limbo_of_that_device(make_node):
    table = {(START, "requested"): go(apply(), free(), reply(), to=END)}
    node = make_node("own", protocols=own(table, disposal="keep"))
    node.file("/mnt/a")
    node.mr()
    node.ask(rq.FsTruncate("/mnt/a", 0))
    node.file("/mnt/b")
    node.ask(rq.FsCreate("/cold/c", BLOCK))
    for number, op in enumerate(
        (rq.FsUnlink("/mnt/b"), rq.FsUnlink("/cold/c"), rq.FsUnplug("pm0", surprise=True)), 900
    ):
        node.step(ev.Requested(1, number, op), commit=False)
    assert (len(node.books.quarantine), len(node.books.limbo)) == (1, 2)
    node.step(ev.Requested(1, 910, rq.FsPlug("pm0")), commit=False)
    assert (len(node.books.quarantine), len(node.books.limbo)) == (0, 1)
    assert node.blocks()["free"] == 64
    assert node.blocks("pm1")["free"] == 16


def test_a_lie_that_cannot_be_made_true_ends_in_silence(make_node):
    """An answer before the change, and then the device goes: there is nothing left to say."""
    table = {
        (START, "requested"): go(reply(), arm(1.0), to="later"),
        ("later", "deadline"): go(apply(), free(), to=END),
    }
    node = make_node("own", protocols=own(table))
    node.file()
    request = node.send(rq.FsTruncate("/mnt/a", 0), 2)
    assert isinstance(node.answer(request), fx.Reply)
    node.ask(rq.FsUnplug("pm0", surprise=True), 3)
    node.step(ev.TimerFired(node.of(fx.Arm)[0].timer))
    assert node.of(fx.Release) == []
    assert [row.kind for row in node.books.reclaims.rows.values()] == []


def test_a_host_file_that_grows_while_it_is_opened(node, host):
    node.pd()
    small = node.send(rq.RegMr(1, BLOCK, 7, 0, "host"), 1, host(50))
    large = node.send(rq.RegMr(1, 9 * BLOCK, 7, 0, "host"), 1, host(51, size=9 * BLOCK))
    assert len(node.of(fx.OpenHost)) == 2
    node.go()
    assert {type(node.answer(request)) for request in (small, large)} == {fx.Reply}
    assert len({effect.aperture for effect in node.of(fx.InstallKey)}) == 2
    for request in (small, large):
        node.ask(rq.DeregMr(node.answer(request).result["handle"]))
    assert len(node.of(fx.DropAperture)) == 2
    assert len(node.books.hosts) == 0


def test_a_fault_is_not_told_about_mrs_that_are_still_registered(node, host):
    node.pd()
    node.send(rq.RegMr(1, BLOCK, 7, 0, "host"), 1, host())
    assert node.step(ev.MemoryFaulted(node.of(fx.OpenHost)[0].aperture, 0)) == ()


# ---- what fails behind the commit


def refuse_unmaps(node):
    """Answer every Unmap that waits with EIO."""
    for answer in [answer for answer in node.waiting if isinstance(answer, ev.Unmapped)]:
        node.waiting.remove(answer)
        node.step(ev.Unmapped(answer.cookie, errno.EIO))


def test_an_unmap_that_fails_is_asked_again_and_nothing_is_freed_before(node):
    node.file()
    node.mr()
    request = node.send(rq.FsTruncate("/mnt/a", 0), 2)
    node.go(ev.Quiesced)
    for _ in range(3):
        refuse_unmaps(node)
        assert node.answer(request) is None
        assert node.blocks()["owned"] == 4
        node.step(ev.TimerFired(node.of(fx.Arm)[-1].timer))
    assert len(node.of(fx.Unmap)) == 4
    node.go()
    assert isinstance(node.answer(request), fx.Reply)
    assert node.blocks()["owned"] == 0
    assert node.quiet()


def test_a_reclaim_whose_unmap_fails_can_be_interrupted(node):
    node.file()
    node.mr()
    request = node.send(rq.FsTruncate("/mnt/a", 0), 2)
    node.go(ev.Quiesced)
    refuse_unmaps(node)
    node.ask(rq.Cancel(request), 2)
    assert node.answer(request).errno == errno.EINTR
    assert node.quiet()
    node.step(ev.TimerFired(node.of(fx.Arm)[-1].timer))
    assert len(node.of(fx.Unmap)) == 1


def test_an_mr_that_is_deregistered_while_its_unmap_is_asked_again_ends_the_wait(node):
    node.file()
    handle = node.mr()
    request = node.send(rq.FsTruncate("/mnt/a", 0), 2)
    node.go(ev.Quiesced)
    refuse_unmaps(node)
    node.ask(rq.DeregMr(handle))
    assert node.answer(request) is None
    node.step(ev.TimerFired(node.of(fx.Arm)[-1].timer))
    node.go()
    assert isinstance(node.answer(request), fx.Reply)


def test_a_dereg_whose_unmap_fails_leaves_the_mr_there(node):
    node.file()
    handle = node.mr()
    request = node.send(rq.DeregMr(handle))
    node.go(ev.Quiesced)
    refuse_unmaps(node)
    assert node.answer(request).errno == errno.EIO
    assert node.of(fx.RemoveKey) == []
    node.ask(rq.DeregMr(handle))
    assert node.of(fx.RemoveKey) == [fx.RemoveKey(handle)]


def test_a_lost_session_whose_unmap_fails_ends_when_it_succeeds(node):
    node.file()
    node.mr()
    node.lose(1)
    node.go(ev.Quiesced)
    refuse_unmaps(node)
    assert len(node.of(fx.Unmap)) == 1, "it is not asked again at once"
    node.step(ev.TimerFired(node.of(fx.Arm)[-1].timer))
    assert fx.EndSession(1) not in node.effects
    node.go()
    assert fx.EndSession(1) in node.effects


def test_a_plug_is_answered_when_the_namespace_is_there(node):
    node.ask(rq.FsUnplug("pm0", surprise=True), 2)
    request = node.send(rq.FsPlug("pm0"), 2)
    assert node.answer(request) is None
    assert node.refused(rq.FsUnplug("pm0", surprise=True), 3)[0] == "EBUSY"
    node.go()
    assert node.answer(request).result == {"namespace": 2}


def test_a_namespace_that_cannot_be_shown_leaves_the_device_unplugged(node):
    node.ask(rq.FsUnplug("pm0", surprise=True), 2)
    request = node.send(rq.FsPlug("pm0"), 2)
    node.waiting.clear()
    node.step(ev.Answered(node.of(fx.Online)[-1].token, errno.ENOMEM))
    assert (node.answer(request).errno, node.answer(request).definite) == (errno.ENOMEM, False)
    assert node.refused(rq.FsCreate("/mnt/x", 1))[0] == "ENODEV"
    assert node.ask(rq.FsPlug("pm0"), 2) == {"namespace": 3}
    node.file("/mnt/x")


def test_an_unplug_that_the_engine_refuses_changes_nothing(node):
    node.file()
    request = node.send(rq.FsUnplug("pm0"), 2)
    node.waiting.clear()
    node.step(ev.Answered(node.of(fx.Offline)[-1].token, errno.ENOMEM))
    assert node.answer(request).errno == errno.ENOMEM
    assert node.stat()["blocks"] == 4
    assert node.quiet()
