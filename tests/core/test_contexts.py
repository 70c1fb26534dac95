"""Contexts that are destroyed under their client: by a protocol, and with the NIC."""

from __future__ import annotations

import errno

import pytest

from emu.core import effects as fx
from emu.core import events as ev
from emu.core import requests as rq
from emu.protocols import kill_context

PROTOCOL = kill_context.PROTOCOL
BLOCK = 4096
ASKING = [
    rq.QueryDevice(),
    rq.AllocPd(),
    rq.RegMr(1, BLOCK, 7, 0, "dax", "/mnt/a"),
    rq.CreateCq(16),
    rq.CreateQp(1, 1, 1),
    rq.ModifyQp(1, 1, {"state": 1}),
    rq.QueryQp(1),
]


@pytest.fixture
def node(make_node):
    node = make_node("kill-context", protocols={"kill-context": PROTOCOL, "mr-revoke": PROTOCOL})
    node.file()
    return node


def with_qp(node, session=1):
    pd = node.pd(session)
    cq = node.ask(rq.CreateCq(16), session)["handle"]
    return pd, cq, node.ask(rq.CreateQp(pd, cq, cq), session)["handle"]


def told(node, session):
    return [e.fields for e in node.of(fx.Notify) if e.session == session and e.name == "DEVICE_FATAL"]


def test_a_reclaim_destroys_the_contexts_of_its_holders_and_is_answered_behind_that(node):
    with_qp(node)
    handle = node.mr()
    other = node.mr(session=2, offset=2 * BLOCK, length=BLOCK)
    anon = node.ask(rq.RegMr(node.pd(), BLOCK, 7, 0))["handle"]
    request = node.send(rq.FsTruncate("/mnt/a", 3 * BLOCK), 3)
    assert node.answer(request) is None
    assert told(node, 1) == [{"destroyed": True}]
    assert told(node, 2) == [], "its MR is not in the range"
    assert node.of(fx.Quiesce)[-1].keys == (handle, anon), "all of its MRs, in the range or not"
    node.go(ev.Quiesced)
    assert node.answer(request) is None, "still translated"
    node.go()
    assert isinstance(node.answer(request), fx.Reply)
    assert len(node.of(fx.EndQp)) == 1
    assert node.books.mrs[other].state == "live"
    assert node.quiet()


@pytest.mark.parametrize("op", ASKING, ids=lambda op: type(op).__name__)
def test_what_asks_a_destroyed_context_for_something_is_refused(node, op):
    node.mr()
    node.ask(rq.FsTruncate("/mnt/a", 0), 3)
    assert node.refused(op)[0] == "EIO"


def test_what_gives_back_is_answered_and_files_go_on(node):
    pd, cq, qp = with_qp(node)
    mr = node.mr()
    node.ask(rq.FsTruncate("/mnt/a", 0), 3)
    assert node.refused(rq.DeallocPd(pd))[0] == "EBUSY", "its queue pair has not been given back"
    for op in (rq.DestroyQp(qp), rq.DestroyCq(cq), rq.DeregMr(mr), rq.DeallocPd(pd)):
        node.ask(op)
    assert node.refused(rq.DestroyQp(qp))[0] == "EINVAL"
    node.ask(rq.FsWrite("/mnt/a", 0, b"x"))
    assert len(node.of(fx.EndQp)) == 1, "the engine is asked once"
    node.lose(1)
    node.go()
    assert node.of(fx.EndSession) == [fx.EndSession(1)]
    assert node.quiet()


def test_what_is_given_back_while_the_context_ends_waits_for_that(node):
    _pd, _cq, qp = with_qp(node)
    mr = node.mr()
    node.send(rq.FsTruncate("/mnt/a", 0), 3)
    destroyed, again, dereg = (node.send(op) for op in (rq.DestroyQp(qp), rq.DestroyQp(qp), rq.DeregMr(mr)))
    assert node.answer(again).errno == errno.EINVAL
    assert node.answer(destroyed) is None
    assert node.answer(dereg) is None
    node.go()
    for request in (destroyed, dereg):
        assert isinstance(node.answer(request), fx.Reply)
    assert node.quiet()


