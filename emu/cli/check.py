"""`emu check RUN`: judge a run again from what it left behind.

RUN is a folder: DIR/runs/N of a live broker, an evidence folder of `emu compare`, or what `emu simulate` wrote. The invariants S1 to S10 and
V1 to V25 are judged each; what was promised and broken is a breach, what was broken and not promised is the protocol's cost. The history is
also held against the model (emu/check/validate): one that the core, stepped again, would not have made is refused, and nothing is concluded
from it. Exit status: 0 every promise that this run could show was kept, 1 a breach, 2 unknown: the folder is broken, the history is refused,
nothing says what was promised, no reclaim of pinned memory met DMA, or a reclaim that was promised to end had not yet; 64 usage.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emu.check.history import BrokenHistory, History
from emu.check.invariants import INVARIANTS, judge, lines_missing
from emu.check.mutants import selftest
from emu.check.shown import lacking
from emu.check.story import tell
from emu.check.stranger import Unusable, introduced
from emu.check.validate import held
from emu.check.workers import unheard
from emu.cli import CommandError, check_targets, store
from emu.history.perfetto import trace
from emu.protocols import registry
from emu.protocols.contract import declaration
from emu.report.judged import page

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from emu.check.invariants.invariant import Breach, Judgement
    from emu.protocols.contract import Protocol

Json = dict[str, Any]

SUMMARY = "judge a run again from what it left: which invariants held, and the story of those that did not"
HOLDS, BREACH, UNKNOWN = 0, 1, 2
WORDS = {HOLDS: "holds", BREACH: "breach", UNKNOWN: "unknown"}
TITLES = {invariant.name: invariant.title for invariant in INVARIANTS}
MOST = 20  # breaches of one invariant that are told


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", nargs="?", help="the folder of a run")
    parser.add_argument(
        "--protocol",
        metavar="NAME",
        help="judge against what NAME promises, or the protocol in a file NAME.py (default: what the run declares)",
    )
    parser.add_argument("--json", metavar="FILE", help="the result as JSON; - is stdout")
    parser.add_argument(
        "--html", metavar="FILE", help="the result as one self-contained page, with space-time diagrams"
    )
    selftest.arguments(parser)
    parser.add_argument("--perfetto", metavar="FILE", help="the run as a trace that ui.perfetto.dev opens")


def run(args: argparse.Namespace) -> int:
    if (args.run is None) != args.self_test:
        raise CommandError("check: EINVAL: name the folder of a run, or --self-test")
    check_targets("check", (args.json, args.html, args.perfetto))
    if args.self_test:
        return _self_test(args)
    try:
        history = History.read(args.run)
    except BrokenHistory as error:
        raise CommandError(f"check {args.run}: EUCLEAN: {error}", UNKNOWN) from None
    known = known_in(args.run)
    declared = declared_by(history, args.protocol, known)
    with unheard():
        result = judged(args.run, history, declared, known)
    _deliver(args, history, result)
    return next(code for code, word in WORDS.items() if word == result["verdict"])


def _self_test(args: argparse.Namespace) -> int:
    if args.protocol or args.html or args.perfetto:
        raise CommandError("check --self-test: EINVAL: it takes --json and --jobs alone")
    if args.jobs is not None and not 1 <= args.jobs <= 1024:
        raise CommandError(f"check --jobs {args.jobs}: EINVAL: use a number from 1 to 1024")
    return selftest.run(args.json, args.jobs)


def known_in(run: str) -> dict[str, Protocol]:
    """Protocols that a run can be held against: those that are installed, but not under a name that a stranger's file had in it."""
    known = registry.load().protocols
    for file in Path(run).glob("protocol-*.py"):
        known.pop(file.stem.removeprefix("protocol-"), None)
    return known


def declared_by(history: History, name: str | None, known: dict[str, Protocol]) -> Json:
    """{"protocol", "promises", "excepts"}: of the protocol that is named, or as the run says; {} if nobody says."""
    if name is None:
        return history.meta.get("declared") or {}
    try:
        if not name.endswith(".py"):
            return declaration(registry.load().get(name))
        protocol = introduced(name).protocol
    except registry.UnknownProtocol as error:
        raise CommandError(f"check --protocol {name}: EINVAL: {error}") from None
    except Unusable as error:
        raise CommandError(f"check --protocol {name}: EINVAL: {error}", error.code) from None
    known[protocol.name] = protocol
    return declaration(protocol)


