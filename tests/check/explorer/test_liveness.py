"""What can go on for ever, fairly: on small graphs drawn by hand, and with protocols that wait, poll, or ask and do not listen."""

from __future__ import annotations

from itertools import permutations

import pytest
from wrong_protocols import ASKING, IMPATIENT, PATIENT, POLLING, WAITING

from emu.check.explorer.components import components
from emu.check.explorer.coverage import Watched
from emu.check.explorer.fairness import Classes, class_of
from emu.check.explorer.graph import HOLDERS_FROM, Graph
from emu.check.explorer.liveness import Liveness
from emu.check.explorer.search import explore, setup_of
from emu.check.explorer.small import Small
from emu.check.explorer.symmetry import Orders
from emu.check.explorer.tell import told


def drawn(edges, owed, holders=1):
    """A graph: state -> [(label, target) or (label, target, turn)]; owed: state -> bits."""
    graph, classes, orders = Graph(), Classes(), Orders(holders)
    for state in range(len(owed)):
        graph.add(bytes([state]), 0, 0, owed[state])
    for state in range(len(owed)):
        for at, (label, target, *turn) in enumerate(edges.get(state, [])):
            graph.edge(target, at, classes.of(label), turn[0] if turn else 0)
        graph.expanded()
    return {lasso.bit: lasso for lasso in Liveness(graph, classes, orders).lassos()}


def test_a_state_in_which_nobody_owes_a_move_is_its_own_loop():
    found = drawn({0: [("shell: x", 1)], 1: [("holder1: dereg_mr 1", 2)]}, [1, 1, 0])
    assert (found[0].state, found[0].nodes) == (1, frozenset())


def test_a_move_that_the_shell_owes_leads_out():
    assert not drawn({0: [("shell: x", 1)], 1: [("peer1: WRITE 1", 0), ("engine: quiesced 1", 2)]}, [1, 1, 0])


def test_a_loop_of_somebody_who_may_is_left_by_somebody_who_must():
    edges = {0: [("peer1: WRITE 1", 1), ("timer 1 fires", 2)], 1: [("engine: peer1 leaves 0", 0)]}
    assert not drawn(edges, [1, 1, 0])


def test_a_loop_in_which_everybody_who_must_moves_is_fair():
    edges = {0: [("timer 1 fires", 1)], 1: [("shell: x", 0), ("crash: holder1", 2)]}
    assert drawn(edges, [1, 1, 0])[0].nodes == {(0, 0), (1, 0)}


def test_of_a_component_only_the_part_is_fair_in_which_nobody_waits_in_vain():
    """State 2 is left by the shell, and never for a state inside; without it the timer still goes round."""
    edges = {0: [("timer 1 fires", 1)], 1: [("timer 1 fires", 0), ("holder1: reg_mr", 2)]}
    edges[2] = [("timer 1 fires", 0), ("shell: x", 3)]
    assert drawn(edges, [1, 1, 1, 0])[0].nodes == {(0, 0), (1, 0)}


def test_two_peers_are_told_apart_though_their_states_are_kept_once():
    """One peer writes for ever, the other's quantum never ends: he owes it. As the same peer they would seem to move."""
    edges = {0: [("peer1: WRITE 1", 1), ("engine: peer2 leaves 0", 2)]}
    edges[1] = [("engine: peer1 leaves 0", 0), ("engine: peer2 leaves 0", 2)]
    assert not drawn(edges, [1, 1, 0], holders=2)


def test_a_loop_of_kept_states_closes_when_everybody_is_in_his_own_place_again():
    """The state after a turn is its mirror image: there peer 2 owes what peer 1 owed, and both move in turn."""
    exchange = Orders(2).all.index((1, 0))
    found = drawn({0: [("engine: peer1 leaves 0", 0, exchange)]}, [1], holders=2)
    assert found[0].nodes == {(0, 0), (0, exchange)}


def test_a_holder_who_is_unheard_only_now_and_then_is_heard():
    """The bit goes from one holder to the other along the loop: neither has it for ever."""
    exchange = Orders(2).all.index((1, 0))
    assert not drawn({0: [("timer 1 fires", 0, exchange)]}, [1 << HOLDERS_FROM], holders=2)
    assert drawn({0: [("timer 1 fires", 0)]}, [1 << HOLDERS_FROM], holders=2)


def test_components_of_a_graph():
    edges = {0: [1], 1: [2, 3], 2: [0], 3: [4], 4: [3], 5: [5]}
    found = {frozenset(part) for part in components(range(6), edges.__getitem__)}
    assert found == {frozenset({0, 1, 2}), frozenset({3, 4}), frozenset({5})}


def test_components_do_not_depend_on_where_one_begins():
    edges = {0: [1], 1: [0, 2], 2: [3], 3: [2]}
    for order in permutations(range(4)):
        found = {frozenset(part) for part in components(order, edges.__getitem__)}
        assert found == {frozenset({0, 1}), frozenset({2, 3})}


@pytest.mark.parametrize(
    ("label", "owed"),
    [
        ("shell: install 256 (0, 1) 7", "shell:"),
        ("engine: peer2 enters 0", "peer2"),
        ("engine: quiesced 1", "quiesced"),
        ("timer 3 fires", "timer"),
        ("fault: quiesced 1 is refused", ""),
        ("crash: holder1", ""),
        ("holder1: reg_mr", ""),
        ("peer1: WRITE 1", ""),
        ("reclaimer1: cancel", ""),
        ("taker: create /mnt/b", ""),
        ("network: lose 1", ""),
    ],
)
def test_who_owes_a_move(label, owed):
    assert class_of(label) == owed


def breach(protocol, invariant):
    return next(f for f in explore(protocol, "truncate").breaches if f.invariant == invariant)


def test_a_reclaim_that_waits_for_its_holder_stands_still():
    finding = breach(WAITING, "S7")
    assert finding.story[-1] == "reclaimer1: truncate"
    assert finding.script["loop"] == []


def test_a_reclaim_that_polls_goes_round_and_round():
    finding = breach(POLLING, "S7")
    assert list(finding.loop) == ["timer 1 fires"]


def test_a_loop_leads_back_to_where_it_began():
    setup = setup_of("truncate")
    finding = breach(POLLING, "S7")
    space = Small(Watched(POLLING), setup, None, Orders(1), linear=True)
    state = space.start()
    forms = []
    for label in (*finding.story, *finding.loop):
        choice = next(c for c in space.choices(state) if _kind(c.label) == _kind(label))
        state = space.take(choice).state
        forms.append(space.exact(state))
    assert forms[len(finding.story) - 1] == forms[-1]


def _kind(label):
    return " ".join(word for word in label.split() if not word.isdigit())


def test_notified_and_not_heard_is_a_breach_of_its_own():
    assert breach(ASKING, "heard").script["breaks"]["sentence"].startswith("holder 1 was notified")
    assert "heard" in [f.invariant for f in explore(IMPATIENT, "truncate").breaches]


def test_who_asks_and_then_revokes_is_never_stuck():
    result = explore(PATIENT, "truncate")
    assert [f.invariant for f in result.breaches] == []
    assert result.missing == []


def test_the_way_of_a_story_is_gone_again_by_its_places():
    space = Small(Watched(WAITING), setup_of("truncate"), None, Orders(1), linear=True)
    assert told(space, [0, 0])[0][0] == "holder1: reg_mr"
