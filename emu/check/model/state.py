"""The state of the small world that the explorer and the simulator run a protocol through, as plain immutable tuples."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from emu.core.canonical import Names
from emu.core.rows import BLOCK

KINDS: Final = ("truncate", "punch", "unlink", "unplug", "surprise-unplug")


BLOCKS: Final = 3


SIZE: Final = 2 * BLOCK


class Key(NamedTuple):
    """A key in the engine: usable ("live") or not ("fenced"), and what it translates to."""

    key: int
    state: str
    blocks: tuple[int, ...]
    gens: tuple[int, ...]


class Op(NamedTuple):
    """The peer's WRITE: the quantum that comes next, or that runs (inside) on `block`, translated at generation `gen`."""

    key: int
    quantum: int
    inside: bool = False
    block: int = 0
    gen: int = 0


class Frozen:
    """The core's books at one moment, and their canonical form once somebody asked for it: many states share them."""

    __slots__ = ("names", "snapshot", "text")

    def __init__(self, snapshot: tuple[Any, ...]) -> None:
        self.snapshot, self.text, self.names = snapshot, "", Names()


class State(NamedTuple):
    core: Frozen
    gens: tuple[int, ...]
    absent: bool = False
    keys: tuple[Key, ...] = ()
    op: Op | None = None
    todo: tuple[tuple[Any, ...], ...] = ()  # effects that the shell has yet to carry out
    answers: tuple[tuple[Any, ...], ...] = ()  # what the engine has yet to say
    timers: tuple[int, ...] = ()
    holder: str = "new"  # asked, has, letting, idle, lost
    handle: int = 0
    warned: bool = False
    reclaimer: str = "new"  # asked, 0, or an errno's name
    cancel: bool = False
    plug: bool = False
    taker: bool = False
    refused: bool = False
    crashed: bool = False
    alive: bool = True


class Move(NamedTuple):
    """A label for the story, the state behind it, what broke, and which `sometimes` guards it met."""

    label: str
    state: State
    broken: tuple[tuple[str, str], ...] = ()
    met: tuple[str, ...] = ()
