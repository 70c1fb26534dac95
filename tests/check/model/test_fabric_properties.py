"""The model's fabric under every mischief of the network: drawn at random, and walked through to the last state in the small."""

from __future__ import annotations

from collections import Counter, deque
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.check.model.fabric import Fabric, Step, Terms, canonical
from emu.engine.link import MASK, Answer, Link, LinkAction, LinkEvent, Rules
from emu.engine.rules import Outcome, QpState

SUCCESS, FLUSHED, REM_ACCESS_ERR, RETRY_EXC_ERR, RNR_RETRY_EXC_ERR = 0, 5, 10, 12, 13
ALL = {SUCCESS, FLUSHED, REM_ACCESS_ERR, RETRY_EXC_ERR}
KEY = 0x101
MOST = 20_000

terms = st.builds(
    Terms,
    depth=st.integers(1, 3),
    losses=st.integers(0, 12),
    duplicates=st.integers(0, 6),
    partitions=st.integers(0, 3),
    overtakes=st.integers(0, 6),
    hurries=st.integers(0, 6),
    retry_cnt=st.integers(0, 7),
    rnr_retry=st.integers(0, 7),
    window=st.integers(0, 3),
    psn=st.sampled_from([0, 77, MASK - 2, MASK]),
)


class Run:
    """Peers, the fabric, and the simplest engine there is. Keeps its own account of what ran and what was polled."""

    def __init__(self, given_terms, peers=1):
        self.fabric = Fabric(peers, given_terms)
        self.state = self.fabric.start()
        self.inside = [False] * peers
        self.posted = [[] for _ in range(peers)]
        self.polled = [[] for _ in range(peers)]
        self.ran = [[] for _ in range(peers)]
        self.refuses = Outcome.OK

    def take(self, step):
        assert step.broken == ()
        self.state = step.state
        for done in step.completions:
            self.polled[done.peer].append((done.work.number, done.status))
            if done.status == SUCCESS:
                whole = [(done.work.number, quantum) for quantum in range(done.work.quanta)]
                assert set(whole) <= set(self.ran[done.peer]), "success, and not carried out"
        return step

    def choices(self):
        found = list(self.fabric.moves(self.state))
        for peer, inside in enumerate(self.inside):
            if inside:
                found.append(("leave", lambda peer=peer: self.leave(peer)))
            elif self.fabric.serving(self.state, peer):
                found.append(("enter", lambda peer=peer: self.enter(peer)))
        return found

    def post(self, peer, quanta):
        if self.fabric.may_post(self.state, peer):
            self.posted[peer].append(quanta)
            self.take(self.fabric.post(self.state, peer, KEY + peer, quanta))

    def enter(self, peer):
        step = self.fabric.enter(self.state, peer, self.refuses)
        self.inside[peer] = step.runs
        return step

    def leave(self, peer):
        serving = self.fabric.serving(self.state, peer)
        self.ran[peer].append((serving.work.number, serving.quantum))
        self.inside[peer] = False
        return self.fabric.leave(self.state, peer)

    def draw(self, data, moves):
        for _ in range(moves):
            choices = self.choices()
            if not choices:
                return
            self.take(data.draw(st.sampled_from(choices), "move")[1]())

    def settle(self):
        """The network heals and behaves; timers run out only when nothing else can happen."""
        if any(self.state.cut):
            self.take(self.fabric.heal(self.state))
        while True:
            choices = [(x, make) for x, make in self.choices() if not x.startswith(MISCHIEF)]
            if not choices:
                return
            self.take(min(choices, key=lambda choice: "fires" in choice[0])[1]())


MISCHIEF = ("network: lose", "network: duplicate", "network: partition")


def account(run, peer):
    """Every WRITE completed once, in order; what ran did so once, in order."""
    numbers = [number for number, _status in run.polled[peer]]
    assert numbers == list(range(len(run.posted[peer])))
    assert run.ran[peer] == sorted(set(run.ran[peer]))
    statuses = [status for _number, status in run.polled[peer]]
    good = statuses.index(next((s for s in statuses if s), None)) if any(statuses) else len(statuses)
    assert all(status == SUCCESS for status in statuses[:good])
    assert all(status == FLUSHED for status in statuses[good + 1 :])
    assert bool(statuses[good:]) == run.fabric.failed(run.state, peer)
    return statuses[good] if good < len(statuses) else SUCCESS


