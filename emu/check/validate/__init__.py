"""Is a history one that the model allows? Metal is held to the very code that was explored.

    validate(history) -> Refusal*      none: allowed

The core is pure, so a history contains its own proof: the events are fed to a fresh core, and every effect and every commit must come out
again, word for word (steps.py). What the core does not decide is held to the model of the world: only what was asked is answered, timers
fire that were armed (answers.py); the engine moves bytes under keys that it had, over blocks at generations that they had (moved.py);
clients are told what was sent and complete what they posted (receipts.py); what is left agrees with the last commit (leftovers.py); the
lab's own words agree with all of it (lab.py), and what is declared is what ran (declared.py).

It is no judge of protocols: a run that corrupts memory is allowed if its protocol, the core and the NIC made it so. A refusal means that the
history was changed, or that metal has drifted from the model; no verdict rests on such a run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emu.check.validate.declared import declared
from emu.check.validate.lab import lab
from emu.check.validate.leftovers import leftovers
from emu.check.validate.moved import moved
from emu.check.validate.receipts import receipts
from emu.check.validate.refusal import Refusal, Unusable
from emu.check.validate.steps import steps

if TYPE_CHECKING:
    from collections.abc import Mapping

    from emu.check.history import History
    from emu.core.decision import Deciding

__all__ = ["Refusal", "Unusable", "held", "validate"]

MOST = 50


def validate(history: History, protocols: Mapping[str, Deciding]) -> list[Refusal]:
    """What the model does not allow, in order, at most MOST. protocols: by name, those of the run among them.

    Raises Unusable when the history has gaps, or begins in the middle: nothing can be said then.
    """
    if history.gaps:
        raise Unusable(f"{history.gaps} lines or records are missing")
    found = steps(history, protocols)
    if not found:  # what follows reads the lines as the core wrote them
        for part in (moved, receipts, leftovers, lab):
            found += part(history)
        found += declared(history, protocols)
    return found[:MOST]


def held(history: History, protocols: Mapping[str, Deciding]) -> dict[str, Any]:
    """The same as data: {"verdict": "allowed" | "refused" | "unknown", "why": [sentence, ...]}."""
    try:
        refusals = validate(history, protocols)
    except Unusable as error:
        return {"verdict": "unknown", "why": [str(error)]}
    return {"verdict": "refused" if refusals else "allowed", "why": [str(refusal) for refusal in refusals]}
