"""A whole comparison: every row's runs and controls, a few at a time, and the result as data.

Rows share nothing: each run has its own broker, directory and processes. Several are set up at once, and others judged meanwhile by
processes of their own (judging.py); DMA goes on in as many as the machine has pairs of cores for, since engines that fight for a core make
times (never verdicts) worse.

A run that had no DMA in flight at the gate is tried again, for that is chance. One that failed is not: something is broken, and the row
is unknown, whatever it was that went wrong: no run ends the comparison. Whatever was tried in vain is told in the row (`failed_tries`) and
kept in RUN-try-N; harm seen in it stands.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import shutil
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from emu.check.promises import declared, files, promised, tells_holders
from emu.check.verdict import NO_DMA_AT_GATE, Verdict
from emu.history.runs import machine
from emu.host.times import time_scale
from emu.lab.children import Nursery
from emu.lab.judging import Judges
from emu.lab.plan import act_of
from emu.lab.plan.acts import kind_of
from emu.lab.plan.controls import DENIES_NOTHING, PROMPT, Control, controls_for, run_of
from emu.lab.plan.ways import ways_of
from emu.lab.process import LabError
from emu.lab.rows import HARM, RowResult, RunResult, claimed
from emu.lab.run import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from emu.lab.kept import Kept
    from emu.lab.plan.spec import RowSpec

Json = dict[str, Any]

SO_FAR_EVERY = 5.0  # seconds
SO_FAR_SHARE = 0.02  # of the time, at most, goes into writing what there is
TRIES = 4  # of a run: the first, and three more while no DMA was at the gate
NOTHING = Control("")


def cores() -> int:
    """Processors that we may use."""
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Options:
    """What `emu compare` was asked for."""

    out: Path
    seed: int = 1
    runs: int = 1
    jobs: int = 2
    quick: bool = True
    progress: Callable[[str], None] = print  # a row is finished
    status: Callable[[str], None] = lambda _line: None  # how far it is
    kept: Kept | None = None
    so_far: Callable[[Json], None] = lambda _result: None  # called from time to time with the result as it is


@dataclass
class Comparison:
    """One comparison under way. made: runs by folder, those of controls and first ones of rows: rows share what is the same run."""

    options: Options
    slots: asyncio.Semaphore  # runs under way
    stage: asyncio.Semaphore  # of them, those with DMA
    nursery: Nursery = field(default_factory=Nursery)
    judges: Judges = field(init=False)
    rows: frozenset[str] = frozenset()  # labels of what is compared
    made: dict[str, asyncio.Task[RunResult]] = field(default_factory=dict)
    done: int = 0
    reused: int = 0
    began: float = field(default_factory=time.monotonic)
    next_so_far: float = 0.0

    def __post_init__(self) -> None:
        self.judges = Judges(self.nursery, self.options.out, cores(), files())

    async def row(self, spec: RowSpec, total: int) -> RowResult:
        result = RowResult(spec, self.options.seed, time_scale=time_scale())
        if not spec.reason:
            runs = [self._run_once(spec, NOTHING, spec.label, n) for n in range(1, self.options.runs + 1)]
            result.runs = list(await asyncio.gather(*runs))
            await self._other_ways(result, self.options.out / spec.label)
            await self._control_all(result)
        self.done += 1
        self._tell(result, total)
        return result

    def _tell(self, result: RowResult, total: int) -> None:
        seconds = time.monotonic() - self.began
        left = seconds / max(1, self.done - self.reused) * (total - self.done)
        spec = result.spec
        outcome = ", ".join(result.outcomes) if result.runs else "N/A"
        if result.reasons:
            outcome += f" ({'; '.join(result.reasons)})"
        controls = "".join(f"  {name}: {end}" for name, end in result.controls.items())
        ways = "".join(f"  {name}: {', '.join(run.verdict.outcomes)}" for name, run in result.ways.items())
        name = f"{spec.protocol} {spec.event} {spec.backing} {spec.holder}"
        self.options.progress(
            f"[{self.done}/{total}] {name}: {outcome}{ways}{controls}  ({seconds:.0f} s{_estimate(left)})"
        )

    async def show(self, result: Json, total: int) -> None:
        """The result as it is, now and then; a large one less often."""
        seconds = time.monotonic() - self.began
        each = seconds / max(1, self.done - self.reused)
        left = each * (total - self.done)
        self.options.status(f"{self.done} of {total} rows, {each:.1f} s a row{_estimate(left)}")
        if time.monotonic() < self.next_so_far:
            return
        self.next_so_far = math.inf  # until it is written
        began = time.monotonic()
        await asyncio.to_thread(self.options.so_far, result)
        now = time.monotonic()
        self.next_so_far = now + max(SO_FAR_EVERY, (now - began) / SO_FAR_SHARE)

    def again(self, spec: RowSpec, row: Json, total: int) -> None:
        """A row that an earlier start has found."""
        self.done, self.reused = self.done + 1, self.reused + 1
        outcome = ", ".join(row["outcomes"])
        self.options.progress(f"[{self.done}/{total}] {spec.label}: {outcome}  (found before)")

    async def _other_ways(self, result: RowResult, folder: Path) -> None:
        for way in ways_of(result.spec):
            spec = replace(result.spec, way=way)
            result.ways[way] = await self._run(spec, NOTHING, folder / f"way-{way}", 1)

    async def _control_all(self, result: RowResult) -> None:
        told = tells_holders(result.spec.protocol)
        wanted = controls_for(result.spec, result.seen, told=told)
        await self._carry_out(result, [control for control in wanted if control is not PROMPT], told)
        if PROMPT in wanted:
            await self._beside(result, told)
        if result.needs_no_pin and result.spec.protocol != DENIES_NOTHING.protocol:
            await self._carry_out(result, [DENIES_NOTHING], told)

    async def _carry_out(self, result: RowResult, wanted: Sequence[Control], told: bool) -> None:
        runs = await asyncio.gather(*(self._control(result.spec, control, told) for control in wanted))
        for control, run in zip(wanted, runs, strict=True):
            result.controlled(control, run)

    async def _control(self, spec: RowSpec, control: Control, told: bool) -> RunResult:
        alike, label = run_of(spec, control, told=told)
        return await self._run_once(alike, NOTHING if control is PROMPT else control, label)

    async def _beside(self, result: RowResult, told: bool) -> None:
        """The row with a prompt holder, where it is one of this comparison's: a control that costs nothing."""
        _, label = run_of(result.spec, PROMPT, told=told)
        kept = self.options.kept.rows.get(label) if self.options.kept else None
        if kept is not None:
            known = RunResult(Verdict(kept["outcome"], list(kept["outcomes"])), None)
            result.controlled(PROMPT, known)
        elif label in self.rows:
            await self._carry_out(result, [PROMPT], told)

    async def _run_once(self, spec: RowSpec, control: Control, label: str, number: int = 1) -> RunResult:
        """One run for all who want it."""
        name = f"{label}/run-{number}"
        if name not in self.made:
            self.made[name] = asyncio.create_task(self._run(spec, control, self.options.out / name, number))
        return await self.made[name]

    async def _run(self, spec: RowSpec, control: Control, folder: Path, number: int) -> RunResult:
        tries: list[RunResult] = []
        while not tries or (_by_chance(tries[-1].verdict) and len(tries) < TRIES):
            if tries:
                tries[-1] = _put_aside(tries[-1], folder, len(tries))
            seed = random.Random(f"{self.options.seed}/{spec.label}/{control.name}/{number}/{len(tries)}")
            run = Run(spec, folder, seed.getrandbits(32), control, self.nursery, self.stage)
            tries.append(await self._once(run))
        return chosen(tries)

    async def _once(self, run: Run) -> RunResult:
        try:
            async with self.slots:
                await run.carry_out()
            return _of(run, await self.judges.close_run(run.folder, _closing(run)))
        except Exception as error:  # noqa: BLE001 - whatever one run meets is this run's; all others go on
            return _failed(error, run.folder)


