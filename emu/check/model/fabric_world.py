"""The small world's peers when they write through the fabric: what the world asks of it, and what becomes of its answers.

A quantum that the NIC accepted is the peer's operation in the engine (state.ops) until it has been carried out or refused; completions
go to the peer when it polls them, in order (S5). Its queue pair is of the holder's context: it goes some time after the holder crashed, at
the latest before it comes back, and with the broker. A peer whose queue pair is in ERR connects again to a holder that is there.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from emu.check.model.engine import with_op
from emu.check.model.fabric import Fabric, Terms
from emu.check.model.fabric_turn import CLOSED
from emu.check.model.state import Choice, Op
from emu.engine.rules import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from emu.check.model.fabric_state import Completion, FabricState, Step
    from emu.check.model.setup import Setup
    from emu.check.model.shell import Shell
    from emu.check.model.state import State

STATUS = {
    0: "SUCCESS",
    5: "WR_FLUSH_ERR",
    9: "REM_INV_REQ_ERR",
    10: "REM_ACCESS_ERR",
    11: "REM_OP_ERR",
    12: "RETRY_EXC_ERR",
    13: "RNR_RETRY_EXC_ERR",
}
GUARDS = {5: "a WRITE was flushed", 12: "a peer gave up"}


def terms_of(setup: Setup) -> Terms:
    names = ("depth", "losses", "duplicates", "partitions", "overtakes", "hurries")
    return Terms(**{name: getattr(setup, name) for name in names}, retry_cnt=setup.retries)


class FabricPeers:
    def __init__(self, world: Shell) -> None:
        self.world = world
        self.fabric = Fabric(world.setup.holders, terms_of(world.setup))

    # ---- moves

    def may_post(self, state: State, peer: int) -> bool:
        return self.fabric.may_post(self._of(state), peer)

    def choices(self, state: State) -> Iterator[Choice]:
        """What network, timers and queue pairs can do next."""
        of = self._of(state)
        for label, make in self.fabric.moves(of):
            yield Choice(label, label.split(":")[0], partial(self._make, state, make))
        for peer, line in enumerate(of.lines):
            who, there = f"peer{peer + 1}", bool(state.holders[peer].session)
            if there and state.ops[peer] is None and self.fabric.may_connect(of, peer):
                yield Choice(
                    f"{who}: connects again",
                    who,
                    partial(self._make, state, partial(self.fabric.connect, of, peer)),
                )
            if not there and line.host_link != CLOSED:
                yield Choice(f"engine: {who}'s responder goes", "engine", partial(self.gone, state, peer))

    def _make(self, state: State, make: Callable[[], Step]) -> State:
        return self._behind(state, make())

    # ---- the peer and the engine

    def post(self, state: State, peer: int, op: Op) -> State:
        of = self._of(state)
        self.world.note("posted", peer, op._replace(work=of.lines[peer].posted))
        return self._behind(state, self.fabric.post(of, peer, op.key, op.quanta, op.mr, op.late))

    def looked(self, state: State, peer: int, *, refused: bool) -> State:
        """The engine has looked at the key. Without an operation behind it: it was refused, or the responder is no more."""
        outcome = Outcome.REM_ACCESS if refused else Outcome.OK
        step = self.fabric.enter(self._of(state), peer, outcome)
        return self._behind(state if step.runs else with_op(state, peer, None), step)

    def left(self, state: State, peer: int, *, spoilt: bool) -> State:
        """The quantum was carried out."""
        return self._behind(with_op(state, peer, None), self.fabric.leave(self._of(state), peer, spoilt))

    def work(self, state: State, peer: int) -> int:
        """The number of the work request that the engine serves."""
        serving = self.fabric.serving(self._of(state), peer)
        return serving.work.number if serving else 0

    # ---- the NIC's end

    def gone(self, state: State, peer: int) -> State:
        """The responder's context is closed."""
        return self._behind(state, self.fabric.die(self._of(state), peer))

    def restarted(self, state: FabricState | None) -> FabricState | None:
        """The broker was killed: every responder is gone, and what it was about to carry out."""
        for peer in range(len(state.lines) if state else 0):
            assert state is not None
            state = self.fabric.vanish(state, peer).state
        return state

    # ---- what became of it

    def _of(self, state: State) -> FabricState:
        assert state.fabric is not None, "a world with a fabric starts with one"
        return state.fabric

    def _behind(self, state: State, step: Step) -> State:
        before = self._of(state)
        self.world.judge.broken.extend(step.broken)
        for done in step.completions:
            self._completed(done)
        state = state._replace(fabric=step.state)
        for peer, line in enumerate(step.state.lines):
            if line.serving is not None and state.ops[peer] is None:
                work = line.serving.work
                op = Op(work.key, work.mr, work.quanta, line.serving.quantum, late=work.late)
                state = with_op(state, peer, op)
        self._in_order(before, step)
        return state

    def _completed(self, done: Completion) -> None:
        work, status = done.work, STATUS[done.status]
        op = Op(
            work.key,
            work.mr,
            work.quanta,
            work.quanta - 1,
            late=work.late,
            spoilt=done.spoilt,
            work=work.number,
        )
        self.world.note("completed", done.peer, op, status)
        self.world.judge.completed(op, status)
        if done.status in GUARDS:
            self.world.judge.meet(GUARDS[done.status])

    def _in_order(self, before: FabricState, step: Step) -> None:
        """S5: what completes now are the oldest, one behind the other, and what is left is what has not."""
        for peer, line in enumerate(step.state.lines):
            old = before.lines[peer]
            if old is line:
                continue
            polled = [done.work.number for done in step.completions if done.peer == peer]
            due = list(range(old.posted - len(old.works), line.posted))
            if polled + [work.number for work in line.works] != due:
                self.world.judge.breaks("S5", f"peer {peer + 1} had posted {due}, and polled {polled}")
