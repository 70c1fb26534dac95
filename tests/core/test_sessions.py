"""Contexts, PDs, CQs, QPs: what the engine makes, what is refused, and the order in which a lost context ends."""

from __future__ import annotations

import errno

import pytest

from emu.core import effects as fx
from emu.core import events as ev
from emu.core import queues
from emu.core import requests as rq

BLOCK = 4096


@pytest.fixture
def pair(node):
    """A node whose session 1 has a PD, a CQ and a QP: (node, qp handle, qp_num)."""
    pd = node.pd()
    cq = node.ask(rq.CreateCq(16))["handle"]
    qp = node.ask(rq.CreateQp(pd, cq, cq, max_send_wr=16))
    return node, qp["handle"], qp["qp_num"]


def test_a_cq_and_a_qp_are_made_by_the_engine_and_come_with_their_descriptors(pair):
    node, handle, _number = pair
    made = [effect for effect in node.of(fx.Reply) if effect.descriptors]
    assert [effect.descriptors for effect in made] == [
        node.of(fx.MakeCq)[0].token,
        node.of(fx.MakeQp)[0].token,
    ]
    assert made[1].result == {
        "handle": handle,
        "qp_num": node.of(fx.Reply)[-1].result["qp_num"],
        "max_send_wr": 16,
    }
    assert node.of(fx.MakeQp)[0].send_cq == made[0].result["cq"], "the engine hears its own numbers"


def test_modify_and_query_go_through(pair):
    node, handle, number = pair
    node.ask(rq.ModifyQp(handle, 1, {"state": 1}))
    node.ask(rq.QueryQp(handle))
    assert node.of(fx.SetQp)[0].qp_num == node.of(fx.GetQp)[0].qp_num == number


@pytest.mark.parametrize("op", [rq.ModifyQp(1, 1, {}), rq.QueryQp(1)])
def test_what_the_engine_refuses_fails(pair, op):
    node, _handle, _number = pair
    request = node.send(op)
    node.step(ev.Answered(node.waiting.pop().token, errno.EINVAL, {"error": "RESET to RTS is no step"}))
    assert node.answer(request).errno == errno.EINVAL
    assert "RESET to RTS" in node.answer(request).sentence


@pytest.mark.parametrize("kind", ["cq", "qp"])
def test_what_cannot_be_made_leaves_nothing(pair, kind):
    node, _handle, _number = pair
    before = node.core.canonical()
    request = node.send(rq.CreateCq(1) if kind == "cq" else rq.CreateQp(1, 1, 1))
    node.step(ev.Answered(node.waiting.pop().token, errno.ENOMEM))
    assert node.answer(request).errno == errno.ENOMEM
    assert node.core.canonical() == before


def test_destroy_waits_until_nothing_runs(pair):
    node, handle, _number = pair
    request = node.send(rq.DestroyQp(handle))
    assert node.answer(request) is None
    assert node.refused(rq.QueryQp(handle))[0] == "EINVAL"
    assert node.refused(rq.DestroyQp(handle))[0] == "EINVAL"
    assert node.refused(rq.DestroyCq(1))[0] == "EBUSY"
    node.go()
    assert isinstance(node.answer(request), fx.Reply)
    node.ask(rq.DestroyCq(1))
    assert len(node.of(fx.EndCq)) == 1
    node.ask(rq.DeallocPd(1))


def test_what_is_in_use_stays(pair):
    node, _handle, _number = pair
    assert node.refused(rq.DeallocPd(1))[0] == "EBUSY"
    assert node.refused(rq.DestroyCq(1))[0] == "EBUSY"


def test_what_is_still_being_made_cannot_be_used(node):
    pd = node.pd()
    node.send(rq.CreateCq(1))
    assert node.refused(rq.DestroyCq(1))[0] == "EBUSY"
    assert node.refused(rq.CreateQp(pd, 1, 1))[0] == "EINVAL"
    node.go()
    node.send(rq.CreateQp(pd, 1, 1))
    assert node.refused(rq.ModifyQp(1, 0, {}))[0] == "EINVAL"
    assert node.refused(rq.DeallocPd(pd))[0] == "EBUSY"


