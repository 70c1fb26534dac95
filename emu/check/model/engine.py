"""The model of the engine: what each effect of the core does to a state, and how the peers' operations move through it.

Effects become small tuples (TRANSLATE); carrying one out is the engine's method of that name. A quantum looks at its key when it enters; a
quiesce is answered when everybody who was inside as it came has left (the real engine's grace period). An operation under a key that
is no more, is fenced, or does not permit it ends with an error.

A block's generation is even while it is owned and odd while it is free. A changed engine (a mutant) is a subclass.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Final

from emu.check.model.state import ANSWERED, ASKED, GONE, STALE, VACANT, Answer, Key, Op, State
from emu.core import effects as do
from emu.core.rows import BLOCK

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

REMOTE_WRITE: Final = 2
SIGKILL: Final = 9
DYNAMIC: Final = 2  # importer
DEVICE: Final = 1  # the number of the device's aperture, in every life of the broker: it is opened first
SCRATCH: Final = 1 << 40  # in an effect: the scratch page, wherever it lies
SUCCESS, REM_ACCESS_ERR = "SUCCESS", "REM_ACCESS_ERR"


class Engine:
    """Methods named for effects take (state, numbers...) and give the state behind. enter and leave give the completion too, if it ends there."""

    # ---- blocks

    def allocate(self, state: State, blocks: tuple[int, ...]) -> State:
        return bump(state, blocks, 0)

    def release(self, state: State, blocks: tuple[int, ...]) -> State:
        return bump(state, blocks, 1)

    def share(self, state: State, blocks: tuple[int, ...]) -> State:
        """Other files have them from now on: to the next generation but one."""
        return bump(state, blocks, 0)

    def zero(self, state: State, token: int) -> State:
        """Its answer will come; 0: nobody waits for one."""
        return state._replace(answers=(*state.answers, Answer("answered", token))) if token else state

    def offline(self, state: State, token: int) -> State:
        return self.zero(state._replace(absent=True), token)

    def online(self, state: State, token: int) -> State:
        """A new namespace: every block has changed hands, and is free."""
        return self.zero(bump(state, tuple(range(len(state.gens))), 1)._replace(absent=False), token)

    def open(self, state: State, owned: tuple[int, ...]) -> State:
        """A device is mapped at a start of the broker: generations are brought to the parity of free and owned."""
        gens = tuple(
            [gen if (gen % 2 == 0) == (at in owned) else gen + 1 for at, gen in enumerate(state.gens)]
        )
        return state._replace(gens=gens, absent=False)

    # ---- keys

    def install(
        self, state: State, key: int, blocks: tuple[int, ...], access: int, importer: int = 0
    ) -> State:
        made = Key(key, "live", blocks, gens_of(state, blocks), access, len(blocks), importer == DYNAMIC)
        keys = (*state.keys, made)
        return state._replace(keys=keys, answers=(*state.answers, Answer("installed", key)))

    def quiesce(self, state: State, cookie: int, numbers: tuple[int, ...]) -> State:
        """No new work under the keys; whoever is inside now is waited for."""
        keys = tuple([key._replace(state="fenced") if key.key in numbers else key for key in state.keys])
        inside = tuple([at for at, op in enumerate(state.ops) if op is not None and op.inside])
        return state._replace(keys=keys, answers=(*state.answers, Answer("quiesced", cookie, inside)))

    def fence(self, state: State, fence: int, numbers: tuple[int, ...]) -> State:
        """The storage takes nothing of a client any more: a quiesce of all that it has there, with an answer of its own."""
        state = self.quiesce(state, fence, numbers)
        return state._replace(answers=(*state.answers[:-1], state.answers[-1]._replace(name="fenced")))

    def give_back(self, state: State, right: int) -> State:
        return state._replace(answers=(*state.answers, Answer("returned", right)))

    def unmap(self, state: State, cookie: int, numbers: tuple[int, ...]) -> State:
        """A key that is parked stays, without a translation."""
        parked = {key.key for key in state.keys if key.state in {"parked", "absent"} and key.dynamic}
        kept = [key for key in state.keys if key.key not in numbers or key.key in parked]
        keys = tuple(
            [key._replace(state="absent", blocks=(), gens=()) if key.key in numbers else key for key in kept]
        )
        return state._replace(keys=keys, answers=(*state.answers, Answer("unmapped", cookie)))

    def remove(self, state: State, number: int) -> State:
        return state._replace(keys=tuple([key for key in state.keys if key.key != number]))

    # ---- memory on demand, and memory elsewhere

    def invalidate(self, state: State, cookie: int, numbers: tuple[int, ...]) -> State:
        """A quiesce after which what comes waits."""
        keys = tuple([_parked(key) if key.key in numbers else key for key in state.keys])
        inside = tuple([at for at, op in enumerate(state.ops) if op is not None and op.inside])
        return state._replace(keys=keys, answers=(*state.answers, Answer("quiesced", cookie, inside)))

    def remap(self, state: State, token: int, number: int, blocks: tuple[int, ...], sequence: int) -> State:
        """Another translation, or a refusal: the fault that it answers is older than the key's last invalidation, or the key is of no use."""
        key = key_of(state, number)
        refusal = _refusal(key, sequence)
        if key is not None and not refusal:
            scratch = len(state.gens)
            blocks = tuple([scratch if block == SCRATCH else block for block in blocks])
            new = key._replace(state="live", blocks=blocks, gens=gens_of(state, blocks))
            state = state._replace(keys=tuple([new if old.key == number else old for old in state.keys]))
        if refusal in {0, errno.ESTALE} and key is not None and key.dynamic:
            state = _tried(state, number, () if refusal else blocks)
        answer = Answer("answered", token, (), (refusal,) if refusal else ())
        return state._replace(answers=(*state.answers, answer))

    def misses(self, state: State, op: Op) -> int:
        """Whether there is no memory for the next quantum: GONE, VACANT, or 0."""
        key = key_of(state, op.key)
        if key is None or not key.usable or not key.access & REMOTE_WRITE:
            return 0  # that is for enter to refuse
        block = key.blocks[op.quantum] if key.state == "live" else VACANT
        return min(block, 0)

    def waits(self, state: State, op: Op) -> bool:
        """It has asked for memory, and nothing has been said since; under a parked key of another importer nobody is asked."""
        key = key_of(state, op.key)
        silent = key is not None and key.state == "parked" and not key.dynamic
        return silent or (op.asked == ASKED and bool(self.misses(state, op)))

    def miss(self, state: State, peer: int) -> State:
        """A quantum finds no memory: it waits, and the fault is told; what was told before and not heard yet says the new thing."""
        op = op_of(state, peer)
        key = key_of(state, op.key)
        assert key is not None
        told = Answer("missed", op.key, (), (peer, key.sequence, op.quantum))
        state = withdrawn(state, peer)
        state = state._replace(answers=(*state.answers, told))
        return with_op(state, peer, op._replace(asked=ASKED))

    # ---- processes

    def signal(self, state: State, session: int, number: int) -> State:
        """A real one. SIGKILL: the process will die of it, not at once. Others are notices that it may follow, or not."""
        if number != SIGKILL:
            return state
        holders = tuple(
            [row._replace(killed=True) if row.session == session else row for row in state.holders]
        )
        return state._replace(holders=holders)

    # ---- operations

    def admits(self, key: Key | None) -> bool:
        """May a quantum of a WRITE begin under this key?"""
        return key is not None and key.state == "live" and bool(key.access & REMOTE_WRITE)

    def enter(self, state: State, peer: int) -> tuple[State, str]:
        """The next quantum of this peer's operation begins, or is refused."""
        op = op_of(state, peer)
        key = key_of(state, op.key)
        missing = self.misses(state, op)
        if missing and not (missing == GONE and op.asked == ANSWERED):
            return self.miss(state, peer), ""
        if op.asked:
            state, op = withdrawn(state, peer), op._replace(asked=0)
        if missing or key is None or not self.admits(key):
            return with_op(state, peer, None), REM_ACCESS_ERR
        now = op._replace(inside=True, block=key.blocks[op.quantum], gen=key.gens[op.quantum])
        return with_op(state, peer, now), ""

    def leave(self, state: State, peer: int) -> tuple[State, str]:
        """The quantum that runs has ended; who waited for it waits no more."""
        op = op_of(state, peer)
        state = self.release_waiters(state, peer)
        if op.quantum + 1 < op.quanta:
            return with_op(state, peer, op._replace(quantum=op.quantum + 1, inside=False, block=0, gen=0)), ""
        return with_op(state, peer, None), SUCCESS

    def release_waiters(self, state: State, peer: int) -> State:
        if not any(peer in answer.waits for answer in state.answers):
            return state
        answers = [
            a._replace(waits=tuple([at for at in a.waits if at != peer])) if peer in a.waits else a
            for a in state.answers
        ]
        return state._replace(answers=tuple(answers))


