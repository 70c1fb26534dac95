"""The reclaimer: wants the memory of a file back, by truncate, punch, unlink, or by taking the file away from its users.

It asks, waits for as long as the answer takes, and says what it was and when. A refused reclaim is asked again as often as it was told.
"""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING, Any

from emu.clients.observer import Observer

from emu.verbs.pyverbs_error import PyverbsRDMAError

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.clients.talk import Command


def timed(call: Callable[[], Any]) -> Command:
    """One reclaim: its answer, and the monotonic clock before and after, in ns."""
    refusal: PyverbsRDMAError | None = None
    began = time.monotonic_ns()
    try:
        call()
    except PyverbsRDMAError as error:
        refusal = error
    ended = time.monotonic_ns()
    return {
        "errno": errno.errorcode.get(refusal.errno, str(refusal.errno)) if refusal else None,
        "error": str(refusal) if refusal else None,
        "began": began,
        "ended": ended,
    }


class Reclaimer(Observer):
    """`do_reclaim` takes the event's name and its arguments."""

    name = "reclaimer"

    def do_reclaim(
        self,
        *,
        event: str,
        path: str,
        retries: int,
        size: int = 0,
        offset: int = 0,
        length: int = 0,
        **_: Any,
    ) -> Command:
        fs = self.ctx.fs
        calls: dict[str, Callable[[], Any]] = {
            "truncate": lambda: fs.truncate(path, size),
            "punch": lambda: fs.punch(path, offset, length),
            "unlink": lambda: fs.unlink(path),
            "unplug": lambda: fs.unplug(path),
        }
        return self.insist(calls[event], retries)

    def insist(self, call: Callable[[], Any], retries: int) -> Command:
        """Ask, and ask again while it is refused; the first answer is the one that is judged."""
        tries = [timed(call)]
        while tries[-1]["errno"] and len(tries) <= retries:
            tries.append(timed(call))
        return {"tries": tries}


if __name__ == "__main__":
    Reclaimer().main()
