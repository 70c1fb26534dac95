"""Is emu's small world the one that Spin knows? The sets of states that each reaches, projected, must be equal.

    python docs/proof/spin/compare.py               mr-revoke.pml against emu.check.model.World; writes docs/proof/spin.json
    python docs/proof/spin/compare.py --small       one registration, no wrong models: seconds, writes nothing
    python docs/proof/spin/compare.py --wrong NAME  a wrong model instead (WRONG_... in mr-revoke.pml), to see how a difference looks
    python docs/proof/spin/compare.py --table       the figures as docs/spin.md has them

Both sides are walked without any reduction, in the explorer's usual world and in one with two crashes and two refusals; what of a state is compared is
told in projection.py. Then every wrong model is walked as well, with one registration. It must *not* be equal (a comparison that agrees with
everything says nothing), and it must be equal to the emu that has made the same mistake.

Exit 0: all as it must be. 1: not; some states that only one side has are printed, each with a way there. 77: spin or gcc is missing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

import spin
from projection import FIELDS, Emu, Projection

from emu.check.explorer.search import explore
from emu.check.model.engine import Engine
from emu.check.model.setup import Setup
from emu.check.model.world import World
from emu.check.mutants import cores, engines
from emu.core.machine import Core
from emu.protocols.mr_revoke import PROTOCOL

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from emu.check.model.state import State

    Ways = Callable[[Collection[str], int], Mapping[str, list[str]]]

FIGURES: Final = Path(__file__).parents[1] / "spin.json"
SKIPPED: Final = 77
SHOWN: Final = 3  # states of a difference that are told

WHOLE: Final = Setup()
WIDE: Final = Setup(crashes=2, refusals=2)
SMALL: Final = Setup(registrations=0)

# A wrong model, and the mutant of emu's own catalogue that makes the same mistake: (core, engine).
ALIKE: Final[Mapping[str, tuple[type[Core], type[Engine]]]] = {
    "WRONG_QUIESCE_DOES_NOT_WAIT": (Core, engines.OneQuantumEarly),
    "WRONG_LAST_QUANTUM_IS_FREE": (Core, engines.LastQuantumFree),
    "WRONG_REVOKE_LOST": (cores.RevokeLost, Engine),
    "WRONG_UNMAP_REFUSAL_IS_DONE": (cores.UnmapRefusalIsDone, Engine),
    "WRONG_UNMAP_ANSWER_LOST": (Core, engines.LostAck),
    "WRONG_NOT_RECOVERED": (Core, engines.NotRecovered),
}


class Walk(NamedTuple):
    """first: projection -> the number of the state that had it first. steps: pairs of projections. came: of each state, from where, by which label."""

    first: dict[Projection, int]
    steps: set[tuple[Projection, Projection]]
    came: list[tuple[int, str]]
    apart: int  # projections, with what is beside them
    states: int
    moves: int


def walk(setup: Setup, core: type[Core] = Core, engine: type[Engine] = Engine) -> Walk:
    """Every state of emu's world once, by its canonical form."""
    world = World(PROTOCOL, setup, core=core, engine=engine())
    seen: dict[bytes, int] = {}
    projections: list[Projection] = []
    came: list[tuple[int, str]] = []
    apart: set[tuple[Projection, Projection]] = set()
    steps: set[tuple[int, int]] = set()
    moves, behind = 0, []

    def meet(state: State, number: int, label: str) -> int:
        after = seen.setdefault(world.canonical(state), len(seen))
        if after == len(came):
            emu = Emu(world, state)
            projections.append(emu.projected())
            apart.add((projections[-1], emu.beside()))
            came.append((number, label))
            behind.append((after, state))
        return after

    meet(world.start(), -1, "")
    while behind:
        edge, behind = behind, []
        for number, state in edge:
            for move in world.moves(state):
                moves += 1
                steps.add((number, meet(move.state, number, move.label)))
    first: dict[Projection, int] = {}
    for number, projection in enumerate(projections):
        first.setdefault(projection, number)
    pairs = {(projections[before], projections[after]) for before, after in steps}
    return Walk(first, pairs, came, len(apart), len(seen), moves)


