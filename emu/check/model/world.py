"""The small world: the real Core, a model of shell and engine, and who acts on them (setup.py). One model, three drivers of it.

    holderN     takes the lease or sets the mark that a registration needs, registers its MRs over /mnt/a, deregisters them, acknowledges
                MR_REVOKING, may crash, may come back; dies of a SIGKILL
    openerN     the process that opened holder N's door: with a protocol that signals or leases, it may end while another has the descriptor
    peerN       writes under holder N's keys without end, one operation at a time, a quantum a block, as long as the engine lets it;
                setup.tries times in all also under a key that was taken back, until its holder deregisters it
    reclaimerN  asks once for its event, may interrupt it, may crash; after a surprise unplug it plugs the device again
    taker       creates /mnt/b of one block, once
    network     with setup.fabric: between the peers' queue pairs and the broker's NIC (fabric.py tells its labels)
    engine      may refuse quiesces and unmaps (its fault: keys fenced, no confirmation)
    broker      may crash: what is durable is loaded again, the engine is empty

Time is made of moves; between any two of them anything else may happen that the live shell allows:

    one step of the core (its commit included) | the shell carries out one effect | a peer posts, the engine enters or leaves a quantum |
    one answer arrives | one timer fires

The shell carries out all effects of a step, in order, before it feeds the next event; the engine's threads run meanwhile, and its
answers arrive in any order. Effects that touch neither memory nor keys nor the reclaimers are done with at once.

    World(protocol, setup)           explored: moves(state), canonical(state)
    World(protocol, setup, direct=True)   driven: choices(state), take(state, choice); with `tape` a list, every fact is appended as it happens

Facts on the tape, in the order of the live shell: ("event", Event), ("commit", delta), ("effect", Effect) as it is carried out, ("posted", peer, op),
("enter", peer, op), ("leave", peer, op), ("completed", peer, op, status), ("told", session, name, fields), ("restart",). Peers count from 0 there.
With a fabric, op.work says which of a peer's work requests a fact is about: quanta may run behind the completion (a peer that gave up).
"""

from __future__ import annotations

import errno
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from emu.check.model.canonical import Canonical
from emu.check.model.cores import PD_REQUEST, Automaton, Direct
from emu.check.model.engine import TRANSLATE, Engine, key_of, op_of, with_op
from emu.check.model.fabric_world import FabricPeers
from emu.check.model.judge import DONE, Judge
from emu.check.model.naming import (
    LIFE,
    RECLAIMER,
    TAKER,
    Order,
    bury,
    with_new_names,
)
from emu.check.model.setup import Setup
from emu.check.model.state import (
    KINDS,
    NONE_ADMITTED,
    SELF_TRUNCATE,
    Choice,
    Holder,
    Move,
    Mr,
    Op,
    Reclaimer,
    State,
)
from emu.core import effects as do
from emu.core.machine import Core
from emu.core.requests import FsLease, FsMark
from emu.core.rows import BLOCK
from emu.protocols.contract import rules_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from emu.check.model.cores import Step, Words
    from emu.core.decision import Deciding
    from emu.core.requests import Request

# Requests: of the first session to come, of reclaimers, of the taker; of holders PD_REQUEST, PREPARE, SELF, and those of MRs.
PREPARE: Final = 3
PREPARING: Final[Mapping[str, Request]] = {
    "lease": FsLease("/mnt/a", "shared"),
    "mark": FsMark("/mnt/a", immutable=True),
}
CREATE, RECLAIM, CANCEL, PLUG, TAKE = 1, 20, 21, 22, 30
SELF: Final = 19  # of the first reclaim; 20 of the second, ... (in a session of a holder)
MR_REQUESTS: Final = 100  # of the first MR: 100 reg, 101 dereg, 102 ack, and 4 more a registration
ACCESS: Final = 7
REFUSED: Final = {"quiesced": "is refused", "unmapped": "is refused", "fenced": "fails"}


