"""Guards of host files in the core: what a broken kernel lease becomes."""

from __future__ import annotations

import pytest

from emu.core import effects as fx
from emu.core import events as ev
from emu.core import requests as rq

BLOCK = 4096


def guarded(node, host, answer=None, protocol="mr-revoke"):
    """A guarded MR of session 1, which asked for events. Its aperture."""
    node.ask(rq.SetProtocol("host", protocol))
    node.pd()
    request = node.send(rq.RegMr(1, BLOCK, 7, 0, "host", guard=True), 1, host())
    opened = node.of(fx.OpenHost)[-1]
    assert opened.guard
    node.waiting.clear()
    node.step(ev.Answered(opened.token, value=answer or {"guarded": True, "why": ""}))
    node.go()
    return opened.aperture, node.answer(request).result


def test_a_truncate_by_a_stranger_is_a_reclaim_that_yields_the_lease_when_it_is_applied(node, host):
    aperture, told = guarded(node, host)
    assert (told["guarded"], told["unguarded"]) == (True, "")
    node.step(ev.LeaseBroken(aperture, taken=True))
    assert not node.of(fx.YieldLease), "the stranger waits for the quiesce"
    node.go()
    order = [type(effect).__name__ for effect in node.effects]
    assert order.index("Quiesce") < order.index("Unmap") < order.index("YieldLease")
    assert node.phases()[-3:] == ["freed", "returned", "ended"]
    assert node.quiet()
    assert [e.fields["taken"] for e in node.of(fx.Notify) if e.name == "UNGUARDED"] == [True]


def test_a_reader_takes_nothing_and_ends_the_guard(node, host):
    aperture, _told = guarded(node, host)
    node.step(ev.LeaseBroken(aperture, taken=False))
    assert node.of(fx.YieldLease) == [fx.YieldLease(aperture)]
    assert not node.phases()
    node.step(ev.LeaseBroken(aperture, taken=True))
    assert not node.phases(), "one break, one lease"


def test_a_protocol_that_denies_yields_nothing_and_the_kernels_clock_goes_on(node, host):
    aperture, _told = guarded(node, host, protocol="ebusy")
    node.step(ev.LeaseBroken(aperture, taken=True))
    node.go()
    assert not node.of(fx.YieldLease)
    assert node.phases()[-1] == "ended"


def test_a_break_that_nobody_is_left_to_hear_is_yielded_at_once(node, host):
    aperture, told = guarded(node, host)
    node.ask(rq.DeregMr(told["handle"]))
    node.step(ev.LeaseBroken(aperture, taken=True))
    assert node.of(fx.YieldLease) == [fx.YieldLease(aperture)]
    assert not node.phases()


def test_a_guard_that_cannot_hold_is_told_with_its_reason(node, host):
    _aperture, told = guarded(node, host, {"guarded": False, "why": "somebody else has it open"})
    assert (told["guarded"], told["unguarded"]) == (False, "somebody else has it open")


def test_a_file_that_was_registered_before_without_one_says_so(node, host):
    node.pd()
    node.ask(rq.RegMr(1, BLOCK, 7, 0, "host"), 1, host())
    told = node.ask(rq.RegMr(1, BLOCK, 7, 0, "host", guard=True), 1, host(51))
    assert told["guarded"] is False
    assert "without a guard before" in told["unguarded"]


@pytest.mark.parametrize("backing", ["dax", "anon"])
def test_only_host_files_are_guarded(node, backing):
    node.file()
    node.pd()
    path = "/mnt/a" if backing == "dax" else ""
    name, sentence = node.refused(rq.RegMr(1, BLOCK, 7, 0, backing, path, guard=True))
    assert name == "EINVAL"
    assert sentence.startswith("reg_mr: guard: only host files")
