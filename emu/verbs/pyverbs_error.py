"""What goes wrong, by pyverbs' names: one root, the device's refusals, and the program's own mistakes.

Every error carries the POSIX number (`.errno`, `.error_code` as in pyverbs) and a sentence; those that came from the broker also say
whether the operation *definitely* did not happen (`.definite`).
"""

from __future__ import annotations

import errno as numbers
import os


class PyverbsError(Exception):
    """Root. error_code -1: none, as in pyverbs."""

    def __init__(self, msg: str, error_code: int = -1) -> None:
        super().__init__(
            msg if error_code == -1 else f"{msg}. Errno: {error_code}, {os.strerror(error_code)}"
        )
        self._message, self._error_code = msg, error_code

    def __reduce__(self) -> tuple[type[PyverbsError], tuple[str, int]]:
        return (type(self), (self._message, self._error_code))

    @property
    def error_code(self) -> int:
        return self._error_code

    @property
    def errno(self) -> int:
        return self._error_code


class PyverbsRDMAError(PyverbsError):
    """The device, the broker or the file system refused. definite: it certainly did not happen."""

    def __init__(self, msg: str, error_code: int = -1, definite: bool = True) -> None:
        super().__init__(msg, error_code)
        self.definite = definite

    def __reduce__(self) -> tuple[type[PyverbsError], tuple[str, int, bool]]:  # type: ignore[override]
        return (type(self), (self._message, self._error_code, self.definite))


class PyverbsUserError(PyverbsError):
    """The program asked for what can never be done: a closed object, a work request without SGE, a wrong type."""

    def __init__(self, msg: str) -> None:
        super().__init__(msg)

    def __reduce__(self) -> tuple[type[PyverbsError], tuple[str]]:  # type: ignore[override]
        return (type(self), (self._message,))

    @property
    def errno(self) -> int:
        return numbers.EINVAL
