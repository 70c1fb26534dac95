"""Many seeds on all cores: what broke and at which seeds, what was seen, how much there was to see.

    summary = campaign(Source("mr-revoke"), seeds=range(1, 10_001), jobs=2, progress=print)

Seeds are independent, so the summary is the same whatever the number of jobs, but for its times. Each job is a process of its own
(spawned) that loads the protocol by itself. The first seed is run twice: a protocol that decides by something that changes is caught there,
if not at the first decision that is asked for twice.
"""

from __future__ import annotations

import gc
import time
from collections import Counter
from concurrent.futures import as_completed
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from emu.check.honest import DETERMINISTIC
from emu.check.model.state import NONE_ADMITTED
from emu.check.mutants.catalogue import find
from emu.check.simulator.run import Subject, simulate
from emu.check.simulator.verdict import verdict_of
from emu.check.stranger import load_protocol
from emu.check.workers import workers
from emu.core.decision import CONTRACT
from emu.protocols import registry

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from emu.check.simulator.run import Run

HOLDS, BREACH, UNKNOWN = 0, 1, 2
WORD: Final = {HOLDS: "holds", BREACH: "breach", UNKNOWN: "unknown"}
CHUNK: Final = 20  # seeds that a process takes at a time
SELDOM: Final = 50_000  # objects between two collections
SAMPLES: Final = 5  # seeds that are named for each finding
GUARDS: Final = ("DMA in flight when the reclaim began",)


@dataclass(frozen=True)
class Source:
    """Where what is run comes from: a registered name, a stranger's file, or a mutant of the catalogue."""

    name: str = ""
    file: str = ""
    mutant: str = ""

    def load(self) -> Subject:
        """Raises UnknownProtocol, Unusable, UnknownMutant."""
        if self.mutant:
            mutant = find(self.mutant)
            return Subject(mutant.protocol, mutant=mutant)
        if self.file:
            return Subject(load_protocol(self.file), strange=True)
        return Subject(registry.load().get(self.name))


@dataclass(frozen=True)
class Judged:
    """What a campaign keeps of one seed. breaches, costs: invariant -> sentence. defect: the tool's own failure, in words."""

    seed: int
    events: int = 0
    steps: int = 0
    reclaims: int = 0
    breaches: dict[str, str] = field(default_factory=dict)
    costs: dict[str, str] = field(default_factory=dict)
    kept: tuple[str, ...] = ()
    met: dict[str, int] = field(default_factory=dict)
    cut: bool = False
    defect: str = ""


@dataclass
class Tally:
    """One invariant over all seeds that broke it."""

    count: int = 0
    seeds: list[int] = field(default_factory=list)
    sentence: str = ""

    def add(self, seed: int, sentence: str) -> None:
        self.count += 1
        self.sentence = self.sentence or sentence
        if len(self.seeds) < SAMPLES:
            self.seeds.append(seed)


@dataclass
class Summary:
    """Of a campaign. sometimes: guard -> how often it was met; kept: invariant -> seeds that could have shown a breach and did not."""

    protocol: str
    seeds: int = 0
    events: float = 0
    steps: float = 0
    without_reclaim: int = 0
    cut: int = 0
    seconds: float = 0.0
    breaches: dict[str, Tally] = field(default_factory=dict)
    costs: dict[str, Tally] = field(default_factory=dict)
    kept: Counter[str] = field(default_factory=Counter)
    sometimes: Counter[str] = field(default_factory=Counter)
    defects: list[str] = field(default_factory=list)
    guards: tuple[str, ...] = GUARDS  # that it must meet: who admits no MR has no DMA

    @property
    def admits(self) -> bool:
        """Whether there is an MR at all. Without any, what rests on one holds for want of it."""
        return NONE_ADMITTED not in self.guards

    @property
    def missing(self) -> list[str]:
        """Guards that no seed met: then nothing is known."""
        return [guard for guard in self.guards if not self.sometimes[guard]]

    @property
    def code(self) -> int:
        if self.breaches:
            return BREACH
        return UNKNOWN if self.defects or self.missing else HOLDS

    def as_json(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "protocol": self.protocol,
            "verdict": WORD[self.code],
            "admits": self.admits,
            "seeds": self.seeds,
            "events_median": self.events,
            "steps_median": self.steps,
            "without_reclaim": self.without_reclaim,
            "cut": self.cut,
            "breaches": _rows(self.breaches),
            "costs": _rows(self.costs),
            "kept": dict(sorted(self.kept.items())),
            "sometimes": dict(sorted(self.sometimes.items())),
            "missing": self.missing,
            "defects": self.defects,
            "seconds": round(self.seconds, 3),
            "seeds_per_second": round(self.seeds / max(self.seconds, 1e-9), 1),
        }


