"""Signals to holders: to the process that opened, as long as there is one."""

from __future__ import annotations

import pytest

from emu.core import effects as fx
from emu.core import events as ev
from emu.core import requests as rq
from emu.protocols import kill_process, lease_signal
from emu.protocols.contract import Protocol, go, signal

BLOCK = 4096
SIGIO, SIGBUS, SIGKILL = 29, 7, 9


def kill_node(make_node, protocol=kill_process.PROTOCOL):
    node = make_node(protocol.name, protocols={protocol.name: protocol, "mr-revoke": protocol})
    for session in (4, 5):
        node.step(ev.SessionOpened(session, f"s{session}", door=True, wants=True, signalable=True))
    node.file()
    return node


@pytest.fixture
def node(make_node):
    return kill_node(make_node)


@pytest.fixture
def ladder(make_node):
    """lease-signal without the lease: what concerns leases is tested elsewhere."""
    return kill_node(make_node, Protocol(**{**vars(lease_signal.PROTOCOL), "needs": ""}))


def signals(node):
    return [(effect.session, effect.number) for effect in node.of(fx.Signal)]


def test_each_holder_is_killed_once_and_the_memory_is_free_when_they_are_gone(node):
    node.mr(session=4)
    node.mr(session=4)
    node.mr(session=5, offset=BLOCK, length=BLOCK)
    request = node.send(rq.FsTruncate("/mnt/a", 0), 3)
    assert signals(node) == [(4, SIGKILL), (5, SIGKILL)]
    node.lose(4)
    node.go()
    assert node.answer(request) is None, "5 still pins it"
    assert node.blocks()["free"] == 60
    node.lose(5)
    node.go()
    assert isinstance(node.answer(request), fx.Reply)
    assert node.blocks()["free"] == 64


def test_whoever_holds_nothing_of_the_range_lives(node):
    node.mr(session=4, length=BLOCK)
    node.ask(rq.FsTruncate("/mnt/a", BLOCK), 3)
    assert signals(node) == []


@pytest.mark.parametrize("session", [1, 4], ids=["no process is known", "the opener has ended"])
def test_who_cannot_be_signalled_cannot_register(node, session):
    node.step(ev.OwnerEnded(session))
    op = rq.RegMr(node.pd(session), BLOCK, 7, 0, "dax", "/mnt/a")
    code, sentence = node.refused(op, session)
    assert code == "EPERM"
    assert "signal" in sentence


def test_a_survivor_is_not_signalled_and_keeps_the_pin(node):
    handle = node.mr(session=4)
    node.step(ev.OwnerEnded(4))
    request = node.send(rq.FsTruncate("/mnt/a", 0), 3)
    node.go()
    assert signals(node) == []
    assert node.answer(request) is None
    node.ask(rq.DeregMr(handle), 4)
    assert isinstance(node.answer(request), fx.Reply)


def test_an_interrupted_kill_has_changed_nothing_of_the_file(node):
    node.mr(session=4)
    request = node.send(rq.FsTruncate("/mnt/a", 0), 3)
    node.ask(rq.Cancel(request), 3)
    assert node.answer(request).errno == 4
    assert node.stat()["size"] == 4 * BLOCK


def test_the_ladder_climbs_and_ends(ladder):
    ladder.mr(session=4)
    request = ladder.send(rq.FsTruncate("/mnt/a", 0), 3)
    assert [e.fields["seconds"] for e in ladder.of(fx.Notify)] == [2.0]
    for numbers in ([SIGIO], [SIGIO, SIGBUS], [SIGIO, SIGBUS, SIGKILL]):
        assert signals(ladder) == [(4, number) for number in numbers]
        assert ladder.answer(request) is None
        ladder.step(ev.TimerFired(ladder.of(fx.Arm)[-1].timer))
    assert isinstance(ladder.answer(request), fx.Reply), "somebody else has the descriptor"
    assert ladder.stat()["size"] == 0
    assert ladder.blocks()["quarantined"] == 4, "its blocks are kept"
    ladder.lose(4)
    ladder.go()
    assert ladder.blocks()["free"] == 64


@pytest.mark.parametrize("rung", [0, 1, 2])
def test_who_lets_go_at_any_rung_ends_it(ladder, rung):
    handle = ladder.mr(session=4)
    request = ladder.send(rq.FsTruncate("/mnt/a", 0), 3)
    for _ in range(rung):
        ladder.step(ev.TimerFired(ladder.of(fx.Arm)[-1].timer))
    ladder.ask(rq.DeregMr(handle), 4)
    assert isinstance(ladder.answer(request), fx.Reply)
    assert len(signals(ladder)) == rung + 1
    assert ladder.quiet()


def test_the_lease_break_time_is_the_nodes(make_node):
    slow = lease_signal.protocol(45.0)
    node = kill_node(make_node, Protocol(**{**vars(slow), "needs": ""}))
    node.mr(session=4)
    node.send(rq.FsTruncate("/mnt/a", 0), 3)
    assert node.of(fx.Arm)[-1].seconds == 45.0


def test_a_signal_that_nobody_knows_breaks_the_contract(make_node):
    table = {**kill_process.PROTOCOL.table, ("start", "requested"): go(signal("SIGWINCH"), to="dying")}
    node = kill_node(make_node, Protocol(**{**vars(kill_process.PROTOCOL), "table": table}))
    node.mr(session=4)
    code, sentence = node.refused(rq.FsTruncate("/mnt/a", 0), 3)
    assert code == "EPROTO"
    assert "SIGKILL" in sentence
