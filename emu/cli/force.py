"""`emu force SCRIPT`: a story of the explorer or the simulator, forced onto a live broker by hold points.

The script (emu explore --story, emu simulate --out) is carried out step by step on a fresh broker with real memory and a real engine, as often
as --runs says. Each run leaves a folder like any other, is judged by the same invariants, and held against the model. Exit status: 0 the live
broker broke what the script says (or nothing, where it says nothing), 1 it did not, or the runs differ, 2 the story cannot be forced (the
step is named), or the live history cannot show what it breaks, 64 usage.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emu.check.history import BrokenHistory, History
from emu.check.invariants import judge
from emu.check.promises import introduce, known, runnable
from emu.check.simulator.script import BadScript, Script, read_script
from emu.check.stranger import Unusable, introduced
from emu.check.validate import held
from emu.cli import CommandError, check_target
from emu.lab.forcing import Diverged, Forced, evidence, force
from emu.lab.process import LabError
from emu.protocols.contract import actions_of
from emu.protocols.registry import UnknownProtocol

if TYPE_CHECKING:
    import argparse

    from emu.protocols.contract import Protocol

Json = dict[str, Any]

SUMMARY = "force a story of the explorer or the simulator onto a live broker"
SAME, OTHER, CANNOT = 0, 1, 2


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "script", metavar="SCRIPT", help="a script.json of emu explore --story or emu simulate --out"
    )
    parser.add_argument(
        "--runs", type=int, default=2, metavar="N", help="how often, each on a fresh broker (default: 2)"
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        default="runs/force",
        help="where the runs' folders go; DIR/N must be new (default: runs/force)",
    )
    parser.add_argument(
        "--protocol", metavar="FILE", help="the file of the script's protocol, where that is a stranger's"
    )
    parser.add_argument("--json", metavar="FILE", help="the result as JSON; - is stdout")


def run(args: argparse.Namespace) -> int:
    if not 1 <= args.runs <= 1000:
        raise CommandError(f"force --runs {args.runs}: EINVAL: use 1 to 1000")
    check_target("force", args.json)
    script, protocol, options = _load(args)
    _check_signals(args.script, protocol)
    rows: list[Json] = []
    for number in range(1, args.runs + 1):
        folder = Path(args.out) / str(number)
        if folder.exists():
            raise CommandError(f"force {folder}: EEXIST: choose another --out, or remove it")
        rows.append(_once(args, script, protocol, options, folder))
        if rows[-1]["diverged"]:
            break
    code = _code(script, rows)
    _tell(args, script, rows, code)
    return code


def _check_signals(script: str, protocol: Protocol) -> None:
    """All sessions of a forced story are opened by this very process, which must live to tell it."""
    if any(action.verb == "signal" for action in actions_of(protocol)):
        raise CommandError(
            f"force {script}: EOPNOTSUPP: {protocol.name} signals whoever opened a context, and here that is emu force itself: "
            "compare it with real holders (emu compare), or replay the story in the model (emu simulate --replay)"
        )


def _load(args: argparse.Namespace) -> tuple[Script, Protocol, tuple[str, ...]]:
    try:
        script = read_script(Path(args.script))
        file = args.protocol or (script.protocol["file"] if isinstance(script.protocol, dict) else None)
        if script.mutant:
            raise CommandError(
                f"force {args.script}: EOPNOTSUPP: it is a story of mutant {script.mutant}: no live broker has that bug"
            )
        if file:
            stranger = introduced(file)
            introduce(stranger)
            return script, stranger.protocol, (f"--protocol={Path(file).resolve()}",)
        return script, known().get(str(script.protocol)), ()
    except (BadScript, UnknownProtocol) as error:
        raise CommandError(f"force {args.script}: EINVAL: {error}") from None
    except Unusable as error:
        raise CommandError(f"force {args.script}: EINVAL: {error}", error.code) from None
    except OSError as error:
        raise CommandError(f"force {args.script}: {error.strerror}: name a script that can be read") from None


def _once(
    args: argparse.Namespace, script: Script, protocol: Protocol, options: tuple[str, ...], folder: Path
) -> Json:
    def told(line: str) -> None:
        if sys.stderr.isatty():
            print(line, file=sys.stderr, flush=True)

    row: Json = {
        "folder": str(folder),
        "diverged": None,
        "corrupted": None,
        "broken": {},
        "untested": {},
        "model": None,
    }
    try:
        forced = asyncio.run(force(protocol, script.setup, script.steps, folder, told, options))
    except Diverged as error:
        return row | {"diverged": str(error)}
    except LabError as error:
        raise CommandError(f"force {args.script}: EIO: {error}; see {folder}/logs", CANNOT) from None
    evidence(forced, protocol, script.as_json())
    return row | _judged(forced)


def _judged(forced: Forced) -> Json:
    try:
        history = History.read(forced.folder)
    except BrokenHistory as error:
        raise CommandError(f"force {forced.folder}: EUCLEAN: {error}", CANNOT) from None
    judged = judge(history, ())
    broken = {j.name: j.breaches[0].sentence for j in judged if j.breaches}
    untested = {j.name: j.untested for j in judged if j.verdict == "untested"}
    return {
        "corrupted": forced.corrupted,
        "broken": broken,
        "untested": untested,
        "model": held(history, runnable())["verdict"],
    }


def _code(script: Script, rows: list[Json]) -> int:
    if any(row["diverged"] for row in rows):
        return CANNOT
    if any(
        row["corrupted"] != rows[0]["corrupted"] or row["broken"].keys() != rows[0]["broken"].keys()
        for row in rows
    ):
        return OTHER
    wanted = script.breaks["invariant"] if script.breaks else None
    if wanted is None or all(wanted in row["broken"] for row in rows):
        return SAME
    return CANNOT if any(wanted in row["untested"] for row in rows) else OTHER


def _tell(args: argparse.Namespace, script: Script, rows: list[Json], code: int) -> None:
    wanted = dict(script.breaks) if script.breaks else None
    result = {
        "schema": 1,
        "script": args.script,
        "breaks": wanted,
        "verdict": ("forced", "otherwise", "cannot")[code],
        "runs": rows,
    }
    raw = json.dumps(result, indent=1) + "\n"
    if args.json == "-":
        sys.stdout.write(raw)
    elif args.json:
        try:
            Path(args.json).write_text(raw, "utf-8")
        except OSError as error:
            raise CommandError(
                f"force {args.json}: {error.strerror}: choose a file that can be written"
            ) from None
    print("\n".join(lines_of(result)), file=sys.stderr if args.json == "-" else sys.stdout)


def lines_of(result: Json) -> list[str]:
    word = {
        "forced": "the live broker did the same",
        "otherwise": "the live broker did otherwise",
        "cannot": "the story cannot be forced",
    }
    breaks = result["breaks"]
    lines = [
        f"{result['script']}: {word[result['verdict']]}",
        f"  the model breaks {breaks['invariant']}: {breaks['sentence']}"
        if breaks
        else "  the model breaks nothing",
    ]
    for number, row in enumerate(result["runs"], 1):
        if row["diverged"]:
            lines.append(f"  run {number}: {row['diverged']}")
            continue
        if breaks and (why := row["untested"].get(breaks["invariant"])):
            lines.append(
                f"  run {number}: forced to its end, and a live history cannot show {breaks['invariant']} here: {why}"
            )
        lines.append(
            f"  run {number}: live it breaks {', '.join(row['broken']) or 'nothing'}; {_corrupted(row['corrupted'])}; {row['folder']}"
        )
    return lines


def _corrupted(found: Json | None) -> str:
    if not found:
        return "no byte lies where it must not"
    meant = found["written_for"]
    return (
        f"byte {found['byte']} of {found['device']} (block {found['block']}, owner: {found['owner']}) was written for file {meant['ino']}, "
        f"byte {meant['offset']}, by peer{meant['writer']}; {found['bytes']} bytes in all"
    )
