"""Spin's side: mr-revoke.pml made into a pan that reduces nothing, run, and asked what it has reached."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from projection import Projection, of_spin

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from emu.check.model.setup import Setup

HERE: Final = Path(__file__).parent
MODEL: Final = HERE / "mr-revoke.pml"
NOWHERE: Final = "0" * 16
DEEP: Final = ("-m100000", "-w20")
SAYS: Final = re.compile(
    r"(ask|says|work|pending)!|work\?what|(busy|inside|at|down) = "
)  # of a step's statements those that tell it
RUNS: Final = 5  # of pan, for its rate


class Walk(NamedTuple):
    """first: projection -> a line that tells such a state. steps: pairs of projections. errors: steps that fail an assertion of the model."""

    first: dict[Projection, str]
    steps: set[tuple[Projection, Projection]]
    states: int
    moves: int
    errors: int
    lines: int


def missing() -> list[str]:
    return [tool for tool in ("spin", "gcc") if shutil.which(tool) is None]


def version() -> str:
    return _run(["spin", "-V"], HERE).strip()


def wrongs() -> list[str]:
    """The wrong models that are in it."""
    return re.findall(r"^#ifdef (WRONG_\w+)", MODEL.read_text(), re.MULTILINE)


def flags_of(setup: Setup, wrong: str) -> list[str]:
    sizes = {
        "CRASHES": setup.crashes,
        "REFUSALS": setup.refusals,
        "AGAIN": setup.registrations,
        "CANCELS": int(setup.cancels),
        "TAKERS": int(setup.taker),
    }
    return [*(f"-D{name}={value}" for name, value in sizes.items()), *([f"-D{wrong}"] if wrong else [])]


def build(folder: Path, flags: list[str], *more: str) -> str:
    _run(["spin", *flags, "-a", str(MODEL)], folder)
    _run(["gcc", "-w", "-DNOREDUCE", "-DSAFETY", *more, f"-I{HERE}", "-o", "pan", "pan.c"], folder)
    return str(folder / "pan")


def _run(command: list[str], folder: Path, **env: str) -> str:
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **env}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = f"{done.stdout[-2000:]}{done.stderr[-2000:]}"
        raise SystemExit(f"{' '.join(command)} exits {done.returncode}:\n{said}")
    return done.stdout


def walk(setup: Setup, wrong: str, folder: Path) -> Walk:
    """Everything that can be reached."""
    pan = build(folder, [*flags_of(setup, wrong), "-DTOLD"])
    states, moves, errors = counted(_run([pan, "-c0", *DEEP], folder, REACHED="reached"))
    names = names_of(folder)
    lines: dict[str, str] = {}
    pairs: set[tuple[str, str]] = set()
    for before, after, line in _told(folder):
        pairs.add((before, after))
        if lines.setdefault(after, line) != line:
            raise SystemExit(f"two states are called {after}: {line} and {lines[after]}")
    known = {name: of_spin(line, names) for name, line in lines.items()}
    first: dict[Projection, str] = {}
    for name, projection in known.items():
        first.setdefault(projection, lines[name])
    steps = {(known[before], known[after]) for before, after in pairs if before != NOWHERE}
    return Walk(first, steps, states, moves, errors, len(lines))


def _told(folder: Path) -> Iterator[tuple[str, str, str]]:
    """What pan has written: the name of a state, the name of one behind it, and that one."""
    with (folder / "reached").open() as file:
        for told in file:
            before, after, line = told.rstrip("\n").split(" ", 2)
            yield before, after, line


def counted(said: str) -> list[int]:
    """States, transitions, errors of a whole search; one that was cut short counts nothing."""
    if "max search depth too small" in said or "out of memory" in said or "not completed" in said:
        raise SystemExit(f"pan did not search everything:\n{said}")
    words = (r"(\d+) states, stored", r"(\d+) transitions", r"errors: (\d+)")
    return [int(re.findall(word, said)[0]) for word in words]


def names_of(folder: Path) -> dict[int, str]:
    """What the numbers of an mtype mean: pan says it itself."""
    found = re.findall(r"\tmtype  (\w+):\t(\d+)\\n", (folder / "pan.c").read_text())
    if not found:
        raise SystemExit("pan.c does not tell what its mtypes are: is this Spin older than 6.5?")
    return {int(number): name for name, number in found}


def ways_to(
    setup: Setup, wrong: str, folder: Path, lines: Collection[str], count: int
) -> dict[str, list[str]]:
    """Of the states that these lines tell, those nearest to the beginning, each with a shortest way there: who moves, what he says and does."""
    flags = ["-o3", *flags_of(setup, wrong), "-DTOLD"]
    search = build(folder, flags, "-DBFS")
    _run([search, "-A", *DEEP], folder, REACHED="reached")
    order = dict.fromkeys(line for _before, _after, line in _told(folder))
    nearest = [line for line in order if line in lines][:count]
    trails = [_trail(search, line, folder) for line in nearest]
    replay = build(folder, flags)
    return {line: _replayed(replay, trail, folder) for line, trail in zip(nearest, trails, strict=True)}


def _trail(search: str, line: str, folder: Path) -> bytes:
    _run([search, "-A", *DEEP], folder, REACHED="reached", WANTED=line)
    return (folder / f"{MODEL.name}.trail").read_bytes()


def _replayed(replay: str, trail: bytes, folder: Path) -> list[str]:
    (folder / "wanted.trail").write_bytes(trail)
    said = _run([replay, "-A", "-r", "wanted.trail", *DEEP], folder, REACHED="reached")
    steps: list[str] = []
    done: list[tuple[str, str]] = []
    for process, statement in re.findall(r"proc\s+\d+ \((\S+)\) .*?\t\[(.*)\]", said):
        if "tell_state" not in statement:
            done.append((process, statement))
            continue
        words = [statement for _process, statement in done if SAYS.match(statement)]
        steps.append(f"{done[0][0]}: {'; '.join(words)}")
        done = []
    return steps[1:]


def rate(setup: Setup, folder: Path) -> int:
    """Plain Promela, not a line of C in it: states a second of CPU."""
    pan = build(folder, flags_of(setup, ""), "-O2")
    before, said = _spent(), ""
    for _ in range(RUNS):
        said = _run([pan, *DEEP], folder)
    states, _moves, _errors = counted(said)
    return round(RUNS * states / (_spent() - before))


def _spent() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
