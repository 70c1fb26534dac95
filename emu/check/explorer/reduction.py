"""Independent steps: where one move alone is enough, because nothing that could happen before it would make a difference.

`forced` names a move t of state s; the search then follows t and leaves all others of s for later. {t} is an ample set:

    C0  t can be made in s.
    C1  whatever is done before t, by any way from s, leaves t enabled and commutes with it (below, kind by kind).
    C2  t is invisible: what moves are judged by is not changed by making t before them.
    C3  no cycle of t's alone: each takes an effect from the shell's queue, an operation from a peer or an answer from the engine, and puts back
        none of the three but what ends later (an effect's answer; effects are taken first, and none of the three makes an effect).
        So behind finitely many t's every state is expanded whole, and on a cycle nobody is put off for ever.

While the shell has effects to carry out, nothing else moves but peers, the engine's quanta and a crash of the broker (world.py). A crash
forgets queue, keys, operations and answers, and brings generations to the parity that the books say, so with or without t before it the
same is left; a reclaimer's answer is not forgotten, so where clients come back (`returns`) t must not deliver one.

    signal                   a process that is to die moves no sooner for it, and a crash of the broker leaves nothing for it to end
    install, zero, give_back touch nothing that a quantum looks at: nobody has the key yet
    (live, here and below: or parked, or absent, under a dynamic importer's key; under `retarget` every key may live again)
    remove, unmap            of keys that are not live: a quantum under them is refused before and behind it
    quiesce, fence           while no key is live: nobody can enter. Who is inside leaves before or behind it, and is waited for or not; once
                             he has left, the answer is the same
    allocate, release        of blocks that no live key translates to and nobody is inside of: no quantum's generation is compared with theirs
    offline, online          while no key is live and nobody has an operation
    a refused entry          of an operation whose key is not live, and never will be again: its peer is told; nobody else looks at an
                             operation that is not inside. (That DMA is in flight as a reclaim begins is a guard, met elsewhere.)
    an answer that nobody    its cookie, token or key is unknown to the core and never comes back: the core drops it. That it is refused
    waits for                instead only uses up a refusal: whoever has one more can do all that he could do without it

Answers to clients go along with the effect in front of them. They change what clients know; peers look at it when they post: a registration's
answer only adds to what they may do, and a reclaimer's success matters to them only if the device is absent (`late`), where t is not
forced while a key is live.

Liveness (liveness.py). A way that is fair stays one: t's owner owes it, each has one such move at a time (or, of stale answers, makes no
difference to anybody), so a fair way makes t some day, and making it at once exchanges it with moves that commute. What is owed behind
it was owed before. The bits of reclaims may clear earlier by those moves, never later.

A changed engine may break any of this, and with a fabric there is more to look at: then nothing is forced. A changed core may listen to
answers that nobody waits for: then those are not forced. A changed protocol changes none of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.check.model.state import Choice, State

TRANSIENT = frozenset({"install", "zero", "give_back", "signal"})


def forced(
    state: State, choices: Sequence[Choice], *, returns: bool, stale: bool, switches: bool = False
) -> int:
    """The place of the one choice that is enough, -1 if all are needed. stale: also of an answer that nobody waits for.

    switches: keys that are fenced may live again (retarget).
    """
    if state.fabric is not None:
        return -1
    live = {key.key for key in state.keys if key.usable or switches}
    if state.todo and _commutes(state, live) and not _answers(state, live, returns=returns):
        return _place(choices, "shell:")
    for peer, op in enumerate(state.ops):
        if op is not None and not op.inside and op.key not in live:
            return _place(choices, f"engine: peer{peer + 1} enters")
    if stale and not state.todo:
        for answer in state.answers:
            if answer.number < 0 and not answer.waits:
                return _place(choices, f"engine: {answer.name} {answer.number}")
    return -1


def _place(choices: Sequence[Choice], start: str) -> int:
    return next((at for at, choice in enumerate(choices) if choice.label.startswith(start)), -1)


def _commutes(state: State, live: set[int]) -> bool:
    """Does the shell's next effect commute with all that peers and quanta can do?"""
    name, *numbers = state.todo[0]
    if name in TRANSIENT:
        return True
    if name == "remove":
        return numbers[0] not in live
    if name == "unmap":
        return live.isdisjoint(numbers[1])
    if name in {"quiesce", "fence"}:
        return not live
    if name in {"allocate", "share", "release"}:
        return _within_reach(state, live).isdisjoint(numbers[0])
    if name in {"offline", "online"}:
        return not live and not any(state.ops)
    return False


def _within_reach(state: State, live: set[int]) -> set[int]:
    """Blocks that a quantum is in, or can enter."""
    reach = {op.block for op in state.ops if op is not None and op.inside}
    for key in state.keys:
        if key.key in live:
            reach.update(key.blocks)
    return reach


def _answers(state: State, live: set[int], *, returns: bool) -> bool:
    """Is the next effect followed by an answer that somebody could tell from a later one?"""
    if not (returns and state.crashes) and not (live and (state.absent or state.todo[0][0] == "offline")):
        return False
    followed: Any = state.todo[1:2]
    return (
        bool(followed)
        and followed[0][0] == "answer"
        and any(row.state == "asked" for row in state.reclaimers)
    )
