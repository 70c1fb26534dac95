"""Engines that do something wrong, each by one method."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from emu.check.model.engine import REMOTE_WRITE, SUCCESS, Engine, key_of, op_of, with_op
from emu.check.model.state import Answer

if TYPE_CHECKING:
    from emu.check.model.state import Key, State

NOBODY: Final = -1  # a peer that never leaves


class WarnsOnly(Engine):
    """The callback only warns: the quiesce is answered, and nothing was fenced."""

    def quiesce(self, state: State, cookie: int, _numbers: tuple[int, ...]) -> State:
        return state._replace(answers=(*state.answers, Answer("quiesced", cookie)))


class OneQuantumEarly(Engine):
    """Keys are fenced, and the quantum that runs is not waited for."""

    def quiesce(self, state: State, cookie: int, numbers: tuple[int, ...]) -> State:
        state = super().quiesce(state, cookie, numbers)
        return state._replace(answers=(*state.answers[:-1], Answer("quiesced", cookie)))


class FenceForgotten(WarnsOnly):
    """Nothing is fenced; the unmap takes the translation away and waits for who is inside, so that no freed block is ever met."""

    def unmap(self, state: State, cookie: int, numbers: tuple[int, ...]) -> State:
        state = super().unmap(state, cookie, numbers)
        inside = tuple([at for at, op in enumerate(state.ops) if op is not None and op.inside])
        return state._replace(answers=(*state.answers[:-1], Answer("unmapped", cookie, inside)))


class SecondReference(Engine):
    """A quiesce of keys that are fenced already drops a reference that is not there, and waits for ever."""

    def quiesce(self, state: State, cookie: int, numbers: tuple[int, ...]) -> State:
        again = any(key.state == "fenced" for key in state.keys if key.key in numbers)
        state = super().quiesce(state, cookie, numbers)
        if not again:
            return state
        return state._replace(answers=(*state.answers[:-1], Answer("quiesced", cookie, (NOBODY,))))


class OnlyTheFirst(Engine):
    """Of several keys the first alone is fenced and forgotten."""

    def quiesce(self, state: State, cookie: int, numbers: tuple[int, ...]) -> State:
        return super().quiesce(state, cookie, numbers[:1])

    def unmap(self, state: State, cookie: int, numbers: tuple[int, ...]) -> State:
        return super().unmap(state, cookie, numbers[:1])


class WaitsForOne(Engine):
    """Of several quanta that run, one alone is waited for."""

    def quiesce(self, state: State, cookie: int, numbers: tuple[int, ...]) -> State:
        state = super().quiesce(state, cookie, numbers)
        last = state.answers[-1]
        return state._replace(answers=(*state.answers[:-1], last._replace(waits=last.waits[:1])))


class LastQuantumFree(Engine):
    """The key is not looked at in front of an operation's last quantum."""

    def enter(self, state: State, peer: int) -> tuple[State, str]:
        op = op_of(state, peer)
        key = key_of(state, op.key)
        if key is None or op.quantum + 1 < op.quanta:
            return super().enter(state, peer)
        now = op._replace(inside=True, block=key.blocks[op.quantum], gen=key.gens[op.quantum])
        return with_op(state, peer, now), ""


class UnmapUndone(Engine):
    """The unmap is answered, and the translation is still there, usable."""

    def unmap(self, state: State, cookie: int, numbers: tuple[int, ...]) -> State:
        keys = tuple([key._replace(state="live") if key.key in numbers else key for key in state.keys])
        return state._replace(keys=keys, answers=(*state.answers, Answer("unmapped", cookie)))


class LostAck(Engine):
    """The confirmation of an unmap is lost on its way."""

    def unmap(self, state: State, cookie: int, numbers: tuple[int, ...]) -> State:
        state = super().unmap(state, cookie, numbers)
        return state._replace(answers=state.answers[:-1])


class NoGeneration(Engine):
    """A block that is given back keeps its generation."""

    def release(self, state: State, _blocks: tuple[int, ...]) -> State:
        return state


class NotRecovered(Engine):
    """A start of the broker takes the generations as they are."""

    def open(self, state: State, _owned: tuple[int, ...]) -> State:
        return state._replace(absent=False)


class NoCompletion(Engine):
    """An operation whose MR goes in the middle is dropped, and its peer waits for ever."""

    def enter(self, state: State, peer: int) -> tuple[State, str]:
        after, status = super().enter(state, peer)
        return after, "" if op_of(state, peer).quantum else status


class CutIsSuccess(Engine):
    """An operation whose MR goes completes with success, whatever of it was carried out."""

    def enter(self, state: State, peer: int) -> tuple[State, str]:
        after, status = super().enter(state, peer)
        return after, SUCCESS if status else ""


class FenceUnseen(Engine):
    """Keys are fenced, and no use that begins looks at it."""

    def admits(self, key: Key | None) -> bool:
        return key is not None and bool(key.access & REMOTE_WRITE)


class Revived(Engine):
    """A translation that was taken away is kept for whom a new namespace will appear to, and works again there."""

    def unmap(self, state: State, cookie: int, _numbers: tuple[int, ...]) -> State:
        return state._replace(answers=(*state.answers, Answer("unmapped", cookie)))

    def online(self, state: State, token: int) -> State:
        state = super().online(state, token)
        return state._replace(keys=tuple([key._replace(state="live") for key in state.keys]))


class ReadOnlyIsWritable(Engine):
    """A page that was mapped for reading only is taken as writable."""

    def admits(self, key: Key | None) -> bool:
        return key is not None and key.state == "live"


class OldNamespace(Engine):
    """A new namespace appears with the generations of the old one: nobody can tell them apart."""

    def online(self, state: State, token: int) -> State:
        return self.zero(state._replace(absent=False), token)


class SecondInstall(Engine):
    """A key that is being installed while it is fenced comes up usable: the fence does not wait for the installation."""

    def unmap(self, state: State, cookie: int, numbers: tuple[int, ...]) -> State:
        late = [answer.number for answer in state.answers if answer.name == "installed"]
        kept = tuple([key._replace(state="live") for key in state.keys if key.key in late])
        state = super().unmap(state, cookie, numbers)
        return state._replace(keys=(*state.keys, *kept))
