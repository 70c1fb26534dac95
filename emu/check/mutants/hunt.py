"""Mutants hunted, and their controls: what `emu check --self-test` does, one piece of work at a time.

    hunt(mutant) -> Catch          explored until the invariant that must catch it does, or nothing is left
    control(protocol, setup)       the right ones in the same setup, explored to the end: nothing may be caught there. Behind a bound, or
                                   where no move met what it must (result.missing), nothing is known, and that is not good enough

A check that always shouts is no check: so each mutant counts only beside its control. Work is named by strings, since a mutant is made of
functions, which do not travel between processes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from emu.check.explorer.result import UNKNOWN, WORD
from emu.check.explorer.search import explore
from emu.check.mutants.catalogue import MUTANTS, find

if TYPE_CHECKING:
    from emu.check.explorer.result import Result
    from emu.check.model.setup import Setup
    from emu.check.mutants.mutant import Mutant
    from emu.protocols.contract import Protocol

MOST: Final = 300_000  # states of one search
CAUGHT, SURVIVED, HOLDS, SHOUTS, UNSEEN = "caught", "SURVIVED", "holds", "SHOUTS", "UNKNOWN"


@dataclass(frozen=True)
class Catch:
    """What came of one mutant, or of one control. by, sentence, story: of a mutant that was caught, or a control that was."""

    name: str
    verdict: str
    part: str = ""
    source: str = ""
    wanted: str = ""
    by: str = ""
    sentence: str = ""
    also: tuple[str, ...] = ()
    states: int = 0
    moves: int = 0
    seconds: float = 0.0
    whole: bool = True  # every state was seen
    story: tuple[str, ...] = ()
    script: dict[str, Any] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        return self.verdict in {CAUGHT, HOLDS}

    def as_row(self) -> dict[str, Any]:
        return {
            **vars(self),
            "also": list(self.also),
            "story": list(self.story),
            "seconds": round(self.seconds, 3),
        }


def hunt(mutant: Mutant, most: int = MOST) -> Catch:
    began = time.perf_counter()
    result = _explored(mutant.protocol, mutant.setup, mutant, most)
    found = {finding.invariant: finding for finding in result.breaches}
    mine = found.pop(mutant.caught_by, None)
    spent = time.perf_counter() - began
    common: dict[str, Any] = {
        "part": mutant.part, "source": mutant.source, "wanted": mutant.caught_by, "states": result.states, "moves": result.transitions,
        "also": tuple(sorted(found)), "seconds": spent, "whole": not result.bound_hit,
    }  # fmt: skip
    if mine is None:
        why = f"{WORD[result.code]} behind {result.states} states"
        return Catch(mutant.name, SURVIVED, sentence=why, **common)
    script = {**mine.script, "mutant": mutant.name}
    return Catch(
        mutant.name,
        CAUGHT,
        by=mine.invariant,
        sentence=mine.sentence,
        story=mine.story,
        script=script,
        **common,
    )


def control(protocol: Protocol, setup: Setup, name: str, most: int = MOST) -> Catch:
    began = time.perf_counter()
    result = _explored(protocol, setup, None, most)
    more: dict[str, Any] = {
        "part": "control", "states": result.states, "moves": result.transitions, "seconds": time.perf_counter() - began,
        "whole": not result.bound_hit,
    }  # fmt: skip
    if result.code == UNKNOWN:
        return Catch(name, UNSEEN, sentence=_unseen(result), **more)
    if not result.breaches:
        return Catch(name, HOLDS, **more)
    first = result.breaches[0]
    return Catch(
        name,
        SHOUTS,
        by=first.invariant,
        sentence=first.sentence,
        story=first.story,
        script=first.script,
        **more,
    )


def _unseen(result: Result) -> str:
    """Why a search that found nothing says nothing."""
    if result.bound_hit:
        return f"it stopped at its bound, {result.states} states: nothing is known of the others"
    return f"no move met: {', '.join(result.missing)}"


def _explored(protocol: Protocol, setup: Setup, mutant: Mutant | None, most: int) -> Result:
    """A changed core or engine may treat holders differently that are alike: no symmetry there."""
    changed = mutant is not None and mutant.part != "protocol"
    return explore(
        protocol,
        setup.kind(0),
        most,
        mutant.core if mutant else None,
        engine=mutant.engine() if mutant and mutant.part == "engine" else None,
        setup=setup,
        symmetry=not changed,
        until=mutant.caught_by if mutant else "",
    )


def work() -> list[str]:
    """All there is to do: names of mutants, and "control: NAME" for the first mutant of each (control, setup)."""
    controls: dict[tuple[str, Setup], str] = {}
    for mutant in MUTANTS:
        controls.setdefault((mutant.control.name, mutant.setup), f"{CONTROL}{mutant.name}")
    return [*(mutant.name for mutant in MUTANTS), *controls.values()]


CONTROL: Final = "control: "


def do(task: str) -> Catch:
    """One of `work`."""
    if not task.startswith(CONTROL):
        return hunt(find(task))
    mutant = find(task.removeprefix(CONTROL))
    return control(mutant.control, mutant.setup, name_of(task))


def name_of(task: str) -> str:
    """What its catch will be called."""
    if not task.startswith(CONTROL):
        return task
    mutant = find(task.removeprefix(CONTROL))
    return f"{mutant.control.name}, {told(mutant.setup)}"


def told(setup: Setup) -> str:
    """What is special about it, in a few words."""
    words = [" + ".join(setup.reclaims)]
    for number, one, many in (
        (setup.holders, "", "holders"), (setup.mrs, "", "MRs each"), (setup.crashes, "a crash", "crashes"),
        (setup.refusals, "a refusal", "refusals"), (setup.registrations, "a second registration", "registrations more"),
    ):  # fmt: skip
        words += [one] if number == 1 and one else [f"{number} {many}"] if number > 1 else []
    words += ["cancels"] if setup.cancels else []
    return ", ".join([*words, *(["a taker"] if setup.taker else [])])
