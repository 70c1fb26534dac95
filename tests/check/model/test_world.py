"""The small world: two drivers that agree, holders that are alike, a tape that tells all, and what Setup says."""

from __future__ import annotations

import random
from collections import deque

import pytest

from emu.check.model.engine import SUCCESS, Engine
from emu.check.model.setup import Setup
from emu.check.model.state import KINDS
from emu.check.model.world import World
from emu.core import effects as do
from emu.core import events
from emu.protocols import registry

PROTOCOLS = registry.load().protocols
SMALL = Setup(registrations=0)


def reach(world, limit=10**9, form=None):
    """Breadth first: canonical forms, and what broke."""
    form = form or world.canonical
    start = world.start()
    seen, todo, broken, moves = {form(start): start}, deque([start]), set(), 0
    while todo and len(seen) < limit:
        for move in world.moves(todo.popleft()):
            moves += 1
            broken.update(name for name, _sentence in move.broken)
            found = form(move.state)
            if found not in seen:
                seen[found] = move.state
                todo.append(move.state)
    return seen, broken, moves


def walk(world, seed, steps, state=None):
    """A seed chooses."""
    dice, state = random.Random(seed), state or world.start()
    labels, broken = [], []
    for _ in range(steps):
        choices = list(world.choices(state))
        if not choices:
            break
        move = world.take(dice.choice(choices))
        state = move.state
        labels.append(move.label)
        broken += move.broken
    return state, labels, broken


# ---- two drivers


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["none", "ebusy", "mr-revoke"])
def test_the_automaton_and_the_core_itself_reach_the_same(name, kind):
    setup = Setup((kind,), registrations=0, refusals=int(name != "mr-revoke"))
    fast = reach(World(PROTOCOLS[name], setup))
    slow = reach(World(PROTOCOLS[name], setup, direct=True))
    assert set(fast[0]) == set(slow[0])
    assert fast[1:] == slow[1:]


@pytest.mark.parametrize("name", ["none", "ebusy", "mr-revoke"])
def test_and_so_do_their_first_states_with_two_holders_and_two_reclaims(name):
    setup = Setup(
        ("truncate", "punch"), holders=2, registrations=0, crashes=0, refusals=0, cancels=False, taker=False
    )
    fast = reach(World(PROTOCOLS[name], setup), 3000)
    slow = reach(World(PROTOCOLS[name], setup, direct=True), 3000)
    assert set(fast[0]) == set(slow[0])
    assert fast[1:] == slow[1:]


@pytest.mark.parametrize(
    ("name", "setup"),
    [
        ("mr-revoke", Setup(("truncate", "punch"), holders=2, crashes=2, returns=True)),
        ("ebusy", Setup(("surprise-unplug", "truncate"), holders=2, mrs=2)),
        ("none", Setup(("punch", "self-truncate", "unlink"), holders=2)),
        ("mr-revoke", Setup(("unplug", "surprise-unplug"), holders=3, refusals=3)),
    ],
)
def test_walks_of_both_drivers_go_side_by_side(name, setup):
    """In larger worlds: the same choices lead to the same canonical states, choice by choice."""
    fast, slow = World(PROTOCOLS[name], setup), World(PROTOCOLS[name], setup, direct=True)
    for seed in range(25):
        dice, one, other = random.Random(seed), fast.start(), slow.start()
        for _ in range(60):
            ours, theirs = list(fast.choices(one)), list(slow.choices(other))
            assert [choice.actor for choice in ours] == [choice.actor for choice in theirs]
            if not ours:
                break
            at = dice.randrange(len(ours))
            here, there = fast.take(ours[at]), slow.take(theirs[at])
            assert [name for name, _ in here.broken] == [name for name, _ in there.broken]
            assert here.met == there.met
            one, other = here.state, there.state
            assert fast.canonical(one) == slow.canonical(other)


def test_the_canonical_form_is_the_same_in_another_world():
    one, other = World(PROTOCOLS["mr-revoke"], SMALL), World(PROTOCOLS["mr-revoke"], SMALL)
    walk(one, 1, 80)  # has interned other things first
    assert [one.canonical(walk(one, seed, 30)[0]) for seed in range(5)] == [
        other.canonical(walk(other, seed, 30)[0]) for seed in range(5)
    ]


# ---- holders are alike


@pytest.mark.parametrize(
    ("name", "setup"),
    [
        ("none", Setup(("truncate",), holders=2, registrations=0, taker=False, crashes=0)),
        ("mr-revoke", Setup(("truncate",), holders=3, crashes=2, returns=True, taker=False)),
    ],
)
def test_states_with_the_same_least_form_have_the_same_future(name, setup):
    world = World(PROTOCOLS[name], setup)
    futures, shared = {}, 0
    for state in reach(world, 1500)[0].values():
        least = world.least(state)[0]
        future = sorted(
            (world.least(move.state)[0], sorted(name for name, _ in move.broken))
            for move in world.moves(state)
        )
        shared += least in futures
        assert futures.setdefault(least, future) == future
    assert shared > 100


