"""The state of the small world that explorer and simulator run a protocol through: plain immutable tuples of small numbers.

Numbers of keys, cookies, tokens, timers and protection domains are the core's own in a linear run (cores.Direct), and its canonical names in an
exploration (cores.Automaton); what the core no longer knows has a negative name there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.check.model.fabric_state import FabricState

KINDS: Final = ("truncate", "punch", "unlink", "unplug", "surprise-unplug")
LAYOUT: Final = ("collapse", "zero", "reflink", "migrate")  # explored where they are asked for
SELF_TRUNCATE: Final = "self-truncate"
NONE_ADMITTED: Final = (
    "an MR was refused, as all are over this memory"  # a guard of protocols that admit none
)
WANTING: Final = "no MR is admitted over this memory: what is promised of MRs holds for want of any"

Finding = tuple[str, str]  # an invariant's name, and what happened


GONE: Final = -1  # in place of a block: no memory; VACANT: none was looked for
VACANT: Final = -2


class Key(NamedTuple):
    """A key in the engine: usable ("live") or not ("fenced"), what it permits, and what it translates to; of size blocks.

    Also parked (drained, or about to be), and of a dynamic importer absent (without a translation); sequence: how often that was invalidated.
    The scratch page is the block behind the last one.
    """

    key: int
    state: str
    blocks: tuple[int, ...]
    gens: tuple[int, ...]
    access: int = 7
    size: int = 0
    dynamic: bool = False
    sequence: int = 0

    @property
    def usable(self) -> bool:
        """Work under it is done, now or when memory is there."""
        return self.state in {"live", "parked", "absent"}


class Op(NamedTuple):
    """A peer's WRITE under the `mr`th key of its holder: of `quanta` the one that comes next, or that runs (inside) on `block`, translated at `gen`.

    asked: it waits for memory: ASKED, or an attempt to answer has come since: ANSWERED, or STALE.
    late: posted when an unplug of the memory had been answered. spoilt: a quantum of it ran on memory that was the file's no more.
    """

    key: int
    mr: int
    quanta: int
    quantum: int = 0
    inside: bool = False
    block: int = 0
    gen: int = 0
    late: bool = False
    spoilt: bool = False
    work: int = 0  # on the tape of a world with a fabric: the work request's number, counted for each peer
    asked: int = 0


class Mr(NamedTuple):
    """What a holder knows of one of its MRs. state: idle, asked, has, letting. left: how often it may still register."""

    left: int
    state: str = "idle"
    handle: int = 0
    warned: bool = False


class Holder(NamedTuple):
    """session 0: it has none, since it or the broker has crashed. lives: how often it opened after a crash of its own.

    killed: a SIGKILL has reached its process. orphaned: its process has ended, and somebody else has its door. dead: its context was destroyed.
    ready: "has" what a registration needs (a lease, a mark), was told "no", or has not asked ("").
    """

    session: int
    pd: int
    mrs: tuple[Mr, ...]
    lives: int = 0
    killed: bool = False
    orphaned: bool = False
    dead: bool = False
    ready: str = ""


class Reclaimer(NamedTuple):
    """state: new, asked, the answer ("0" or an errno's name), or lost (it crashed, or the broker did and nothing was answered)."""

    state: str = "new"
    open: bool = True
    cancel: bool = False
    plug: bool = False


ASKED, ANSWERED, STALE = 1, 2, 3


class Answer(NamedTuple):
    """What the engine has yet to say, and the peers whose quanta it waits for.

    more: behind a Remap its errno, if it was refused; of a fault the peer, the key's sequence, and the quantum that misses memory.
    """

    name: str
    number: int
    waits: tuple[int, ...] = ()
    more: tuple[int, ...] = ()


class Frozen:
    """The core's books at one moment; `facts` and the canonical form once somebody asked for them. Many states share one."""

    __slots__ = ("digest", "facts", "names", "numbers", "snapshot", "steps", "twins")

    def __init__(self, snapshot: tuple[Any, ...]) -> None:
        self.snapshot = snapshot
        self.names: dict[str, dict[int, int]] | None = None  # domain -> number -> name
        self.digest = b""
        self.facts: Any = None
        self.numbers: dict[str, dict[int, int]] = {}  # domain -> name -> number
        self.steps: dict[tuple[Any, ...], Any] = {}
        self.twins: dict[tuple[int, ...], Any] = {}  # an order of the holders -> the canonical form under it


class State(NamedTuple):
    core: Frozen
    gens: tuple[int, ...]
    ops: tuple[Op | None, ...]
    holders: tuple[Holder, ...]
    reclaimers: tuple[Reclaimer, ...]
    crashes: int  # that may still happen
    refusals: int
    keys: tuple[Key, ...] = ()
    absent: bool = False
    todo: tuple[tuple[Any, ...], ...] = ()  # effects that the shell has yet to carry out
    answers: tuple[Answer, ...] = ()
    timers: tuple[int, ...] = ()
    fabric: FabricState | None = None
    taker: bool = False
    alive: bool = True
    tries: int = 0  # of peers, under keys that were taken back, that may still happen


class Move(NamedTuple):
    """A label for the story, the state behind it, what broke, which `sometimes` guards it met, and whose move it was.

    actor: holderN, reclaimerN, peerN, engine, shell, timer, fault, crash, taker, network.
    """

    label: str
    state: State
    broken: tuple[Finding, ...] = ()
    met: tuple[str, ...] = ()
    actor: str = ""

    @property
    def visible(self) -> bool:
        """Whether a judge has to see it happen."""
        return bool(self.broken or self.met)


class Choice(NamedTuple):
    """A move that can be taken: its label and whose it is, known before it is made."""

    label: str
    actor: str
    make: Callable[[], State]


def with_holder(state: State, number: int, holder: Holder) -> State:
    return state._replace(holders=(*state.holders[:number], holder, *state.holders[number + 1 :]))


def with_mr(state: State, number: int, at: int, mr: Mr) -> State:
    holder = state.holders[number]
    return with_holder(state, number, holder._replace(mrs=(*holder.mrs[:at], mr, *holder.mrs[at + 1 :])))


def with_reclaimer(state: State, number: int, row: Reclaimer) -> State:
    return state._replace(reclaimers=(*state.reclaimers[:number], row, *state.reclaimers[number + 1 :]))


__all__ = [
    "KINDS",
    "LAYOUT",
    "Answer",
    "Choice",
    "Finding",
    "Frozen",
    "Holder",
    "Key",
    "Move",
    "Mr",
    "Op",
    "Reclaimer",
    "State",
    "with_holder",
    "with_mr",
    "with_reclaimer",
]
