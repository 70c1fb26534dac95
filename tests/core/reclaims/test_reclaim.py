"""Reclaims: order of effects, cancel, the queue."""

from __future__ import annotations

import errno

import pytest

from emu.core import effects as fx
from emu.core import events as ev
from emu.core import requests as rq

BLOCK = 4096


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
