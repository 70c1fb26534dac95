"""The canonical form of a state: equal bytes, the same future; and the least of them over the orders of the holders, who are alike.

    core | memory and keys | clients | what the shell and the engine have yet to do | fabric

Each part is written once for every way in which it is renamed, and remembered: states are many, their parts are few. Of generations stays what they
decide: owned or not, and whether who translated is still right. A state that refers to something the core has forgotten is renamed as a
whole (naming.bury), since what is dead is numbered through all parts.
"""

from __future__ import annotations

from hashlib import blake2b
from itertools import pairwise, permutations
from typing import TYPE_CHECKING, Any, Final

from emu.check.model.engine import generation
from emu.check.model.fabric import canonical as canonical_fabric
from emu.check.model.fabric import exchanged as exchanged_fabric
from emu.check.model.naming import bury, has_dead, has_dead_key, session_under, with_names

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.check.model.cores import Driver
    from emu.check.model.naming import Of, Order
    from emu.check.model.setup import Setup
    from emu.check.model.state import Answer, Holder, Op, State

Part = tuple[Any, ...]
DEAD = b"dead"
OF_SESSIONS: Final = ("answer", "signal")  # effects that name a session


class Canonical:
    """Forms of the states of one world, equal in all processes."""

    def __init__(self, driver: Driver, setup: Setup) -> None:
        self.driver = driver
        self.same = tuple(range(setup.holders))
        self.alike = setup.holders_alike
        self._known: dict[Part, bytes] = {}
        self._orders: dict[Part, list[Order]] = {}

    def form(self, state: State, order: Order = ()) -> bytes:
        """With an order of the holders, o: as if holder n (from 0) had the part of holder o[n]."""
        core, of, stamp = self.driver.under(state.core, order)
        if stamp is None or state.fabric is not None:
            return core + self._written(state, order, of, None)
        known, stamps = self._known, stamp
        memory = known.get((state.gens, state.ops, state.keys, order, stamps[0]))
        clients = known.get(
            (state.holders, state.reclaimers, state.timers, _rest(state), order, stamps[0], stamps[3:])
        )
        work = known.get((state.todo, state.answers, order, stamps[:3]))
        if memory is None or clients is None or work is None or DEAD in {memory, clients, work}:
            return core + self._written(state, order, of, stamps)
        return core + memory + clients + work

    def _written(self, state: State, order: Order, of: Of | None, stamps: tuple[int, ...] | None) -> bytes:
        """Each part by its new names; remembered, unless there is a dead key in it or nobody knows how the names came about."""
        new = with_names(state, of) if of is not None else state
        new = exchanged(new, order) if order else new
        dead = has_dead(new)
        new = bury(new) if dead else new
        parts = (
            self._part((new.gens, new.ops, new.keys), _memory),
            self._part((new.holders, new.reclaimers, new.timers, _rest(new)), _clients),
            self._part((new.todo, new.answers), _work),
        )
        if stamps is not None:
            known = [
                DEAD if dead and of_dead(new) else part
                for of_dead, part in zip(DEAD_KEYS, parts, strict=True)
            ]
            self._remember(state, order, stamps, known)
        return b"".join(parts) + (b"" if new.fabric is None else _short(canonical_fabric(new.fabric)))

    def _part(self, part: Part, write: Callable[[Part], Part]) -> bytes:
        known = self._known.get((write, part))
        if known is None:
            known = self._known[write, part] = _short(write(part))
        return known

    def _remember(self, state: State, order: Order, stamps: tuple[int, ...], parts: list[bytes]) -> None:
        """What these parts of a state become in this order and under these names."""
        clients = (state.holders, state.reclaimers, state.timers, _rest(state))
        self._known[state.gens, state.ops, state.keys, order, stamps[0]] = parts[0]
        self._known[*clients, order, stamps[0], stamps[3:]] = parts[1]
        self._known[state.todo, state.answers, order, stamps[:3]] = parts[2]

    def least(self, state: State) -> tuple[bytes, Order]:
        if not self.alike:
            return self.form(state), self.same
        where = (state.holders, state.ops)
        orders = self._orders.get(where)
        if orders is None:
            orders = self._orders[where] = orders_of(state)
        if len(orders) == 1:
            order = orders[0]
            return self.form(state, order if order != self.same else ()), order
        return min([(self.form(state, order if order != self.same else ()), order) for order in orders])


