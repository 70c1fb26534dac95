"""What a seed draws before its story begins: how many of whom, what they want, how they behave, and what will go wrong.

Manners (INTERFACE's names) say what a holder does with its memory; each has three times, None meaning never:

    react   between being told (MR_REVOKING, MR_REVOKED) and letting go or acknowledging
    keep    how long it keeps an MR when nobody says anything
    again   between letting go and registering anew

stopped: from some step on nothing of it happens (SIGSTOP), for a while or for ever. dying: it crashes at some step. Crashes of others and
of the broker are drawn apart from manners. Steps, not times, so that a crash falls between any two moves.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from emu.check.model.setup import Setup
from emu.check.model.state import LAYOUT
from emu.check.simulator.draws import MS, NEVER, US, S, Span, spread
from emu.core.rows import BLOCK

if TYPE_CHECKING:
    from collections.abc import Mapping
    from random import Random


class Manner(NamedTuple):
    """Spans from which its times are drawn."""

    react: Span | None
    keep: Span | None
    again: Span | None


SOON: Final = (1 * US, 50 * US)
WHILE: Final = (100 * US, 5 * MS)
BACK: Final = (5 * US, 600 * US)
MANNERS: Final[Mapping[str, Manner]] = {
    "prompt": Manner(SOON, WHILE, BACK),
    "slow": Manner((1 * MS, 40 * S), (1 * MS, 20 * MS), (100 * US, 5 * MS)),
    "deaf": Manner(None, (1 * MS, 20 * MS), BACK),
    "reregister": Manner(SOON, WHILE, (1 * US, 100 * US)),
    "stopped": Manner(SOON, WHILE, BACK),
    "dying": Manner((1 * US, 10 * MS), WHILE, BACK),
    "blocker": Manner(None, None, (1 * US, 300 * US)),
}
LAST: Final = ("unlink", "unplug", "surprise-unplug")  # behind these there is no file
MOVING: Final = tuple(kind for kind in LAYOUT if kind != "reflink")
NEARLY: Final = (1 * US, 100 * US)  # between two reclaims
APART: Final = (2 * MS, 9 * MS)
QUANTA: Final = (110, 190)
FABRIC: Final = 0.25  # of the seeds: peers write through queue pairs and a network
STEPS: Final = 400  # a story has about that many: crashes and stops fall among them


class Stop(NamedTuple):
    """From this step on, for so many ns (NEVER: for ever)."""

    step: int
    length: int


@dataclass(frozen=True)
class Cast:
    """holders: their manners. crashes: who -> step. stops: who -> when. times: when each reclaimer asks, in ns.

    refuses, cancels: how likely each occasion is taken. quanta: about that many in all, most of them before the last reclaim.
    """

    setup: Setup
    holders: tuple[str, ...]
    times: tuple[int, ...]
    crashes: Mapping[str, int] = field(default_factory=dict)
    stops: Mapping[str, Stop] = field(default_factory=dict)
    refuses: float = 0.0
    cancels: float = 0.0
    quanta: int = 0


def draw_cast(draw: Random) -> Cast:
    """The cast of one seed."""
    holders = draw.choices((1, 2, 3), (1, 4, 5))[0]
    manners = tuple(draw.choice(tuple(MANNERS)) for _ in range(holders))
    blocks = draw.randrange(4, 9)
    reclaims = _reclaims(draw, blocks)
    crashes = _crashes(draw, manners, len(reclaims))
    refusals = draw.choice((0, 0, 1, 2))
    fabric = draw.random() < FABRIC
    setup = Setup(
        reclaims=reclaims,
        holders=holders,
        mrs=draw.choices((1, 2, 3), (3, 3, 1))[0],
        blocks=blocks,
        crashes=len(crashes),
        refusals=refusals,
        registrations=draw.randrange(7, 18),
        returns=True,
        cancels=True,
        taker=True,
        tries=draw.choice((0, 1, 2, 3)),
        **(_fabric(draw) if fabric else {}),
    )
    times, stops, cancels = (
        _times(draw, len(reclaims)),
        _stops(draw, manners),
        draw.choice((0.0, 0.3)),
    )
    lot = draw.randrange(*QUANTA)
    return Cast(
        replace(setup, reclaims=_moved(reclaims, lot)),
        manners,
        times,
        crashes,
        stops,
        refuses=0.6 if refusals else 0.0,
        cancels=cancels,
        quanta=lot // (3 if fabric else 1),
    )


def _moved(reclaims: tuple[str, ...], lot: int) -> tuple[str, ...]:
    """One seed in seven has a reclaim that moves or copies blocks. No draw of its own: all other stories stay what they were. Clones are
    the explorer's: behind one, whose files share blocks, what other reclaims of the story cost is the clone's doing.
    """
    first = next((at for at, kind in enumerate(reclaims) if kind.split()[0] in {"truncate", "punch"}), -1)
    if lot % 7 or first < 0:
        return reclaims
    return (*reclaims[:first], MOVING[lot // 7 % len(MOVING)], *reclaims[first + 1 :])


def _reclaims(draw: Random, blocks: int) -> tuple[str, ...]:
    """One to four; what takes the whole file comes last, if at all."""
    kinds = draw.choices(("truncate", "punch", "self-truncate"), (6, 6, 1), k=draw.randrange(1, 4))
    if draw.random() < 0.5:
        kinds.append(draw.choice(LAST))
    return tuple(_sized(draw, kind, blocks - 1) for kind in kinds)


def _times(draw: Random, count: int) -> tuple[int, ...]:
    """One behind the other, or nearly at once."""
    times = [spread(draw, (2 * MS, 12 * MS))]
    while len(times) < count:
        times.append(times[-1] + spread(draw, draw.choice((NEARLY, APART, APART))))
    return tuple(times)


def _sized(draw: Random, kind: str, blocks: int) -> str:
    """With numbers: of whole blocks, of parts of them, of the whole file."""
    half = BLOCK // 2
    if kind.endswith("truncate"):
        return f"{kind} {half * draw.choice((0, *range(2, 2 * blocks), *range(2, 2 * blocks)))}"
    if kind == "punch":
        start = half * draw.randrange(0, 2 * blocks - 1)
        length = half * draw.randrange(1, 2 * blocks - start // half + 1)
        return f"punch {start} {length}"
    return kind


def _crashes(draw: Random, manners: tuple[str, ...], reclaims: int) -> dict[str, int]:
    found = {
        f"holder{at}": draw.randrange(STEPS) for at, manner in enumerate(manners, 1) if manner == "dying"
    }
    if draw.random() < 0.12:
        found[f"reclaimer{draw.randrange(reclaims) + 1}"] = draw.randrange(STEPS)
    if draw.random() < 0.15:
        found["broker"] = draw.randrange(STEPS)
    return found


def _fabric(draw: Random) -> dict[str, Any]:
    """How deep the peers' queues are, and how badly their network may behave."""
    return {
        "fabric": True,
        "depth": draw.randrange(1, 4),
        "retries": draw.randrange(0, 4),
        "losses": draw.choice((0, 1, 3)),
        "duplicates": draw.choice((0, 1, 2)),
        "overtakes": draw.choice((0, 0, 2)),
        "partitions": draw.choice((0, 0, 1)),
        "hurries": draw.choice((0, 0, 1)),
    }


def _stops(draw: Random, manners: tuple[str, ...]) -> dict[str, Stop]:
    found = {f"holder{at}": _stop(draw) for at, manner in enumerate(manners, 1) if manner == "stopped"}
    if draw.random() < 0.1:
        found[f"peer{draw.randrange(len(manners)) + 1}"] = _stop(draw)
    return found


def _stop(draw: Random) -> Stop:
    length = NEVER if draw.random() < 0.4 else spread(draw, (100 * US, 10 * S))
    return Stop(draw.randrange(STEPS // 2), length)
