"""The small world that the explorer runs a protocol through: the real Core, a model of the engine, and four actors.

    device pm0, 3 blocks       file /mnt/a owns blocks 0 and 1; block 2 is free
    holder     registers /mnt/a once, may deregister, acknowledges MR_REVOKING, may crash
    peer       writes under the key without end, one operation at a time, a quantum a block, as long as the engine lets it
    reclaimer  asks once for the event, may interrupt it; after a surprise unplug it plugs the device again
    taker      creates /mnt/b of one block, once
    engine     may refuse one quiesce or unmap (its fault: keys fenced, no confirmation)
    broker     may crash: what is durable is loaded again (one crash in all, the holder's or the broker's)

Time is made of moves; between any two of them anything else may happen that the live shell allows:

    one step of the core (its commit included) | the shell carries out one effect | the engine starts, enters or leaves a quantum |
    one answer arrives

The shell carries out all effects of a step, in order, before it feeds the next event; the engine's threads run meanwhile, and its
answers arrive in any order. A quantum looks at its key when it enters; a quiesce is answered when whoever was inside then
has left.

What is checked (CONTRACT's names) is in judge.py, what effects do in engine.py. A block's generation is even while it is owned and odd while it is free.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Final

from emu.check.model.engine import ANSWERS, DOING, DOMAIN, TRANSLATE, blocks_of, renamed
from emu.check.model.judge import Judge
from emu.check.model.state import BLOCKS, KINDS, SIZE, Frozen, Key, Move, Op, State
from emu.core import effects as do
from emu.core import events, requests
from emu.core.canonical import canonical_rows
from emu.core.decision import CONTRACT
from emu.core.machine import Core
from emu.core.rows import BLOCK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from emu.core.decision import Deciding

HOLDER, RECLAIMER, TAKER = 1, 2, 3  # sessions


REG, DEREG, ACK, RECLAIM, CANCEL, PLUG, TAKE = 10, 11, 12, 20, 21, 22, 30  # requests


ACCESS: Final = 7


REFUSED: Mapping[str, Callable[[int, int], events.Event]] = {
    "quiesced": events.Quiesced,
    "unmapped": events.Unmapped,
}


ASKS: Mapping[str, requests.Request] = {
    "truncate": requests.FsTruncate("/mnt/a", BLOCK // 2),
    "punch": requests.FsPunch("/mnt/a", BLOCK, BLOCK),
    "unlink": requests.FsUnlink("/mnt/a"),
    "unplug": requests.FsUnplug("pm0"),
    "surprise-unplug": requests.FsUnplug("pm0", surprise=True),
}


class World:
    """One core that is put into every state in turn. `core` may be a changed one: that is how mutants are tried."""

    def __init__(self, protocol: Deciding, kind: str, core: Callable[..., Core] = Core) -> None:
        self.protocol, self.kind = protocol, kind
        self.core = core({protocol.name: protocol}, host_protocol=protocol.name)
        self.blank = self.core.snapshot()
        self.judge = Judge(self.core, kind)

    def start(self) -> State:
        state = State(Frozen(self.blank), (1,) * BLOCKS)
        asked = events.Requested
        for event in (
            *self._boot(),
            events.SessionOpened(HOLDER, "holder", door=True, wants=True),
            events.SessionOpened(RECLAIMER, "reclaimer", door=True, wants=False),
            events.SessionOpened(TAKER, "taker", door=True, wants=False),
            asked(HOLDER, 1, requests.FsCreate("/mnt/a", SIZE)),
            asked(HOLDER, 2, requests.AllocPd()),
        ):
            state = self._step(state, event)
            while state.todo:
                state = self._carry_out(state)
        self.judge.begin()
        return state

    def _boot(self) -> tuple[events.Event, ...]:
        return (
            events.DeviceAdded("pm0", BLOCKS),
            events.MountAdded("/mnt", "pm0", dax=True, protocol=self.protocol.name),
        )

    def _move(self, label: str, state: State) -> Move:
        if state.alive:
            self.judge.judge(state)
        return Move(label, state, tuple(self.judge.broken), tuple(self.judge.met))

    def moves(self, state: State) -> Iterator[Move]:
        """Everything that can happen next."""
        if not state.alive:
            return
        for label, make in self._choices(state):
            self.judge.begin()
            yield self._move(label, make())

    def _choices(self, state: State) -> Iterator[tuple[str, Callable[[], State]]]:
        yield from self._engine_moves(state)
        if state.todo:
            yield f"shell: {' '.join(map(str, state.todo[0]))}", lambda: self._carry_out(state)
        else:
            yield from self._answer_moves(state)
            yield from self._holder_moves(state)
            yield from self._reclaimer_moves(state)
            if not state.taker:
                yield "taker: create /mnt/b", lambda: self._ask(state._replace(taker=True), TAKER, TAKE)
        if not state.crashed:
            yield "crash: broker, and its start", lambda: self._restart(state)

    def _engine_moves(self, state: State) -> Iterator[tuple[str, Callable[[], State]]]:
        op = state.op
        if op is None:
            for key in state.keys:
                if key.state == "live":
                    yield f"peer: WRITE under {key.key}", lambda key=key: state._replace(op=Op(key.key, 0))  # type: ignore[misc]
        elif op.inside:
            yield f"engine: quantum {op.quantum} ends", lambda: self._leave(state, op)
        else:
            yield f"engine: quantum {op.quantum} enters", lambda: self._enter(state, op)

    def _answer_moves(self, state: State) -> Iterator[tuple[str, Callable[[], State]]]:
        for at, answer in enumerate(state.answers):
            name, number, waits = answer
            if waits:
                continue
            rest = state._replace(answers=state.answers[:at] + state.answers[at + 1 :])
            event = ANSWERS[name](number)
            yield f"engine: {name} {number}", lambda rest=rest, event=event: self._step(rest, event)  # type: ignore[misc]
            if name in REFUSED and not state.refused:
                no, once = REFUSED[name](number, errno.EIO), rest._replace(refused=True)
                yield f"fault: {name} {number} is refused", lambda no=no, once=once: self._step(once, no)  # type: ignore[misc]
        for timer in state.timers:
            rest = state._replace(timers=tuple(t for t in state.timers if t != timer))
            fired = events.TimerFired(timer)
            yield f"timer {timer} fires", lambda rest=rest, fired=fired: self._step(rest, fired)  # type: ignore[misc]

    def _holder_moves(self, state: State) -> Iterator[tuple[str, Callable[[], State]]]:
        if state.holder == "new":
            yield "holder: reg_mr /mnt/a", lambda: self._ask(state._replace(holder="asked"), HOLDER, REG)
        if state.holder == "has":
            yield "holder: dereg_mr", lambda: self._ask(state._replace(holder="letting"), HOLDER, DEREG)
        if state.warned and state.holder == "has":
            yield "holder: acknowledges", lambda: self._ask(state._replace(warned=False), HOLDER, ACK)
        if state.holder != "lost" and not state.crashed:
            lost = state._replace(holder="lost", crashed=True, warned=False)
            yield "crash: holder", lambda: self._hang_up(lost)

    def _hang_up(self, state: State) -> State:
        self.judge.meet("holder crashed")
        return self._step(state, events.SessionLost(HOLDER))

    def _reclaimer_moves(self, state: State) -> Iterator[tuple[str, Callable[[], State]]]:
        if state.reclaimer == "new":
            yield f"reclaimer: {self.kind}", lambda: self._request(state)
        if state.reclaimer == "asked" and not state.cancel:
            yield "reclaimer: cancel", lambda: self._ask(state._replace(cancel=True), RECLAIMER, CANCEL)
        if state.reclaimer == "0" and self.kind == "surprise-unplug" and not state.plug:
            yield "reclaimer: plug", lambda: self._ask(state._replace(plug=True), RECLAIMER, PLUG)

    def _request(self, state: State) -> State:
        if state.op is not None:
            self.judge.meet("DMA in flight when the reclaim began")
        return self._ask(state._replace(reclaimer="asked"), RECLAIMER, RECLAIM)

    def _ask(self, state: State, session: int, request: int) -> State:
        return self._step(state, events.Requested(session, request, self._op(state, request)))

    def _op(self, state: State, request: int) -> requests.Request:
        if request == RECLAIM:
            return ASKS[self.kind]
        if request == REG:
            pd = 1
            return requests.RegMr(pd, SIZE, ACCESS, 0, "dax", "/mnt/a")
        if request in {DEREG, ACK}:
            return (requests.DeregMr if request == DEREG else requests.Acknowledge)(state.handle)
        return {
            CANCEL: requests.Cancel(RECLAIM),
            PLUG: requests.FsPlug("pm0"),
            TAKE: requests.FsCreate("/mnt/b", BLOCK),
        }[request]

    def _step(self, state: State, event: events.Event) -> State:
        """One step of the core, committed; its effects wait for the shell. Those that touch neither memory nor keys nor the
        reclaimer are done with at once.
        """
        core = self.core
        core.restore(state.core.snapshot)
        made = core.step(event)
        core.committed()
        state = state._replace(core=Frozen(core.snapshot()))
        todo: list[tuple[Any, ...]] = []
        for effect in made:
            translate = TRANSLATE.get(type(effect))
            if translate is not None:
                todo.append(translate(effect))
            else:
                state = self._at_once(state, effect)
        state = state._replace(todo=state.todo + tuple(todo))
        return self._replies(state)

    def _at_once(self, state: State, effect: do.Effect) -> State:
        if isinstance(effect, do.Phase):
            rule = effect.detail.get("rule")
            if rule:
                self.judge.breaks(
                    (f"{CONTRACT}{rule}", f"{self.protocol.name} broke it, and its reclaim ended with EPROTO")
                )
            if effect.phase == "unmapped" and effect.keys:
                self.judge.meet("an MR was revoked")
        elif isinstance(effect, do.Arm):
            return state._replace(timers=(*state.timers, effect.timer))
        elif isinstance(effect, do.Disarm):
            return state._replace(timers=tuple(timer for timer in state.timers if timer != effect.timer))
        elif isinstance(effect, do.Notify) and effect.name == "MR_REVOKING":
            return state._replace(warned=True)
        elif isinstance(effect, do.OpenDevice):
            return state._replace(gens=self._recovered(state.gens, effect.owned), absent=False)
        return state

    def _recovered(self, gens: tuple[int, ...], owned: tuple[do.Run, ...]) -> tuple[int, ...]:
        """Generations brought to the parity of free and owned."""
        mine = {block for run in owned for block in blocks_of((run,))}
        return tuple(gen if (gen % 2 == 0) == (at in mine) else gen + 1 for at, gen in enumerate(gens))

    def _carry_out(self, state: State) -> State:
        effect = state.todo[0]
        state = DOING[effect[0]](state._replace(todo=state.todo[1:]), *effect[1:])
        return self._replies(state)

    def _replies(self, state: State) -> State:
        """Answers that stand first in line reach their client now."""
        while state.todo and state.todo[0][0] == "answer":
            _name, request, code, handle = state.todo[0]
            state = state._replace(todo=state.todo[1:])
            if request == REG:
                holder = "idle" if code else "has"
                state = state._replace(holder=holder, handle=handle) if state.holder == "asked" else state
                if code == errno.EBUSY:
                    self.judge.meet("a registration was refused or taken back")
            elif request == DEREG and state.holder == "letting":
                state = state._replace(holder="idle", handle=0, warned=False)
            elif request == RECLAIM:
                state = self.judge.returned(state, code)
        return state

    def _restart(self, state: State) -> State:
        """A kill -9 of the broker: only the durable rows, the image and the table of generations are left."""
        self.judge.meet("broker crashed")
        core = self.core
        core.restore(state.core.snapshot)
        rows = core.durable()
        core.restore(self.blank)
        core.load(rows)
        core.committed()
        fresh = State(Frozen(core.snapshot()), state.gens, crashed=True, reclaimer=state.reclaimer)
        for event in self._boot():
            fresh = self._step(fresh, event)
        if core.books.files.rows != self.judge.books(state)["files"]:
            self.judge.breaks(
                ("S2", "what was committed, and may have been answered, is not there after the restart")
            )
        self.judge.add_up(fresh)
        return fresh._replace(todo=(), alive=False)

    def _key(self, state: State, number: int) -> Key | None:
        return next((key for key in state.keys if key.key == number), None)

    def _enter(self, state: State, op: Op) -> State:
        key = self._key(state, op.key)
        if key is None or key.state != "live":
            return state._replace(op=None)  # cut: the peer gets REM_ACCESS_ERR
        op = Op(op.key, op.quantum, inside=True, block=key.blocks[op.quantum], gen=key.gens[op.quantum])
        self.judge.touch(state, op)
        return state._replace(op=op)

    def _leave(self, state: State, op: Op) -> State:
        self.judge.touch(state, op)
        key = self._key(state, op.key)
        more = key is not None and op.quantum + 1 < len(key.blocks)
        answers = tuple((name, number, False) for name, number, _waits in state.answers)
        return state._replace(op=Op(op.key, op.quantum + 1) if more else None, answers=answers)

    def canonical(self, state: State) -> bytes:
        """Equal bytes: the same future. The core's own form, and the model's, with the same names for keys and cookies."""
        frozen = state.core
        if not frozen.text:
            self.core.restore(frozen.snapshot)
            frozen.text = repr(canonical_rows(self.core.books, frozen.names))
        names = frozen.names.copy()
        op = state.op
        model = (
            state.gens,
            state.absent,
            tuple((names.of("key", key.key), *key[1:]) for key in state.keys),
            None if op is None else (names.of("key", op.key), *op[1:]),
            tuple(renamed(effect, names) for effect in state.todo),
            tuple(
                sorted((name, names.of(DOMAIN[name], number), waits) for name, number, waits in state.answers)
            ),
            tuple(names.of("timer", timer) for timer in state.timers),
            names.of("key", state.handle),
            state[8:9],
            state[10:],
        )
        return f"{frozen.text}{model!r}".encode()


__all__ = ["KINDS", "State", "World"]