@pytest.mark.parametrize(
    ("op", "name"),
    [
        (rq.DeallocPd(7), "EINVAL"),
        (rq.CreateCq(0), "EINVAL"),
        (rq.CreateCq(65537), "EINVAL"),
        (rq.DestroyCq(7), "EINVAL"),
        (rq.CreateQp(7, 1, 1), "EINVAL"),
        (rq.CreateQp(1, 7, 1), "EINVAL"),
        (rq.CreateQp(1, 1, 7), "EINVAL"),
        (rq.CreateQp(1, 1, 1, type=3), "EOPNOTSUPP"),
        (rq.CreateQp(1, 1, 1, max_send_wr=-1), "EINVAL"),
        (rq.CreateQp(1, 1, 1, max_recv_wr=1 << 63), "EINVAL"),
        (rq.CreateQp(1, 1, 1, max_send_sge=17), "EINVAL"),
        (rq.ModifyQp(7, 0, {}), "EINVAL"),
        (rq.QueryQp(7), "EINVAL"),
        (rq.DestroyQp(7), "EINVAL"),
    ],
)
def test_bad_arguments(pair, op, name):
    node, _handle, _number = pair
    assert node.refused(op)[0] == name


@pytest.mark.parametrize("op", [rq.QueryQp(1), rq.DestroyQp(1), rq.DestroyCq(1), rq.DeallocPd(1)])
def test_another_sessions_handles_are_refused(pair, op):
    node, _handle, _number = pair
    assert node.refused(op, session=2)[0] == "EINVAL"


def test_limits(pair, monkeypatch):
    node, _handle, _number = pair
    monkeypatch.setattr(queues, "MAX_QP", 1)
    monkeypatch.setattr(queues, "MAX_CQ", 1)
    monkeypatch.setattr(queues, "MAX_PD", 1)
    for op in (rq.CreateQp(1, 1, 1), rq.CreateCq(1), rq.AllocPd()):
        assert node.refused(op)[0] == "ENOMEM"


def test_events_of_the_engine_reach_the_owner_by_handle(pair):
    node, handle, number = pair
    node.step(ev.QpReported(number, 3))
    node.step(ev.QpReported(number, 77))
    node.step(ev.CqReported(node.of(fx.MakeQp)[0].send_cq, 0))
    assert [(told.session, told.name, told.fields) for told in node.of(fx.Notify)] == [
        (1, "QP_ACCESS_ERR", {"qp": handle}),
        (1, "QP_EVENT_77", {"qp": handle}),
        (1, "CQ_ERR", {"cq": 1}),
    ]
    assert node.step(ev.QpReported(1 << 20, 3)) == node.step(ev.CqReported(1 << 20, 0)) == ()


# ---- the end of a context


def test_a_lost_context_ends_in_order(pair):
    node, _handle, _number = pair
    node.file()
    node.mr()
    node.ask(rq.RegMr(1, BLOCK, 7, 0, "anon"))
    node.effects.clear()
    node.lose(1)
    assert [type(effect) for effect in node.effects] == [fx.EndQp, fx.Quiesce]
    assert len(node.of(fx.Quiesce)[0].keys) == 2, "one grace period for all its MRs"
    node.go()
    kinds = [type(effect) for effect in node.effects]
    assert kinds[2:] == [fx.Unmap, fx.RemoveKey, fx.RemoveKey, fx.DropAperture, fx.EndCq, fx.EndSession]
    assert node.quiet()
    counts = node.ask(rq.QueryBooks(), 2)
    assert (counts["sessions"], counts["mrs"], counts["qps"], counts["cqs"], counts["pds"]) == (3, 0, 0, 0, 0)


def test_a_lost_context_hears_nothing_more(pair):
    node, _handle, number = pair
    node.file()
    handle = node.mr()
    requests = [node.send(rq.DeregMr(handle)), node.send(rq.QueryQp(1)), node.send(rq.FsRead("/mnt/a", 0, 1))]
    node.lose(1)
    node.step(ev.QpReported(number, 3))
    assert node.step(ev.Requested(1, 999, rq.AllocPd())) == ()
    node.go()
    assert [node.answer(request) for request in requests] == [None] * 3
    assert node.of(fx.Notify) == []
    assert node.of(fx.EndSession) == [fx.EndSession(1)]


