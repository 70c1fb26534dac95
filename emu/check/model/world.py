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

What each of them does has a module: holders.py, reclaimers.py, peers.py; shell.py has the core, its effects, and the tape.
"""

from __future__ import annotations

import errno
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from emu.check.model.canonical import Canonical
from emu.check.model.holders import Holders
from emu.check.model.naming import RECLAIMER, TAKER, Order
from emu.check.model.peers import Peers
from emu.check.model.reclaimers import Reclaimers
from emu.check.model.setup import Setup
from emu.check.model.shell import CREATE
from emu.check.model.state import KINDS, Choice, Holder, Move, Mr, Reclaimer, State
from emu.core.machine import Core
from emu.core.requests import FsCreate
from emu.core.rows import BLOCK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from emu.check.model.cores import Words
    from emu.check.model.engine import Engine
    from emu.core.decision import Deciding

REFUSED: Final = {"quiesced": "is refused", "unmapped": "is refused", "fenced": "fails"}


class World(Holders, Reclaimers, Peers):
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
        super().__init__(protocol, setup, core, engine, direct=direct)
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
        state = self._do(state, ("ask", TAKER, CREATE, FsCreate("/mnt/a", setup.size)))
        for number in range(setup.holders):
            state = self._open(state, number, "holder")
        for number in range(len(setup.reclaims)):
            if not setup.of_holder(number):
                state = self._do(state, ("opened", RECLAIMER + number, f"reclaimer{number + 1}", False))
        self.judge.begin()
        return state

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


__all__ = ["KINDS", "Choice", "Move", "Setup", "State", "World"]