def test_the_least_form_is_the_canonical_form_under_its_order():
    world = World(PROTOCOLS["mr-revoke"], Setup(holders=3))
    for seed in range(20):
        state = walk(world, seed, 40)[0]
        form, order = world.least(state)
        assert form == world.canonical(state, order)


def test_exchanging_twice_changes_nothing():
    world = World(PROTOCOLS["mr-revoke"], Setup(holders=2))
    state = walk(world, 3, 40)[0]
    assert world.canonical(state) == world.canonical(state, (0, 1))
    assert world.canonical(state) != world.canonical(state, (1, 0))


# ---- a linear run


def taped(seed, setup, name="mr-revoke", steps=200):
    world = World(PROTOCOLS[name], setup, direct=True)
    world.tape = []
    state, labels, _broken = walk(world, seed, steps)
    return world.tape, labels, state


LARGE = Setup(
    ("truncate", "punch", "unplug"), holders=3, mrs=2, blocks=5, crashes=3, returns=True, registrations=2
)


def kinds_of(tape):
    return {fact[0] for fact in tape}


def test_a_tape_holds_every_effect_once_in_the_order_of_its_step():
    tape = next(tape for seed in range(50) if "completed" in kinds_of(tape := taped(seed, LARGE)[0]))
    assert kinds_of(tape) >= {"event", "effect", "commit", "posted", "enter", "leave"}
    arms = [fact[1].timer for fact in tape if fact[0] == "effect" and isinstance(fact[1], do.Arm)]
    assert len(arms) == len(set(arms))
    kinds = [fact[0] for fact in tape]
    for at, kind in enumerate(kinds):
        if kind == "commit":  # only what prepares memory comes between an event and its commit
            begun = max(number for number in range(at) if kinds[number] == "event")
            between = [fact[1] for fact in tape[begun + 1 : at] if fact[0] == "effect"]
            assert all(effect.before_commit for effect in between)


def test_a_tape_tells_the_restart_and_what_comes_behind_it():
    for seed in range(30):
        tape, labels, _state = taped(seed, LARGE)
        if "crash: broker, and its start" in labels[:-1]:
            behind = tape[next(at for at, fact in enumerate(tape) if fact == ("restart",)) + 1 :]
            assert isinstance(behind[0][1], events.DeviceAdded)
            return
    pytest.fail("no seed crashed the broker: choose others")


def test_one_seed_is_one_tape():
    assert taped(7, LARGE)[:2] == taped(7, LARGE)[:2]


def test_every_posted_write_of_a_living_broker_completes_at_most_once():
    for seed in range(10):
        tape, _labels, _state = taped(seed, LARGE)
        open_now: set[int] = set()
        for fact in tape:
            if fact[0] == "posted":
                assert fact[1] not in open_now
                open_now.add(fact[1])
            elif fact[0] == "completed":
                open_now.remove(fact[1])
            elif fact[0] == "restart":
                open_now.clear()


def test_a_driven_core_is_never_restored(monkeypatch):
    world = World(PROTOCOLS["mr-revoke"], Setup(holders=2, crashes=0), direct=True)
    state = world.start()
    monkeypatch.setattr(world.core, "restore", lambda _snapshot: pytest.fail("restored"))
    _state, labels, _broken = walk(world, 2, 150, state)
    assert len(labels) > 30


# ---- what the judge sees


@pytest.mark.parametrize("name", ["ebusy", "mr-revoke"])
def test_walks_of_a_sound_protocol_break_nothing(name):
    for reclaims in (("truncate", "punch"), ("punch", "unlink", "self-truncate"), ("unplug", "truncate")):
        world = World(PROTOCOLS[name], Setup(reclaims, holders=2, mrs=2, crashes=2, refusals=2, returns=True))
        for seed in range(12):
            assert walk(world, seed, 120)[2] == []


class Early(Engine):
    """A quiesce is answered at once."""

    def quiesce(self, state, cookie, numbers):
        after = super().quiesce(state, cookie, numbers)
        return after._replace(answers=tuple(answer._replace(waits=()) for answer in after.answers))


class Forgetful(Engine):
    """Fenced keys still admit."""

    def admits(self, key):
        return key is not None


class Silent(Engine):
    """What is cut is never told."""

    def enter(self, state, peer):
        after, status = super().enter(state, peer)
        return after, "" if status != SUCCESS else status


class Deaf(Engine):
    """The translation stays."""

    def unmap(self, state, cookie, _numbers):
        return super().unmap(state, cookie, ())
