"""The explorer's part of `make proof` and `make long`: every protocol and event at two holders, two reclaims, a crash, and deadlines.

    python tests/check/explorer/prove.py [--mrs 2] [--jobs N] [--pin]
    python tests/check/explorer/prove.py --agreement        every protocol and event, small, with and without each reduction
    python tests/check/explorer/prove.py --table            the figures as docs/explorer.md has them

Compares states, moves, depth, verdict, breaches and costs with tests/check/explorer/pins.json, and writes docs/proof/explorer.json, from which
docs/explorer.md quotes. Exit 1 if anything differs from its pin or does not hold; times and rates are reported, and decide nothing.
`--pin` writes the pins and docs' table anew: say in the commit why they have changed. `--protocols NAME ...` does a part of it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from pathlib import Path

from emu.check.explorer.coverage import named
from emu.check.explorer.parallel import Job, run_all
from emu.check.explorer.search import KINDS, events_of, explore, setup_of, unreached
from emu.check.promises import installed
from emu.protocols import registry

ROOT = Path(__file__).parents[3]
PINS = ROOT / "tests/check/explorer/pins.json"
FIGURES = ROOT / "docs/proof/explorer.json"
DOCS = ROOT / "docs/explorer.md"
PINNED = ("states", "transitions", "depth", "verdict")
ENOUGH = 60_000_000  # states: two MRs each need more than the command's bound
MEMORY = 10 << 30  # bytes of a search with two MRs each; one that needs more is unknown


def jobs_of(mrs, protocols):
    return [
        Job(
            name,
            event,
            setup_of(event, holders=2, mrs=mrs, reclaims=2),
            max_states=ENOUGH,
            max_memory=MEMORY * (mrs > 1),
        )
        for name in protocols
        for event in KINDS
    ]


def pin_of(row):
    found = {name: row[name] for name in PINNED}
    lists = {word: sorted(f["invariant"] for f in row[word]) for word in ("breaches", "costs")}
    return {**found, **lists}


def pinned_of(figures):
    """The pin among figures."""
    return {key: figures[key] for key in (*PINNED, "breaches", "costs")}


def figures_of(row):
    names = (
        "reclaims",
        "states_per_second",
        "seconds",
        "cpu_seconds",
        "memory",
        "reductions",
        "checked",
        "missing",
    )
    stories = {f["invariant"]: len(f["story"]) for f in (*row["breaches"], *row["costs"])}
    return {**pin_of(row), **{name: row[name] for name in names}, "shortest_stories": stories}


def prove(mrs, protocols, processes, keep):
    """All searches; what is known so far is kept after each, beside what is known of other protocols."""
    began, results = time.monotonic(), {}
    figures = {name: row for name, row in known(mrs).items() if name.split()[0] not in protocols}
    for result in run_all(jobs_of(mrs, protocols), processes):
        row = result.as_row()
        results.setdefault(result.protocol, []).append(result)
        figures[f"{result.protocol} {result.event}"] = figures_of(row)
        spent = round(time.monotonic() - began)
        keep({**summary(mrs, processes, spent, figures), "never_executed": left_of(results), "rows": figures})
        print(
            f"{result.protocol} {result.event}: {row['verdict']}, {row['states']:,} states, depth {row['depth']}, "
            f"{row['seconds']:.0f} s, {row['states_per_second']:,}/s, {row['states'] / row['cpu_seconds']:,.0f}/s of CPU",
            flush=True,
        )


def known(mrs):
    """Rows of an earlier proof."""
    return json.loads(FIGURES.read_text()).get(f"{mrs} MR", {}).get("rows", {}) if FIGURES.exists() else {}


def summary(mrs, processes, spent, figures):
    states, cpu = (sum(row[name] for row in figures.values()) for name in ("states", "cpu_seconds"))
    return {
        "holders": 2, "mrs": mrs, "reclaims": 2, "crashes": 1, "seconds": spent, "processes": processes,
        "states": states, "cpu_seconds": round(cpu), "states_per_cpu_second": round(states / cpu),
    }  # fmt: skip


def left_of(results):
    """Rows of each protocol's table that no event has executed; of those whose events are all there."""
    return {
        name: [named(row) for row in unreached(registry.load().get(name), [*found, *others(name)])]
        for name, found in results.items()
        if len(found) == len(KINDS)
    }


