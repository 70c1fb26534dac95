"""`emu check --self-test`: every mutant hunted and every control explored, in processes of their own; a table; 0 only if all is well.

A mutant that survives is an open hole: it is listed at the end, and the exit status is 1. So is a control that was caught, and one that
was not seen to its end: a check that was never asked everything has not kept quiet.
"""

from __future__ import annotations

import json
import os
import sys
import time
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

from emu.check.mutants import hunt
from emu.check.mutants.hunt import Catch
from emu.check.workers import workers

if TYPE_CHECKING:
    import argparse
    from collections.abc import Generator, Sequence

HOLDS, BREACH = 0, 1
SCHEMA: Final = 1


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--self-test",
        action="store_true",
        help="hunt the mutants: do the checks catch every bug that they should?",
    )
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="with --self-test: processes; all cores if not given"
    )


def run(target: str | None, jobs: int | None) -> int:
    """target: of the JSON; "-" is stdout, and the table goes to stderr then."""
    voice = sys.stderr if target == "-" else sys.stdout
    began, found = time.monotonic(), []
    tasks = hunt.work()
    with closing(carried_out(tasks, jobs or len(os.sched_getaffinity(0)))) as done:
        for catch in done:
            found.append(catch)
            print(line_of(catch), file=voice, flush=True)
    order = {name: at for at, name in enumerate(task_names(tasks))}
    found.sort(key=lambda catch: order[catch.name])
    print("\n".join(summary(found, time.monotonic() - began)), file=voice)
    if target:
        _write(target, as_json(found, time.monotonic() - began))
    return HOLDS if all(catch.good for catch in found) else BREACH


def task_names(tasks: Sequence[str]) -> list[str]:
    """Under which name each task's catch comes back."""
    return [hunt.name_of(task) for task in tasks]


def carried_out(tasks: Sequence[str], jobs: int) -> Generator[Catch]:
    """As they are done. A process that dies takes its task with it, which has survived then."""
    if jobs == 1:
        yield from map(hunt.do, tasks)
        return
    with workers(min(jobs, len(tasks))) as submit:
        futures = {submit(hunt.do, task): task for task in tasks}
        for future in as_completed(futures):
            try:
                yield future.result()
            except BrokenProcessPool:
                name = hunt.name_of(futures[future])
                yield Catch(name, hunt.SURVIVED, sentence="the process that hunted it died: use fewer --jobs")


# ---- what is told


def line_of(catch: Catch) -> str:
    by = catch.by or catch.verdict
    if catch.part == "control":
        by = f"{catch.verdict}: {catch.by}" if catch.by else catch.verdict
    name = f"control: {catch.name}" if catch.part == "control" else catch.name
    figures = f"{catch.states:>7} {catch.moves:>8} {catch.seconds:>8.2f}"
    if catch.part == "control":
        return f"{name:<63} {by:<15} {figures}"
    return f"{name:<24} {catch.part:<9} {by:<44} {figures}"


def summary(found: Sequence[Catch], seconds: float) -> list[str]:
    mutants = [catch for catch in found if catch.part != "control"]
    controls = [catch for catch in found if catch.part == "control"]
    caught = sum(catch.good for catch in mutants)
    lines = [
        "",
        f"{caught} of {len(mutants)} mutants caught, {sum(c.good for c in controls)} of {len(controls)} controls hold, {seconds:.0f} s",
    ]
    lines += [
        f"OPEN HOLE: {catch.name} survived ({catch.wanted} should catch it): {catch.sentence}"
        for catch in mutants
        if not catch.good
    ]
    for catch in controls:
        if catch.verdict == hunt.UNSEEN:
            lines.append(f"A CONTROL SAYS NOTHING: {catch.name}: {catch.sentence}")
        elif not catch.good:
            lines.append(f"A CHECK SHOUTS: {catch.name}: {catch.by}: {catch.sentence}")
            lines += [f"  {at}. {step}" for at, step in enumerate(catch.story, 1)]
    return lines


def as_json(found: Sequence[Catch], seconds: float) -> dict[str, Any]:
    good = all(catch.good for catch in found)
    rows = [catch.as_row() for catch in found]
    return {
        "schema": SCHEMA,
        "verdict": "holds" if good else "breach",
        "seconds": round(seconds, 1),
        "rows": rows,
    }


def _write(target: str, result: dict[str, Any]) -> None:
    text = json.dumps(result, indent=1) + "\n"
    if target == "-":
        sys.stdout.write(text)
        return
    with open(target, "w", encoding="utf-8") as file:  # noqa: PTH123 - /dev/stdout and pipes too
        file.write(text)