def test_whatever_was_under_way_is_taken_down_when_it_arrives(node, host):
    pd = node.pd()
    node.file()
    node.ask(rq.CreateCq(1))
    node.send(rq.CreateCq(1))
    node.send(rq.CreateQp(pd, 1, 1))
    node.send(rq.RegMr(pd, BLOCK, 7, 0, "dax", "/mnt/a"))
    node.send(rq.RegMr(pd, BLOCK, 7, 0, "anon"))
    node.send(rq.RegMr(pd, BLOCK, 7, 0, "host"), 1, host())
    node.lose(1)
    assert node.of(fx.EndSession) == []
    node.go()
    assert len(node.of(fx.EndQp)) == 1
    assert len(node.of(fx.EndCq)) == 2
    assert len(node.of(fx.RemoveKey)) == 1
    assert len(node.of(fx.DropAperture)) == 2
    assert node.of(fx.CloseHandle) == [fx.CloseHandle(50)]
    assert node.of(fx.EndSession) == [fx.EndSession(1)]
    assert node.quiet()


def test_a_qp_that_is_being_destroyed_is_ended_once(pair):
    node, handle, _number = pair
    node.send(rq.DestroyQp(handle))
    node.lose(1)
    node.go()
    assert len(node.of(fx.EndQp)) == 1
    assert node.of(fx.EndSession) == [fx.EndSession(1)]


def test_hardware_that_refuses_to_stop_is_asked_again_for_a_lost_context(node):
    node.file()
    node.mr()
    node.lose(1)
    node.waiting.clear()
    for tried in range(1, 4):
        node.step(ev.Quiesced(node.of(fx.Quiesce)[-1].cookie, errno.EIO))
        armed = node.of(fx.Arm)[-1]
        assert (len(node.of(fx.Quiesce)), len(node.of(fx.Arm)), armed.seconds) == (tried, tried, 0.1)
        node.step(ev.TimerFired(armed.timer))
        assert node.step(ev.TimerFired(armed.timer)) == ()
    node.go()
    assert node.of(fx.EndSession) == [fx.EndSession(1)]


def test_a_dereg_that_a_revoke_overtakes(node):
    node.file()
    handle = node.mr()
    request = node.send(rq.DeregMr(handle))
    quiesced = node.waiting.pop()
    truncate = node.send(rq.FsTruncate("/mnt/a", 0), 2)
    node.go()
    assert isinstance(node.answer(truncate), fx.Reply)
    node.waiting.append(quiesced)
    node.go()
    assert isinstance(node.answer(request), fx.Reply)
    assert len(node.of(fx.Unmap)) == 1, "what the reclaim has unmapped is not unmapped again"
    assert node.quiet()


def test_losing_a_session_twice_or_unknown_is_nothing(node):
    assert node.lose(77) == ()
    node.lose(1)
    assert node.lose(1) == ()


def test_a_session_number_is_used_once(node):
    with pytest.raises(ValueError, match="session 1"):
        node.step(ev.SessionOpened(1, "again", door=True, wants=False))
    with pytest.raises(ValueError, match="session 0"):
        node.step(ev.SessionOpened(0, "zero", door=True, wants=False))


def test_an_opener_that_ends_leaves_the_session_as_it_is(node):
    node.file()
    handle = node.mr()
    assert node.step(ev.OwnerEnded(1)) == ()
    assert node.books.sessions[1].orphaned
    node.ask(rq.DeregMr(handle))
    assert node.step(ev.OwnerEnded(77)) == (), "nobody's"


def test_the_shell_says_whom_a_signal_can_reach(node):
    node.step(ev.SessionOpened(4, "near", door=True, wants=False, signalable=True))
    assert [node.books.sessions[number].signalable for number in (1, 4)] == [False, True]
