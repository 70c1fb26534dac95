"""The taker: allocates what the reclaim freed, in a file of its own, and writes it exactly once.

Its bytes carry its own stamps. Whatever else is found in its file afterwards was stored by somebody who had no business there.
On a host file, whose blocks are the real filesystem's, it grows or fills the same file again: the same question, asked of the
same file's new bytes.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from emu.clients.asks import PIECE, stamped, timed
from emu.clients.observer import Observer

if TYPE_CHECKING:
    from emu.clients.talk import Command

BLOCK = 4096
AGAIN = 0.005  # seconds between two tries of somebody in need


class Taker(Observer):
    """Writer number `writer` in its stamps."""

    name = "taker"

    def do_take(self, *, path: str, size: int, writer: int, **_: Any) -> Command:
        """A new file of `size` bytes on the node. unzeroed: bytes that were not zero before anybody had written there."""
        self.ctx.fs.create(path, size)
        return self._written_once(path, size, writer)

    def _written_once(self, path: str, size: int, writer: int) -> Command:
        made = self.ctx.fs.stat(path)
        unzeroed = sum(
            len(found) - found.count(0)
            for found in (self.ctx.fs.read(path, at, min(PIECE, size - at)) for at in range(0, size, PIECE))
        )
        for offset in range(0, size, PIECE):
            self.ctx.fs.write(
                path, offset, stamped(min(PIECE, size - offset), writer, made["ino"], made["layout"], offset)
            )
        return {"ino": made["ino"], "unzeroed": unzeroed}

    def do_fill(self, *, device: str, path: str, **_: Any) -> Command:
        """A file over all that is free."""
        free = self.ctx.books()["devices"][device]["free"]
        self.ctx.fs.create(path, free * BLOCK)
        return {"bytes": free * BLOCK}

    def do_need(self, *, path: str, size: int, writer: int, seconds: float, **_: Any) -> Command:
        """As `take`, by somebody who cannot go on without the space: asked again at once, until it is there or `seconds` have passed.

        failures: how often the device was full; waited_us: until it was not, null if it stayed so.
        """
        began = time.monotonic_ns()
        failures = 0
        while (answer := timed(lambda: self.ctx.fs.create(path, size)))["errno"]:
            failures += 1
            if answer["errno"] != "ENOSPC" or answer["ended"] - began > seconds * 1e9:
                return {
                    "failures": failures,
                    "waited_us": None,
                    "errno_seen": answer["errno"],
                    "unzeroed": None,
                }
            time.sleep(AGAIN)
        waited = (answer["ended"] - began) / 1000
        found = self._written_once(path, size, writer)
        return {"failures": failures, "waited_us": waited, "errno_seen": None, **found}

    def do_retake(
        self, *, path: str, start: int, end: int, writer: int, ino: int, layout: int, **_: Any
    ) -> Command:
        """Bytes start..end of a host file, written once, by the kernel's own pwrite. ino: as the node calls the file."""
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            for offset in range(start, end, PIECE):
                os.pwrite(fd, stamped(min(PIECE, end - offset), writer, ino, layout, offset), offset)
        finally:
            os.close(fd)
        return {"ino": ino}


if __name__ == "__main__":
    Taker().main()