class World:
    """One core that is put into every state in turn. `core` and `engine` may be changed ones: that is how mutants are tried."""

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
        self._canonical = Canonical(self.driver, self.setup)

    # ---- the beginning

    def start(self) -> State:
        setup = self.setup
        holders = tuple(
            Holder(0, 0, (Mr(1 + setup.registrations),) * setup.mrs) for _ in range(setup.holders)
        )
        state = State(
            self.blank,
            (1,) * setup.blocks,
            (None,) * setup.holders,
            holders,
            tuple(Reclaimer(open=not setup.of_holder(at)) for at in range(len(setup.reclaims))),
            setup.crashes,
            setup.refusals,
            fabric=None if self.fabric is None else self.fabric.fabric.start(),
            tries=setup.tries,
        )
        state = self._boot(state)
        state = self._do(state, ("opened", TAKER, "taker", False))
        state = self._do(state, ("ask", TAKER, CREATE, _create("/mnt/a", setup.size)))
        for number in range(setup.holders):
            state = self._open(state, number, "holder")
        for number in range(len(setup.reclaims)):
            if not setup.of_holder(number):
                state = self._do(state, ("opened", RECLAIMER + number, f"reclaimer{number + 1}", False))
        self.judge.begin()
        return state

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
        state = _with_holder(state, number, holder._replace(session=session))
        state = self._do(state, ("opened", session, f"holder{number + 1}", True))
        return self._do(state, ("alloc_pd", session, PD_REQUEST))

    # ---- moves

    def moves(self, state: State) -> Iterator[Move]:
        """Everything that can happen next, each made when it is asked for."""
        for choice in self.choices(state):
            yield self.take(choice)

    def take(self, choice: Choice) -> Move:
        """Make a move that `choices` offered for the state."""
        self.judge.begin()
        state = choice.make()
        if state.alive:
            self.judge.judge(state)
        return Move(choice.label, state, tuple(self.judge.broken), tuple(self.judge.met), choice.actor)

    def choices(self, state: State) -> Iterator[Choice]:
        """The same, not yet made: labels and whose they are."""
        if not state.alive:
            return
        yield from self._engine_moves(state)
        if state.todo:
            yield Choice(f"shell: {_words(state.todo[0])}", "shell", partial(self._carry_out, state))
        else:
            yield from self._answers(state)
            yield from self._timers(state)
            for number in range(len(state.holders)):
                yield from self._holder_moves(state, number)
            for number in range(len(state.reclaimers)):
                yield from self._reclaimer_moves(state, number)
            if self.setup.taker and not state.taker:
                yield Choice("taker: create /mnt/b", "taker", partial(self._take, state))
        if state.crashes:
            yield Choice("crash: broker, and its start", "crash", partial(self._restart, state))
        if self.fabric is not None:
            yield from self.fabric.choices(state)

    def _engine_moves(self, state: State) -> Iterator[Choice]:
        for peer, op in enumerate(state.ops):
            who = f"peer{peer + 1}"
            if op is None if self.fabric is None else self.fabric.may_post(state, peer):
                for ordinal, mr in enumerate(state.holders[peer].mrs, 1):
                    key = key_of(state, mr.handle) if mr.state == "has" else None
                    if key is not None and key.usable:
                        yield Choice(
                            f"{who}: WRITE {ordinal}",
                            who,
                            partial(self._post, state, peer, ordinal, key.size),
                        )
                    elif state.tries and mr.state == "has":
                        yield Choice(f"{who}: WRITE {ordinal}", who, partial(self._try, state, peer, ordinal))
            if op is None:
                continue
            if op.inside:
                yield Choice(f"engine: {who} leaves {op.quantum}", who, partial(self._leave, state, peer))
            elif self.engine.misses(state, op):
                if not self.engine.waits(state, op):
                    yield Choice(f"engine: {who} faults {op.quantum}", who, partial(self._enter, state, peer))
            else:
                yield Choice(f"engine: {who} enters {op.quantum}", who, partial(self._enter, state, peer))

    def _answers(self, state: State) -> Iterator[Choice]:
        said = any(answer.name == "answered" for answer in state.answers)
        for at, answer in enumerate(state.answers):
            if answer.waits:
                continue
            name, number = answer.name, answer.number
            if name == "missed" and said:
                continue  # the shell has what it answered itself in its queue before it looks at what the engine reports
            words: Words = (name, number, *answer.more)
            if name == "missed":
                words = (name, number, answer.more[1], answer.more[2] * BLOCK, BLOCK)
            yield Choice(f"engine: {name} {number}", "engine", partial(self._answer, state, at, words, 0))
            if name in REFUSED and state.refusals:
                refused = (name, number, errno.EIO)
                what = "fence" if name == "fenced" else name
                yield Choice(
                    f"fault: {what} {number} {REFUSED[name]}",
                    "fault",
                    partial(self._answer, state, at, refused, 1),
                )

    def _answer(self, state: State, at: int, words: Words, refusal: int) -> State:
        rest = state.answers[:at] + state.answers[at + 1 :]
        after = self._step(state._replace(answers=rest, refusals=state.refusals - refusal), words)
        if refusal:
            self.judge.refused(state, after)
        return after

    def _timers(self, state: State) -> Iterator[Choice]:
        for timer in state.timers:
            yield Choice(f"timer {timer} fires", "timer", partial(self._fire, state, timer))

    def _fire(self, state: State, timer: int) -> State:
        timers = tuple([other for other in state.timers if other != timer])
        return self._step(state._replace(timers=timers), ("fired", timer))

    # ---- holders

    def _holder_moves(self, state: State, number: int) -> Iterator[Choice]:
        holder, who = state.holders[number], f"holder{number + 1}"
        if not holder.session:
            if self.setup.returns:
                yield Choice(f"{who}: comes back", who, partial(self._come_back, state, number))
            return
        free = next((at for at, mr in enumerate(holder.mrs) if mr.state == "idle" and mr.left), None)
        needs = self.protocol.needs if self.protocol.needs in PREPARING else ""
        if needs and not holder.ready and free is not None:
            yield Choice(f"{who}: {needs}", who, partial(self._prepare, state, number))
        if needs and holder.ready != "has":
            free = None
        if free is not None and not any(mr.state == "asked" for mr in holder.mrs):
            yield Choice(f"{who}: reg_mr", who, partial(self._reg_mr, state, number, free))
        for at, mr in enumerate(holder.mrs):
            if mr.state == "has":
                yield Choice(f"{who}: dereg_mr {at + 1}", who, partial(self._dereg_mr, state, number, at))
                if mr.warned:
                    yield Choice(
                        f"{who}: acknowledges {at + 1}", who, partial(self._acknowledge, state, number, at)
                    )
        yield from self._ends(state, number)

    def _ends(self, state: State, number: int) -> Iterator[Choice]:
        """The ways out of a session."""
        holder, who = state.holders[number], f"holder{number + 1}"
        if holder.killed:
            yield Choice(f"{who}: dies of SIGKILL", who, partial(self._die, state, number))
        if holder.dead:
            yield Choice(f"{who}: closes", who, partial(self._hang_up, state, number))
        if not state.crashes:
            return
        yield Choice(f"crash: {who}", "crash", partial(self._lose_holder, state, number))
        if self._openers and not (holder.orphaned or holder.killed):
            yield Choice(
                f"crash: opener{number + 1}, its descriptor lives on",
                "crash",
                partial(self._lose_opener, state, number),
            )

    def _prepare(self, state: State, number: int) -> State:
        """It takes what its registrations need."""
        op = PREPARING[self.protocol.needs]
        return self._step(state, ("ask", state.holders[number].session, PREPARE, op))

    def _reg_mr(self, state: State, number: int, at: int) -> State:
        offset, length = self.setup.range_of_mr(at + 1)
        size = self.judge.facts(state).size
        if size > offset:
            length = min(length, size - offset)
        holder = state.holders[number]
        mr = holder.mrs[at]
        state = _with_mr(state, number, at, Mr(mr.left - 1, "asked"))
        request = self._request_of(at, mr.left - 1)
        return self._step(
            state, ("reg_mr", holder.session, request, holder.pd, offset, length, "/mnt/a", ACCESS)
        )

    def _request_of(self, at: int, left: int) -> int:
        """The number of a reg_mr: of MR `at` from 0, of which so many registrations are left."""
        tries = 1 + self.setup.registrations
        return MR_REQUESTS + 4 * (at * tries + tries - 1 - left)

    def _dereg_mr(self, state: State, number: int, at: int) -> State:
        holder = state.holders[number]
        mr = holder.mrs[at]
        state = _with_mr(state, number, at, mr._replace(state="letting"))
        return self._step(state, ("dereg_mr", holder.session, self._request_of(at, mr.left) + 1, mr.handle))

    def _acknowledge(self, state: State, number: int, at: int) -> State:
        holder = state.holders[number]
        mr = holder.mrs[at]
        state = _with_mr(state, number, at, mr._replace(warned=False))
        return self._step(state, ("ack", holder.session, self._request_of(at, mr.left) + 2, mr.handle))

    def _lose_holder(self, state: State, number: int) -> State:
        self.judge.meet("holder crashed")
        return self._hang_up(state._replace(crashes=state.crashes - 1), number)

    def _die(self, state: State, number: int) -> State:
        self.judge.meet("a holder died of SIGKILL")
        return self._hang_up(state, number)

    def _lose_opener(self, state: State, number: int) -> State:
        """Whoever has the descriptor is the holder from now on."""
        self.judge.meet("an opener ended, and its descriptor lived on")
        holder = state.holders[number]
        ready = (
            "no" if self.protocol.needs == "lease" else holder.ready
        )  # a lease does not follow the descriptor
        state = _with_holder(state, number, holder._replace(orphaned=True, ready=ready))
        return self._step(state._replace(crashes=state.crashes - 1), ("ended", holder.session))

    def _hang_up(self, state: State, number: int) -> State:
        holder = state.holders[number]
        mrs = tuple([Mr(mr.left) for mr in holder.mrs])
        state = _with_holder(state, number, Holder(0, 0, mrs, holder.lives + 1))
        if number == 0:
            state = self._forsake(state, SELF_TRUNCATE)
        return self._step(state, ("lost", holder.session))

    def _forsake(self, state: State, kind: str) -> State:
        """Whoever asked for it is gone; it may go on for nobody."""
        rows = tuple(
            [
                row._replace(state="lost") if self.setup.kind(at) == kind and row.state == "asked" else row
                for at, row in enumerate(state.reclaimers)
            ]
        )
        return state._replace(reclaimers=rows)

    def _come_back(self, state: State, number: int) -> State:
        return self._open(state, number, "again")

    # ---- reclaimers

    def _reclaimer_moves(self, state: State, number: int) -> Iterator[Choice]:
        row, own = state.reclaimers[number], self.setup.of_holder(number)
        who = "holder1" if own else f"reclaimer{number + 1}"
        if row.state == "new" and not (own and not state.holders[0].session):
            yield Choice(f"{who}: {self.setup.reclaims[number]}", who, partial(self._reclaim, state, number))
        if own:
            return
        if row.state == "asked" and not row.cancel and self.setup.cancels:
            yield Choice(f"{who}: cancel", who, partial(self._cancel, state, number))
        if row.state == DONE and self.setup.kind(number) == "surprise-unplug" and not row.plug:
            yield Choice(f"{who}: plug", who, partial(self._plug, state, number))
        if row.state == "asked" and state.crashes:
            yield Choice(f"crash: {who}", "crash", partial(self._lose_reclaimer, state, number))

    def _session_of(self, state: State, number: int) -> int:
        return state.holders[0].session if self.setup.of_holder(number) else RECLAIMER + number

    def _reclaim(self, state: State, number: int) -> State:
        if any(op is not None for op in state.ops):
            self.judge.meet("DMA in flight when the reclaim began")
        row = state.reclaimers[number]
        own = self.setup.of_holder(number)
        if not (own or row.open):
            state = self._do(state, ("opened", RECLAIMER + number, f"reclaimer{number + 1}", False))
        state = _with_reclaimer(state, number, Reclaimer("asked"))
        request = SELF + number if own else RECLAIM
        return self._step(state, ("ask", self._session_of(state, number), request, self.setup.asks(number)))

    def _cancel(self, state: State, number: int) -> State:
        state = _with_reclaimer(state, number, state.reclaimers[number]._replace(cancel=True))
        return self._step(state, ("cancel", RECLAIMER + number, CANCEL, RECLAIM))

    def _plug(self, state: State, number: int) -> State:
        if not state.reclaimers[number].open:
            state = self._do(state, ("opened", RECLAIMER + number, f"reclaimer{number + 1}", False))
        state = _with_reclaimer(state, number, state.reclaimers[number]._replace(plug=True, open=True))
        return self._step(state, ("ask", RECLAIMER + number, PLUG, _plug("pm0")))

    def _lose_reclaimer(self, state: State, number: int) -> State:
        self.judge.meet("reclaimer crashed")
        state = _with_reclaimer(state, number, Reclaimer("lost", open=False))
        return self._step(state._replace(crashes=state.crashes - 1), ("lost", RECLAIMER + number))

    def _take(self, state: State) -> State:
        return self._step(state._replace(taker=True), ("ask", TAKER, TAKE, _create("/mnt/b", 4096)))

    # ---- peers

    def _try(self, state: State, peer: int, ordinal: int) -> State:
        """It posts under a key that was taken back."""
        self.judge.meet("a peer used a key that was taken back")
        key = key_of(state, state.holders[peer].mrs[ordinal - 1].handle)
        quanta = key.size if key is not None else 1
        return self._post(state._replace(tries=state.tries - 1), peer, ordinal, quanta)

    def _post(self, state: State, peer: int, ordinal: int, quanta: int) -> State:
        late = state.absent and any(
            row.state == DONE and self.setup.kind(at).endswith("unplug")
            for at, row in enumerate(state.reclaimers)
        )
        op = Op(state.holders[peer].mrs[ordinal - 1].handle, ordinal, quanta, late=late)
        if self.fabric is not None:
            return self.fabric.post(state, peer, op)
        self.note("posted", peer, op)
        return with_op(state, peer, op)

    def _enter(self, state: State, peer: int) -> State:
        op = op_of(state, peer)
        key = key_of(state, op.key)
        after, status = self.engine.enter(state, peer)
        now, work = after.ops[peer], 0
        if self.fabric is not None and (now is None or now.inside):
            work = self.fabric.work(state, peer)
            after = self.fabric.looked(after, peer, refused=now is None)
            if after.ops[peer] is None:
                return after
        if now is None:
            return self._ended(after, peer, op, status)
        if not now.inside:
            self.judge.meet("an access waited for memory")
            return after
        self.note("enter", peer, now._replace(work=work) if work else now)
        return with_op(after, peer, self.judge.entered(state, now, key))

    def _leave(self, state: State, peer: int) -> State:
        op = self.judge.touch(state, op_of(state, peer))
        state = with_op(state, peer, op)
        work = 0 if self.fabric is None else self.fabric.work(state, peer)
        self.note("leave", peer, op._replace(work=work) if work else op)
        after, status = self.engine.leave(state, peer)
        if self.fabric is not None:
            return self.fabric.left(after, peer, spoilt=op.spoilt)
        return after if after.ops[peer] is not None else self._ended(after, peer, op, status)

    def _ended(self, state: State, peer: int, op: Op, status: str) -> State:
        if status:
            self.note("completed", peer, op, status)
            self.judge.completed(op, status, op.quanta - op.quantum - op.inside)
        else:
            self.judge.breaks("S5", f"the WRITE of peer {peer + 1} ended, and was not completed")
        return state

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
                    return _with_holder(state, number, holder._replace(dead=True))
                for at, mr in enumerate(holder.mrs):
                    if mr.handle == key and mr.state == "has":
                        return _with_mr(state, number, at, mr._replace(warned=True))
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
            return _with_holder(state, number, holder._replace(pd=handle))
        if request == PREPARE:
            return _with_holder(state, number, holder._replace(ready="no" if code else "has"))
        if SELF <= request < SELF + len(state.reclaimers):
            return self._returned(state, request - SELF, code)
        at = (request - MR_REQUESTS) // (4 * (1 + self.setup.registrations))
        mr = holder.mrs[at]
        if request % 4 == 0:
            if code == errno.EBUSY:
                self.judge.meet("a registration was refused or taken back")
            if code and code == getattr(errno, self.protocol.refuses.get("dax", ""), 0):
                self.judge.meet(NONE_ADMITTED)
            return _with_mr(state, number, at, Mr(mr.left) if code else Mr(mr.left, "has", handle))
        if request % 4 == 1:
            return _with_mr(state, number, at, mr._replace(state="has") if code else Mr(mr.left))
        return state

    def _returned(self, state: State, number: int, code: int) -> State:
        row = state.reclaimers[number]
        if row.state != "asked":
            return state
        return _with_reclaimer(state, number, row._replace(state=self.judge.returned(state, number, code)))

    # ---- the broker's end

    def _restart(self, state: State) -> State:
        """A kill -9 of the broker: only the durable rows, the image and the table of generations are left."""
        self.judge.meet("broker crashed")
        while any(kind == "commit" for kind, _what, _waits in self._queued):
            self._fact_on_tape()  # what prepares a commit comes before it, and the commit came with the step
        self._queued.clear()
        self.note("restart")
        before = self.judge.facts(state)
        again = self.setup.returns
        fresh = State(
            self.driver.restart(state.core, self.blank),
            state.gens,
            (None,) * len(state.ops),
            tuple(
                [
                    Holder(0, 0, tuple([Mr(mr.left) for mr in holder.mrs]), holder.lives)
                    for holder in state.holders
                ]
            ),
            tuple(
                [
                    Reclaimer(
                        "new"
                        if again and row.state == "asked"
                        else "lost"
                        if row.state == "asked"
                        else row.state,
                        open=False,
                        plug=row.plug,
                    )
                    for row in state.reclaimers
                ]
            ),
            state.crashes - 1,
            state.refusals,
            taker=state.taker,
            fabric=None if self.fabric is None else self.fabric.restarted(state.fabric),
            tries=state.tries,
        )
        fresh = self._boot(fresh)
        if again and not state.taker:
            fresh = self._do(fresh, ("opened", TAKER, "taker", False))
        after = self.judge.facts(fresh)
        if before[:4] != after[:4]:
            self.judge.breaks(
                "S2", "what was committed, and may have been answered, is not there after the restart"
            )
        if not again:
            self.judge.add_up(fresh)
        return fresh._replace(alive=again)

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

    # ---- the canonical form

    def canonical(self, state: State, order: Order = ()) -> bytes:
        """Equal bytes: the same future, whichever driver made the state, in whichever process.

        With an order of the holders, o: as if holder n (from 0) had the part of holder o[n].
        """
        return self._canonical.form(state, order)

    def least(self, state: State) -> tuple[bytes, Order]:
        """The least canonical form over all orders of the holders, and the order that gives it: equal for states that differ in who is who."""
        return self._canonical.least(state)


