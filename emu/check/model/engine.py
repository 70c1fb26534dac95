"""The model of shell and engine: what each effect of the core does to a state.

Effects become small tuples (TRANSLATE); carrying one out is a function of the state (DOING). Answers of the engine wait in
`answers` as (name, number, waits): a quiesce waits while a quantum runs that was inside when it came.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emu.check.model.state import BLOCKS, Key, State
from emu.core import effects as do
from emu.core import events
from emu.core.rows import BLOCK

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from emu.core.canonical import Names


def blocks_of(runs: tuple[do.Run, ...]) -> tuple[int, ...]:
    return tuple(block for at, size in runs for block in range(at // BLOCK, (at + size) // BLOCK))


def allocate(state: State, blocks: tuple[int, ...]) -> State:
    return bump(state, blocks, 0)


def release(state: State, blocks: tuple[int, ...]) -> State:
    return bump(state, blocks, 1)


def bump(state: State, blocks: tuple[int, ...], parity: int) -> State:
    """The next generation of this parity."""
    gens = list(state.gens)
    for block in blocks:
        gens[block] += 2 - (gens[block] + parity) % 2 if (gens[block] - parity) % 2 == 0 else 1
    return state._replace(gens=tuple(gens))


def zero(state: State, token: int) -> State:
    """Its answer will come; 0: nobody waits for one."""
    return state._replace(answers=(*state.answers, ("answered", token, False))) if token else state


def offline(state: State, token: int) -> State:
    return zero(state._replace(absent=True), token)


def online(state: State, token: int) -> State:
    """A new namespace: every block has changed hands, and is free."""
    return zero(bump(state, tuple(range(BLOCKS)), 1)._replace(absent=False), token)


def install(state: State, key: int, blocks: tuple[int, ...]) -> State:
    gens = tuple(state.gens[block] for block in blocks)
    keys = (*state.keys, Key(key, "live", blocks, gens))
    return state._replace(keys=keys, answers=(*state.answers, ("installed", key, False)))


def quiesce(state: State, cookie: int, numbers: tuple[int, ...]) -> State:
    keys = tuple(key._replace(state="fenced") if key.key in numbers else key for key in state.keys)
    waits = state.op is not None and state.op.inside
    return state._replace(keys=keys, answers=(*state.answers, ("quiesced", cookie, waits)))


def unmap(state: State, cookie: int, numbers: tuple[int, ...]) -> State:
    keys = tuple(key for key in state.keys if key.key not in numbers)
    return state._replace(keys=keys, answers=(*state.answers, ("unmapped", cookie, False)))


def remove(state: State, number: int) -> State:
    return state._replace(keys=tuple(key for key in state.keys if key.key != number))


TRANSLATE: Mapping[type[do.Effect], Callable[[Any], tuple[Any, ...]]] = {
    do.Allocate: lambda e: ("allocate", blocks_of(e.runs)),
    do.Release: lambda e: ("release", blocks_of(e.runs)),
    do.Zero: lambda e: ("zero", e.token),
    do.Offline: lambda e: ("offline", e.token),
    do.Online: lambda e: ("online", e.token),
    do.InstallKey: lambda e: ("install", e.key, blocks_of(e.extents)),
    do.Quiesce: lambda e: ("quiesce", e.cookie, e.keys),
    do.Unmap: lambda e: ("unmap", e.cookie, e.keys),
    do.RemoveKey: lambda e: ("remove", e.key),
    do.Reply: lambda e: ("answer", e.request, 0, e.result.get("handle", 0)),
    do.Fail: lambda e: ("answer", e.request, e.errno, 0),
}


DOING: Mapping[str, Callable[..., State]] = {
    "allocate": allocate,
    "release": release,
    "zero": zero,
    "offline": offline,
    "online": online,
    "install": install,
    "quiesce": quiesce,
    "unmap": unmap,
    "remove": remove,
}


ANSWERS: Mapping[str, Callable[[int], events.Event]] = {
    "installed": events.KeyInstalled,
    "quiesced": events.Quiesced,
    "unmapped": events.Unmapped,
    "answered": events.Answered,
}


DOMAIN: Mapping[str, str] = {
    "installed": "key",
    "quiesced": "cookie",
    "unmapped": "cookie",
    "answered": "token",
}


def renamed(effect: tuple[Any, ...], names: Names) -> tuple[Any, ...]:
    name = effect[0]
    if name in {"quiesce", "unmap"}:
        return (name, names.of("cookie", effect[1]), tuple(names.of("key", key) for key in effect[2]))
    if name in {"install", "remove"}:
        return (name, names.of("key", effect[1]), *effect[2:])
    if name in {"zero", "offline", "online"}:
        return (name, names.of("token", effect[1]))
    if name == "answer":
        return (*effect[:3], names.of("key", effect[3]))
    return effect
