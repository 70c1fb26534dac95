"""Host files: one aperture for a file, reclaims that the host carries out, descriptors."""

from __future__ import annotations

import errno

import pytest

from emu.core import effects as fx
from emu.core import events as ev
from emu.core import requests as rq
from emu.core.decision import END, START
from emu.protocols.contract import (
    apply,
    arm,
    free,
    gate,
    go,
    reply,
)

BLOCK = 4096


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


def test_events_that_come_while_the_host_applies_are_told_behind_it(own_node, host):
    table = {
        (START, "requested"): go(gate(), arm(1.0), apply(), reply(), to="applied"),
        ("applied", "deadline"): go(free(), to=END),
    }
    node = own_node(table)
    node.ask(rq.SetProtocol("host", "own"))
    request = node.send(rq.FsTruncate("", 0, host=True), 2, host())
    node.step(ev.TimerFired(node.of(fx.Arm)[0].timer))
    assert node.answer(request) is None
    node.go()
    assert isinstance(node.answer(request), fx.Reply)
    assert node.phases()[-2:] == ["freed", "ended"]
    assert node.quiet()


@pytest.mark.parametrize(
    ("op", "effect"),
    [
        (rq.FsTruncate("", 0, host=True), fx.HostTruncate),
        (rq.FsPunch("", 0, BLOCK, host=True), fx.HostPunch),
        (rq.FsUnplug("", host=True), fx.Reply),
    ],
)
@pytest.mark.parametrize("disposal", ["after-unmap", "keep", "now"])
def test_what_is_pinned_is_not_the_hosts_to_free(own_node, host, op, effect, disposal):
    node = own_node({(START, "requested"): go(gate(), apply(), free(disposal), reply(), to=END)})
    node.ask(rq.SetProtocol("host", "own"))
    node.pd()
    handle = reg_host(node, host(50))["handle"]
    answers = len(node.of(effect))
    errno_, sentence = node.refused(op, 2, host(51))
    assert (errno_, "free-after-unmap: 1 MRs still pin" in sentence) == ("EPROTO", True)
    assert len(node.of(effect)) == answers, "nothing has happened to it"
    node.ask(rq.FsTruncate("", 2 * BLOCK, host=True), 2, host(52))  # which is not pinned
    node.ask(rq.DeregMr(handle))
    node.ask(op, 2, host(53))


def test_who_frees_under_pins_does_not_get_host_files(own_node):
    node = own_node({(START, "requested"): go(gate(), apply(), free(), reply(), to=END)}, disposal="now")
    errno_, sentence = node.refused(rq.SetProtocol("host", "own"))
    assert (errno_, "blocks of a host file are the host's" in sentence) == ("EOPNOTSUPP", True)
