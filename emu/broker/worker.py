"""A thread for deeds that take as long as they are large, and that nobody waits for inside a step: files filled, host files cut.

A job is plain file I/O on descriptors of its own; it touches no book, no engine and no message. It ends with an event: when `fileno()` is
readable, `finish` calls, in the loop's thread and in the order of the jobs, what was to follow.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    Job = Callable[[], None]
    Then = Callable[[OSError | None], None]


class Worker:
    """Jobs run one after the other. `stopping`: long ones look at it between pieces."""

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[tuple[Job, Then] | None] = SimpleQueue()
        self._ended: deque[tuple[Then, OSError | None]] = deque()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        return self._bell

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    def do(self, job: Job, then: Then) -> None:
        """`then` gets the job's OSError, or None."""
        self._jobs.put((job, then))

    def finish(self, _mask: int = 0) -> None:
        """The loop's half."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        while self._ended:
            then, error = self._ended.popleft()
            then(error)

    def close(self) -> None:
        """Ends with the piece in hand; jobs that wait are not begun."""
        self._stop.set()
        self._jobs.put(None)
        self._thread.join()
        os.close(self._bell)

    def _work(self) -> None:
        while (next_one := self._jobs.get()) is not None and not self.stopping:
            job, then = next_one
            self._ended.append((then, _outcome(job)))
            os.eventfd_write(self._bell, 1)


def _outcome(job: Job) -> OSError | None:
    try:
        job()
    except OSError as error:
        return error
    except Exception as error:  # noqa: BLE001 - a defect concerns whoever waits for this job, not the thread
        return OSError(errno.EIO, f"{type(error).__name__}: {error}")
    return None
