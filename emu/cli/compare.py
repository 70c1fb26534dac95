"""`emu compare`: start real processes for every row, measure, judge, and print the table.

Progress goes to stderr, the table to stdout (with `--json -` or `--html -` that goes there, and the table to stderr). Exit status: 0 every
protocol kept what it promises, 1 one broke a promise, 2 some outcome is unknown, 64 usage.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emu import __version__
from emu.check.promises import introduce, sources
from emu.check.stranger import Unusable, introduced
from emu.cli import CommandError, check_targets, store
from emu.history.runs import FORMATS
from emu.host.files import lock
from emu.host.times import time_scale
from emu.lab import names, rates
from emu.lab.against import against, words
from emu.lab.compare import Options, compare, cores
from emu.lab.kept import RESULT, Kept, put
from emu.lab.plan import QUICK, backings_here, events_here, full, protocols_here, quick, rows
from emu.lab.rows import exit_code
from emu.lab.teller import Teller
from emu.report import drill
from emu.report.html import page
from emu.report.schema import is_row, problems
from emu.report.table import render

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from emu.lab.plan.spec import RowSpec

SUMMARY = "measure protocols against events on live processes, side by side"
MARKER = ".emu-compare"
EVERYTHING = ("truncate", "surprise-unplug")  # what a protocol is asked that nobody predicted anything of


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--protocols", metavar="LIST", help="comma list; default: all that are installed")
    parser.add_argument(
        "--protocol",
        metavar="FILE",
        action="append",
        default=[],
        help="a Python file with a PROTOCOL of yours; alone, it is what is compared",
    )
    parser.add_argument("--events", metavar="LIST", help=f"comma list of {', '.join(events_here())}")
    parser.add_argument("--backings", metavar="LIST", help=f"comma list of {', '.join(backings_here())}")
    parser.add_argument(
        "--holders",
        metavar="LIST",
        help=f"comma list of {', '.join(names.HOLDERS)}; default: deaf, and prompt where it differs",
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--quick",
        action="store_true",
        help="a minute's worth of rows, unless some are named (the default)",
    )
    size.add_argument(
        "--full",
        action="store_true",
        help="every event on every backing, and every holder on dax; most of an hour",
    )
    parser.add_argument("--runs", type=int, default=1, metavar="N", help="runs a row (default 1)")
    parser.add_argument(
        "--seed", type=int, default=1, metavar="N", help="varies when the reclaim falls (default 1)"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="runs that are carried out together (default: one for each core); DMA goes on in fewer, and others are judged meanwhile",
    )
    parser.add_argument(
        "--sweep",
        action="store_true",
        help="also: goodput under many reclaims, and what slow invalidations cost (half a minute a protocol; --full does it)",
    )
    parser.add_argument("--against", metavar="FILE", help="an older result: say what has changed since")
    parser.add_argument("--json", metavar="FILE", help="the result as JSON; - is stdout")
    parser.add_argument("--html", metavar="FILE", help="the result as one self-contained page; - is stdout")
    parser.add_argument(
        "--out",
        metavar="DIR",
        default="runs/compare",
        help="where evidence goes (default runs/compare); what was not finished there goes on",
    )


def run(args: argparse.Namespace) -> int:
    specs = _specs(args)
    older = _older(args.against)
    out = Path(args.out)
    settings = {"seed": args.seed, "runs": _runs(args), "jobs": _jobs(args), "quick": not args.full}
    check_targets("compare", (args.json, args.html), ours=out)
    held = _is_ours(out)
    try:
        question = {
            "schema": 1,
            **{name: value for name, value in settings.items() if name != "jobs"},
            "time_scale": time_scale(),
            "emu": __version__,
            "formats": FORMATS,
            "protocol_files": sources(),
            "rows": [spec.label for spec in specs],
        }
        kept = Kept.begin(out, question, specs, is_row)
        _say_anew(out, kept.other)
        teller = Teller(sys.stderr)
        options = Options(
            out=out, **settings, progress=teller.line, status=teller.status, kept=kept, so_far=partial(_so_far, args),
        )  # fmt: skip
        try:
            result = _interruptible(compare(specs, options))
        finally:
            teller.end()
        if args.sweep or args.full:
            result |= _measured(specs, out)
            rates.tell(result)
        put(out / RESULT, result)
        kept.finish()
        if older is not None:
            result["against"] = {"file": args.against, **against(older, result)}
        _deliver(args, result)
    finally:
        os.close(held)
    return exit_code(result["rows"])


def _measured(specs: Sequence[RowSpec], out: Path) -> dict[str, Any]:
    """Of all protocols that serve dax files: reclaims one behind the other."""
    mine = dict.fromkeys(spec.protocol for spec in specs if spec.backing == "dax" and not spec.reason)
    return rates.measure(list(mine), out, partial(print, file=sys.stderr, flush=True))


def _so_far(args: argparse.Namespace, result: dict[str, Any]) -> None:
    """Whoever ends us finds what there was, in the evidence folder and where the result was wanted."""
    put(Path(args.out) / RESULT, result)
    for name, text in ((args.json, _raw), (args.html, page)):
        if name and name != "-" and not (Path(name).exists() and not Path(name).is_file()):
            place = Path(name).resolve()
            beside = place.with_name(f".{place.name}.new")
            store("compare", str(beside), text(result), ours=Path(args.out))
            beside.replace(place)


def _say_anew(out: Path, other: Sequence[str]) -> None:
    """Rows that are there, and are of no use."""
    if other:
        words = ", ".join(name.replace("_", " ") for name in other)
        print(f"{out}: what was not finished there differs in {words}: all is measured anew", file=sys.stderr)


def _older(name: str | None) -> dict[str, Any] | None:
    if not name:
        return None
    try:
        found: dict[str, Any] = json.loads(Path(name).read_text("utf-8"))
    except (OSError, ValueError) as error:
        code = _code(error) if isinstance(error, OSError) else "EINVAL"
        raise CommandError(
            f"compare --against {name}: {code}: it cannot be read as a result: {error}"
        ) from error
    if wrong := problems(found):
        raise CommandError(f"compare --against {name}: EINVAL: it is no result of emu compare: {wrong[0]}")
    return found


# ---- what was asked for


def _specs(args: argparse.Namespace) -> list[RowSpec]:
    strangers = _introduced(args.protocol)
    here = protocols_here()
    asked = _known("protocol", args.protocols, (*names.PROTOCOLS, *here), here)
    protocols = list(dict.fromkeys((*asked, *strangers))) or here
    events = _known("event", args.events, names.EVENTS, events_here())
    backings = _known("backing", args.backings, names.BACKINGS, backings_here())
    holders = _known("holder", args.holders, names.HOLDERS, names.HOLDERS) or None
    chosen = (protocols, events or events_here(), backings or backings_here(), holders)
    if args.full:
        return list(full(*chosen))
    if events or backings or holders:
        return list(rows(*chosen))
    predicted = {protocol for protocol, *_ in QUICK}
    others = [protocol for protocol in protocols if protocol not in predicted]
    return [*quick(protocols), *rows(others, EVERYTHING, ["dax"], None)]


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
    count: int = args.runs
    if count < 1:
        raise CommandError(f"compare --runs {count}: EINVAL: at least one run a row is needed")
    return count


def _jobs(args: argparse.Namespace) -> int:
    count: int = args.jobs if args.jobs is not None else cores()
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
    table = sys.stderr if to_stdout else sys.stdout
    print(render(result), file=table, flush=True)
    if "against" in result:
        print(
            "\n".join(["", f"against {args.against}", *(f"  {line}" for line in words(result["against"]))]),
            file=table,
        )
    rows = f"{Path(args.html).name}{drill.FOLDER}" if args.html and args.html != "-" else ""
    texts = ((args.html, lambda result: page(result, rows)), (args.json, _raw))
    failed = []
    for name, text in texts:
        try:
            if name:
                store("compare", name, text(result), ours=Path(args.out))
        except CommandError as error:
            failed.append(error)
    if failed:
        raise CommandError("\nemu: ".join(map(str, failed)))
    if rows:
        _look_closely(Path(args.html).parent / rows, result["rows"], f"../{Path(args.html).name}")


def _look_closely(folder: Path, rows: list[dict[str, Any]], back: str) -> None:
    """A page for each row that was run, beside the comparison's."""
    try:
        folder.mkdir(exist_ok=True)
        for row in rows:
            if row["evidence"]:
                (folder / drill.name(row)).write_text(drill.page(row, back), "utf-8")
    except OSError as error:
        code = errno.errorcode.get(error.errno or errno.EIO, "EIO")
        raise CommandError(
            f"compare {folder}: {code}: {error.strerror}: the rows' own pages are not all there"
        ) from None


def _raw(result: dict[str, Any]) -> str:
    return json.dumps(result, indent=1) + "\n"