def others(name):
    """Events beside the five that a protocol's rows ask for, small."""
    protocol = registry.load().get(name)
    return [explore(protocol, event) for event in events_of(protocol) if event not in KINDS]


def differences(whole, pins):
    for name, row in whole["rows"].items():
        mine = pinned_of(row)
        if row["verdict"] != "holds":
            yield f"{name}: {row['verdict']} {row['breaches'] or row['missing']}"
        if mine != pins.get(name):
            yield f"{name}: {mine}, and pinned is {pins.get(name)}"
    yield from (f"{name}: never executed: {rows}" for name, rows in whole["never_executed"].items() if rows)


def disagreements(processes):
    """Small worlds, searched in all four ways: what is said about them must be the same."""
    jobs = []
    for name in installed():
        for event in KINDS:
            setup = dataclasses.replace(
                setup_of(event, 2, 1, 1, 0), refusals=int(name == "mr-revoke"), taker=False
            )
            for reduction, symmetry in ((True, True), (True, False), (False, True), (False, False)):
                jobs.append(Job(name, event, setup, reduction=reduction, symmetry=symmetry))
    results = list(run_all(jobs, processes))
    for at in range(0, len(results), 4):
        four = results[at : at + 4]
        said = [(said_by(result), result.rows, set(result.sometimes), result.missing) for result in four]
        numbers = ", ".join(f"{result.states:,}" for result in four)
        print(f"{four[0].protocol} {four[0].event}: {numbers} states", flush=True)
        if any(one != said[0] for one in said):
            yield f"{four[0].protocol} {four[0].event}: {said}"


def said_by(result):
    return result.code, [(f.invariant, len(f.story), bool(f.loop)) for f in (*result.breaches, *result.costs)]


def table(figures):
    """Markdown."""
    lines = [
        "| protocol | event, beside | states | moves | depth | verdict | costs | states/s of CPU |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in figures["rows"].items():
        protocol, _event = name.split()
        rate = f"{row['states'] / row['cpu_seconds']:,.0f}" if row.get("cpu_seconds") else "-"
        lines.append(
            f"| `{protocol}` | {', '.join(row['reclaims'])} | {row['states']:,} | {row['transitions']:,} | {row['depth']} | "
            f"{row['verdict']} | {', '.join(row['costs']) or '-'} | {rate} |"
        )
    return "\n".join(lines)


def quote(figures):
    """The table of docs/explorer.md anew."""
    lines = DOCS.read_text().split("\n")
    rows = [
        at
        for at, line in enumerate(lines)
        if line.startswith(("| protocol | event, beside", "|---|---|---|---|---|", "| `"))
    ]
    first = lines.index(next(line for line in lines if line.startswith("| protocol | event, beside")))
    last = max(at for at in rows if at >= first and all(other in rows for other in range(first, at + 1)))
    DOCS.write_text("\n".join([*lines[:first], *table(figures).split("\n"), *lines[last + 1 :]]))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mrs", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--protocols", nargs="*")
    parser.add_argument("--pin", action="store_true")
    parser.add_argument("--agreement", action="store_true")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    key = f"{args.mrs} MR"
    if args.agreement:
        found = list(disagreements(args.jobs))
        print(*found, sep="\n")
        return 1 if found else 0
    if args.table:
        print(table(json.loads(FIGURES.read_text())[key]))
        return 0
    kept = []

    def keep(whole):
        kept.append(whole)
        stored(FIGURES, key, whole)
        if args.pin:
            stored(PINS, key, {name: pinned_of(row) for name, row in whole["rows"].items()})

    prove(args.mrs, args.protocols or installed(), args.jobs, keep)
    whole = kept[-1]
    if args.pin and args.mrs == 1:
        quote(whole)
    found = list(differences(whole, json.loads(PINS.read_text()).get(key, {})))
    print(*found, f"{whole['states']:,} states in {whole['seconds']} s", sep="\n")
    return 1 if found else 0


def stored(path, key, part):
    """One part of a file anew, the others as they are."""
    kept = json.loads(path.read_text()) if path.exists() else {}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**kept, "schema": 1, key: part}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