def way_to(came: list[tuple[int, str]], number: int) -> list[str]:
    labels: list[str] = []
    while number:
        number, label = came[number]
        labels.append(label)
    return labels[::-1]


def differences(emu: Walk, other: spin.Walk, ways: Ways) -> Iterator[str]:
    """Some states that only one side has, those nearest to the beginning. `ways`: lines of Spin's, and how many -> the way to each."""
    only = sorted(emu.first.keys() - other.first.keys(), key=emu.first.__getitem__)
    for projection in only[:SHOWN]:
        yield told("emu", projection, way_to(emu.came, emu.first[projection]))
    alone = {other.first[projection]: projection for projection in other.first.keys() - emu.first.keys()}
    for line, steps in (ways(alone, SHOWN) if alone else {}).items():
        yield told("Spin", alone[line], steps)
    if only or alone:
        yield f"{len(only):,} projected states are emu's alone, {len(alone):,} are Spin's alone"
        return
    for who, mine, others in (("emu", emu, other), ("Spin", other, emu)):
        for before, after in sorted(mine.steps - others.steps, key=repr)[:SHOWN]:
            yield f"{told(who, before, [])}\n  and goes on from there, which the other side does not, to\n{told(who, after, [])}"


def told(who: str, projection: Projection, steps: list[str]) -> str:
    lines = [f"    {name:10} {value}" for name, value in zip(FIELDS, projection, strict=True)]
    return "\n".join([f"only {who} reaches", *lines, "  by", *(f"    {step}" for step in steps)])


def sets_of(emu: Walk, other: spin.Walk) -> dict[str, Any]:
    return {
        "emu_states": emu.states,
        "emu_moves": emu.moves,
        "emu_projected": len(emu.first),
        "spin_states": other.states,
        "spin_moves": other.moves,
        "spin_projected": len(other.first),
        "only_emu": len(emu.first.keys() - other.first.keys()),
        "only_spin": len(other.first.keys() - emu.first.keys()),
        "emu_steps": len(emu.steps),
        "spin_steps": len(other.steps),
        "steps_only_emu": len(emu.steps - other.steps),
        "steps_only_spin": len(other.steps - emu.steps),
        "failed_assertions": other.errors,
    }


def compare(setup: Setup, wrong: str, folder: Path) -> tuple[Walk, dict[str, Any], list[str]]:
    """What emu reaches, what is to be said of them, and what is not as it must be."""
    emu, other = walk(setup), spin.walk(setup, wrong, folder)
    found = list(differences(emu, other, partial(spin.ways_to, setup, wrong, folder)))
    if emu.apart != emu.states:
        found.append(
            f"of emu's {emu.states} states the projection and what is beside it tell {emu.apart} apart"
        )
    if other.states != other.lines + 1:  # one stands before the beginning
        found.append(f"pan has stored {other.states} states and told of {other.lines}")
    if other.errors:
        found.append(f"{other.errors} steps fail an assertion of the Promela model")
    return emu, sets_of(emu, other), found


def rates(emu: Walk, folder: Path) -> dict[str, int]:
    """States a second of CPU on both sides; emu's as its explorer goes, which judges every state by the invariants as well."""
    began = time.process_time()
    result = explore(PROTOCOL, "truncate", setup=WHOLE, reduction=False, symmetry=False)
    spent = time.process_time() - began
    if (result.states, result.transitions) != (emu.states, emu.moves):
        raise SystemExit(f"the explorer has {result.states} states, the world {emu.states}")
    return {"emu": round(result.states / spent), "spin": spin.rate(WHOLE, folder)}


