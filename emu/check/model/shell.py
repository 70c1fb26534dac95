"""The core and the shell of the small world: steps, effects carried out in order, answers that reach their clients; and the tape of all that.

Facts on the tape, in the order of the live shell: ("event", Event), ("commit", delta), ("effect", Effect) as it is carried out, ("posted", peer, op),
("enter", peer, op), ("leave", peer, op), ("completed", peer, op, status), ("told", session, name, fields), ("restart",). Peers count from 0 there.
With a fabric, op.work says which of a peer's work requests a fact is about: quanta may run behind the completion (a peer that gave up).
"""

from __future__ import annotations

import errno
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from emu.check.model.cores import PD_REQUEST, Automaton, Direct
from emu.check.model.engine import TRANSLATE, Engine
from emu.check.model.fabric_world import FabricPeers
from emu.check.model.judge import Judge
from emu.check.model.naming import LIFE, RECLAIMER, TAKER, bury, with_new_names
from emu.check.model.setup import Setup
from emu.check.model.state import NONE_ADMITTED, Mr, State, with_holder, with_mr, with_reclaimer
from emu.core import effects as do
from emu.core.machine import Core
from emu.protocols.contract import rules_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.check.model.cores import Step, Words
    from emu.core.decision import Deciding

# Requests: of the first session to come, of reclaimers, of the taker; of holders PD_REQUEST, PREPARE, SELF, and those of MRs.
PREPARE: Final = 3
CREATE, RECLAIM, CANCEL, PLUG, TAKE = 1, 20, 21, 22, 30
SELF: Final = 19  # of the first reclaim; 20 of the second, ... (in a session of a holder)
MR_REQUESTS: Final = 100  # of the first MR: 100 reg, 101 dereg, 102 ack, and 4 more a registration