def judged(name: str, history: History, declared: Json, known: dict[str, Protocol]) -> Json:
    """Everything that is printed, drawn and written."""
    promises = declared.get("promises", ())
    judgements = judge(history, promises, declared.get("excepts", {}))
    model = held(history, known)
    why = unknown_because(history, judgements, model, known=bool(declared))
    code = verdict(judgements, why, refused=model["verdict"] == "refused")
    return {
        "schema": 1,
        "run": name,
        "source": history.meta["source"],
        "seed": history.meta.get("seed"),
        "protocol": declared.get("protocol"),
        "promised": [j.name for j in judgements if j.promised and j.name in promises],
        "verdict": WORDS[code],
        "why": why if code == UNKNOWN else [],
        "events": len(history.events),
        "records": sum(len(log.records) for log in history.logs),
        "gaps": history.gaps,
        "model": model,
        "invariants": [_row(history, judgement) for judgement in judgements],
    }


def unknown_because(
    history: History, judgements: Sequence[Judgement], model: Json, *, known: bool
) -> list[str]:
    """Why nothing can be said to hold, whatever was not broken; [] if it can."""
    refused = ["the history is refused"] if model["verdict"] == "refused" else []
    unsaid = [] if known else ["nobody says what was promised"]
    missing = ["lines are missing"] if lines_missing(history) else []
    found = [*refused, *unsaid, *missing, *lacking(history, judgements)]
    promised = [judgement.verdict for judgement in judgements if judgement.promised]
    return found if found or not promised or "kept" in promised else ["no promise could be judged"]


def verdict(judgements: Sequence[Judgement], why: Sequence[str], *, refused: bool) -> int:
    """Of a refused history nothing is said. A breach is one whatever else is not known."""
    if refused:
        return UNKNOWN
    if any(judgement.verdict == "breach" for judgement in judgements):
        return BREACH
    return UNKNOWN if why else HOLDS


def _row(history: History, judgement: Judgement) -> Json:
    breaches = [_breach(history, breach) for breach in judgement.breaches[:MOST]]
    why = judgement.breaches[0].sentence if judgement.breaches else judgement.untested
    return {
        "name": judgement.name,
        "title": TITLES.get(judgement.name, "a rule that the core holds every protocol to"),
        "promised": judgement.promised,
        "verdict": judgement.verdict,
        "why": why,
        "occasions": len(judgement.breaches),
        "breaches": breaches,
    }


def _breach(history: History, breach: Breach) -> Json:
    return {
        "sentence": breach.sentence,
        "lines": list(breach.lines),
        "records": [list(place) for place in breach.records],
        "story": [told._asdict() for told in tell(history, breach)],
    }


# ---- what is printed


def _deliver(args: argparse.Namespace, history: History, result: Json) -> None:
    """The table first, whatever becomes of the files."""
    to_stdout = "-" in {args.json, args.html, args.perfetto}
    print("\n".join(lines_of(result)), file=sys.stderr if to_stdout else sys.stdout, flush=True)
    if args.html:
        store("check", args.html, page(result))
    if args.perfetto:
        drawn = trace(history.events, history.logs, history.journals)
        store("check", args.perfetto, json.dumps(drawn) + "\n")
    if args.json:
        store("check", args.json, json.dumps(result, indent=1) + "\n")


def lines_of(result: Json) -> list[str]:
    """The table, then a story for each broken invariant."""
    against = (
        f"what {result['protocol']} promises"
        if result["protocol"]
        else "nothing: nobody says what was promised; use --protocol NAME"
    )
    lines = [
        f"{result['run']}: {result['verdict']} ({result['source']} run, {result['events']} events), judged against {against}",
        *_held(result["model"]),
        *(f"  unknown: {why}" for why in result["why"]),
        "",
    ]
    for row in result["invariants"]:
        promised = "promised" if row["promised"] else ""
        why = f": {row['why']}" if row["why"] else ""
        lines.append(f"  {row['name']:<4} {row['verdict']:<9} {promised:<9} {row['title']}{why}")
    for row in result["invariants"]:
        for breach in row["breaches"][:1]:
            lines += ["", *_story(row, breach)]
    return lines


def _held(model: Json) -> list[str]:
    """What the model says of the history."""
    word = {
        "allowed": "the model allows it: core and engine, asked again, say the same",
        "refused": "REFUSED: this is no history that the model makes; it was changed, or core and engine have come apart",
        "unknown": "it cannot be asked",
    }[model["verdict"]]
    return [f"  model: {word}", *(f"    {why}" for why in model["why"][:MOST])]


def _story(row: Json, breach: Json) -> list[str]:
    more = f" (and {row['occasions'] - 1} more occasions)" if row["occasions"] > 1 else ""
    head = f"{row['name']} {row['verdict']}: {breach['sentence']}{more}"
    if not breach["story"]:
        return [head, "  the memory and the file map at the end show it; no line of the history does"]
    wide = max(len(one["ref"]) for one in breach["story"])
    party = max(len(one["lane"]) for one in breach["story"])
    return [
        head,
        *(
            f"  {one['ref']:<{wide}}  {one['lane']:<{party}}  {_heard(one)}{one['words']}"
            for one in breach["story"]
        ),
    ]


def _heard(one: Json) -> str:
    return f"-> {one['to']}: " if one["to"] else ""
