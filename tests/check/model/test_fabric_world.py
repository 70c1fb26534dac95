"""The small world whose peers write through queue pairs and a network: same verdicts, and what only a network can show."""

from __future__ import annotations

import random
import re
from collections import Counter, deque

import pytest

from emu.check.model.engine import Engine
from emu.check.model.fabric import Fabric
from emu.check.model.setup import Setup
from emu.check.model.state import NONE_ADMITTED
from emu.check.model.world import World
from emu.protocols import registry

PROTOCOLS = registry.load().protocols
SMALL = {"crashes": 0, "refusals": 0, "registrations": 0, "taker": False, "cancels": False}
MOST = 20_000


def walk(world):
    """(states, moves, what broke, guards met) of the whole space."""
    start = world.start()
    seen, queue = {world.canonical(start)}, deque([start])
    moves, broken, met = 0, set(), Counter()
    while queue:
        assert len(seen) < MOST, "the space does not close"
        for move in world.moves(queue.popleft()):
            moves += 1
            broken.update(name for name, _sentence in move.broken)
            met.update(move.met)
            form = world.canonical(move.state)
            if form not in seen:
                seen.add(form)
                queue.append(move.state)
    return len(seen), moves, broken, met


def world_of(protocol, engine=None, **given):
    return World(PROTOCOLS[protocol], Setup(**{**SMALL, **given}), engine=engine)


@pytest.mark.parametrize("event", ["truncate", "surprise-unplug"])
@pytest.mark.parametrize(
    "protocol", sorted(name for name, row in PROTOCOLS.items() if "dax" not in row.refuses)
)
def test_a_network_that_does_its_work_changes_no_verdict(protocol, event):
    *_, plain, _met = walk(world_of(protocol, reclaims=(event,)))
    *_, broken, met = walk(world_of(protocol, reclaims=(event,), fabric=True))
    assert broken == plain
    assert met["a WRITE succeeded"]
    assert met["a WRITE failed"]


@pytest.mark.parametrize("protocol", sorted(name for name, row in PROTOCOLS.items() if "dax" in row.refuses))
def test_where_no_mr_is_admitted_nobody_has_anything_to_write_to(protocol):
    """Whatever the network does: no key was ever given out."""
    for fabric in (False, True):
        *_, broken, met = walk(world_of(protocol, reclaims=("truncate",), fabric=fabric))
        assert broken == set()
        assert met[NONE_ADMITTED]
        assert not any("WRITE" in guard or "DMA" in guard for guard in met)


# (states, moves). A change of these numbers is a change of what can happen: say why in the commit.
@pytest.mark.parametrize(
    ("given", "size"),
    [
        ({}, (678, 1420)),
        ({"losses": 1}, (2584, 6120)),
        ({"hurries": 1, "duplicates": 1, "retries": 0}, (6508, 18763)),
        ({"partitions": 1, "retries": 0, "depth": 2}, (8393, 27459)),
    ],
    ids=["calm", "losses", "slow packets", "partitions"],
)
def test_a_revoke_holds_whatever_the_network_does(given, size):
    """A slow or repeated packet that comes behind the revoke meets a dead key, and nothing else."""
    states, moves, broken, met = walk(world_of("mr-revoke", fabric=True, **given))
    assert (states, moves) == size
    assert broken == set()
    assert met["an MR was revoked"]
    assert bool(met["a peer gave up"]) == bool(given)
    assert bool(met["a WRITE was flushed"]) == ("depth" in given)


class EarlyQuiesce(Engine):
    """Says that it is quiet while a quantum still runs."""

    def quiesce(self, state, cookie, numbers):
        state = super().quiesce(state, cookie, numbers)
        return state._replace(answers=tuple(answer._replace(waits=()) for answer in state.answers))


def test_a_wrong_engine_is_seen_through_the_network():
    *_, broken, _met = walk(world_of("mr-revoke", EarlyQuiesce(), fabric=True))
    assert {"S1", "V9"} <= broken


def test_a_wrong_fabric_is_seen(monkeypatch):
    """The control of S5: completions that the peer polls in the wrong order, or not at all."""
    world = world_of("none", fabric=True)
    honest = Fabric.deliver

    def forgets(self, state, peer, packet):
        return honest(self, state, peer, packet)._replace(completions=())

    monkeypatch.setattr(Fabric, "deliver", forgets)
    *_, broken, _met = walk(world)
    assert "S5" in broken


LIVELY = {
    "holders": 2,
    "mrs": 2,
    "reclaims": ("truncate 2048", "punch"),
    "crashes": 3,
    "refusals": 1,
    "registrations": 6,
    "returns": True,
    "blocks": 4,
    "fabric": True,
    "depth": 3,
    "losses": 20,
    "duplicates": 20,
    "overtakes": 20,
    "partitions": 4,
    "hurries": 10,
    "retries": 2,
}


