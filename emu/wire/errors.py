"""What can go wrong between a client and its broker. One root; each has `.errno` (POSIX), a sentence, and `.definite`: whether
the operation definitely did not happen.

    WireError
      Malformed        the message itself is wrong (its sender's fault)
      RequestRefused   the broker answered with an error
      ConnectionLost   the broker, or this client's session, is gone
      AnswerTimedOut   no answer yet; the request goes on
"""

from __future__ import annotations

import errno

from emu.core.errors import errno_name


class WireError(Exception):
    """Root."""

    def __init__(self, number: int, sentence: str, *, definite: bool = True) -> None:
        super().__init__(sentence)
        self.errno = number
        self.definite = definite

    @property
    def name(self) -> str:
        """The errno's name, EBUSY."""
        return errno_name(self.errno)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.errno, str(self), self.definite))


class Malformed(WireError):
    """A message that cannot be taken. `request`: its id as far as it could be read, else 0."""

    request: int = 0


class RequestRefused(WireError):
    """The broker's answer to a request."""


class ConnectionLost(WireError):
    """Nobody is at the other end any more. What was asked and not answered may or may not have happened."""

    def __init__(self, sentence: str, number: int = errno.ENOTCONN, *, definite: bool = False) -> None:
        super().__init__(number, sentence, definite=definite)


class AnswerTimedOut(WireError):
    """The answer has not come in time. The request is not withdrawn; `cancel` withdraws a reclaim."""

    def __init__(self, sentence: str) -> None:
        super().__init__(errno.ETIMEDOUT, sentence, definite=False)


def _rebuild(kind: type[WireError], number: int, sentence: str, definite: bool) -> WireError:
    error = kind.__new__(kind)
    WireError.__init__(error, number, sentence, definite=definite)
    return error


def errno_number(name: str) -> int:
    """16 for EBUSY; EIO for a name this platform does not know."""
    return int(getattr(errno, name, 0)) or (
        int(name[1:]) if name[:1] == "E" and name[1:].isdigit() else errno.EIO
    )
