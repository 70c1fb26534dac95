"""What the core holds protocols to: their disposal of blocks, and every rule of RULES."""

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
)

if TYPE_CHECKING:
    from collections.abc import Mapping

BLOCK = 4096


# ---- disposal


KEEP = {(START, "requested"): go(apply(), free(), reply(), to=END)}


def test_keep_frees_what_is_not_pinned_and_the_rest_with_the_last_pin(own_node):
    node = own_node(KEEP, disposal="keep")
    node.file("/mnt/a", 2)
    node.file("/mnt/b", 2)
    node.ask(rq.FsWrite("/mnt/a", 2 * BLOCK, b"x" * (2 * BLOCK)))
    handle = node.mr(length=2 * BLOCK)
    node.ask(rq.FsTruncate("/mnt/a", 0), 2)
    assert node.blocks() == {"total": 64, "free": 60, "owned": 2, "quarantined": 2, "orphaned": 2}
    node.ask(rq.DeregMr(handle))
    assert node.blocks() == {"total": 64, "free": 62, "owned": 2, "quarantined": 0, "orphaned": 0}


def test_blocks_that_are_never_freed_are_kept_until_their_last_pin_is_gone(own_node):
    table = {(START, "requested"): go(apply(), reply(), to=END)}
    node = own_node(table)
    node.file()
    handle = node.mr()
    node.ask(rq.FsTruncate("/mnt/a", 0), 2)
    assert node.blocks()["quarantined"] == 4
    node.ask(rq.DeregMr(handle))
    assert node.blocks()["free"] == 64


# ---- rules


def broken(own_node, table, **more):
    """The rule that this table breaks when a pinned file is truncated."""
    node = own_node(table, **more)
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
def test_rules(own_node, table, rule):
    assert broken(own_node, table) == rule


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


def test_breaking_a_rule_behind_the_answer_ends_the_reclaim_in_silence(own_node, host):
    table = {
        (START, "requested"): go(apply(), reply(), arm(1.0), to="later"),
        ("later", "deadline"): go(apply(), to=END),
    }
    node = own_node(table)
    node.file(blocks=1)
    request = node.send(rq.FsTruncate("/mnt/a", 0), 2)
    node.step(ev.TimerFired(node.of(fx.Arm)[0].timer))
    assert isinstance(node.answer(request), fx.Reply)
    assert node.quiet()
    node.ask(rq.SetProtocol("host", "own"))
    node.ask(rq.FsTruncate("", 0, host=True), 2, host())


def test_blocks_of_a_reclaim_that_broke_a_rule_behind_its_apply_are_not_lost(own_node):
    table = {
        (START, "requested"): go(gate(), quiesce(), to="fencing"),
        ("fencing", "quiesced"): go(unmap(), to="unmapping"),
        ("unmapping", "unmapped"): go(apply(), arm(1.0), to="later"),
        ("later", "deadline"): go(apply(), to=END),
    }
    node = own_node(table)
    node.file()
    node.mr()
    request = node.send(rq.FsTruncate("/mnt/a", 0), 2)
    node.go()
    assert node.blocks()["quarantined"] == 4
    node.step(ev.TimerFired(node.of(fx.Arm)[0].timer))
    assert (node.answer(request).errno, node.answer(request).definite) == (errno.EPROTO, False)
    assert node.blocks() == {"total": 64, "free": 64, "owned": 0, "quarantined": 0, "orphaned": 0}


def test_blocks_that_are_never_freed_are_free_at_the_end_when_nothing_pins_them(own_node):
    node = own_node({(START, "requested"): go(apply(), reply(), to=END)})
    node.file()
    node.ask(rq.FsTruncate("/mnt/a", 0), 2)
    assert node.blocks()["free"] == 64


def test_breaking_a_rule_behind_the_hosts_answer(own_node, host):
    node = own_node(start(apply(), apply(), reply()))
    node.ask(rq.SetProtocol("host", "own"))
    request = node.send(rq.FsTruncate("", 0, host=True), 2, host())
    node.go()
    assert (node.answer(request).errno, node.answer(request).definite) == (errno.EPROTO, False)
    assert node.of(fx.CloseHandle) == [fx.CloseHandle(50)]


def test_disarm_without_a_timer_is_nothing(own_node):
    node = own_node(start(disarm(), apply(), free(), reply()))
    node.file()
    node.ask(rq.FsTruncate("/mnt/a", 0))


def test_a_second_quiesce_forgets_the_first_answer(own_node):
    table = {
        (START, "requested"): go(gate(), quiesce(), arm(1.0), to="fencing"),
        ("fencing", "deadline"): go(quiesce(), to="fencing"),
        ("fencing", "quiesced"): go(unmap(), to="unmapping"),
        ("unmapping", "unmapped"): go(apply(), free(), reply(), to=END),
    }
    node = own_node(table)
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


def test_blocks_of_an_unlinked_file_can_be_freed_later(own_node):
    node = own_node(LATER)
    node.file()
    node.ask(rq.FsUnlink("/mnt/a"))
    node.go()
    assert node.blocks() == {"total": 64, "free": 60, "owned": 0, "quarantined": 4, "orphaned": 0}
    node.step(ev.TimerFired(node.of(fx.Arm)[0].timer))
    assert node.blocks()["free"] == 64


def test_a_plug_forgets_blocks_in_quarantine_and_in_limbo_of_that_device(own_node):
    table = {(START, "requested"): go(apply(), free(), reply(), to=END)}
    node = own_node(table, disposal="keep")
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


def test_a_lie_that_cannot_be_made_true_ends_in_silence(own_node):
    """An answer before the change, and then the device goes: there is nothing left to say."""
    table = {
        (START, "requested"): go(reply(), arm(1.0), to="later"),
        ("later", "deadline"): go(apply(), free(), to=END),
    }
    node = own_node(table)
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
