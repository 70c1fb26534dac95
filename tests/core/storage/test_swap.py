"""Memory of clients under pressure: what is paged out, who is asked first, and what is said where nothing could be taken."""

from __future__ import annotations

import pytest

from emu.core import effects as fx
from emu.core import events as ev
from emu.core import requests as rq
from emu.protocols import odp, registry

BLOCK = 4096
PROTOCOLS = {**registry.load().protocols, "odp": odp.PROTOCOL}
ALL = rq.FsPressure("anon")


@pytest.fixture
def anon(make_node):
    """A node whose clients' memory this protocol rules, and one MR of it."""

    def start(protocol, **more):
        node = make_node(protocol, protocols=PROTOCOLS)
        node.ask(rq.SetProtocol("anon", protocol))
        return node, node.ask(rq.RegMr(node.pd(), BLOCK, 7, 0, **more))["handle"]

    return start


def paged_out(node):
    return [aperture for effect in node.of(fx.PageOut) for aperture in effect.apertures]


def test_what_a_protocol_has_unpinned_is_paged_out_and_nothing_else(anon):
    node, key = anon("mr-revoke")
    node.file()
    pages = node.mr()
    assert node.ask(ALL, 3) == {"pinned": 0, "taken": 1}
    assert paged_out(node) == [node.books.mrs[key].aperture]
    assert (node.books.mrs[key].state, node.books.mrs[key].revoked) == ("unmapped", True)
    assert node.books.mrs[pages].state == "live"
    assert node.quiet()


@pytest.mark.parametrize("protocol", ["none", "ebusy", "deferred-free", "refuse", "linux-6.1", "linux-6.18"])
def test_where_all_is_pinned_nobody_hears_of_a_success(anon, protocol):
    node, key = anon(protocol)
    assert node.refused(ALL, 3)[0] == "EBUSY"
    assert node.books.mrs[key].state == "live"
    assert paged_out(node) == []
    assert node.quiet()


def test_one_mr_is_taken_and_its_neighbours_are_not_asked(anon):
    node, key = anon("mr-revoke")
    other = node.ask(rq.RegMr(node.pd(2), BLOCK, 7, 0), 2)["handle"]
    assert node.ask(rq.FsPressure("anon", key), 3) == {"pinned": 0, "taken": 1}
    assert node.books.mrs[other].state == "live"


def test_an_mr_that_is_gone_has_taken_its_memory_along(anon):
    node, key = anon("ebusy")
    node.ask(rq.DeregMr(key))
    assert node.ask(rq.FsPressure("anon", key), 3) == {"pinned": 0, "taken": 0}
    assert node.phases() == []


def test_a_wait_ends_with_the_registration_and_leaves_nothing_to_page_out(anon):
    node, key = anon("wait")
    request = node.send(ALL, 3)
    node.go()
    assert node.answer(request) is None
    node.ask(rq.DeregMr(key))
    assert node.answer(request).result == {"pinned": 0, "taken": 1}
    assert paged_out(node) == []


def test_memory_on_demand_is_drained_and_faults_back_where_it_was(anon):
    node, key = anon("odp")
    runs = node.books.mrs[key].runs
    assert node.ask(ALL, 3) == {"pinned": 0, "taken": 1}
    assert (node.books.mrs[key].state, node.books.mrs[key].revoked) == ("absent", False)
    node.step(ev.Missed(key, 1, 0, 64, True))
    node.go()
    assert node.books.mrs[key].state == "live"
    assert node.of(fx.Remap)[-1].extents == runs


def test_whoever_faults_in_between_waits_for_the_reclaim(anon):
    node, key = anon("odp")
    request = node.send(ALL, 3)
    node.step(ev.Missed(key, 1, 0, 64, True))
    assert node.of(fx.Remap) == []
    node.go()
    assert node.answer(request).result == {"pinned": 0, "taken": 1}
    node.step(ev.TimerFired(node.of(fx.Arm)[-1].timer))
    assert len(node.of(fx.Remap)) == 1


def test_what_one_class_gives_up_does_not_help_where_the_other_keeps_all(anon):
    node, key = anon("linux-6.18")
    on_demand = node.ask(rq.RegMr(node.pd(2), BLOCK, 71, 0), 2)["handle"]
    assert node.refused(ALL, 3)[0] == "EBUSY"
    stopped = [
        effect.keys for effect in node.of(fx.Phase) if effect.phase in {"fencing", "fenced", "unmapped"}
    ]
    assert stopped == [(on_demand,)] * 3
    assert node.books.mrs[key].state == "live"


def test_a_file_is_not_named_by_an_mr(anon):
    node, key = anon("none")
    node.file("/cold/a")
    assert node.refused(rq.FsPressure("/cold/a", key))[0] == "EINVAL"
