"""When to give a request up: not after a time, but when its broker's history shows that nothing is outstanding which could still advance it, and nobody is
about to do anything.

The holder says that it is at rest: it has done what its manner does, and has heard all that the broker had told it. `LOOK` seconds later, and as long as a
timer, an answer of the engine, or anything else is owed, the lab looks, up to `LIMIT`. Where nothing is owed, the holder is asked once more, since it
may have been told something meanwhile, and a second look decides. On a slow machine all that takes longer, and the verdict is the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from emu.check.history import BrokenHistory, History
from emu.check.invariants.safety_people import outstanding, waits
from emu.host.times import patience
from emu.lab.process import LabError

if TYPE_CHECKING:
    from pathlib import Path

LOOK, AGAIN, LIMIT = 2.0, 1.0, 60.0
LOOKS = 2  # that find nothing owed, one after the other

AtRest = Callable[[], Awaitable[None]]


async def stuck(folder: Path, at_rest: AtRest, *, foreign: bool = False) -> None:
    """Return when nothing can come any more of a reclaim that was not answered. Where all that was asked has been answered, who asked will ask again,
    or has its answer on the way: that is waited for, and LabError where it never comes. foreign: nobody is told of a refusal.
    """
    loop = asyncio.get_running_loop()
    await at_rest()
    end = loop.time() + patience(LIMIT)
    await asyncio.sleep(patience(LOOK))
    quiet = 0
    while quiet < LOOKS and loop.time() < end:
        await at_rest()
        quiet = 0 if await asyncio.to_thread(still_owed, folder, foreign) else quiet + 1
        if not quiet:
            await asyncio.sleep(AGAIN)
    if quiet < LOOKS and not foreign and not await waited_for(folder):
        raise LabError(f"the history has an answer to whoever asked, which did not come within {LIMIT:g} s")


def still_owed(folder: Path, foreign: bool = False) -> bool:
    """Whether something may still come of a reclaim of this history, which goes on; what cannot be read yet will be."""
    try:
        history = History.read(folder)
        return bool(outstanding(history)) or not (foreign or waits(history))
    except BrokenHistory:
        return True


async def waited_for(folder: Path) -> bool:
    """Whether the history has a reclaim without an answer; read again while it cannot be. LabError: it never can."""
    loop = asyncio.get_running_loop()
    end = loop.time() + patience(LIMIT)
    while True:
        try:
            return await asyncio.to_thread(lambda: waits(History.read(folder)))
        except BrokenHistory as error:
            if loop.time() > end:
                raise LabError(f"the history of the run cannot be read: {error}") from None
        await asyncio.sleep(AGAIN)