def op_of(state: State, peer: int) -> Op:
    op = state.ops[peer]
    assert op is not None, f"peer {peer} has no operation"
    return op


def with_op(state: State, peer: int, op: Op | None) -> State:
    return state._replace(ops=(*state.ops[:peer], op, *state.ops[peer + 1 :]))


def key_of(state: State, number: int) -> Key | None:
    for key in state.keys:
        if key.key == number:
            return key
    return None


def gens_of(state: State, blocks: tuple[int, ...]) -> tuple[int, ...]:
    """Their generations; of the scratch page, and of what is no block, 0."""
    return tuple([generation(state.gens, block) for block in blocks])


def generation(gens: tuple[int, ...], block: int) -> int:
    return gens[block] if 0 <= block < len(gens) else 0


def _parked(key: Key) -> Key:
    state = "parked" if key.state == "live" else key.state
    return key._replace(state=state, sequence=key.sequence + key.dynamic)


def _refusal(key: Key | None, sequence: int) -> int:
    if key is None:
        return errno.ENOENT
    if not key.dynamic:
        return 0 if key.state in {"fenced", "parked"} else errno.EBUSY
    if not key.usable:
        return errno.EBUSY
    return 0 if key.sequence == sequence else errno.ESTALE


def _tried(state: State, number: int, blocks: tuple[int, ...]) -> State:
    """Who waits under this key hears of an answer: refused (no blocks), it asks again; accepted, it finds its memory or the end of it, or waits on,
    since what it asked for has its own answer still to come. That it was answered once is not forgotten for what was refused later.
    """

    def heard(op: Op) -> Op:
        if not blocks:
            return op._replace(asked=STALE)
        return op._replace(asked=ANSWERED) if blocks[op.quantum] != VACANT else op

    ops = tuple(
        [
            heard(op) if op is not None and op.key == number and op.asked in {ASKED, STALE} else op
            for op in state.ops
        ]
    )
    return state._replace(ops=ops)


