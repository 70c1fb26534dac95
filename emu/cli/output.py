"""Standard output that fails is a sentence and an exit status of its own, not a traceback with the status of a breach.

While a command runs, sys.stdout raises Unwritable for what cannot be written, which nothing else catches; what could not be written is then
thrown away, so that the interpreter does not try again at its end. What cannot be said on sys.stderr is not said: a broker whose log is
on a full disk goes on.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Unwritable(Exception):
    """Standard output took no more; `error` says why."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error.strerror)
        self.error = error


class Watched:
    """A stream of which `fails` is told."""

    def __init__(self, stream: Any, fails: Callable[[OSError], None]) -> None:
        self._stream, self._fails = stream, fails

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def buffer(self) -> Watched:
        return Watched(self._stream.buffer, self._fails)

    def write(self, data: Any) -> Any:
        try:
            return self._stream.write(data)
        except OSError as error:
            self._fails(error)
            return len(data)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._fails(error)


@contextmanager
def watched() -> Iterator[None]:
    """Raises Unwritable, at the end too, for what was still to be written."""
    out, err = sys.stdout, sys.stderr
    if out is not None:
        sys.stdout = Watched(out, _raise)
    if err is not None:
        sys.stderr = Watched(err, lambda _error: None)
    try:
        try:
            yield
        except SystemExit:  # --help was printed
            _flushed(sys.stdout)
            raise
        _flushed(sys.stdout)
    finally:
        sys.stdout, sys.stderr = out, err
        for stream in (out, err):
            if stream is not None:
                _throw_away(stream)


def _flushed(stream: Any) -> None:
    if stream is not None:
        stream.flush()


def _raise(error: OSError) -> None:
    raise Unwritable(error) from None


def _throw_away(stream: Any) -> None:
    """What it still has, if that cannot be written."""
    try:
        stream.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        with suppress(OSError):
            os.dup2(nowhere, stream.fileno())
            stream.flush()
        os.close(nowhere)
