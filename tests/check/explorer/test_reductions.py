"""Reductions change how many states there are, and nothing that is said about them."""

from __future__ import annotations

import dataclasses

import pytest
import wrong_protocols
from wrong_protocols import NO_QUIESCE, PATIENT

from emu.check.explorer.breadth import Bounds, Search
from emu.check.explorer.coverage import Watched
from emu.check.explorer.search import explore, setup_of
from emu.check.explorer.small import Small
from emu.check.explorer.symmetry import Orders
from emu.check.model.engine import Engine
from emu.core.machine import Core
from emu.protocols import registry

PROTOCOLS = registry.load().protocols


def two_holders(event, refusals=0):
    """Two holders, and little else: small enough to be explored in every way."""
    return dataclasses.replace(setup_of(event, 2, 1, 1, 0), refusals=refusals, taker=False)


def said(result):
    """All but how many states there are; of stories how long they are, since several may be shortest."""
    found = [(f.invariant, len(f.story), bool(f.loop)) for f in (*result.breaches, *result.costs)]
    return result.code, found, result.missing, set(result.sometimes), result.rows


@pytest.mark.parametrize("protocol", wrong_protocols.ALL, ids=lambda protocol: protocol.name)
def test_a_wrong_protocol_is_wrong_in_the_same_ways_without_reduction(protocol):
    once = dataclasses.replace(setup_of("truncate"), registrations=0, refusals=0)
    reduced, whole = (explore(protocol, "truncate", setup=once, reduction=on) for on in (True, False))
    assert said(reduced) == said(whole)
    assert reduced.states < whole.states


@pytest.mark.parametrize(("name", "event"), [("none", "punch"), ("ebusy", "unplug")])
def test_two_holders_are_judged_alike_in_every_way_of_searching(name, event):
    results = [
        explore(PROTOCOLS[name], event, setup=two_holders(event), reduction=reduction, symmetry=symmetry)
        for reduction in (True, False)
        for symmetry in (True, False)
    ]
    assert all(said(result) == said(results[0]) for result in results)
    both, steps, holders, neither = (result.states for result in results)
    assert both < steps < neither
    assert both < holders < neither


@pytest.mark.parametrize("protocol", [wrong_protocols.POLLING, wrong_protocols.ASKING], ids=lambda p: p.name)
def test_what_never_ends_is_found_among_holders_that_are_alike(protocol):
    alike, apart = (
        explore(protocol, "truncate", setup=two_holders("truncate"), symmetry=on) for on in (True, False)
    )
    assert said(alike) == said(apart)
    assert "S7" in [finding.invariant for finding in alike.breaches]
    assert alike.states < apart.states


def test_who_truncates_its_own_file_is_like_no_other_holder_whatever_size_it_names():
    plain, sized = (
        dataclasses.replace(two_holders("truncate"), reclaims=(reclaim,), cancels=False)
        for reclaim in ("self-truncate", "self-truncate 4096")
    )
    one, other = (explore(PROTOCOLS["ebusy"], "truncate", setup=setup) for setup in (plain, sized))
    assert (other.states, other.transitions) == (one.states, one.transitions)
    assert one.reductions == other.reductions == ("independent steps",)
    assert said(one) == said(other)
    assert not plain.holders_alike
    assert not sized.holders_alike


def test_every_kept_state_stands_for_a_state_and_its_mirror_image():
    """Counted in the whole graph: states that are each other's image are one, those that are their own image too."""
    setup = dataclasses.replace(two_holders("truncate"), cancels=False, registrations=0)
    apart = searched(NO_QUIESCE, setup, Orders(2, alike=False))
    alike = searched(NO_QUIESCE, setup, Orders(2))
    images = images_of(NO_QUIESCE, setup)
    assert len(images) == len(apart.graph)
    assert len(alike.graph) == len({min(one, other) for one, other in images.items()})


def searched(protocol, setup, orders):
    search = Search(Small(Watched(protocol), setup, None, orders), orders, reduce=False)
    search.run(Bounds())
    return search


def images_of(protocol, setup):
    """Canonical form -> that of the state with its two holders exchanged, for every reachable state."""
    orders = Orders(2)
    space = Small(Watched(protocol), setup, None, orders)
    found, todo = {}, [space.start()]
    while todo:
        state = todo.pop()
        form = space.world.canonical(state)
        if form not in found:
            found[form] = space.world.canonical(state, (1, 0))
            todo += [space.take(choice).state for choice in space.choices(state)]
    return found


def test_nothing_is_forced_when_the_engine_is_another():
    class Other(Engine):
        pass

    for engine, forced in ((None, True), (Other(), False)):
        space = Small(Watched(PATIENT), setup_of("truncate"), None, Orders(1), engine)
        state = space.take(space.choices(space.start())[0]).state  # a key is about to be installed
        assert (space.forced(state, space.choices(state)) >= 0) is forced


def test_orders_multiply_as_exchanges_do():
    orders = Orders(3)
    for one, order in enumerate(orders.all):
        assert orders.product[one][orders.inverse[one]] == 0
        for other, second in enumerate(orders.all):
            both = orders.all[orders.product[one][other]]
            assert both == tuple(order[second[n]] for n in range(3))


def test_a_changed_core_may_listen_to_answers_that_nobody_waits_for():
    """Delivered at once they would come before there is anything to mistake them for."""

    class Listening(Core):
        pass

    plain, listening = (
        Small(Watched(PROTOCOLS["mr-revoke"]), setup_of("truncate"), core, Orders(1))
        for core in (Core, Listening)
    )
    for space, forced in ((plain, True), (listening, False)):
        state = space.start()
        for words in ("reg_mr", "shell", "installed", "truncate", "shell", "cancel"):
            choice = next(c for c in space.choices(state) if words in c.label)
            state = space.take(choice).state
        assert [answer.number < 0 for answer in state.answers] == [True]
        assert (space.forced(state, space.choices(state)) >= 0) is forced
