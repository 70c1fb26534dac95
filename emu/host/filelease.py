"""Kernel leases on open files (F_SETLEASE): the kernel tells us before a foreign program truncates the file or opens it for writing.

A write lease can be had only on the one open file description that there is: a second open, the holder's own included, refuses it
(EAGAIN). Mappings made through that description do no harm. It is broken by truncate(2), open for writing and O_TRUNC (`taken`), and by open
for reading (`read`); the breaker sleeps until the lease is given back, or until /proc/sys/fs/lease-break-time has passed: then it goes on. It is a
deadline, not a veto. What goes through the same description (an inherited or passed descriptor) breaks nothing.

Lease, owner and signal number belong to the open file description, which whoever passed it shares: no signal of its own can be trusted, neither to come nor
to be harmless. So none is asked for, and whoever holds leases looks at them (`state`) now and then; the breaker waits much longer than that.
"""

from __future__ import annotations

import errno
import fcntl
import os
from typing import Final

F_SETSIG: Final = 10
F_SETLEASE: Final = 1024
F_GETLEASE: Final = 1025

HELD, READ, TAKEN = "held", "read", "taken"
_STATES: Final = {fcntl.F_WRLCK: HELD, fcntl.F_RDLCK: READ, fcntl.F_UNLCK: TAKEN}

_WHY: Final = {
    errno.EAGAIN: "somebody else has it open, or it was opened twice: only the one open file description can be guarded",
    errno.EACCES: "it belongs to another user: a lease needs the file's owner",
    errno.EINVAL: "its filesystem has no leases",
}


def take(fd: int) -> str:
    """A write lease on this description, that tells nobody. Why it cannot be had; empty if it is held."""
    try:
        fcntl.fcntl(fd, F_SETSIG, 0)
        fcntl.fcntl(fd, F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(fd, fcntl.F_SETOWN, 0)
    except OSError as error:
        give_back(fd)
        return _WHY.get(error.errno or 0, os.strerror(error.errno or errno.EIO))
    return ""


def state(fd: int) -> str:
    """HELD; or what it is being broken to: READ, TAKEN. TAKEN too when the kernel has waited long enough and removed it."""
    return _STATES[fcntl.fcntl(fd, F_GETLEASE)]


def give_back(fd: int) -> None:
    """Whoever waits goes on. Without a lease there it does nothing."""
    try:
        fcntl.fcntl(fd, F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        if error.errno != errno.EAGAIN:  # it has gone already
            raise
