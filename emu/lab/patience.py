"""When to give a request up: not after a time, but when its broker's history shows that nothing is outstanding which could still advance it.

The first look is after `LOOK` seconds, longer than any manner takes to act; while a timer, an answer of the engine, or anything else is owed, the lab
looks again, up to `LIMIT`. On a slow machine, or with slow timers, that takes longer, and the verdict is the same.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from emu.check.history import BrokenHistory, History
from emu.check.invariants.safety_people import outstanding
from emu.host.times import patience

if TYPE_CHECKING:
    from pathlib import Path

LOOK, AGAIN, LIMIT = 2.0, 1.0, 60.0


async def stuck(folder: Path) -> None:
    """Return when nothing can come any more of a reclaim that was not answered."""
    loop = asyncio.get_running_loop()
    end = loop.time() + patience(LIMIT)
    await asyncio.sleep(patience(LOOK))
    while loop.time() < end and await asyncio.to_thread(_still_owed, folder):  # noqa: ASYNC110 - another process writes it
        await asyncio.sleep(AGAIN)


def _still_owed(folder: Path) -> bool:
    """Of a run under way; what cannot be read yet will be."""
    try:
        return bool(outstanding(History.read(folder)))
    except BrokenHistory:
        return True