def orders_of(state: State) -> list[Order]:
    """Holders in order of what they and their peers have in hand; those that have the same, in all orders."""
    hands = [_hand(holder, op) for holder, op in zip(state.holders, state.ops, strict=True)]
    orders: list[Order] = []
    for places in permutations(range(len(hands))):
        if all(hands[one] <= hands[other] for one, other in pairwise(places)):
            order = [0] * len(places)
            for at, holder in enumerate(places):
                order[holder] = at
            orders.append(tuple(order))
    return orders


def _hand(holder: Holder, op: Op | None) -> Part:
    """Nothing that has a name in it, and nothing that the canonical form leaves out."""
    mrs = [(mr.left, mr.state, mr.warned) for mr in holder.mrs]
    state = (holder.session > 0, holder.killed, holder.orphaned, holder.dead, holder.ready)
    return holder.lives, state, mrs, () if op is None else (*op[1:5], *op[7:9], *op[10:])


def exchanged(state: State, order: Order) -> State:
    """Holder n (from 0), and its peer, in the place of holder order[n]."""
    places = sorted(range(len(order)), key=order.__getitem__)
    answers = [_exchanged(a, order) if a.waits or a.name == "missed" else a for a in state.answers]
    todo = [(e[0], session_under(order, e[1]), *e[2:]) if e[0] in OF_SESSIONS else e for e in state.todo]
    holders = [state.holders[at] for at in places]
    return state._replace(
        ops=tuple([state.ops[at] for at in places]),
        holders=tuple([holder._replace(session=session_under(order, holder.session)) for holder in holders]),
        answers=tuple(answers),
        todo=tuple(todo),
        fabric=None if state.fabric is None else exchanged_fabric(state.fabric, order),
    )


def _exchanged(answer: Answer, order: Order) -> Answer:
    waits, more = tuple(sorted([order[at] for at in answer.waits])), answer.more
    if answer.name == "missed":
        more = (order[more[0]], *more[1:])
    return answer._replace(waits=waits, more=more)


def _rest(state: State) -> Part:
    return state.crashes, state.refusals, state.absent, state.taker, state.alive, state.tries


def _memory(part: Part) -> Part:
    gens, ops, keys = part
    right = [
        None
        if op is None
        else (*op[:6], op.gen == generation(gens, op.block) if op.inside else None, *op[7:9], *op[10:])
        for op in ops
    ]
    table = sorted(
        (
            *key[:3],
            tuple(generation(gens, b) == g for b, g in zip(key.blocks, key.gens, strict=True)),
            *key[4:],
        )
        for key in keys
    )
    return tuple(gen % 2 for gen in gens), right, table


def _clients(part: Part) -> Part:
    return part[0], part[1], sorted(part[2]), part[3]


def _work(part: Part) -> Part:
    return part[0], sorted(part[1])


def _dead_in_memory(state: State) -> bool:
    return any(key.key < 0 for key in state.keys) or any(op is not None and op.key < 0 for op in state.ops)


def _dead_in_clients(state: State) -> bool:
    return any(mr.handle < 0 for holder in state.holders for mr in holder.mrs)


def _dead_in_work(state: State) -> bool:
    return any(a.name in {"installed", "missed"} and a.number < 0 for a in state.answers) or any(
        map(has_dead_key, state.todo)
    )


DEAD_KEYS: Final = (_dead_in_memory, _dead_in_clients, _dead_in_work)


def _short(part: Any) -> bytes:
    return blake2b(repr(part).encode(), digest_size=12).digest()
