"""What a long comparison says on stderr: a line for each row, and how far it is.

On a terminal the last line is rewritten in place; elsewhere it comes every half a minute.
"""

from __future__ import annotations

import time
from typing import TextIO

EVERY = 30.0  # seconds
CLEAR = "\r\x1b[K"


class Teller:
    """Writes to one stream; nobody else does meanwhile."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._live = stream, stream.isatty()
        self._told = time.monotonic()
        self._standing = ""

    def line(self, text: str) -> None:
        """A line that stays."""
        self._write(f"{text}\n{self._standing}")

    def status(self, text: str) -> None:
        """How far it is."""
        if self._live:
            self._standing = text
            self._write(text)
        elif time.monotonic() >= self._told + EVERY:
            self._told = time.monotonic()
            self._write(f"{text}\n")

    def end(self) -> None:
        """What is said from now on is said by others."""
        self._standing = ""
        if self._live:
            self._write("")

    def _write(self, text: str) -> None:
        self._stream.write(CLEAR + text if self._live else text)
        self._stream.flush()
