"""Deferred-unmap importers: fenced with everybody, unmapped when they say so, and never passed over at the timeout."""

from __future__ import annotations

import pytest

from emu.core import effects as fx
from emu.core import events as ev
from emu.core import requests as rq

BLOCK = 4096
HOLDER, OTHER, ASKER = 1, 2, 3


@pytest.fixture
def held(make_node):
    """A file with a deferred importer's MR and a sync-revocable one, and a truncate of it that has quiesced both."""
    node = make_node()
    node.file()
    node.slow = node.mr(importer="deferred-unmap", bound=2.0)
    node.fast = node.mr(session=OTHER)
    node.request = node.send(rq.FsTruncate("/mnt/a", 0), ASKER)
    return node


def overdue(node):
    return [e for e in node.of(fx.Phase) if e.phase == "overdue"]


def arm(node):
    return next(e for e in node.of(fx.Arm) if e.seconds == 2.0)


def test_its_fence_is_everybodys(held):
    assert held.of(fx.Quiesce)[0].keys == (held.slow, held.fast)


def test_it_is_unmapped_when_it_says_so(held):
    held.go()
    assert [e.keys for e in held.of(fx.Unmap)] == [(held.fast,)]
    assert held.answer(held.request) is None
    assert arm(held)
    held.ask(rq.Acknowledge(held.slow))
    assert [e.keys for e in held.of(fx.Unmap)] == [(held.fast,), (held.slow,)]
    assert isinstance(held.answer(held.request), fx.Reply)
    assert held.of(fx.Disarm) == [fx.Disarm(arm(held).timer)]
    assert held.quiet()


def test_who_says_so_early_is_unmapped_with_the_others(held):
    held.step(ev.Requested(HOLDER, 900, rq.Acknowledge(held.slow)))
    held.go()
    assert [e.keys for e in held.of(fx.Unmap)] == [(held.slow, held.fast)]
    assert isinstance(held.answer(held.request), fx.Reply)
    assert not held.of(fx.Arm)


def test_an_importer_that_is_late_is_named_and_waited_for(held):
    held.go()
    held.step(ev.TimerFired(arm(held).timer))
    held.go()
    assert [e.keys for e in overdue(held)] == [(held.slow,)]
    assert held.answer(held.request) is None
    assert held.blocks()["owned"] == 4, "never reused at the timeout"
    held.ask(rq.Acknowledge(held.slow))
    assert isinstance(held.answer(held.request), fx.Reply)
    assert held.quiet()


def test_an_answer_between_two_unmaps_is_not_lost(held):
    """It says so while the others' unmap is under way."""
    held.go(ev.Quiesced)
    held.step(ev.Requested(HOLDER, 900, rq.Acknowledge(held.slow)))
    assert [e.keys for e in held.of(fx.Unmap)] == [(held.fast,)]
    held.go()
    assert [e.keys for e in held.of(fx.Unmap)] == [(held.fast,), (held.slow,)]
    assert isinstance(held.answer(held.request), fx.Reply)


@pytest.mark.parametrize("when", ["before", "behind"])
def test_the_end_of_an_importer_ends_the_wait(held, when):
    if when == "behind":
        held.go()
    held.lose(HOLDER)
    held.go()
    assert isinstance(held.answer(held.request), fx.Reply)
    assert held.quiet()


def test_its_deregistration_ends_the_wait(held):
    held.go()
    held.ask(rq.DeregMr(held.slow))
    assert isinstance(held.answer(held.request), fx.Reply)
    assert held.quiet()


def test_a_cancelled_reclaim_waits_for_nobody(held):
    held.go()
    held.ask(rq.Cancel(held.request), ASKER)
    assert held.answer(held.request).errno == 4
    assert held.blocks()["owned"] == 4
    assert held.of(fx.Disarm) == [fx.Disarm(arm(held).timer)]
    assert held.quiet()


def test_a_refused_unmap_is_asked_for_again_with_all_who_are_ready(held):
    held.go(ev.Quiesced)
    cookie = held.of(fx.Unmap)[0].cookie
    held.waiting.clear()
    held.step(ev.Unmapped(cookie, 16))
    held.step(ev.Requested(HOLDER, 900, rq.Acknowledge(held.slow)))
    retry = next(e.timer for e in held.of(fx.Arm) if e.seconds != 2.0)
    held.step(ev.TimerFired(retry))
    held.go()
    assert held.of(fx.Unmap)[-1].keys == (held.slow, held.fast)
    assert isinstance(held.answer(held.request), fx.Reply)


def test_one_that_is_still_being_registered_has_nobody_to_say_so(make_node):
    node = make_node()
    node.file()
    asked = node.send(rq.RegMr(node.pd(), BLOCK, 7, 0, "dax", "/mnt/a", 0, "deferred-unmap", bound=2.0))
    request = node.send(rq.FsTruncate("/mnt/a", 0), ASKER)
    node.go()
    assert isinstance(node.answer(asked), fx.Fail)
    assert isinstance(node.answer(request), fx.Reply)
    assert node.quiet()


def test_who_is_waited_for_has_been_told_even_where_its_protocol_tells_nobody(make_node):
    """A protocol without a notice: the core says it, once."""
    from dataclasses import replace

    from emu.protocols import registry
    from emu.protocols.contract import gate, go, quiesce

    known = registry.load().protocols
    table = {**known["mr-revoke"].table, ("start", "requested"): go(gate(), quiesce(), to="fencing")}
    mute = replace(known["mr-revoke"], name="mute", aliases=(), table=table)
    node = make_node("mute", protocols={**known, "mute": mute})
    node.file()
    key = node.mr(importer="deferred-unmap", bound=2.0)
    node.send(rq.FsTruncate("/mnt/a", 0), ASKER)
    assert not node.of(fx.Notify)
    node.go()
    assert [(e.name, e.fields["mr"]) for e in node.of(fx.Notify)] == [("MR_REVOKED", key)]