def controls(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Every wrong model: unlike emu, and like the emu that is wrong alike."""
    right, rows, found = walk(SMALL), {}, []
    for wrong in spin.wrongs():
        other, alike = spin.walk(SMALL, wrong, folder), walk(SMALL, *ALIKE[wrong])
        row = rows[wrong] = {**sets_of(right, other), "alike": sets_of(alike, other)}
        if right.first.keys() == other.first.keys():
            found.append(f"{wrong}: equal to emu, so the comparison does not see the mistake")
        ways = list(differences(alike, other, partial(spin.ways_to, SMALL, wrong, folder)))
        found += [f"{wrong}, beside the emu that is wrong alike:", *ways] if ways else []
        print(f"{wrong}: {row['only_spin'] + row['only_emu']:,} projected states differ", flush=True)
    return rows, found


TABLE: Final = (
    ("states", "emu_states", "spin_states"),
    ("moves", "emu_moves", "spin_moves"),
    ("projected states", "emu_projected", "spin_projected"),
    ("of them the other has not", "only_emu", "only_spin"),
    ("steps between projected states", "emu_steps", "spin_steps"),
    ("of them the other has not", "steps_only_emu", "steps_only_spin"),
)


def table(figures: Mapping[str, Any]) -> str:
    """Markdown."""
    rates = [f"{figures['rates'][name]:,}" for name in ("emu", "spin")]
    lines = ["| | emu | Spin | emu, wide | Spin, wide |", "|---|---|---|---|---|"]
    for words, *names in TABLE:
        cells = [f"{figures[world][name]:,}" for world in ("right", "wide") for name in names]
        lines.append(f"| {words} | {' | '.join(cells)} |")
    lines += [
        f"| states/s of CPU | {' | '.join(rates)} | | |",
        "",
        "| wrong model | projected | right emu's alone | Spin's alone | wrong emu's alone | Spin's alone | failed assertions |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, wrong in figures["wrong"].items():
        alone = [
            f"{which[side]:,}" for which in (wrong, wrong["alike"]) for side in ("only_emu", "only_spin")
        ]
        cells = [f"`{name}`", f"{wrong['spin_projected']:,}", *alone, f"{wrong['failed_assertions']:,}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="one registration, no wrong models")
    parser.add_argument(
        "--wrong", default="", choices=spin.wrongs(), metavar="NAME", help="a wrong model instead"
    )
    parser.add_argument("--table", action="store_true", help="print docs/proof/spin.json as Markdown")
    return parser.parse_args()


def main() -> int:
    args = parsed()
    if args.table:
        print(table(json.loads(FIGURES.read_text())))
        return 0
    if spin.missing():
        print(
            f"skipped: {' and '.join(spin.missing())} not found, nothing was compared (Debian: apt install spin gcc)"
        )
        return SKIPPED
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.small or args.wrong:
            _emu, row, found = compare(SMALL if args.small else WHOLE, args.wrong, folder)
            return said([row], found)
        return proved(folder)


def proved(folder: Path) -> int:
    emu, right, found = compare(WHOLE, "", folder)
    _emu, wide, more = compare(WIDE, "", folder)
    wrong, most = controls(folder)
    found += [*more, *most]
    if not found:
        figures = {
            "schema": 1,
            "protocol": PROTOCOL.name,
            "spin": spin.version(),
            "setup": WHOLE.as_json(),
            "right": right,
            "wide": {"setup": WIDE.as_json(), **wide},
            "rates": rates(emu, folder),
            "wrong": wrong,
        }
        FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
        print(table(figures))
    return said([right, wide], found)


def said(rows: list[dict[str, Any]], found: list[str]) -> int:
    print(*found, sep="\n", end="\n" if found else "")
    for row in [] if found else rows:
        states = f"{row['emu_projected']:,} projected states of {row['emu_states']:,} in emu, {row['spin_states']:,} in Spin"
        print(f"equal: {states}; {row['emu_steps']:,} steps between them")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
