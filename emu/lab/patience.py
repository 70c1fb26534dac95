"""When to give a request up: not after a time, but when its broker's history shows that nothing is outstanding which could still advance it.

The first look is after `LOOK` seconds, longer than any manner takes to act; while a timer, an answer of the engine, or anything else is owed, the lab
looks again, up to `LIMIT`. On a slow machine, or with slow timers, that takes longer, and the verdict is the same.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from emu.check.history import BrokenHistory, History
from emu.check.invariants.safety_people import outstanding, waits
from emu.host.times import patience

if TYPE_CHECKING:
    from pathlib import Path

LOOK, AGAIN, LIMIT = 2.0, 1.0, 60.0


async def stuck(folder: Path, *, foreign: bool = False) -> None:
    """Return when nothing can come any more of a reclaim that was not answered. Where all that was asked has been answered, who asked will ask again,
    or has its answer on the way: that is waited for. foreign: nobody is told of a refusal.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + patience(LIMIT)
    await asyncio.sleep(patience(LOOK))
    while loop.time() < end and await asyncio.to_thread(_still_owed, folder, foreign):  # noqa: ASYNC110 - another process writes it
        await asyncio.sleep(AGAIN)


def _still_owed(folder: Path, foreign: bool) -> bool:
    """Of a run under way; what cannot be read yet will be."""
    try:
        history = History.read(folder)
        return bool(outstanding(history)) or not (foreign or waits(history))
    except BrokenHistory:
        return True


def waited_for(folder: Path) -> bool:
    """Whether the history has a reclaim without an answer."""
    return bool(waits(History.read(folder)))
