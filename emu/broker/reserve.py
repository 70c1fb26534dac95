"""Space that is kept free on a full disk for what cannot be refused: a file that is made shorter, bit by bit, when a commit lacks room.

    DIR/reserve   SIZE bytes, allocated; shorter while the disk is full, as long as SIZE again when there is room

A commit of the books is a few pages of the log, and a log that has been carried over into the database is written from its
beginning again, in place: what the reserve has is enough for facts by the thousand, as long as one commit's rows fit into it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 256 << 10
STEP = 32 << 10


class Reserve:
    """Raises nothing: a disk that is full at the start leaves it empty, and `bytes` says so."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.bytes = 0
        self.restore()

    def restore(self) -> None:
        """Its full size, if there is room for it."""
        if self.bytes == SIZE:
            return
        try:
            self._resize(SIZE)
        except OSError:
            self._cut(self.bytes)  # part of it may have been allocated

    def give(self) -> bool:
        """Leave STEP bytes to somebody else. False: there is nothing left."""
        if self.bytes == 0:
            return False
        self._cut(max(0, self.bytes - STEP))
        return True

    def _resize(self, size: int) -> None:
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, size)
        finally:
            os.close(fd)
        self.bytes = size

    def _cut(self, size: int) -> None:
        """What cannot be cut is as good as gone."""
        self.bytes = size
        try:
            os.truncate(self._path, size)
        except OSError:
            self.bytes = 0
