"""A story that breaks an invariant, made as short as it gets: steps are left out as long as the same invariant breaks.

Delta debugging: halves, quarters, ... single steps; whoever can no longer be taken when an earlier step is missing is left out with it
(a step with other numbers that says the same stands in for it: the core numbers what there is). What is left is replayed as it stands
and breaks the same. The number of tries is bounded, never the time, so that the same story shrinks to the same script everywhere.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from emu.check.invariants import INVARIANTS, judge
from emu.check.simulator.run import Found, replay

if TYPE_CHECKING:
    from emu.check.simulator.run import Run, Subject
    from emu.check.simulator.script import Script

TRIES: Final = 2_000


class NotBroken(ValueError):
    """The script does not break the invariant that it is to be shrunk for."""


def breaks(run: Run, invariant: str) -> Found | None:
    """How this run breaks it: as the world saw it, or as its history tells."""
    if invariant in run.found:
        return run.found[invariant]
    check = next((known for known in INVARIANTS if known.name == invariant), None)
    if check is not None:
        first = next(iter(check.breaches(run.history.blind)), None)
        return Found(invariant, first.sentence, len(run.labels) - 1) if first else None
    rules = [found for found in judge(run.history) if found.name == invariant and found.breaches]
    return Found(invariant, rules[0].breaches[0].sentence, len(run.labels) - 1) if rules else None


def shrink(subject: Subject, script: Script, invariant: str) -> Script:
    """The shortest script that was found. Raises NotBroken."""
    search = _Search(subject, invariant)
    best = search.attempt(script)
    if best is None:
        raise NotBroken(
            f"{invariant} is not broken by these {len(script.steps)} steps: there is nothing to shrink"
        )
    size = max(1, len(best.steps) // 2)
    while True:
        shorter = search.without(best, size)
        if shorter is not None:
            best = shorter
            size = min(size, max(1, len(best.steps) // 2))
        elif size > 1:
            size //= 2
        else:
            return best


class _Search:
    """Tries, counted."""

    def __init__(self, subject: Subject, invariant: str) -> None:
        self.subject, self.invariant = subject, invariant
        self.tries = 0
        self._known: set[tuple[str, ...]] = set()  # steps that did not break it

    def attempt(self, script: Script) -> Script | None:
        """What was taken of these steps, up to the break; None if it does not break."""
        if script.steps in self._known or self.tries >= TRIES:
            return None
        self.tries += 1
        run = replay(self.subject, script, lenient=True)
        found = breaks(run, self.invariant)
        if found is None:
            self._known.add(script.steps)
            return None
        told = {"invariant": found.invariant, "sentence": found.sentence}
        end = found.step + 1
        return replace(script, steps=tuple(run.labels[:end]), times=tuple(run.times[:end]), breaks=told)

    def without(self, script: Script, size: int) -> Script | None:
        """The script without some run of `size` steps, the last ones first."""
        shorter, end = None, len(script.steps)
        while end > 0:
            start = max(0, end - size)
            base = shorter or script
            steps = base.steps[:start] + base.steps[end:]
            times = base.times[:start] + base.times[end:] if base.times else ()
            tried = self.attempt(replace(base, steps=steps, times=times))
            if tried is not None and len(tried.steps) < len(base.steps):
                shorter = tried
            end = min(start, len((shorter or script).steps))
        return shorter