def test_hardware_that_refuses_is_asked_again_before_anything_is_freed(node):
    mr = node.mr()
    request = node.send(rq.FsTruncate("/mnt/a", 0), 3)
    for kind in (fx.Quiesce, fx.Unmap):
        node.waiting.clear()
        answer = ev.Quiesced if kind is fx.Quiesce else ev.Unmapped
        node.step(answer(node.of(kind)[-1].cookie, errno.EIO))
        assert node.answer(request) is None
        assert node.of(fx.Release) == []
        node.step(ev.TimerFired(node.of(fx.Arm)[-1].timer))
        if kind is fx.Quiesce:
            node.go(ev.Quiesced)
    node.go()
    assert isinstance(node.answer(request), fx.Reply)
    assert node.books.mrs[mr].state == "unmapped"
    assert node.of(fx.Release)


def test_registrations_under_way_are_taken_back_with_the_context(node):
    node.mr()
    pd = node.pd()
    installing = node.send(rq.RegMr(pd, BLOCK, 7, 0, "dax", "/mnt/a"))
    opening = node.send(rq.RegMr(pd, BLOCK, 7, 0))
    node.send(rq.FsTruncate("/mnt/a", 0), 3)
    node.go()
    for request in (installing, opening):
        assert node.answer(request).errno == errno.EIO
    node.lose(1)
    node.go()
    assert node.quiet()


def test_a_queue_pair_that_was_being_made_ends_with_the_context(node):
    node.mr()
    pd = node.pd()
    cq = node.ask(rq.CreateCq(16))["handle"]
    made = node.send(rq.CreateQp(pd, cq, cq))
    node.send(rq.FsTruncate("/mnt/a", 0), 3)
    node.go()
    handle = node.answer(made).result["handle"]
    assert len(node.of(fx.EndQp)) == 1
    node.ask(rq.DestroyQp(handle))


def test_a_destroyed_context_that_hangs_up_leaves_nothing(node):
    with_qp(node)
    node.mr()
    request = node.send(rq.FsTruncate("/mnt/a", 0), 3)
    node.lose(1)
    node.go()
    assert isinstance(node.answer(request), fx.Reply)
    assert node.of(fx.EndSession) == [fx.EndSession(1)]
    assert not len(node.books.qps)
    assert not len(node.books.mrs)
    assert node.quiet()


def test_a_holder_that_takes_its_own_file_is_answered_all_the_same(node):
    node.mr()
    node.ask(rq.FsTruncate("/mnt/a", 0), 1)
    assert node.refused(rq.AllocPd())[0] == "EIO"


# ---- the NIC


def test_unplugging_the_nic_destroys_every_context_and_is_answered_behind_the_last(node):
    for session in (1, 2):
        with_qp(node, session)
        node.mr(session=session)
    request = node.send(rq.FsUnplug("emu0"), 3)
    assert node.answer(request) is None
    assert [len(told(node, session)) for session in (1, 2, 3, 9)] == [1, 1, 1, 0], "9 has no context"
    ends = [answer for answer in node.waiting if isinstance(answer, ev.Answered)]
    for answer in ends:
        node.waiting.remove(answer)
    node.go()
    assert node.answer(request) is None, "queue pairs are still ending"
    node.waiting.extend(ends)
    node.go()
    assert isinstance(node.answer(request), fx.Reply)
    assert node.refused(rq.FsUnplug("emu0"), 3)[0] == "ENODEV"
    node.ask(rq.FsTruncate("/mnt/a", 0), 3)
    assert node.blocks()["owned"] == 0


def test_without_the_nic_new_contexts_have_nothing_and_with_it_they_work(node):
    assert node.refused(rq.FsPlug("emu0"), 3)[0] == "EBUSY"
    node.ask(rq.FsUnplug("emu0"), 3)
    node.step(ev.SessionOpened(4, "late", door=True, wants=False))
    assert node.refused(rq.AllocPd(), 4)[0] == "ENODEV"
    node.ask(rq.FsPlug("emu0"), 3)
    node.pd(4)
    assert node.refused(rq.AllocPd(), 1)[0] == "EIO", "what was destroyed stays so"


def test_whoever_unplugs_and_goes_is_not_waited_for(node):
    node.mr()
    node.send(rq.FsUnplug("emu0"), 3)
    assert node.refused(rq.FsPlug("emu0"), 2)[0] == "EBUSY", "still being unplugged"
    node.lose(3)
    node.go()
    node.ask(rq.FsPlug("emu0"), 2)
    assert node.quiet()
