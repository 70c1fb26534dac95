"""What peers of the small world do, and the engine with their operations: post, enter a quantum, leave it, complete."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from emu.check.model.engine import key_of, op_of, with_op
from emu.check.model.judge import DONE
from emu.check.model.shell import Shell
from emu.check.model.state import Choice, Op

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.check.model.state import State


class Peers(Shell):
    """Moves of peerN, and of the engine that carries out its operations."""

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