class Shell:
    """`core` and `engine` may be changed ones: that is how mutants are tried."""

    def __init__(
        self,
        protocol: Deciding,
        setup: Setup | None = None,
        core: Callable[..., Core] = Core,
        engine: Engine | None = None,
        *,
        direct: bool = False,
    ) -> None:
        self.protocol, self.setup = protocol, setup or Setup()
        self.core = core({protocol.name: protocol}, host_protocol=protocol.name)
        self.engine = engine or Engine()
        self.driver: Direct | Automaton = (Direct if direct else Automaton)(self.core, protocol.name)
        self.blank = self.driver.start()
        self.judge = Judge(self.driver, self.setup)
        self.fabric = FabricPeers(self) if self.setup.fabric else None
        self._openers = _signals(protocol) or protocol.needs == "lease"
        self.tape: list[tuple[Any, ...]] | None = None
        self._queued: deque[tuple[str, Any, bool]] = deque()  # for the tape: (kind, what, waits for its turn)

    def _boot(self, state: State) -> State:
        state = self._do(state, ("device", "pm0", self.setup.blocks))
        return self._do(state, ("mount", self.protocol.name))

    def _do(self, state: State, words: Words) -> State:
        """A step and all its effects."""
        state = self._step(state, words)
        while state.todo:
            state = self._carry_out(state)
        return state

    def _open(self, state: State, number: int, why: str) -> State:
        """Holder `number` opens its context and allocates a PD."""
        if self.fabric is not None and why == "again":
            state = self.fabric.gone(state, number)
        holder = state.holders[number]
        session = number + 1 + holder.lives * LIFE
        state = with_holder(state, number, holder._replace(session=session))
        state = self._do(state, ("opened", session, f"holder{number + 1}", True))
        return self._do(state, ("alloc_pd", session, PD_REQUEST))

    # ---- the core and the shell

    def _step(self, state: State, words: Words) -> State:
        """One step of the core, committed; its effects wait for the shell."""
        if self.tape is not None:
            return self._step_on_tape(state, words)
        return self._behind(state, self.driver.step(state.core, words))

    def _behind(self, state: State, step: Step) -> State:
        if step.names is not None:
            state = with_new_names(state, step.names)
        state = state._replace(core=step.core, todo=state.todo + step.todo)
        for armed, timer in step.timers:
            timers = tuple([other for other in state.timers if other != timer])
            state = state._replace(timers=(*timers, timer) if armed else timers)
        for session, name, key in step.told:
            state = self._told(state, session, name, key)
        if step.opened is not None:
            state = self.engine.open(state, step.opened)
        if step.broken:
            self.judge.broken.extend(step.broken)
        if step.met:
            self.judge.met.extend(step.met)
        if step.dead:
            state = bury(state)
        return self._replies(state)

    def _told(self, state: State, session: int, name: str, key: int) -> State:
        if name == "LEASE_BROKEN":
            holders = [h._replace(ready="") if h.session == session else h for h in state.holders]
            return state._replace(holders=tuple(holders))
        if name not in {"MR_REVOKING", "DEVICE_FATAL"}:
            return state
        for number, holder in enumerate(state.holders):
            if holder.session == session:
                if name == "DEVICE_FATAL":
                    return with_holder(state, number, holder._replace(dead=True))
                for at, mr in enumerate(holder.mrs):
                    if mr.handle == key and mr.state == "has":
                        return with_mr(state, number, at, mr._replace(warned=True))
        return state

    def _carry_out(self, state: State) -> State:
        effect = state.todo[0]
        self._next_on_tape()
        self.judge.carried_out(state, effect)
        state = getattr(self.engine, effect[0])(state._replace(todo=state.todo[1:]), *effect[1:])
        return self._replies(state)

    def _replies(self, state: State) -> State:
        """Answers that stand first in line reach their client now."""
        while state.todo and state.todo[0][0] == "answer":
            _name, session, request, code, handle, _is_key = state.todo[0]
            self._next_on_tape()
            state = state._replace(todo=state.todo[1:])
            if RECLAIMER <= session < TAKER:
                if request == RECLAIM:
                    state = self._returned(state, session - RECLAIMER, code)
            elif session < RECLAIMER:
                state = self._answered(state, (session - 1) % LIFE, session, request, code, handle)
        return state

    def _answered(
        self, state: State, number: int, session: int, request: int, code: int, handle: int
    ) -> State:
        """A holder's request has been answered."""
        holder = state.holders[number]
        if holder.session != session:
            return state
        if request == PD_REQUEST:
            return with_holder(state, number, holder._replace(pd=handle))
        if request == PREPARE:
            return with_holder(state, number, holder._replace(ready="no" if code else "has"))
        if SELF <= request < SELF + len(state.reclaimers):
            return self._returned(state, request - SELF, code)
        at = (request - MR_REQUESTS) // (4 * (1 + self.setup.registrations))
        mr = holder.mrs[at]
        if request % 4 == 0:
            if code == errno.EBUSY:
                self.judge.meet("a registration was refused or taken back")
            if code and code == getattr(errno, self.protocol.refuses.get("dax", ""), 0):
                self.judge.meet(NONE_ADMITTED)
            return with_mr(state, number, at, Mr(mr.left) if code else Mr(mr.left, "has", handle))
        if request % 4 == 1:
            return with_mr(state, number, at, mr._replace(state="has") if code else Mr(mr.left))
        return state

    def _returned(self, state: State, number: int, code: int) -> State:
        row = state.reclaimers[number]
        if row.state != "asked":
            return state
        return with_reclaimer(state, number, row._replace(state=self.judge.returned(state, number, code)))

    # ---- the tape

    def note(self, *fact: Any) -> None:
        if self.tape is not None:
            self.tape.append(fact)

    def _step_on_tape(self, state: State, words: Words) -> State:
        driver = self.driver
        assert isinstance(driver, Direct), "a tape needs World(direct=True)"
        self.note("event", driver.event(words))
        driver.taped, driver.delta = True, []
        step = driver.step(state.core, words)
        first = sum(effect.before_commit for effect in step.effects)
        facts = [("effect", effect, type(effect) in TRANSLATE) for effect in step.effects]
        commit = [("commit", driver.delta, False)] if driver.delta else []
        self._queued.extend((*facts[:first], *commit, *facts[first:]))
        self._at_once_on_tape()
        return self._behind(state, step)

    def _at_once_on_tape(self) -> None:
        """What stands first in line and waits for nobody."""
        while self._queued and not self._queued[0][2]:
            self._fact_on_tape()

    def _next_on_tape(self) -> None:
        if self.tape is not None and self._queued:
            self._fact_on_tape()
            self._at_once_on_tape()

    def _fact_on_tape(self) -> None:
        kind, what, _waits = self._queued.popleft()
        self.note(kind, what)
        if isinstance(what, do.Notify):
            self.note("told", what.session, what.name, what.fields)


def _signals(protocol: Deciding) -> bool:
    """Does its table send signals? (Then, and where a lease is its opener's, it matters whether that one lives.)"""
    table = getattr(protocol, "table", {})
    return any(
        action.verb == "signal"
        for entry in table.values()
        for rule in rules_of(entry)
        for action in rule.actions
    )
