"""Protocols that wait: who wakes them, what an interrupt leaves, and registrations that wait behind a reclaim (wait-fair)."""

from __future__ import annotations

import errno

import pytest

from emu.core import effects as fx
from emu.core import events as ev
from emu.core import requests as rq
from emu.core.errors import errno_name

BLOCK = 4096
PUNCH = rq.FsPunch("/mnt/a", BLOCK, 2 * BLOCK)


@pytest.fixture
def fair(make_node):
    return make_node("wait-fair")


def reg(node, session, offset=0, length=4 * BLOCK, path="/mnt/a", pd=0):
    return rq.RegMr(pd or node.pd(session), length, 7, 0, "dax", path, offset)


def failed(node, request):
    answer = node.answer(request)
    assert isinstance(answer, fx.Fail), answer
    return errno_name(answer.errno)


def succeeded(node, request):
    node.go()
    answer = node.answer(request)
    assert isinstance(answer, fx.Reply), answer
    return answer.result


# ---- wait, wait-fair: the last unpin


@pytest.mark.parametrize("protocol", ["wait", "wait-fair"])
@pytest.mark.parametrize(
    "op",
    [
        rq.FsTruncate("/mnt/a", 0),
        PUNCH,
        rq.FsUnlink("/mnt/a"),
        rq.FsUnplug("pm0"),
        rq.FsUnplug("pm0", surprise=True),
        rq.FsFallocate("/mnt/a", "collapse", 0, BLOCK),
        rq.FsFallocate("/mnt/a", "zero", 0, BLOCK),
        rq.FsMigrate("/mnt/a"),
    ],
    ids=str,
)
def test_it_is_answered_behind_the_last_unpin_and_not_before(make_node, protocol, op):
    node = make_node(protocol)
    node.file()
    keys = [node.mr(session=1), node.mr(session=2)]
    request = node.send(op, 3)
    node.go()
    assert node.answer(request) is None
    node.ask(rq.DeregMr(keys[0]), 1)
    assert node.answer(request) is None, "one pin is left"
    node.ask(rq.DeregMr(keys[1]), 2)
    succeeded(node, request)
    assert node.quiet()


@pytest.mark.parametrize("protocol", ["wait", "wait-fair"])
def test_a_holder_that_dies_lets_go(make_node, protocol):
    node = make_node(protocol)
    node.file()
    node.mr(session=1)
    request = node.send(rq.FsTruncate("/mnt/a", 0), 3)
    node.lose(1)
    succeeded(node, request)
    assert node.stat()["blocks"] == 0


@pytest.mark.parametrize("protocol", ["wait", "wait-fair"])
def test_an_interrupt_changes_nothing(make_node, protocol):
    node = make_node(protocol)
    node.file()
    key = node.mr(session=1)
    before = node.stat()
    request = node.send(rq.FsTruncate("/mnt/a", 0), 3)
    node.ask(rq.Cancel(request), 3)
    assert failed(node, request) == "EINTR"
    assert node.stat() == before
    assert not node.books.mrs[key].revoked
    assert node.quiet()


def test_wait_has_no_gate_and_a_pin_that_came_later_is_waited_for(make_node):
    node = make_node("wait")
    node.file()
    first = node.mr(session=1)
    request = node.send(rq.FsTruncate("/mnt/a", 0), 3)
    later = node.mr(session=2)
    node.ask(rq.DeregMr(first), 1)
    assert node.answer(request) is None
    node.ask(rq.DeregMr(later), 2)
    succeeded(node, request)


def test_a_pin_elsewhere_in_the_file_keeps_nobody_waiting(make_node):
    node = make_node("wait")
    node.file()
    node.mr(session=1, length=BLOCK)
    node.ask(rq.FsTruncate("/mnt/a", BLOCK), 3)


def test_gate_and_act_are_one_step(make_node):
    node = make_node("wait")
    node.file()
    key = node.mr(session=1)
    request = node.send(rq.FsTruncate("/mnt/a", 0), 3)
    node.send(rq.DeregMr(key), 1)
    node.go(ev.Quiesced)
    waiting = next(answer for answer in node.waiting if isinstance(answer, ev.Unmapped))
    node.waiting.remove(waiting)
    made = node.step(waiting)
    phases = [effect.phase for effect in made if isinstance(effect, fx.Phase)]
    assert phases == ["gated", "applied", "freed", "returned", "ended"]
    succeeded(node, request)


def test_no_namespace_is_plugged_while_a_surprise_waits_for_pins(make_node):
    node = make_node("wait")
    node.file()
    node.mr(session=1)
    request = node.send(rq.FsUnplug("pm0", surprise=True), 3)
    assert node.refused(rq.FsPlug("pm0"), 3)[0] == "EBUSY"
    node.lose(1)
    succeeded(node, request)
    assert node.ask(rq.FsPlug("pm0"), 3) == {"namespace": 2}


# ---- wait-fair: who comes behind