def story(protocol, seed, steps, direct):
    """A drunkard's walk: labels, states and the tape."""
    world, draw = World(PROTOCOLS[protocol], Setup(**LIVELY), direct=direct), random.Random(seed)
    if direct:
        world.tape = []
    state = world.start()
    moves = []
    for _ in range(steps):
        choices = list(world.choices(state))
        if not choices:
            break
        calm = [choice for choice in choices if not choice.label.startswith(("crash", "network: partition"))]
        moves.append(world.take(draw.choice(calm if calm and draw.random() < 0.97 else choices)))
        state = moves[-1].state
    return world, moves


def test_a_peer_polls_what_it_posted_once_and_in_order():
    statuses = Counter()
    for seed in range(16):
        world, moves = story("mr-revoke", seed, 1200, direct=True)
        assert not [finding for move in moves for finding in move.broken]
        for peer in range(2):
            facts = [(fact[0], fact[2].work) for fact in world.tape if fact[0] in FACTS and fact[1] == peer]
            posted = [work for kind, work in facts if kind == "posted"]
            assert posted == list(range(len(posted)))
            polled = [work for kind, work in facts if kind == "completed"]
            assert polled == posted[: len(polled)]
            assert len(posted) - len(polled) <= LIVELY["depth"]
            entered = [work for kind, work in facts if kind == "enter"]
            assert entered == sorted(entered)
        statuses.update(fact[3] for fact in world.tape if fact[0] == "completed")
    assert set(statuses) == {"SUCCESS", "REM_ACCESS_ERR", "RETRY_EXC_ERR", "WR_FLUSH_ERR"}


FACTS = {"posted", "enter", "leave", "completed"}


@pytest.mark.parametrize("seed", range(3))
def test_both_drivers_tell_one_story(seed):
    """The explorer's renamed numbers and a linear run's raw ones: the same choices, the same canonical form."""
    linear, told = story("mr-revoke", seed, 250, direct=True)
    walked, moves = story("mr-revoke", seed, 250, direct=False)
    assert len(told) == len(moves)
    for one, other in zip(told, moves, strict=True):
        assert linear.canonical(one.state) == walked.canonical(other.state)


SWAP = str.maketrans("12", "21")


def mirrored(label):
    """The same move, of the other holder or peer."""
    if label.startswith("shell"):
        return "shell"
    return re.sub(r"(holder|peer)([12])", lambda found: found[1] + found[2].translate(SWAP), label)


@pytest.mark.parametrize("seed", range(4))
def test_holders_and_peers_that_exchange_their_parts_have_one_least_form(seed):
    """One story, and the same with every 1 and 2 exchanged."""
    setup = {**LIVELY, "crashes": 0, "blocks": 3, "mrs": 1}
    one, other = (World(PROTOCOLS["mr-revoke"], Setup(**setup), direct=True) for _ in range(2))
    draw, here, there = random.Random(seed), one.start(), other.start()
    differed = 0
    for _ in range(200):
        choice = draw.choice(list(one.choices(here)))
        wanted = mirrored(choice.label)
        twin = [c for c in other.choices(there) if c.label == wanted or c.label.split(":")[0] == wanted]
        assert len(twin) == 1, (choice.label, [c.label for c in other.choices(there)])
        here, there = one.take(choice).state, other.take(twin[0]).state
        assert one.least(here)[0] == other.least(there)[0]
        differed += one.canonical(here) != other.canonical(there)
    assert differed


def test_a_queue_pair_goes_with_its_holder_and_comes_back_with_it():
    world = World(PROTOCOLS["mr-revoke"], Setup(fabric=True, returns=True, retries=0, refusals=0))
    state = world.start()

    def do(label):
        nonlocal state
        by_label = {choice.label: choice for choice in world.choices(state)}
        assert label in by_label, sorted(by_label)
        state = world.take(by_label[label]).state

    def until_quiet():
        nonlocal state
        while True:
            shell = [
                c for c in world.choices(state) if c.actor in {"shell", "engine"} and "goes" not in c.label
            ]
            if not shell:
                return
            state = world.take(shell[0]).state

    do("holder1: reg_mr")
    until_quiet()
    do("peer1: WRITE 1")
    do("crash: holder1")
    until_quiet()
    do("engine: peer1's responder goes")
    do("peer1: timer fires")
    assert not any(choice.label == "peer1: connects again" for choice in world.choices(state))
    do("holder1: comes back")
    until_quiet()
    do("peer1: connects again")
    do("holder1: reg_mr")
    until_quiet()
    do("peer1: WRITE 1")
    do("network: deliver peer1's write 0")
    do("engine: peer1 enters 0")
