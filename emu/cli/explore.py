"""`emu explore PROTOCOL`: every interleaving of a small world, event by event; stories of what breaks, as text, scripts and diagrams."""

from __future__ import annotations

import json
import os
import re
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from emu.check.explorer import parallel
from emu.check.explorer.coverage import named, rows_of
from emu.check.explorer.result import BREACH, HOLDS, UNKNOWN, WORD, Result
from emu.check.explorer.search import KINDS, LAYOUT, MAX_STATES, events_of, setup_of, unreached
from emu.check.model.setup import Setup
from emu.check.model.state import SELF_TRUNCATE, WANTING
from emu.check.stranger import Unusable, try_out
from emu.cli import CommandError, check_target
from emu.protocols import registry
from emu.report import story

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping, Sequence

    from emu.check.explorer.result import Finding
    from emu.protocols.contract import Protocol


def script_text(script: Mapping[str, Any]) -> str:
    """A script as it is replayed (docs/explorer.md)."""
    return json.dumps(script, indent=2) + "\n"


SUMMARY = "run a protocol through every interleaving of a small world"
MIB: Final = 1 << 20
STORIES: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    ".txt": story.told,
    ".svg": story.svg,
    ".html": story.page,
    ".mmd": story.mermaid,
    ".json": script_text,
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("protocol", metavar="PROTOCOL", nargs="?", help="by name")
    parser.add_argument(
        "--protocol", metavar="FILE", dest="file", help="a protocol's file, in place of a name"
    )
    parser.add_argument(
        "--event",
        action="append",
        choices=(*KINDS, *LAYOUT, SELF_TRUNCATE),
        help=f"only this event (may be given again); without it {', '.join(KINDS)}, and {SELF_TRUNCATE} where the protocol asks whose the pins are",
    )
    for name, least, most, what in NUMBERS:
        parser.add_argument(
            f"--{name}", type=int, default=1, metavar="N", help=f"{what} ({least} to {most}; 1)"
        )
    parser.add_argument(
        "--max-states", type=int, default=MAX_STATES, metavar="N", help="give up behind N states (unknown)"
    )
    parser.add_argument(
        "--max-memory",
        type=int,
        default=0,
        metavar="MIB",
        help="give up when a search has so much memory (unknown)",
    )
    parser.add_argument("--no-reduction", action="store_true", help="make independent steps in every order")
    parser.add_argument("--no-symmetry", action="store_true", help="tell holders apart that are alike")
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="events explored at a time (the number of CPUs)"
    )
    parser.add_argument(
        "--story", metavar="DIR", help="write each counterexample there: text, script, SVG, HTML, Mermaid"
    )
    parser.add_argument("--json", metavar="FILE", help="the result as JSON; - prints it to stdout")


NUMBERS: Final = (
    ("holders", 1, 4, "clients that register memory"),
    ("mrs", 1, 3, "memory regions of each"),
    ("reclaims", 1, 3, "reclaims side by side: the event, then truncate and punch"),
    ("crashes", 0, 3, "crashes of holders, reclaimers or the broker"),
)


def run(args: argparse.Namespace) -> int:
    protocol = chosen(args)
    check(args)
    jobs = jobs_of(args, protocol)
    results = []
    with closing(parallel.run_all(jobs, args.jobs or os.cpu_count() or 1)) as done:
        for result in done:
            results.append(result)
            if args.json != "-":
                print("\n".join(lines_of(result)), flush=True)
            if args.story:
                write_stories(Path(args.story), result)
    left = unreached(protocol, results)
    whole = is_whole(jobs, protocol)
    code = verdict(results, left if whole else [])
    if args.json != "-":
        print("\n".join(last_words(protocol, results, left, whole=whole)), flush=True)
    if args.json:
        write(args.json, as_json(protocol, results, left, code))
    return code


# ---- what was asked for


def chosen(args: argparse.Namespace) -> Protocol:
    """The protocol, by its name or from its file."""
    if (args.protocol is None) == (args.file is None):
        raise CommandError("explore: EINVAL: name one protocol, or one file with --protocol")
    try:
        return try_out(args.file) if args.file else registry.load().get(args.protocol)
    except registry.UnknownProtocol as error:
        raise CommandError(f"explore {args.protocol}: EINVAL: {error}") from None
    except Unusable as error:
        raise CommandError(f"explore {args.file}: EINVAL: {error}", error.code) from None


def check(args: argparse.Namespace) -> None:
    """Before minutes are spent."""
    name = args.file or args.protocol
    for option, least, most, _what in (*NUMBERS, ("max-states", 1, None, ""), ("max-memory", 0, None, "")):
        value = getattr(args, option.replace("-", "_"))
        if value < least or (most is not None and value > most):
            span = f"{least} to {most}" if most else f"{least} or more"
            raise CommandError(f"explore {name}: EINVAL: --{option} {value}: use {span}")
    if args.jobs is not None and args.jobs < 1:
        raise CommandError(f"explore {name}: EINVAL: --jobs {args.jobs}: use 1 or more")
    check_target("explore", args.json)
    if args.story:
        try:
            Path(args.story).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CommandError(
                f"explore {args.story}: {error.strerror}: choose a folder that can be made"
            ) from None


