"""What is still to come: does a reclaim wait for the engine, for a timer, or for somebody outside?

Owed are: answers to Quiesce and Unmap (cookie), to effects with a token, to InstallKey; armed timers; an event whose step was undone, which
comes again. With nothing owed, only a client can bring a reclaim further.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emu.check.invariants.reading import read

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.check.history import History
    from emu.check.invariants.timeline import At, Reclaim

Json = dict[str, Any]
OWES = {"Quiesce": "cookie", "Unmap": "cookie", "InstallKey": "key", "Arm": "timer"}
PAYS = {
    "Quiesced": ("Quiesce", "cookie"),
    "Unmapped": ("Unmap", "cookie"),
    "KeyInstalled": ("InstallKey", "key"),
    "TimerFired": ("Arm", "timer"),
    "Disarm": ("Arm", "timer"),
    "Answered": ("token", "token"),
    "RightFenced": ("FenceRight", "fence"),
    "ResetDone": ("Reset", "cookie"),
}
AGAIN = frozenset({"Undone", "PutBack", "Defect"})


def owed_at_rest(history: History) -> Iterator[tuple[Json, bool]]:
    """(line, whether anything is owed) in front of every event's line. Behind the last nothing is said: it may be the middle of a step."""
    owed: dict[tuple[str, Any], None] = {}
    for line in history.events:
        name = line.get("type", "")
        if name == "Loaded":
            owed.clear()
        if line["kind"] == "event":
            yield line, bool(owed)
            owed.pop(("again", name), None)
        elif name in OWES:
            owed[name, line[OWES[name]]] = None
        elif name in {"FenceRight", "Reset"}:
            owed[name, line["fence" if name == "FenceRight" else "cookie"]] = None
        elif name in AGAIN and line.get("event") != "Requested":
            owed["again", line.get("event")] = None
        if line["kind"] == "effect" and line.get("token"):
            owed["token", line["token"]] = None
        if name in PAYS:
            kind, field = PAYS[name]
            owed.pop((kind, line[field]), None)


def idle_in(history: History) -> Iterator[tuple[Reclaim, At]]:
    """Reclaims of held memory that stood still with nothing owed, and where."""
    reading = read(history)
    spans = [row for row in reading.reclaims if "requested" in row.phases and row.held]
    if not spans:
        return
    seen: set[int] = set()
    for line, owed in owed_at_rest(history):
        at = reading.at(line)
        for number, row in enumerate(spans if not owed else ()):
            begun, ended = row.phases["requested"], row.ended
            under_way = row.life == at.life and begun.step < at.step and (ended is None or ended.n > at.n)
            if under_way and number not in seen:
                seen.add(number)
                yield row, at
