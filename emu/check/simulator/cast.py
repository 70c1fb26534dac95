"""What a seed draws before its story begins: how many of whom, what they want, how they behave, and what will go wrong.

Manners (INTERFACE's names) say what a holder does with its memory; each has three times, None meaning never:

    react   between being told (MR_REVOKING, MR_REVOKED) and letting go or acknowledging
    keep    how long it keeps an MR when nobody says anything
    again   between letting go and registering anew

stopped: from some step on nothing of it happens (SIGSTOP), for a while or for ever. dying: it crashes at some step. Crashes of others and
of the broker are drawn apart from manners. Steps, not times, so that a crash falls between any two moves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from emu.check.model.setup import Setup
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
MANNERS: Final[Mapping[str, Manner]] = {
    "prompt": Manner(SOON, None, (20 * US, 5 * MS)),
    "slow": Manner((1 * MS, 40 * S), (1 * MS, 1 * S), (1 * MS, 1 * S)),
    "deaf": Manner(None, None, None),
    "reregister": Manner(SOON, (20 * US, 2 * MS), (1 * US, 5 * US)),
    "stopped": Manner(SOON, None, None),
    "dying": Manner((1 * US, 100 * MS), None, None),
    "blocker": Manner(None, None, (1 * US, 2 * US)),
}
RECLAIMS: Final = ("truncate", "punch", "unlink", "unplug", "surprise-unplug")
STEPS: Final = 400  # a story has about that many: crashes and stops fall among them


class Stop(NamedTuple):
    """From this step on, for so many ns (NEVER: for ever)."""

    step: int
    length: int


@dataclass(frozen=True)
class Cast:
    """holders: their manners. crashes: who -> step. stops: who -> when. times: when each reclaimer asks, in ns."""

    setup: Setup
    holders: tuple[str, ...]
    times: tuple[int, ...]
    crashes: Mapping[str, int] = field(default_factory=dict)
    stops: Mapping[str, Stop] = field(default_factory=dict)
    refuses: float = 0.0
    cancels: float = 0.0
    writes: int = 0


def draw_cast(draw: Random) -> Cast:
    """The cast of one seed."""
    holders = draw.choices((1, 2, 3), (4, 5, 2))[0]
    manners = tuple(draw.choice(tuple(MANNERS)) for _ in range(holders))
    blocks = draw.randrange(4, 9)
    reclaims = _reclaims(draw, blocks)
    crashes = _crashes(draw, manners, len(reclaims))
    refusals = draw.choice((0, 0, 1, 2))
    setup = Setup(
        reclaims=reclaims,
        holders=holders,
        mrs=draw.choices((1, 2), (3, 2))[0],
        blocks=blocks,
        crashes=len(crashes),
        refusals=refusals,
        registrations=draw.randrange(1, 4),
        returns=True,
        cancels=True,
        taker=True,
    )
    return Cast(
        setup,
        manners,
        tuple(spread(draw, (50 * US, 3 * MS)) for _ in reclaims),
        crashes,
        _stops(draw, manners),
        refuses=0.6 if refusals else 0.0,
        cancels=draw.choice((0.0, 0.3)),
        writes=draw.randrange(14, 30),
    )


def _reclaims(draw: Random, blocks: int) -> tuple[str, ...]:
    """One to three; a device is unplugged once."""
    kinds = draw.choices(RECLAIMS, (5, 4, 2, 2, 2), k=draw.choices((1, 2, 3), (3, 4, 2))[0])
    first = next((at for at, kind in enumerate(kinds) if kind.endswith("unplug")), len(kinds))
    kept = [kind for at, kind in enumerate(kinds) if at <= first or not kind.endswith("unplug")]
    return tuple(_sized(draw, kind, blocks - 1) for kind in kept)


def _sized(draw: Random, kind: str, blocks: int) -> str:
    """With numbers: of whole blocks, of parts of them, of the whole file."""
    half = BLOCK // 2
    if kind == "truncate":
        return f"truncate {half * draw.randrange(0, 2 * blocks)}"
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


def _stops(draw: Random, manners: tuple[str, ...]) -> dict[str, Stop]:
    found = {f"holder{at}": _stop(draw) for at, manner in enumerate(manners, 1) if manner == "stopped"}
    if draw.random() < 0.1:
        found[f"peer{draw.randrange(len(manners)) + 1}"] = _stop(draw)
    return found


def _stop(draw: Random) -> Stop:
    length = NEVER if draw.random() < 0.4 else spread(draw, (100 * US, 10 * S))
    return Stop(draw.randrange(STEPS // 2), length)