@given(terms, st.data())
def test_every_write_completes_once_in_order_whatever_the_network_does(given_terms, data):
    run = Run(given_terms, peers=2)
    for _ in range(data.draw(st.integers(1, 6), "writes")):
        run.post(data.draw(st.integers(0, 1), "peer"), data.draw(st.integers(1, 4), "quanta"))
        run.draw(data, data.draw(st.integers(0, 12), "moves"))
    run.settle()
    for peer in range(2):
        assert account(run, peer) in {SUCCESS, RETRY_EXC_ERR}


@given(terms, st.sampled_from([Outcome.REM_ACCESS, Outcome.REM_INV_REQ, Outcome.RNR]), st.data())
def test_a_key_that_dies_ends_the_connection_and_never_succeeds_behind_it(given_terms, refusal, data):
    run = Run(given_terms)
    run.post(0, 2)
    run.draw(data, data.draw(st.integers(0, 8), "moves"))
    run.refuses = refusal
    before = len(run.ran[0]) + run.inside[0]
    run.post(0, 2)
    if refusal is Outcome.RNR and given_terms.rnr_retry == 7:
        run.draw(data, 20)  # for ever: there is nothing to settle
    else:
        run.settle()
        expected = {
            Outcome.REM_ACCESS: REM_ACCESS_ERR,
            Outcome.REM_INV_REQ: 9,
            Outcome.RNR: RNR_RETRY_EXC_ERR,
        }[refusal]
        assert account(run, 0) in {SUCCESS, RETRY_EXC_ERR, expected}
        assert run.polled[0][-1][1] != SUCCESS or len(run.posted[0]) == 1
    assert len(run.ran[0]) <= before


@given(terms, st.data())
def test_a_network_that_only_reorders_and_repeats_loses_nothing(given_terms, data):
    """Patient peers over a network that loses nothing never fail."""
    calm = Terms(**{**vars(given_terms), "losses": 0, "partitions": 0, "hurries": 0, "retry_cnt": 7})
    run = Run(calm)
    for _ in range(3):
        run.post(0, data.draw(st.integers(1, 4), "quanta"))
        run.draw(data, data.draw(st.integers(0, 12), "moves"))
    run.settle()
    assert account(run, 0) in ({SUCCESS} if not calm.overtakes else {SUCCESS, RETRY_EXC_ERR})


@given(terms, st.data())
def test_a_new_connection_starts_afresh(given_terms, data):
    run = Run(given_terms)
    run.post(0, 2)
    run.draw(data, data.draw(st.integers(0, 8), "moves"))
    if run.inside[0]:
        run.take(run.leave(0))
    run.take(run.fabric.die(run.state, 0))
    run.settle()
    failed = run.fabric.failed(run.state, 0)
    assert failed or run.polled[0] == [(0, SUCCESS)]
    if not failed:
        run.post(0, 1)
        run.settle()
    run.take(run.fabric.connect(run.state, 0))
    run.post(0, 2)
    run.settle()
    assert run.polled[0][-1] == (len(run.posted[0]) - 1, SUCCESS)


def walk(given_terms, quanta=2, rules=None):
    """Every state of one peer that writes without end, one key that dies at any time, an engine, and connecting again.

    Returns how many states, the completions seen by status, and what broke.
    """
    fabric = Fabric(1, given_terms)
    fabric.rules = rules or fabric.rules
    start = (fabric.start(), False, True)
    seen, queue, polled, broken = {form(start)}, deque([start]), Counter(), set()
    while queue and not broken:
        assert len(seen) < MOST, "the space does not close"
        for step, inside, alive in around(fabric, queue.popleft(), quanta):
            broken.update(name for name, _sentence in step.broken)
            polled.update(done.status for done in step.completions)
            state = (step.state, inside, alive)
            if form(state) not in seen:
                seen.add(form(state))
                queue.append(state)
    return len(seen), polled, broken


def form(world):
    return (canonical(world[0]), *world[1:])


def around(fabric, world, quanta):
    state, inside, alive = world
    for _label, make in fabric.moves(state):
        yield make(), inside, alive
    if alive:
        yield Step(state), inside, False
    if fabric.may_post(state, 0):
        yield fabric.post(state, 0, KEY, quanta), inside, alive
    if inside:
        yield fabric.leave(state, 0), False, alive
    elif fabric.serving(state, 0):
        step = fabric.enter(state, 0, Outcome.OK if alive else Outcome.REM_ACCESS)
        yield step, step.runs, alive
    if fabric.may_connect(state, 0):
        yield fabric.connect(state, 0), inside, alive