def _estimate(seconds: float) -> str:
    """How much longer, once that is more than a moment."""
    if seconds < 10:
        return ""
    return f", about {seconds / 60:.0f} min left" if seconds >= 90 else f", about {seconds:.0f} s left"


def _by_chance(verdict: Verdict) -> bool:
    """Whether another try may show what this one could not; nothing else is ever tried again."""
    return verdict.why == [NO_DMA_AT_GATE]


def _put_aside(result: RunResult, folder: Path, number: int) -> RunResult:
    """What an earlier start left under that name is not ours."""
    aside = folder.with_name(f"{folder.name}-try-{number}")
    shutil.rmtree(aside, ignore_errors=True)
    return replace(result, folder=folder.rename(aside))


def chosen(tries: Sequence[RunResult]) -> RunResult:
    """The last try, unless one before it saw harm that the last did not; with what speaks against any of them."""
    last = tries[-1]
    harmful = [t for t in tries if set(HARM) & set(t.verdict.outcomes) - set(last.verdict.outcomes)]
    whys = [why for t in tries for why in t.verdict.why]
    return replace(harmful[0] if harmful else last, failed_tries=tuple(whys))


def _closing(run: Run) -> Json:
    """What meta.json says of a run that a lab made, beside its verdict."""
    spec = run.spec
    return {
        "whole": True,
        "made_by": "emu compare",
        "seed": run.seed,
        "declared": declared(spec.protocol),
        "run": {
            "event": spec.event,
            "backing": spec.backing,
            "holder": spec.holder,
            "control": run.control.name,
        },
        "reclaims": [run.facts["reclaim"]],
    }


