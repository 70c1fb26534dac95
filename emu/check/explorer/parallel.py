"""Several searches side by side, each in a process of its own (spawned, new for each); their results in the order of the jobs.

A job names its protocol (by name, or by file) and is loaded where it runs, since a stranger's objects need not survive a pickle. A process
that dies, for want of memory say, leaves a result that is unknown and says so.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from emu.check.explorer.result import Result
from emu.check.explorer.search import MAX_STATES, explore
from emu.check.honest import Honest
from emu.check.stranger import load_protocol
from emu.check.workers import unheard, workers
from emu.protocols import registry

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from emu.check.explorer.breadth import Search
    from emu.check.model.setup import Setup
    from emu.protocols.contract import Protocol

EVERY: Final = 5.0  # seconds between two lines of progress
DIED: Final = "the process was killed: use fewer --jobs, or --max-memory"


@dataclass(frozen=True)
class Job:
    """One search. file: of a stranger's protocol; "": `protocol` is a name of the registry."""

    protocol: str
    event: str
    setup: Setup
    file: str = ""
    max_states: int = MAX_STATES
    max_memory: int = 0
    reduction: bool = True
    symmetry: bool = True

    @property
    def named(self) -> Any:
        """How a script names the protocol."""
        return {"file": self.file} if self.file else self.protocol

    def load(self) -> Protocol:
        if not self.file:
            return registry.load().get(self.protocol)
        return cast("Protocol", Honest(load_protocol(self.file), bounded=True))


def run(job: Job) -> Result:
    """Explore, in this process."""
    with unheard():
        return explore(
            job.load(),
            job.event,
            job.max_states,
            setup=job.setup,
            reduction=job.reduction,
            symmetry=job.symmetry,
            max_memory=job.max_memory,
            progress=Progress(f"{job.protocol} {job.event}"),
            named=job.named,
        )


def run_all(jobs: Sequence[Job], processes: int) -> Generator[Result]:
    """Each as soon as those before it are there."""
    if processes <= 1 or len(jobs) <= 1:
        yield from map(run, jobs)
        return
    with workers(processes, each=1) as submit:
        futures = [submit(run, job) for job in jobs]
        for job, future in zip(jobs, futures, strict=True):
            try:
                yield future.result()
            except BrokenProcessPool:
                yield Result(job.protocol, job.event, job.setup.reclaims, job.setup.holders, bound_hit=DIED)


class Progress:
    """A line on stderr every few seconds; nothing for a search that is over before."""

    def __init__(self, title: str) -> None:
        self.title, self.next = title, time.monotonic() + EVERY

    def __call__(self, search: Search) -> None:
        now = time.monotonic()
        if now < self.next:
            return
        self.next = now + EVERY
        states, spent = len(search.graph), time.perf_counter() - search.began
        print(
            f"{self.title}: {states:,} states, {search.waiting:,} waiting, depth {search.graph.depth}, {states / spent:,.0f}/s, "
            f"{search.resident >> 20:,} MiB",
            file=sys.stderr,
            flush=True,
        )