@pytest.mark.parametrize(
    ("given_terms", "states", "statuses"),
    [
        (Terms(depth=2, losses=2, duplicates=1, partitions=0), 2338, ALL),
        (Terms(depth=2, losses=1, duplicates=1, partitions=0, hurries=1), 4642, ALL),
        (Terms(depth=2, losses=0, duplicates=0, partitions=0, overtakes=2, hurries=2), 4482, ALL),
        (Terms(depth=2, losses=1, duplicates=0, partitions=2), 3529, ALL),
    ],
    ids=["losses", "duplicates", "overtakes", "partitions"],
)
def test_every_state_of_a_small_connection_is_visited_and_none_breaks(given_terms, states, statuses):
    """Under WRITEs without end, a key that dies at any time, and new connections: a finite space, of a known size."""
    found, polled, broken = walk(given_terms)
    assert (found, set(polled), broken) == (states, statuses, set())


class Asked(NamedTuple):
    """One call of the link's rules, and what they said."""

    link: Link
    event: LinkEvent
    psn: int
    answer: int
    said: tuple

    def accept(self):
        link = self.link._replace(expected=self.psn, busy=1, asks=1).packed()
        return (link, int(LinkAction.ACCEPT), 0, 0, 0, 0)


class Wrong(Rules):
    """The rules with a bug in the link: a function that may say something else."""

    def __init__(self, bug):
        super().__init__()
        self.bug = bug

    def link(self, state, event, psn=0, count=0, answer=0, *rest, **named):
        said = super().link(state, event, psn, count, answer, *rest, **named)
        return self.bug(Asked(Link.of(state), event, psn, answer, said)) or said


def carries_out_what_is_repeated(asked):
    link = asked.link
    older = link.expected - asked.psn & MASK == 1
    return (
        asked.accept() if asked.event is LinkEvent.REQUEST and link.open and not link.busy and older else None
    )


def passes_over_a_gap(asked):
    gap = asked.said[1] & LinkAction.REPLY and asked.said[4] == Answer.SEQUENCE
    return asked.accept() if asked.event is LinkEvent.REQUEST and gap else None


def acknowledges_before_it_is_carried_out(asked):
    link, actions, *_ = asked.said
    if not actions & LinkAction.ACCEPT:
        return None
    return (link, actions | int(LinkAction.REPLY), asked.psn, 0, int(Answer.ACK), 0)


def takes_every_answer_for_a_yes(asked):
    if asked.event is not LinkEvent.ANSWER or asked.answer == Answer.ACK:
        return None
    return Rules().link(asked.link.packed(), asked.event, asked.psn, 0, Answer.ACK)


def acknowledges_what_was_refused(asked):
    refused = asked.event is LinkEvent.RAN and asked.said[1] & LinkAction.REPLY
    return (*asked.said[:4], int(Answer.ACK), 0) if refused else None


def is_done_instead_of_trying_again(asked):
    if not asked.said[1] & LinkAction.RETRY:
        return None
    done = asked.link._replace(unacked=asked.link.next, sent=asked.link.next).packed()
    return (done, int(LinkAction.DONE | LinkAction.DISARM), 0, 0, 0, 0)


BUGS = [
    carries_out_what_is_repeated,
    passes_over_a_gap,
    acknowledges_before_it_is_carried_out,
    takes_every_answer_for_a_yes,
    acknowledges_what_was_refused,
    is_done_instead_of_trying_again,
]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_link_with_a_bug_is_caught(bug):
    given_terms = Terms(depth=1, losses=1, duplicates=1, partitions=0)
    assert walk(given_terms)[2] == set()
    assert walk(given_terms, rules=Wrong(bug))[2] == {"S4"}


def test_a_queue_pair_in_error_stays_there_until_it_is_connected_again():
    fabric = Fabric(1, Terms(retry_cnt=0, partitions=1))
    state = fabric.partition(fabric.post(fabric.start(), 0, KEY, 1).state, (True, True)).state
    state = fabric.fire(state, 0).state
    assert state.lines[0].qp[0] == QpState.ERR
    assert fabric.connect(state, 0).state.lines[0].qp[0] == QpState.RTS
