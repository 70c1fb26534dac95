"""`emu simulate PROTOCOL`: random long stories on a virtual clock, judged by every invariant.

--seeds N           N stories on all cores: what broke, at which seeds
--seed S            one of them; with --out DIR its history, as a live run would have left it
--replay FILE       the story of a script (script.json of a seed, of the explorer, or written by hand)
--shrink [NAME]     and the shortest story that breaks this invariant (the first that was broken)
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from emu.check.model.state import WANTING
from emu.check.mutants.catalogue import UnknownMutant, find
from emu.check.simulator.campaign import UNKNOWN, WORD, Source, Summary, campaign
from emu.check.simulator.run import CannotReplay, Run, Subject, replay, simulate
from emu.check.simulator.script import BadScript, Script, read_script
from emu.check.simulator.shrink import NotBroken, shrink
from emu.check.simulator.verdict import Verdict, verdict_of
from emu.check.stranger import Unusable, try_out
from emu.cli import CommandError, check_target
from emu.cli.output import Unwritable
from emu.protocols import registry

if TYPE_CHECKING:
    import argparse

SUMMARY = "run a protocol through random long stories on a virtual clock"
MOST: Final = 10_000_000  # seeds
SHRUNK: Final = "minimal.json"
AGAIN: Final = "(a protocol that does not answer alike when it is asked alike cannot always be replayed)"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="PROTOCOL", nargs="?", help="a protocol's name (or --protocol FILE)")
    parser.add_argument("--protocol", metavar="FILE", help="a Python file with a PROTOCOL in it")
    parser.add_argument("--mutant", metavar="NAME", help="a wrong variant that emu check --self-test hunts")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seeds", type=int, metavar="N", help="seeds 1 to N")
    what.add_argument("--seed", type=int, metavar="S", help="this seed")
    what.add_argument("--replay", metavar="FILE", help="the steps of this script")
    parser.add_argument(
        "--out", metavar="DIR", help="leave the run's folder (or the shrunk script) here; new or empty"
    )
    parser.add_argument("--jobs", type=int, metavar="N", help="processes; all cores if not given")
    parser.add_argument("--json", metavar="FILE", help="the result as JSON; - prints it to stdout")
    parser.add_argument(
        "--shrink", nargs="?", const="", metavar="INVARIANT", help="find the shortest story that breaks it"
    )


def run(args: argparse.Namespace) -> int:
    _check(args)
    try:
        return _run(args)
    except (CommandError, Unwritable):
        raise
    except Exception as error:  # ours, or of an object that a stranger's file has made: nothing is known then
        sentence = f"simulate: the tool failed: {type(error).__name__}: {error}: please tell its authors how"
        raise CommandError(sentence, UNKNOWN) from error


def _run(args: argparse.Namespace) -> int:
    if args.replay:
        return _replay(args)
    source = Source(args.name or "", args.protocol or "", args.mutant or "")
    subject = _load(source)
    if args.seed is not None:
        return _one(args, source, simulate(subject, args.seed))
    return _many(args, source, subject)


def _check(args: argparse.Namespace) -> None:
    """Before anything is run."""
    if args.seeds is not None and not 1 <= args.seeds <= MOST:
        raise _error(f"--seeds {args.seeds}", f"use a number from 1 to {MOST}")
    if args.seed is not None and not 0 <= args.seed < 1 << 63:
        raise _error(f"--seed {args.seed}", "use a number from 0 to 2^63 - 1")
    if args.jobs is not None and not 1 <= args.jobs <= 1024:
        raise _error(f"--jobs {args.jobs}", "use a number from 1 to 1024")
    named = [name for name in (args.name, args.protocol, args.mutant) if name]
    if len(named) > 1:
        raise _error(" ".join(named), "name what is to be run once")
    if not (named or args.replay):
        raise _error("PROTOCOL", "name a protocol, or give one with --protocol FILE")
    check_target("simulate", args.json)
    if (
        args.out
        and Path(args.out).exists()
        and (not Path(args.out).is_dir() or any(Path(args.out).iterdir()))
    ):
        raise CommandError(
            f"simulate {args.out}: EEXIST: it is there and not an empty folder: choose another with --out"
        )


def _error(what: str, sentence: str) -> CommandError:
    return CommandError(f"simulate {what}: EINVAL: {sentence}")


def _load(source: Source) -> Subject:
    try:
        if source.file:
            try_out(source.file)
        return source.load()
    except Unusable as error:
        raise CommandError(f"simulate {source.file}: EINVAL: {error}", error.code) from None
    except (registry.UnknownProtocol, UnknownMutant) as error:
        raise _error(source.name or source.mutant, str(error)) from None


# ---- one story


def _replay(args: argparse.Namespace) -> int:
    path = Path(args.replay)
    try:
        script = read_script(path)
    except OSError as error:
        raise CommandError(f"simulate {path}: {_name(error)}: {error.strerror}: name a script.json") from None
    except BadScript as error:
        raise _error("--replay", str(error)) from None
    source = _source_of(args, script, path)
    try:
        made = replay(_load(source), script)
    except CannotReplay as error:
        raise _error(f"--replay {path}", str(error)) from None
    return _one(args, source, made, script)


def _source_of(args: argparse.Namespace, script: Script, path: Path) -> Source:
    """What the command says, else what the script says; a file is looked for here, then beside the script."""
    if args.name or args.protocol or args.mutant:
        return Source(args.name or "", args.protocol or "", args.mutant or "")
    if script.mutant:
        return Source(mutant=script.mutant)
    if isinstance(script.protocol, str):
        return Source(script.protocol)
    file = Path(script.protocol["file"])
    beside = path.parent / file
    return Source(file=str(file if file.exists() or not beside.exists() else beside))


def _one(args: argparse.Namespace, source: Source, made: Run, asked: Script | None = None) -> int:
    verdict = verdict_of(made)
    quiet = args.json == "-"
    lines = lines_of(made, verdict)
    code = next(code for code, word in WORD.items() if word == verdict.word)
    again = asked.breaks["invariant"] if asked and asked.breaks and "invariant" in asked.breaks else None
    if again and again not in {found.invariant for found in verdict.broken}:
        lines.append(f"  {again} was to break here, and did not")
        code = UNKNOWN
    short, why = _shrunk(args, source, made, verdict) if args.shrink is not None else (None, "")
    lines += story_of(short) if short else [f"  not shrunk: {why}"] if why else []
    if args.out:
        _leave(args.out, source, made, verdict, short)
        lines.append(f"  in {args.out}")
    if not quiet:
        print("\n".join(lines))
    _json(
        args,
        {**verdict.as_json(), "verdict": WORD[code], **facts_of(made), "shrunk": short and short.as_json()},
    )
    return code


def lines_of(made: Run, verdict: Verdict) -> list[str]:
    seed = "script" if made.seed is None else f"seed {made.seed}"
    facts = facts_of(made)
    lines = [
        f"{made.protocol.name} {seed}: {verdict.word} ({facts['events']} events, {facts['steps']} steps)"
    ]
    if made.cast:
        lines.append(f"  holders: {', '.join(made.cast.holders)}; reclaims: {', '.join(made.setup.reclaims)}")
    lines += [f"  BREACH {found.invariant}: {found.sentence}" for found in verdict.breaches]
    lines += [f"  cost {found.invariant}: {found.sentence}" for found in verdict.costs]
    lines += [f"  unknown: {why}" for why in verdict.lacking if verdict.word == "unknown"]
    return [*lines, f"  kept: {', '.join(verdict.kept) or 'nothing that could be shown'}"]


def facts_of(made: Run) -> dict[str, Any]:
    return {
        "protocol": made.protocol.name,
        "seed": made.seed,
        "events": made.events,
        "steps": len(made.labels),
        "cut": made.cut,
        "sometimes": dict(sorted(made.met.items())),
    }


def story_of(script: Script) -> list[str]:
    told = script.breaks or {}
    lines = [f"  the shortest story that breaks {told.get('invariant')}: {told.get('sentence')}"]
    return [*lines, *(f"    {at}. {label}" for at, label in enumerate(script.steps, 1))]


def _shrunk(
    args: argparse.Namespace, source: Source, made: Run, verdict: Verdict
) -> tuple[Script | None, str]:
    """By the invariant that was named, else by the first breach, else by the first cost. No script: why."""
    broken = [found.invariant for found in (*verdict.breaches, *verdict.costs)]
    if not broken and not args.shrink:
        return None, ""
    wanted = args.shrink or broken[0]
    try:
        return shrink(made.subject, made.script(_named(source)), wanted), ""
    except NotBroken as error:
        if wanted in broken:
            return None, f"{error} {AGAIN}"
        raise _error(f"--shrink {wanted}", f"{error}; broken are: {', '.join(broken) or 'none'}") from None


def _named(source: Source) -> str | dict[str, str]:
    """How a script says it: a file by its path as it was given, without the directories of this machine."""
    if not source.file:
        return source.name or find(source.mutant).protocol.name
    path = Path(source.file)
    return {"file": path.name if path.is_absolute() else source.file}


def _leave(out: str, source: Source, made: Run, verdict: Verdict, short: Script | None) -> None:
    """The run's folder."""
    try:
        folder = made.history.write(out)
        made.script(_named(source)).write(folder / "script.json")
        text = json.dumps(verdict.as_json(), indent=1)
        (folder / "verdict.json").write_text(text + "\n", encoding="utf-8")
        if short:
            short.write(folder / SHRUNK)
        made.history.finish(folder)
    except OSError as error:
        raise CommandError(
            f"simulate {out}: {_name(error)}: {error.strerror}: choose another folder with --out"
        ) from None


