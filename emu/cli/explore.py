"""`emu explore PROTOCOL`: every interleaving of one holder, one MR, one reclaim and one crash."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emu.check.explorer.search import BREACH, HOLDS, UNKNOWN, WORD, Result, explore
from emu.check.model.state import KINDS
from emu.cli import CommandError, check_target
from emu.protocols import registry

if TYPE_CHECKING:
    import argparse

SUMMARY = "run a protocol through every interleaving of a small world"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("protocol", metavar="PROTOCOL")
    parser.add_argument(
        "--event", action="append", choices=KINDS, help="only this event (may be given again)"
    )
    parser.add_argument(
        "--max-states", type=int, default=1_000_000, metavar="N", help="give up behind N states (unknown)"
    )
    parser.add_argument("--json", metavar="FILE", help="the result as JSON; - prints it to stdout")


def run(args: argparse.Namespace) -> int:
    try:
        protocol = registry.load().get(args.protocol)
    except registry.UnknownProtocol as error:
        raise CommandError(f"explore {args.protocol}: EINVAL: {error}") from None
    if args.max_states < 1:
        raise CommandError(f"explore {args.protocol}: EINVAL: --max-states {args.max_states}: use 1 or more")
    check_target("explore", args.json)
    results = []
    for event in args.event or KINDS:
        results.append(explore(protocol, event, args.max_states))
        if args.json != "-":
            print("\n".join(lines_of(results[-1])), flush=True)
    code = worst([result.code for result in results])
    if args.json:
        rows = [{**result.as_row(), "unchecked": unchecked(result)} for result in results]
        write(args.json, {"schema": 1, "verdict": WORD[code], "rows": rows})
    return code


def worst(codes: list[int]) -> int:
    """A breach outweighs what is not known, and that what holds."""
    return next((code for code in (BREACH, UNKNOWN) if code in codes), HOLDS)


def unchecked(result: Result) -> list[str]:
    """Promises that this small world cannot judge: a verdict says nothing about them."""
    return [name for name in result.promised if name not in result.as_row()["checked"]]


def lines_of(result: Result) -> list[str]:
    row = result.as_row()
    speed = f"{result.states} states, {result.transitions} moves, depth {result.depth}, {row['states_per_second']}/s"
    lines = [f"{result.protocol} {result.event}: {row['verdict']} ({speed})"]
    lines += [f"  promised and checked: {', '.join(row['checked']) or 'nothing'}"]
    lines += [f"  promised, not checked here: {', '.join(unchecked(result)) or 'nothing'}"]
    for word, findings in (("BREACH", result.breaches), ("cost", result.costs)):
        for finding in findings:
            lines.append(f"  {word} {finding.invariant}: {finding.sentence}")
            lines += [f"    {at}. {move}" for at, move in enumerate(finding.story, 1)]
    lines += [f"  seen: {guard} ({count})" for guard, count in result.sometimes.items() if count]
    lines += [f"  never seen, so nothing is known: {guard}" for guard in result.missing]
    return [*lines, *([f"  gave up behind {result.states} states: --max-states"] if result.bound_hit else [])]


def write(target: str, result: dict[str, Any]) -> None:
    text = json.dumps(result, indent=2)
    if target == "-":
        sys.stdout.write(text + "\n")
        return
    try:
        Path(target).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise CommandError(f"explore {target}: {error.strerror}: choose a file that can be written") from None