def withdrawn(state: State, peer: int) -> State:
    """What this peer's operation has told of a fault, and nobody has heard, is not told."""
    if not any(answer.name == "missed" for answer in state.answers):
        return state
    kept = [a for a in state.answers if a.name != "missed" or a.more[0] != peer]
    return state._replace(answers=tuple(kept))


def mapped_by(e: do.Remap) -> tuple[int, ...]:
    """Block by block; of another aperture than the device's, the scratch page."""
    found: list[int] = []
    for at, size in e.extents:
        count = -(-size // BLOCK)
        if at < 0:
            found += [at] * count
        else:
            found += [at // BLOCK + n if e.aperture == DEVICE else SCRATCH for n in range(count)]
    return tuple(found)


def of_class(importer: int) -> tuple[int, ...]:
    """Said only of those that behave otherwise."""
    return (importer,) if importer == DYNAMIC else ()


def blocks_of(runs: tuple[do.Run, ...]) -> tuple[int, ...]:
    return tuple(block for at, size in runs for block in range(at // BLOCK, -(-(at + size) // BLOCK)))


def bump(state: State, blocks: tuple[int, ...], parity: int) -> State:
    """The next generation of this parity."""
    gens = list(state.gens)
    for block in blocks:
        gens[block] += 1 if (gens[block] + parity) % 2 else 2
    return state._replace(gens=tuple(gens))


TRANSLATE: Mapping[type[do.Effect], Callable[[Any], tuple[Any, ...]]] = {
    do.Allocate: lambda e: ("allocate", blocks_of(e.runs)),
    do.Release: lambda e: ("release", blocks_of(e.runs)),
    do.Share: lambda e: ("share", blocks_of(e.runs)),
    do.Zero: lambda e: ("zero", e.token),
    do.Offline: lambda e: ("offline", e.token),
    do.Online: lambda e: ("online", e.token),
    do.InstallKey: lambda e: ("install", e.key, blocks_of(e.extents), e.access, *of_class(e.importer)),
    do.Invalidate: lambda e: ("invalidate", e.cookie, e.keys),
    do.Remap: lambda e: ("remap", e.token, e.key, mapped_by(e), e.sequence),
    do.Quiesce: lambda e: ("quiesce", e.cookie, e.keys),
    do.Unmap: lambda e: ("unmap", e.cookie, e.keys),
    do.FenceRight: lambda e: ("fence", e.fence, e.keys),
    do.ReturnRight: lambda e: ("give_back", e.right),
    do.RemoveKey: lambda e: ("remove", e.key),
    do.Signal: lambda e: ("signal", e.session, e.number),
    do.Reply: lambda e: ("answer", e.session, e.request, 0, e.result.get("handle", 0), "lkey" in e.result),
    do.Fail: lambda e: ("answer", e.session, e.request, e.errno, 0, False),
}


def renamed(effect: tuple[Any, ...], of: Callable[[str, int], int]) -> tuple[Any, ...]:
    """An effect's numbers by other names."""
    name = effect[0]
    if name == "remap":
        return (name, of("token", effect[1]), of("key", effect[2]), *effect[3:])
    if name in {"quiesce", "unmap", "fence", "invalidate"}:
        return (name, of("cookie", effect[1]), tuple([of("key", key) for key in effect[2]]))
    if name in {"install", "remove"}:
        return (name, of("key", effect[1]), *effect[2:])
    if name in {"zero", "offline", "online", "give_back"}:
        return (name, of("token", effect[1]))
    if name == "answer":
        handle = of("key" if effect[5] else "pd", effect[4]) if effect[4] else 0
        return (*effect[:4], handle, effect[5])
    return effect
