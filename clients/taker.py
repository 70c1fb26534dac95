"""The taker: allocates what the reclaim freed, in a file of its own, and writes it exactly once.

Its bytes carry its own stamps. Whatever else is found in its file afterwards was stored by somebody who had no business there.
On a host file, whose blocks are the real filesystem's, it grows or fills the same file again: the same question, asked of the
same file's new bytes.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from emu.clients.observer import Observer

from emu.engine import ring

if TYPE_CHECKING:
    from emu.clients.talk import Command

PIECE = 64 << 10


class Taker(Observer):
    """Writer number `writer` in its stamps."""

    name = "taker"

    def do_take(self, *, path: str, size: int, writer: int, **_: Any) -> Command:
        """A new file of `size` bytes on the node. unzeroed: bytes that were not zero before anybody had written there."""
        self.ctx.fs.create(path, size)
        made = self.ctx.fs.stat(path)
        unzeroed = sum(
            len(found) - found.count(0)
            for found in (self.ctx.fs.read(path, at, min(PIECE, size - at)) for at in range(0, size, PIECE))
        )
        for offset in range(0, size, PIECE):
            self.ctx.fs.write(
                path, offset, _stamped(min(PIECE, size - offset), writer, made["ino"], made["layout"], offset)
            )
        return {"ino": made["ino"], "unzeroed": unzeroed}

    def do_retake(
        self, *, path: str, start: int, end: int, writer: int, ino: int, layout: int, **_: Any
    ) -> Command:
        """Bytes start..end of a host file, written once, by the kernel's own pwrite. ino: as the node calls the file."""
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            for offset in range(start, end, PIECE):
                os.pwrite(fd, _stamped(min(PIECE, end - offset), writer, ino, layout, offset), offset)
        finally:
            os.close(fd)
        return {"ino": ino}


def _stamped(length: int, writer: int, ino: int, layout: int, offset: int) -> bytes:
    piece = bytearray(length)
    ring.stamp_fill(piece, writer=writer, ino=ino, work_request=0, layout=layout, namespace=1, offset=offset)
    return bytes(piece)


if __name__ == "__main__":
    Taker().main()