def _name(error: OSError) -> str:
    import errno  # noqa: PLC0415 - only here

    return errno.errorcode.get(error.errno or errno.EIO, "EIO")


# ---- many


def _many(args: argparse.Namespace, source: Source, subject: Subject) -> int:
    jobs = args.jobs or len(os.sched_getaffinity(0))
    progress = _Progress() if args.json != "-" and sys.stderr.isatty() else None
    summary = campaign(source, range(1, args.seeds + 1), jobs, progress)
    if progress:
        progress.end()
    if args.json != "-":
        print("\n".join(summary_of(summary)))
    short, why = _first(args, source, subject, summary) if args.shrink is not None else (None, "")
    if (short or why) and args.json != "-":
        print("\n".join(story_of(short) if short else [f"  not shrunk: {why}"]))
    if short and args.out:
        _write_short(args.out, short)
    _json(args, {**summary.as_json(), "shrunk": short and short.as_json()})
    return summary.code


def _first(
    args: argparse.Namespace, source: Source, subject: Subject, summary: Summary
) -> tuple[Script | None, str]:
    """The first seed that broke it, shrunk. No script: why."""
    found = {**summary.costs, **summary.breaches}
    wanted = args.shrink or next(iter(sorted(summary.breaches) or sorted(summary.costs)), "")
    if wanted not in found:
        if args.shrink:
            raise _error(
                f"--shrink {wanted}", f"it was not broken; broken are: {', '.join(sorted(found)) or 'none'}"
            )
        return None, ""
    made = simulate(subject, found[wanted].seeds[0])
    try:
        return shrink(subject, made.script(_named(source)), wanted), ""
    except NotBroken as error:
        return None, f"{error} {AGAIN}"


