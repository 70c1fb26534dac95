"""The process at the other end of a unix socket, held by a pidfd: to be signalled, and to be seen ending.

A pid is no identity (it repeats, and differs between containers), so none is kept: the descriptor names the process that connected, and
nobody else, for good. Linux 6.5 gives it straight from the socket (SO_PEERPIDFD); before that it is opened from the credentials'
pid at once, while whoever connected has hardly had the time to end. Whoever ended before, lives where no number of ours names it (another
pid namespace: pid 0), or is ourselves, is nobody whom a signal could reach.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import struct
from contextlib import suppress

SO_PEERPIDFD = 77  # <asm-generic/socket.h>


class Opener:
    """Whoever connected. `fd` becomes readable when its process has ended; `signalable`: a signal of ours can reach it."""

    def __init__(self, fd: int, *, signalable: bool) -> None:
        self.fd, self.signalable = fd, signalable

    @classmethod
    def of(cls, sock: socket.socket) -> Opener | None:
        """The peer's process; None: it cannot be had."""
        fd = _pidfd(sock)
        return None if fd < 0 else cls(fd, signalable=_reaches(fd))

    def signal(self, number: int) -> None:
        """Raises OSError: ESRCH when the process has ended, EBADF when it was closed."""
        signal.pidfd_send_signal(self.fd, number)

    def ended(self) -> bool:
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.fd, self.signalable = -1, False


def _pidfd(sock: socket.socket) -> int:
    pid, _, _ = struct.unpack(
        "3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    )
    if pid in {0, os.getpid()}:
        return -1
    try:
        fd = sock.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            return -1  # it has ended: its number may be somebody else's by now
    else:
        os.set_inheritable(fd, False)
        return fd
    with suppress(OSError):
        return os.pidfd_open(pid)
    return -1


def _reaches(fd: int) -> bool:
    """Signal 0 asks, and does nothing."""
    try:
        signal.pidfd_send_signal(fd, 0)
    except OSError:
        return False
    return True