def _words(effect: tuple[Any, ...]) -> str:
    return " ".join(map(str, effect))


def _with_holder(state: State, number: int, holder: Holder) -> State:
    return state._replace(holders=(*state.holders[:number], holder, *state.holders[number + 1 :]))


def _with_mr(state: State, number: int, at: int, mr: Mr) -> State:
    holder = state.holders[number]
    return _with_holder(state, number, holder._replace(mrs=(*holder.mrs[:at], mr, *holder.mrs[at + 1 :])))


def _with_reclaimer(state: State, number: int, row: Reclaimer) -> State:
    return state._replace(reclaimers=(*state.reclaimers[:number], row, *state.reclaimers[number + 1 :]))


def _signals(protocol: Deciding) -> bool:
    """Does its table send signals? (Then, and where a lease is its opener's, it matters whether that one lives.)"""
    table = getattr(protocol, "table", {})
    return any(
        action.verb == "signal"
        for entry in table.values()
        for rule in rules_of(entry)
        for action in rule.actions
    )


def _create(path: str, size: int) -> Any:
    from emu.core.requests import FsCreate  # noqa: PLC0415

    return FsCreate(path, size)


def _plug(device: str) -> Any:
    from emu.core.requests import FsPlug  # noqa: PLC0415

    return FsPlug(device)


__all__ = ["KINDS", "Choice", "Move", "Setup", "State", "World"]