def _write_short(out: str, short: Script) -> None:
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
        short.write(Path(out) / SHRUNK)
    except OSError as error:
        raise CommandError(
            f"simulate {out}: {_name(error)}: {error.strerror}: choose another folder with --out"
        ) from None


class _Progress:
    """A line on a terminal, written over."""

    def __call__(self, done: int, total: int) -> None:
        sys.stderr.write(f"\r{done} of {total} seeds")
        sys.stderr.flush()

    def end(self) -> None:
        sys.stderr.write("\r\033[K")


def summary_of(summary: Summary) -> list[str]:
    rate = summary.as_json()["seeds_per_second"]
    sizes = f"{summary.events:g} events and {summary.steps:g} steps in the median"
    speed = f"{summary.seconds:.1f} s, {rate}/s"
    lines = [f"{summary.protocol}: {WORD[summary.code]} ({summary.seeds} seeds, {sizes}, {speed})"]
    for word, tallies in (("BREACH", summary.breaches), ("cost", summary.costs)):
        for name, tally in sorted(tallies.items()):
            seeds = ", ".join(map(str, tally.seeds)) + (", ..." if tally.count > len(tally.seeds) else "")
            lines.append(f"  {word} {name}: {tally.count} seeds ({seeds}): {tally.sentence}")
    lines.append(
        f"  kept where it could be shown: {', '.join(f'{name} ({count})' for name, count in sorted(summary.kept.items())) or 'nothing'}"
    )
    lines += [] if summary.admits else [f"  {WANTING}"]
    lines += [f"  seen: {guard} ({count})" for guard, count in sorted(summary.sometimes.items())]
    lines += [f"  never seen, so nothing is known: {guard}" for guard in summary.missing]
    lines += [f"  {count} seeds without a reclaim" for count in [summary.without_reclaim] if count]
    lines += [f"  {count} stories were cut off before their end" for count in [summary.cut] if count]
    return [*lines, *(f"  the tool failed: {defect}" for defect in summary.defects[:5])]


def _json(args: argparse.Namespace, result: dict[str, Any]) -> None:
    if not args.json:
        return
    text = json.dumps(result, indent=2) + "\n"
    if args.json == "-":
        sys.stdout.write(text)
        return
    try:
        Path(args.json).write_text(text, encoding="utf-8")
    except OSError as error:
        raise CommandError(
            f"simulate {args.json}: {_name(error)}: {error.strerror}: choose a file that can be written"
        ) from None