def _of(run: Run, verdict: Verdict) -> RunResult:
    """A run that was carried out and judged."""
    reclaim: Json = run.facts["reclaim"]
    return RunResult(
        verdict,
        run.folder,
        reclaim["errno"],
        reclaim["returned"],
        reclaim.get("tries", 1) - 1,
        reclaim.get("took_us"),
        denied=reclaim.get("denied"),
        died=run.facts.get("died"),
        moved=sum(run.facts["peer"]["good"][name] for name in ("write", "read")),
    )


def _failed(error: Exception, folder: Path) -> RunResult:
    """Unknown, with the error's words; where it came from stands in logs/lab.log."""
    with suppress(OSError):  # a full disk may be what it is
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        (folder / "logs" / "lab.log").write_text("".join(traceback.format_exception(error)), "utf-8")
    foreseen = isinstance(error, LabError | OSError)
    words = str(error) if foreseen else f"{type(error).__name__}: {error}; see logs/lab.log"
    return RunResult(Verdict(outcomes=["UNKNOWN"], why=[f"the run failed: {words}"]), folder)


async def compare(specs: Iterable[RowSpec], options: Options) -> Json:
    """Carry everything out; the result is what `emu compare --json` writes."""
    specs = list(specs)
    comparison = Comparison(
        options, asyncio.Semaphore(options.jobs), asyncio.Semaphore(max(1, cores() // 2)),
        rows=frozenset(spec.label for spec in specs if not spec.reason),
    )  # fmt: skip
    rows: dict[str, Json] = {}
    waiting = iter(specs)
    several = options.jobs + cores()  # while some are under way, others are judged
    workers = [asyncio.create_task(_work(comparison, waiting, rows, specs)) for _ in range(several)]
    try:
        await asyncio.gather(*workers)
    finally:
        await _end([*workers, *comparison.made.values()])
        await comparison.judges.end()
        await comparison.nursery.close()
    return _result(comparison, rows, specs)


async def _work(
    comparison: Comparison, waiting: Iterator[RowSpec], rows: dict[str, Json], specs: Sequence[RowSpec]
) -> None:
    """Row by row, as long as there are any; several of these share one iterator."""
    options = comparison.options
    for spec in waiting:
        known = options.kept.rows.get(spec.label) if options.kept else None
        if known is None:
            result = await comparison.row(spec, len(specs))
            by_way = {way: _promised(replace(spec, way=way)) for way in result.ways}
            known = result.as_json(_promised(spec), by_way)
            if options.kept:
                options.kept.row(spec.label, known)
        else:  # what is claimed is no measurement: today's claims are held against it
            known = known | claimed(spec, known["outcomes"] if known["runs"] else None)
            comparison.again(spec, known, len(specs))
        rows[spec.label] = known
        await comparison.show(_result(comparison, rows, specs), len(specs))


def _promised(spec: RowSpec) -> tuple[str, ...]:
    return promised(spec.protocol, spec.event if spec.reason else kind_of(act_of(spec).ask))


def _result(comparison: Comparison, rows: dict[str, Json], specs: Sequence[RowSpec]) -> Json:
    """What `emu compare --json` writes, of the rows that are there."""
    return {
        "schema": 1,
        "machine": machine(),
        "seed": comparison.options.seed,
        "quick": comparison.options.quick,
        "complete": len(rows) == len({spec.label for spec in specs}),
        "seconds": round(time.monotonic() - comparison.began, 1),
        "rows": [rows[label] for label in dict.fromkeys(spec.label for spec in specs) if label in rows],
    }


async def _end(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel what still goes on and wait until its processes are gone."""
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError, Exception):
            await task
