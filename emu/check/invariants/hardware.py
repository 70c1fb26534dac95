"""Hardware that does not do as it is told: V14 (a key's invalidation), V21 (a client's fence at the storage).

Quiesced(cookie, errno), Unmapped(cookie, errno)   the engine refuses; asked again, or Reset (effect: cookie, keys) .. ResetDone (event:
                                                   cookie, errno) ends everything under those keys
GrantRight(right, session) .. FenceRight(fence, right) .. RightFenced(fence, errno) .. DropRight(right)
                                                   the table of rights, and what the storage confirmed; RightReturned(right): the client
                                                   gave it back itself (the last two of the engine's words are events, the others effects)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emu.check.invariants.invariant import Breach, Invariant
from emu.check.invariants.reading import read
from emu.check.invariants.timeline import Asked, Mapped, meet
from emu.core.errors import errno_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.check.history import History
    from emu.check.invariants.reclaims import Reclaim
    from emu.check.invariants.timeline import At

Json = dict[str, Any]
ON = ("fenced", "unmapped", "applied", "freed")


# ---- V14: a refusal is no revoke: reset, or ask again, never go on


def refusal_broken(history: History) -> Iterator[Breach]:
    reading = read(history)
    for asked, refused, errno in _refusals(history):
        story = f"the engine refused to {asked.kind.lower()} it ({errno_name(errno)})"
        for mapped in asked.maps:
            until = _cured(history, asked.kind, mapped, refused)
            if mapped.removed is not None and refused < mapped.removed < until:
                yield Breach(
                    "V14", f"key {mapped.key:#x} was removed although {story}", (refused.n, mapped.removed.n)
                )
            for given in reading.given:
                over = given.aperture == mapped.aperture and meet(given.runs, mapped.runs)
                if over and refused < given.at < until:
                    sentence = f"memory under key {mapped.key:#x} went to others although {story}"
                    yield Breach("V14", sentence, (refused.n, given.at.n))
            if asked.of is not None:
                yield from _went_on(asked.of, mapped, refused, until, story)


def _went_on(row: Reclaim, mapped: Mapped, refused: At, until: At, story: str) -> Iterator[Breach]:
    for step in row.order:
        if step.name in ON and mapped.key in step.keys and refused < step.at < until:
            yield Breach(
                "V14",
                f"{row.name()} went on ({step.name}) with key {mapped.key:#x} although {story}",
                (refused.n, step.at.n),
            )
            return


def _refusals(history: History) -> Iterator[tuple[Asked, At, int]]:
    return ((asked, at, errno) for asked in read(history).asked for at, errno in asked.answers if errno)


def _cured(history: History, kind: str, mapped: Mapped, refused: At) -> At:
    """When it was done after all: by an answer to anybody who asked for the same, or by a reset."""
    reading = read(history)
    done = mapped.quiesced if kind == "Quiesce" else mapped.unmapped
    if done is None and mapped.replaced:
        done = (
            mapped.next
        )  # the engine gave the key another translation: it can refuse no more what this one was about
    resets = {line["cookie"]: line["keys"] for line in history.of("Reset")}
    ends = [
        line
        for line in history.of("ResetDone")
        if not line.get("errno") and mapped.key in resets.get(line["cookie"], ())
    ]
    cures = [reading.at(line) for line in ends if line["n"] > refused.n]
    never = reading.last._replace(n=reading.last.n + 1)
    return min([at for at in (done, mapped.died) if at is not None] + cures, default=never)


def refusal_untested(history: History) -> str:
    return "" if any(_refusals(history)) else "the engine refused nothing"


# ---- V21: the old right leaves the table only behind a confirmed fence; a failed fence keeps it, and is tried again


def fence_broken(history: History) -> Iterator[Breach]:
    for right in _rights(history):
        confirmed = gone = -1
        failed = 0
        for line in right:
            n, kind = line["n"], line["type"]
            if kind == "GrantRight":
                confirmed, failed = -1, 0
            elif kind == "RightReturned" or (kind == "RightFenced" and not line.get("errno")):
                confirmed, failed = n, 0
            elif kind == "RightFenced":
                failed = n
            elif kind == "FenceRight":
                failed = 0
            elif confirmed < 0:
                gone = n
                yield Breach(
                    "V21", f"right {line['right']} left the table before its fence was confirmed", (n,)
                )
        if failed and gone < 0 and not any(line["n"] > failed for line in history.of("Arm")):
            yield Breach(
                "V21", f"the fence of right {right[0]['right']} failed, and was not tried again", (failed,)
            )


def _rights(history: History) -> list[list[Json]]:
    """Lines about each right, in order."""
    fences: dict[Any, Any] = {}
    found: dict[Any, list[Json]] = {}
    for line in history.of("GrantRight", "FenceRight", "RightFenced", "RightReturned", "DropRight"):
        if line["type"] == "FenceRight":
            fences[line["fence"]] = line["right"]
        right = fences.get(line["fence"]) if line["type"] == "RightFenced" else line["right"]
        found.setdefault(right, []).append({**line, "right": right})
    return list(found.values())


def fence_untested(history: History) -> str:
    if history.of("DropRight") or any(line.get("errno") for line in history.of("RightFenced")):
        return ""
    return "no right left the table, and no fence failed"


INVARIANTS = (
    Invariant(
        "V14",
        "hardware that refuses is asked again or reset, never passed over",
        refusal_broken,
        refusal_untested,
    ),
    Invariant(
        "V21", "a right leaves the table only behind its confirmed fence", fence_broken, fence_untested
    ),
)