def jobs_of(args: argparse.Namespace, protocol: Protocol) -> list[parallel.Job]:
    setups = [
        (event, setup_of(event, args.holders, args.mrs, args.reclaims, args.crashes))
        for event in args.event or events_of(protocol)
    ]
    if args.file and all(getattr(args, name) == 1 for name, *_rest in NUMBERS):
        setups += [(event, pair_of(event)) for event in args.event or events_of(protocol)]
    return [
        parallel.Job(
            protocol.name,
            event,
            setup,
            args.file or "",
            args.max_states,
            args.max_memory * MIB,
            not args.no_reduction,
            not args.no_symmetry,
        )
        for event, setup in setups
    ]


def pair_of(event: str) -> Setup:
    """Two holders where nothing fails: what a stranger's protocol may treat differently, cheaply."""
    return Setup((event,), holders=2, crashes=0, refusals=0, registrations=0, taker=False)


def is_whole(jobs: Sequence[parallel.Job], protocol: Protocol) -> bool:
    """Every event, with crashes and refusals: what no search has reached then, nothing reaches in this world."""
    return {job.event for job in jobs if job.setup.crashes and job.setup.refusals} == set(events_of(protocol))


# ---- what is said


def verdict(results: Sequence[Result], left: Sequence[Any]) -> int:
    """A breach outweighs what is not known, and that what holds."""
    codes = [*(result.code for result in results), *([UNKNOWN] if left else [])]
    return next((code for code in (BREACH, UNKNOWN) if code in codes), HOLDS)


def lines_of(result: Result) -> list[str]:
    row = result.as_row()
    speed = f"{result.states:,} states, {result.transitions:,} moves, depth {result.depth}, {row['states_per_second']:,}/s"
    holders = f" with {result.holders} holders" if result.holders > 1 else ""
    without = f", without {' and '.join(result.left_out)}" if result.left_out else ""
    lines = [f"{result.protocol} {result.event}{holders}{without}: {row['verdict']} ({speed})"]
    if len(result.reclaims) > 1:
        lines += [f"  reclaims side by side: {', '.join(result.reclaims)}"]
    lines += [f"  promised and checked: {', '.join(result.checked) or 'nothing'}"]
    lines += [f"  promised, not checked here: {', '.join(result.unchecked) or 'nothing'}"]
    lines += [] if result.admits else [f"  {WANTING}"]
    for word, findings in (("BREACH", result.breaches), ("cost", result.costs)):
        for finding in findings:
            lines += [f"  {word} {finding.invariant}: {finding.sentence}", *steps_of(finding)]
    lines += [f"  seen: {guard} ({count:,})" for guard, count in result.sometimes.items() if count]
    lines += [f"  never seen, so nothing is known: {guard}" for guard in result.missing]
    return [
        *lines,
        *([f"  gave up behind {result.states:,} states: {result.bound_hit}"] if result.bound_hit else []),
    ]


def steps_of(finding: Finding) -> list[str]:
    lines = [f"    {at}. {move}" for at, move in enumerate(finding.story, 1)]
    if finding.loop:
        lines += ["    and from there for ever:"]
        lines += [f"    {at}. {move}" for at, move in enumerate(finding.loop, len(finding.story) + 1)]
    return [*lines, *([f"    {finding.untold}"] if finding.untold else [])]


def last_words(
    protocol: Protocol, results: Sequence[Result], left: Sequence[tuple[str, str, str]], *, whole: bool
) -> list[str]:
    total = len(list(rows_of(protocol)))
    lines = [f"{protocol.name}: {total - len(left)} of {total} rows of its table were executed"]
    word = "never executed, so nothing is known of it" if whole else "not executed by these events"
    lines += [f"  {word}: {named(row)}" for row in left]
    return lines if results else []


def as_json(
    protocol: Protocol, results: Sequence[Result], left: Sequence[tuple[str, str, str]], code: int
) -> dict[str, Any]:
    states, seconds = sum(result.states for result in results), sum(result.seconds for result in results)
    return {
        "schema": 1,
        "protocol": protocol.name,
        "verdict": WORD[code],
        "states": states,
        "transitions": sum(result.transitions for result in results),
        "depth": max(result.depth for result in results),
        "states_per_second": round(states / max(seconds, 1e-9)),
        "unreached": [named(row) for row in left],
        "rows": [result.as_row() for result in results],
    }


# ---- what is written


def write_stories(folder: Path, result: Result) -> None:
    holders = f"-{result.holders}-holders" if result.holders > 1 else ""
    for finding in (*result.breaches, *result.costs):
        name = re.sub(
            r"[^A-Za-z0-9.-]+", "-", f"{result.protocol}-{result.event}{holders}-{finding.invariant}"
        )
        for suffix, render in STORIES.items():
            save(folder / f"{name}{suffix}", render(finding.script))


def write(target: str, result: dict[str, Any]) -> None:
    text = json.dumps(result, indent=2) + "\n"
    if target == "-":
        sys.stdout.write(text)
    else:
        save(Path(target), text)


def save(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CommandError(f"explore {path}: {error.strerror}: choose a file that can be written") from None
