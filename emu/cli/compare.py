"""`emu compare`: start real processes for every row, measure, judge, and print the table.

Progress goes to stderr, the table to stdout (with `--json -` or `--html -` that goes there, and the table to stderr). Exit status: 0 every
protocol kept what it promises, 1 one broke a promise, 2 some outcome is unknown, 64 usage.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import signal
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emu.check.promises import introduce
from emu.check.stranger import Unusable, introduced
from emu.cli import CommandError, check_targets, store
from emu.host.files import lock
from emu.lab import names
from emu.lab.compare import Options, compare, cores
from emu.lab.plan import protocols_here, rows
from emu.lab.rows import exit_code
from emu.report.html import page
from emu.report.table import render

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

SUMMARY = "measure protocols against events on live processes, side by side"
MARKER = ".emu-compare"
QUICK_RUNS, FULL_RUNS = 1, 3


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--protocols", metavar="LIST", help="comma list; default: all that are installed")
    parser.add_argument(
        "--protocol",
        metavar="FILE",
        action="append",
        default=[],
        help="a Python file with a PROTOCOL of yours; alone, it is what is compared",
    )
    parser.add_argument("--events", metavar="LIST", help=f"comma list of {', '.join(names.EVENTS_HERE)}")
    parser.add_argument("--backings", metavar="LIST", help=f"comma list of {', '.join(names.BACKINGS_HERE)}")
    parser.add_argument(
        "--holders", metavar="LIST", help="comma list of deaf, prompt; default: both where it differs"
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="one run a row (the default)")
    size.add_argument("--full", action="store_true", help=f"{FULL_RUNS} runs a row, every holder everywhere")
    parser.add_argument("--runs", type=int, metavar="N", help="runs a row")
    parser.add_argument(
        "--seed", type=int, default=1, metavar="N", help="varies when the reclaim falls (default 1)"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="runs set up at the same time (default: one for each pair of cores)",
    )
    parser.add_argument("--json", metavar="FILE", help="the result as JSON; - is stdout")
    parser.add_argument("--html", metavar="FILE", help="the result as one self-contained page; - is stdout")
    parser.add_argument(
        "--out", metavar="DIR", default="runs/compare", help="where evidence goes (default runs/compare)"
    )


def run(args: argparse.Namespace) -> int:
    specs = list(rows(*_chosen(args)))
    options = Options(
        out=Path(args.out), seed=args.seed, runs=_runs(args), jobs=_jobs(args), quick=not args.full,
        progress=partial(print, file=sys.stderr, flush=True),
    )  # fmt: skip
    check_targets("compare", (args.json, args.html), ours=options.out)
    held = _is_ours(options.out)
    try:
        _make_room(options.out, [spec.label for spec in specs])
        result = _interruptible(compare(specs, options))
        _deliver(args, result)
    finally:
        os.close(held)
    return exit_code(result["rows"])


# ---- what was asked for


def _chosen(args: argparse.Namespace) -> tuple[list[str], list[str], list[str], list[str] | None]:
    holders = _known("holder", args.holders, names.HOLDERS, names.HOLDERS_HERE)
    if args.full and not holders:
        holders = list(names.HOLDERS_HERE)
    strangers = _introduced(args.protocol)
    here = protocols_here()
    asked = _known("protocol", args.protocols, (*names.PROTOCOLS, *here), here)
    return (
        list(dict.fromkeys((*asked, *strangers))) or here,
        _known("event", args.events, names.EVENTS, names.EVENTS_HERE) or list(names.EVENTS_HERE),
        _known("backing", args.backings, names.BACKINGS, names.BACKINGS_HERE) or list(names.BACKINGS_HERE),
        holders or None,
    )


def _introduced(files: Sequence[str]) -> list[str]:
    """The names of the protocols in these files."""
    found = []
    for file in files:
        try:
            stranger = introduced(file)
        except Unusable as error:
            raise CommandError(f"compare --protocol: EINVAL: {error}", error.code) from None
        introduce(stranger)
        found.append(stranger.protocol.name)
    return found


def _known(kind: str, given: str | None, known: Sequence[str], here: Sequence[str]) -> list[str]:
    """The names of a comma list, each once; empty when none was given."""
    if given is None:
        return []
    chosen = list(
        dict.fromkeys(names.ALIASES.get(name, name) for name in (part.strip() for part in given.split(",")))
    )
    for name in chosen:
        if name not in known:
            raise CommandError(
                f"compare {name or repr(name)}: EINVAL: no such {kind}; the {kind}s are {', '.join(here)}"
            )
        if name not in here:
            raise CommandError(
                f"compare {name}: EOPNOTSUPP: {kind} {name} is not in this version; here are {', '.join(here)}"
            )
    return chosen


def _runs(args: argparse.Namespace) -> int:
    count: int = args.runs if args.runs is not None else FULL_RUNS if args.full else QUICK_RUNS
    if count < 1:
        raise CommandError(f"compare --runs {count}: EINVAL: at least one run a row is needed")
    return count


def _jobs(args: argparse.Namespace) -> int:
    count: int = args.jobs if args.jobs is not None else max(1, cores() // 2)
    if count < 1:
        raise CommandError(f"compare --jobs {count}: EINVAL: at least one run at a time is needed")
    return count


def _is_ours(out: Path) -> int:
    """The evidence folder: new, empty, or of an earlier comparison. Marked as ours, and nobody else's as long as the descriptor lives."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not (out / MARKER).exists() and any(out.iterdir()):
            raise CommandError(f"compare --out {out}: ENOTEMPTY: it holds something else; name a new folder")
        held = lock(out / MARKER)
    except OSError as error:
        raise CommandError(f"compare --out {out}: {_code(error)}: {error.strerror}") from error
    if held is None:
        raise CommandError(
            f"compare --out {out}: EBUSY: another comparison writes there: wait for its end, or name another folder"
        )
    return held


def _make_room(out: Path, labels: Sequence[str]) -> None:
    """Rows of the same names are replaced. Called when everything that was asked for has been found possible."""
    for label in labels:
        shutil.rmtree(out / label, ignore_errors=True)


def _code(error: OSError) -> str:
    return errno.errorcode.get(error.errno or errno.EIO, "EIO")


# ---- carrying it out


def _interruptible(work: Any) -> dict[str, Any]:
    """SIGTERM ends it as Ctrl-C does: every process of every run is gone before we are."""

    async def guarded() -> dict[str, Any]:
        this = asyncio.current_task()
        assert this
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
        result: dict[str, Any] = await work
        return result

    try:
        return asyncio.run(guarded())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def _deliver(args: argparse.Namespace, result: dict[str, Any]) -> None:
    """The table first: it is what minutes were spent for, whatever becomes of the files."""
    to_stdout = "-" in {args.json, args.html}
    print(render(result), file=sys.stderr if to_stdout else sys.stdout, flush=True)
    texts = ((args.html, page), (args.json, _raw))
    failed = []
    for name, text in texts:
        try:
            if name:
                store("compare", name, text(result), ours=Path(args.out))
        except CommandError as error:
            failed.append(error)
    if failed:
        raise CommandError("\nemu: ".join(map(str, failed)))


def _raw(result: dict[str, Any]) -> str:
    return json.dumps(result, indent=1) + "\n"
