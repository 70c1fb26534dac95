"""For whoever holds a layout lease under `lease-signal`: its signals, taken one by one instead of dying of them.

    with Breaks() as breaks, Context(...) as ctx:
        ...
        if breaks.wait(0.1) == signal.SIGIO:  # the lease is wanted back: deregister, in time
            mr.close()

SIGIO is the break, SIGBUS the warning behind it; both end a process that has made no provision. They are blocked in the thread that makes the
object and in all that it starts from then on, so make it first of all: a thread of before would still die of them. A true bus error (a
store into memory that is gone) ends the process all the same: the kernel lets nobody block that. SIGKILL, the last rung, is nobody's to take.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

BREAKS = (signal.SIGIO, signal.SIGBUS)


class Breaks:
    """wait() gives the next one."""

    def __init__(self) -> None:
        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, BREAKS)

    def wait(self, timeout: float | None = None) -> signal.Signals | None:
        """SIGIO or SIGBUS, the one that has come or comes within `timeout` seconds (None: waits for ever); None if none does."""
        found = signal.sigwaitinfo(BREAKS) if timeout is None else signal.sigtimedwait(BREAKS, timeout)
        return None if found is None else signal.Signals(found.si_signo)

    def close(self) -> None:
        """As before; what has come and was not taken is dropped."""
        while self.wait(0) is not None:
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