def test_a_registration_behind_the_gate_goes_on_when_the_reclaim_has_ended(fair):
    fair.file()
    key = fair.mr(session=1)
    reclaim = fair.send(PUNCH, 3)
    later = fair.send(reg(fair, 2), 2)
    fair.go()
    assert fair.answer(later) is None
    assert len(fair.books.parked) == 1
    fair.ask(rq.DeregMr(key), 1)
    succeeded(fair, reclaim)
    handle = succeeded(fair, later)["handle"]
    assert fair.books.mrs[handle].state == "live"
    assert len(fair.books.parked) == 0


def test_it_is_refused_if_the_file_has_become_too_short(fair):
    fair.file()
    key = fair.mr(session=1)
    reclaim = fair.send(rq.FsTruncate("/mnt/a", BLOCK), 3)
    long, short = fair.send(reg(fair, 2), 2), fair.send(reg(fair, 2, length=BLOCK), 2)
    fair.ask(rq.DeregMr(key), 1)
    succeeded(fair, reclaim)
    assert failed(fair, long) == "EINVAL"
    assert succeeded(fair, short)["length"] == BLOCK, "which was outside the truncate, and waited for nobody"


@pytest.mark.parametrize(
    ("op", "code"),
    [
        (rq.FsUnlink("/mnt/a"), "ENOENT"),
        (rq.FsUnplug("/mnt/a"), "ENODEV"),
        (rq.FsUnplug("pm0"), "ENODEV"),
    ],
    ids=str,
)
def test_it_is_refused_if_there_is_no_such_file_any_more(fair, op, code):
    fair.file()
    key = fair.mr(session=1)
    reclaim = fair.send(op, 3)
    later = fair.send(reg(fair, 2), 2)
    fair.ask(rq.DeregMr(key), 1)
    succeeded(fair, reclaim)
    assert failed(fair, later) == code
    assert len(fair.books.parked) == 0


def test_it_goes_on_when_the_reclaim_is_interrupted(fair):
    fair.file()
    fair.mr(session=1)
    reclaim = fair.send(PUNCH, 3)
    later = fair.send(reg(fair, 2), 2)
    fair.ask(rq.Cancel(reclaim), 3)
    assert failed(fair, reclaim) == "EINTR"
    assert succeeded(fair, later)["handle"]


def test_a_registration_outside_the_range_does_not_wait(fair):
    fair.file()
    fair.mr(session=1)
    fair.send(PUNCH, 3)
    assert fair.ask(reg(fair, 2, length=BLOCK), 2)["handle"]


def test_who_comes_first_goes_first(fair):
    """pin 1 < punch < pin 2 < truncate < pin 3: each waits for those that came before it."""
    fair.file()
    one = fair.mr(session=1)
    punch = fair.send(PUNCH, 3)
    two = fair.send(reg(fair, 2), 2)
    truncate = fair.send(rq.FsTruncate("/mnt/a", BLOCK), 3)
    three = fair.send(reg(fair, 2, offset=BLOCK, length=BLOCK), 2)
    fair.ask(rq.DeregMr(one), 1)
    succeeded(fair, punch)
    second = succeeded(fair, two)["handle"]
    assert fair.answer(truncate) is None, "the second pin was there before it"
    assert fair.answer(three) is None, "and the third came behind it"
    fair.ask(rq.DeregMr(second), 2)
    succeeded(fair, truncate)
    assert failed(fair, three) == "EINVAL", "the file has one block now"


def test_a_stream_of_short_pins_cannot_starve_a_reclaim(fair):
    fair.file()
    key = fair.mr(session=1)
    reclaim = fair.send(PUNCH, 3)
    stream = [fair.send(reg(fair, 2), 2) for _ in range(5)]
    fair.ask(rq.DeregMr(key), 1)
    succeeded(fair, reclaim)
    assert all(succeeded(fair, request)["handle"] for request in stream)


def test_a_session_that_ends_takes_its_place_in_the_queue_with_it(fair):
    fair.file()
    key = fair.mr(session=1)
    reclaim = fair.send(PUNCH, 3)
    later = fair.send(reg(fair, 2), 2)
    fair.lose(2)
    assert len(fair.books.parked) == 0
    fair.ask(rq.DeregMr(key), 1)
    succeeded(fair, reclaim)
    assert fair.answer(later) is None
    assert len(fair.books.mrs) == 0


def test_a_registration_can_be_interrupted_while_it_waits(fair):
    fair.file()
    fair.mr(session=1)
    fair.send(PUNCH, 3)
    later = fair.send(reg(fair, 2), 2)
    fair.ask(rq.Cancel(later), 2)
    assert failed(fair, later) == "EINTR"
    assert fair.refused(rq.Cancel(later), 2)[0] == "ENOENT"


def test_nobody_else_can_interrupt_it(fair):
    fair.file()
    fair.mr(session=1)
    fair.send(PUNCH, 3)
    later = fair.send(reg(fair, 2), 2)
    assert fair.refused(rq.Cancel(later), 1)[0] == "ENOENT"


