"""The explorer's part of `make proof` and `make long`: every protocol and event with two reclaims, a crash, and deadlines.

    python tests/check/explorer/prove.py                    what is pinned: two holders, and one where two do not close
    python tests/check/explorer/prove.py --protocols X ... [--events E ...] [--holders 1 | --mrs 2] [--max-states N] [--pin]
    python tests/check/explorer/prove.py --stale            pins that were made of another protocol or core; explores nothing
    python tests/check/explorer/prove.py --agreement        every protocol and event, small, with and without each reduction
    python tests/check/explorer/prove.py --table            the figures as docs/explorer.md has them

Compares states, moves, depth, verdict, breaches and costs with tests/check/explorer/pins.json (pinning.py). Exit 1 if anything differs from its pin
or does not hold; times and rates are reported, and decide nothing. `--pin` pins what was explored, and writes docs/proof/explorer.json and docs'
tables, which quote it: say in the commit why they have changed. A search with two holders that hit its bound is pinned as unknown, with
the bound; from then on a proof explores that protocol and event with one holder.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from pathlib import Path

from figures import FIGURES, figures_of, left_of, quote, sums, tables
from pinning import ONE, TWO, World, better, digests, merge, part_of, pin_of, same, stale

from emu.check.explorer.parallel import Job, run_all
from emu.check.explorer.search import KINDS, setup_of
from emu.check.promises import installed

PINS = Path(__file__).with_name("pins.json")
AGREEING = 100_000  # states without reductions; a search that needs more is compared with one holder
ENOUGH = 60_000_000  # states: two MRs each need more than the command's bound
MEMORY = 10 << 30  # bytes of a search with two MRs each; one that needs more is unknown


def job_of(world, name, event, states=ENOUGH):
    setup = setup_of(event, holders=world.holders, mrs=world.mrs, reclaims=2)
    return Job(name, event, setup, max_states=states, max_memory=MEMORY * (world.mrs > 1))


def jobs_of(world, protocols, events=tuple(KINDS), states=ENOUGH):
    return [job_of(world, name, event, states) for name in protocols for event in events]


def planned(pins):
    """World -> its jobs: what closes with two holders, and with one what is not known to."""
    plan = {TWO: [], ONE: []}
    for name in installed():
        for event in KINDS:
            pin = pins.get(TWO.key, {}).get(f"{name} {event}")
            world = TWO if pin and pin["verdict"] != "unknown" else ONE
            plan[world].append(job_of(world, name, event))
    return plan


def prove(world, jobs, processes, pins, results):
    """All searches of a world; with `pins` each is kept as soon as it is there. Differences from the pins."""
    of = {name: digests(name) for name in sorted({job.protocol for job in jobs})}
    for job, result in zip(jobs, run_all(jobs, processes), strict=True):
        row, name = told(result, job), f"{result.protocol} {result.event}"
        results.setdefault(result.protocol, []).append(result)
        print(
            f"{name}: {row['verdict']}, {row['states']:,} states, depth {row['depth']}, {row['seconds']:.0f} s, "
            f"{row['states_per_second']:,}/s, {row['states'] / max(row['cpu_seconds'], 0.001):,.0f}/s of CPU",
            flush=True,
        )
        pin = pin_of(row, of[result.protocol])
        if pins is not None:
            keep(FIGURES, world, name, figures_of(row, of[result.protocol]))
            merge(pins, world.key, lambda part, at=name, new=pin: {**part, at: better(part.get(at), new)})
        yield from differences(world, name, row, pin)


def keep(path, world, name, figures):
    """Beside what is known of others."""

    def changed(part):
        known = part.get("rows", {})
        rows = {**known, name: better(known.get(name), figures)}
        return {**sums(world, rows), "rows": rows}

    merge(path, world.key, changed)


def told(result, job):
    """A row that says how large the bound was."""
    values = {"--max-states": f"{job.max_states:,}", "--max-memory": f"{job.max_memory >> 20:,} MiB"}
    row = result.as_row()
    return {**row, "bound_hit": f"{row['bound_hit']} {values.get(row['bound_hit'], '')}".strip()}


def differences(world, name, row, pin):
    pinned = part_of(PINS, world.key).get(name)
    if row["verdict"] != "holds" and not (row["bound_hit"] and same(pin, pinned)):
        yield f"{name}: {row['verdict']} {row['bound_hit'] or row['breaches'] or row['missing']}"
    if not same(pin, pinned):
        old = stale({name: pinned}).get(name) if pinned else None
        yield f"{name}: {pin}, and pinned is {pinned}" + (f", of another {' and '.join(old)}" if old else "")


def disagreements(processes, protocols):
    """Small worlds, searched with and without each reduction: what is said about them must be the same. With two holders where the search
    without any is not too long; else with one, where symmetry has nothing to do.
    """
    pairs = [(name, event) for name in protocols for event in KINDS]
    bare = list(run_all([plain(*pair, 2, reduction=False, symmetry=False) for pair in pairs], processes))
    small = {pair: result for pair, result in zip(pairs, bare, strict=True) if not result.bound_hit}
    jobs = [
        plain(*pair, *how)
        for pair in pairs
        for how in (((2, True, True), (2, True, False), (2, False, True)) if pair in small else ((1, True, False), (1, False, False)))
    ]  # fmt: skip
    found = {pair: [small[pair]] if pair in small else [] for pair in pairs}
    for result in run_all(jobs, processes):
        found[result.protocol, result.event].append(result)
    for (name, event), several in found.items():
        said = [(said_by(result), result.rows, set(result.sometimes), result.missing) for result in several]
        numbers = ", ".join(f"{result.states:,}" for result in several)
        print(f"{name} {event}, {several[0].holders} holders: {numbers} states", flush=True)
        if any(one != said[0] for one in said):
            yield f"{name} {event}: {said}"


def plain(name, event, holders, reduction, symmetry):
    setup = dataclasses.replace(
        setup_of(event, holders, 1, 1, 0), refusals=int(name == "mr-revoke"), taker=False, registrations=0
    )
    bound = AGREEING if holders == 2 else ENOUGH
    return Job(name, event, setup, max_states=bound, reduction=reduction, symmetry=symmetry)


def said_by(result):
    return result.code, [(f.invariant, len(f.story), bool(f.loop)) for f in (*result.breaches, *result.costs)]


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--holders", type=int, choices=(1, 2), default=2)
    parser.add_argument("--mrs", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--protocols", nargs="*", choices=installed(), default=[])
    parser.add_argument("--events", nargs="*", choices=KINDS, default=list(KINDS))
    parser.add_argument("--max-states", type=int, default=ENOUGH)
    parser.add_argument("--pin", action="store_true")
    parser.add_argument("--stale", action="store_true")
    parser.add_argument("--agreement", action="store_true")
    parser.add_argument("--table", action="store_true")
    return parser.parse_args()


def plan_of(args):
    world = World(args.holders, args.mrs)
    if world == TWO and not args.protocols:
        return planned(json.loads(PINS.read_text()))
    return {world: jobs_of(world, args.protocols or installed(), args.events, args.max_states)}


def explored(args):
    """Differences, printed by the caller."""
    results, began, found = {}, time.monotonic(), []
    for world, jobs in plan_of(args).items():
        found += prove(world, jobs, args.jobs, PINS if args.pin else None, results)
    if args.pin:
        quote()
    found += [f"{name}: never executed: {rows}" for name, rows in left_of(results).items() if rows]
    states = sum(result.states for several in results.values() for result in several)
    return [*found, f"{states:,} states in {time.monotonic() - began:.0f} s"]


def stale_ones():
    for world in (TWO, ONE, World(2, 2)):
        for name, words in stale(part_of(PINS, world.key)).items():
            yield f"{world.key}: {name}: of another {' and '.join(words)}"


def main():
    args = arguments()
    if args.table:
        print(*tables(), sep="\n\n")
        return 0
    if args.stale:
        found = list(stale_ones())
        print(*found, sep="\n")
        return 1 if found else 0
    if args.agreement:
        found = list(disagreements(args.jobs, args.protocols or installed()))
        print(*found, sep="\n")
        return 1 if found else 0
    *found, said = explored(args)
    print(*found, said, sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