def _rows(tallies: dict[str, Tally]) -> list[dict[str, Any]]:
    return [{"invariant": name, **vars(tally)} for name, tally in sorted(tallies.items())]


# ---- one seed


def judge_seed(subject: Subject, seed: int, *, twice: bool = False) -> Judged:
    """Never raises for what a protocol does; a failure of ours is told as `defect`."""
    try:
        run = simulate(subject, seed)
        verdict = verdict_of(run)
        breaches = {found.invariant: found.sentence for found in verdict.breaches}
        if twice and not same(run, simulate(subject, seed)):
            breaches[f"{CONTRACT}{DETERMINISTIC}"] = (
                f"{subject.protocol.name} gave another story when seed {seed} was run again"
            )
    except Exception as error:  # noqa: BLE001 - one seed must not end a campaign; it is told, and the verdict is unknown
        return Judged(seed, defect=f"seed {seed}: {type(error).__name__}: {error}")
    costs = {found.invariant: found.sentence for found in verdict.costs}
    reclaims = sum(line.get("phase") == "requested" for line in run.history.of("Phase"))
    return Judged(
        seed, run.events, len(run.labels), reclaims, breaches, costs, verdict.kept, run.met, run.cut
    )


def same(one: Run, other: Run) -> bool:
    """Are their histories equal?"""
    return one.labels == other.labels and one.history == other.history


# ---- many

_loaded: dict[Source, Subject] = {}


def _chunk(source: Source, seeds: Sequence[int], first: int) -> list[Judged]:
    """In a process of its own, which loads what is run once."""
    if source not in _loaded:
        _loaded[source] = source.load()
    return _judge_all(_loaded[source], seeds, first)


def _judge_all(subject: Subject, seeds: Sequence[int], first: int) -> list[Judged]:
    with _seldom_collected():
        return [judge_seed(subject, seed, twice=seed == first) for seed in seeds]


@contextmanager
def _seldom_collected() -> Iterator[None]:
    """A story makes much and leaves few cycles: they are looked for seldom, and not among what was there before (a tenth of the time)."""
    usual = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(SELDOM, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)
        gc.unfreeze()


def campaign(
    source: Source, seeds: Sequence[int], jobs: int = 1, progress: Callable[[int, int], None] | None = None
) -> Summary:
    """All of them. progress: seeds done, seeds in all. Raises what Source.load does before anything is run."""
    began = time.perf_counter()
    subject = source.load()
    summary = Summary(
        subject.protocol.name, guards=(NONE_ADMITTED,) if "dax" in subject.protocol.refuses else GUARDS
    )
    chunks = [seeds[at : at + CHUNK] for at in range(0, len(seeds), CHUNK)]
    first = seeds[0]
    if jobs > 1 and len(chunks) > 1:
        done: Generator[list[Judged]] = _spread(source, chunks, jobs, first)
    else:
        done = (_judge_all(subject, chunk, first) for chunk in chunks)
    found: list[Judged] = []
    with closing(done):
        for part in done:
            found += part
            if progress:
                progress(len(found), len(seeds))
    _add_up(summary, sorted(found, key=lambda judged: judged.seed))
    summary.seconds = time.perf_counter() - began
    return summary


def _spread(
    source: Source, chunks: Sequence[Sequence[int]], jobs: int, first: int
) -> Generator[list[Judged]]:
    with workers(jobs) as submit:
        waiting = [submit(_chunk, source, seeds, first) for seeds in chunks]
        for done in as_completed(waiting):
            yield done.result()


def _add_up(summary: Summary, found: Sequence[Judged]) -> None:
    summary.seeds = len(found)
    good = [judged for judged in found if not judged.defect]
    summary.events = median([judged.events for judged in good] or [0])
    summary.steps = median([judged.steps for judged in good] or [0])
    for judged in found:
        if judged.defect:
            summary.defects.append(judged.defect)
            continue
        summary.without_reclaim += not judged.reclaims
        summary.cut += judged.cut
        for tallies, broken in ((summary.breaches, judged.breaches), (summary.costs, judged.costs)):
            for name, sentence in broken.items():
                tallies.setdefault(name, Tally()).add(judged.seed, sentence)
        summary.kept.update(judged.kept)
        summary.sometimes.update(judged.met)