def test_its_pd_may_go_while_it_waits(fair):
    fair.file()
    key = fair.mr(session=1)
    fair.send(PUNCH, 3)
    pd = fair.pd(2)
    later = fair.send(reg(fair, 2, pd=pd), 2)
    fair.ask(rq.DeallocPd(pd), 2)
    fair.ask(rq.DeregMr(key), 1)
    assert failed(fair, later) == "EINVAL"


def test_a_destroyed_context_waits_for_nothing(fair):
    fair.file()
    fair.mr(session=1)
    fair.send(PUNCH, 3)
    later = fair.send(reg(fair, 2), 2)
    fair.send(rq.FsUnplug("emu0"), 3)
    assert failed(fair, later) == "EIO"
    assert len(fair.books.parked) == 0


def test_a_gate_of_another_protocol_lets_nobody_wait(fair):
    fair.file()
    fair.mr(session=1)
    fair.ask(rq.SetProtocol("/mnt", "mr-revoke"), 3)
    request = reg(fair, 2)
    fair.send(PUNCH, 3)
    assert fair.refused(request, 2)[0] == "EBUSY"


# ---- with a descriptor


def host_reg(node, session):
    return rq.RegMr(node.pd(session), 4 * BLOCK, 7, 0, "host", "/tmp/host")


def closed(node):
    return [effect.handle for effect in node.of(fx.CloseHandle)]


@pytest.fixture
def hosted(fair, host):
    fair.ask(rq.SetProtocol("host", "wait-fair"), 3)
    key = fair.ask(host_reg(fair, 1), 1, host(50))["handle"]
    reclaim = fair.send(rq.FsTruncate("/tmp/host", 0, host=True), 3, host(51))
    assert fair.answer(reclaim) is None
    return fair, key, reclaim


def test_the_descriptor_of_a_parked_registration_is_kept_and_used(hosted, host):
    node, key, reclaim = hosted
    later = node.send(host_reg(node, 2), 2, host(52))
    assert 52 not in closed(node)
    node.ask(rq.Cancel(reclaim), 3)
    node.go()
    assert succeeded(node, later)["handle"]
    assert closed(node).count(52) == 1
    node.ask(rq.DeregMr(key), 1)


@pytest.mark.parametrize("how", ["interrupt", "hang up", "destroy"])
def test_the_descriptor_is_closed_when_the_registration_comes_to_nothing(hosted, host, how):
    node, _key, _reclaim = hosted
    later = node.send(host_reg(node, 2), 2, host(52))
    if how == "interrupt":
        node.ask(rq.Cancel(later), 2)
    elif how == "hang up":
        node.lose(2)
    else:
        node.send(rq.FsUnplug("emu0"), 3)
    assert closed(node).count(52) == 1


def test_the_descriptor_is_closed_when_the_registration_is_refused_at_last(hosted, host):
    node, key, reclaim = hosted
    request = rq.RegMr(node.pd(2), 4 * BLOCK, 7, 0, "host", "/tmp/host")
    later = node.send(request, 2, host(52))
    node.ask(rq.SetProtocol("host", "refuse"), 3)
    node.ask(rq.DeregMr(key), 1)
    succeeded(node, reclaim)
    assert failed(node, later) == "EFAULT"
    assert closed(node).count(52) == 1


# ---- refuse


@pytest.mark.parametrize(
    ("backing", "path", "access", "code"),
    [
        ("dax", "/mnt/a", 7, errno.EOPNOTSUPP),
        ("dax", "/mnt/a", 0, errno.EOPNOTSUPP),
        ("dax", "/cold/a", 7, errno.EFAULT),
        ("host", "/tmp/host", 7, errno.EFAULT),
    ],
)
def test_refuse_admits_no_mr_that_could_be_in_the_way(make_node, host, backing, path, access, code):
    node = make_node("refuse")
    node.ask(rq.SetProtocol("host", "refuse"), 3)
    for name in ("/mnt/a", "/cold/a"):
        node.file(name)
    request = rq.RegMr(node.pd(), 4 * BLOCK, access, 0, backing, path)
    found, sentence = node.refused(request, 1, host(50) if backing == "host" else None)
    assert found == errno_name(code)
    assert "refuse" in sentence
    node.ask(rq.FsTruncate("/mnt/a", 0), 3)


@pytest.mark.parametrize(("backing", "path"), [("dax", "/cold/a"), ("host", "/tmp/host")])
def test_refuse_admits_who_only_reads_where_linux_does(make_node, host, backing, path):
    node = make_node("refuse")
    node.ask(rq.SetProtocol("host", "refuse"), 3)
    node.file("/cold/a")
    given = host(50) if backing == "host" else None
    request = rq.RegMr(node.pd(), 4 * BLOCK, 0, 0, backing, path)
    assert node.ask(request, 1, given)["handle"]
    if backing == "dax":
        node.ask(rq.FsTruncate(path, 0), 3)
    else:
        node.ask(rq.FsTruncate(path, 0, host=True), 3, host(51))
