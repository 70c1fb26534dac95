"""The door: a SOCK_SEQPACKET unix socket. One packet is one message; descriptors travel along (SCM_RIGHTS).

Both ends use `Packet`, `send` and `receive`; the broker wraps each accepted connection in a `DoorConnection` that never blocks: what the
client does not take waits in a bounded queue, and a client whose queue is full is not listened to until it reads (`choked`).
Descriptors that nobody asked for are closed at once. A packet that is longer than DOOR_LIMIT arrives cut off, and is reported as
such (EMSGSIZE), never taken for a shorter one.

The kernel bounds a packet by the socket's send buffer, so the door carries at most DOOR_LIMIT bytes; larger data goes in pieces or
through ZeroMQ.
"""

from __future__ import annotations

import array
import errno
import os
import select
import socket
import struct
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from emu.wire.errors import ConnectionLost, WireError

if TYPE_CHECKING:
    from collections.abc import Sequence

DOOR_LIMIT = 144 << 10  # fits in Linux' default send buffer of 208 KiB
DOOR_DATA_LIMIT = 128 << 10  # data that one message through the door may carry
DESCRIPTORS = 4  # at most, a packet
PATH_LIMIT = 107  # bytes of a unix socket's path
BACKLOG = 1024  # visitors who wait to be let in
QUEUE_LIMIT = 1024  # packets that wait for a client that does not read
QUEUE_BYTES = 32 << 20  # and their bytes
_ANCILLARY = socket.CMSG_SPACE(DESCRIPTORS * array.array("i").itemsize)


@dataclass(frozen=True, slots=True)
class Packet:
    """`cut`: longer than DOOR_LIMIT, the rest is lost."""

    data: bytes
    descriptors: tuple[int, ...] = ()
    cut: bool = False

    def close_descriptors(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)


def check_path(path: str) -> str:
    """Refuse what no unix socket can be called. Returns the path."""
    if len(os.fsencode(path)) > PATH_LIMIT:
        raise WireError(
            errno.ENAMETOOLONG,
            f"{path} has more than {PATH_LIMIT} bytes, the limit of a unix socket: choose a shorter --dir",
        )
    return path


def listen(path: str) -> socket.socket:
    """Bind and listen, mode 0600. The path must be free."""
    door = _socket()
    try:
        before = os.umask(0o177)
        try:
            door.bind(check_path(path))
        finally:
            os.umask(before)
        door.listen(BACKLOG)
    except BaseException:
        door.close()
        raise
    return door


def connect(path: str) -> socket.socket:
    """A blocking connection. Raises ConnectionLost when nobody serves this door."""
    door = _socket()
    try:
        door.setblocking(True)
        door.connect(check_path(path))
    except OSError as error:
        door.close()
        directory = os.path.dirname(path)  # noqa: PTH120 - a text
        raise ConnectionLost(
            f"no broker serves {directory} ({os.strerror(error.errno or 0)}): start one with `emu broker --dir {directory} ...`",
            error.errno or errno.ENOTCONN, definite=True,
        ) from None  # fmt: skip
    except BaseException:
        door.close()
        raise
    return door


def answers(path: str) -> bool:
    """Whether somebody listens at this door."""
    door = _socket()
    try:
        door.connect(check_path(path))
    except BlockingIOError:  # its visitors wait in line
        return True
    except OSError:
        return False
    finally:
        door.close()
    return True


def _socket() -> socket.socket:
    door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    with suppress(OSError):
        door.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * DOOR_LIMIT)
    return door


def send(sock: socket.socket, data: bytes, descriptors: Sequence[int] = ()) -> None:
    """One packet. Raises BlockingIOError on a full non-blocking socket, OSError when the peer is gone."""
    if len(data) > DOOR_LIMIT:
        raise WireError(
            errno.EMSGSIZE, f"the door carries at most {DOOR_LIMIT} bytes a message, this one has {len(data)}"
        )
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    sock.sendmsg([data], ancillary, socket.MSG_NOSIGNAL)


def receive(sock: socket.socket) -> Packet | None:
    """The next packet; None: the peer hung up. Raises BlockingIOError, OSError."""
    data, ancillary, flags, _ = sock.recvmsg(DOOR_LIMIT, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, payload in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(payload[: len(payload) - len(payload) % descriptors.itemsize])
    if not data and not descriptors and hung_up(sock):
        return None
    return Packet(data, tuple(descriptors), bool(flags & socket.MSG_TRUNC))


def hung_up(sock: socket.socket) -> bool:
    """The other end is gone: nobody has it open. (An empty read is either that or an empty packet.)"""
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    return bool(poll.poll(0))


def peer_credentials(sock: socket.socket) -> tuple[int, int, int]:
    """(pid, uid, gid) of whoever connected. The pid is for display: it is no identity (other pid namespaces, reuse)."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, gid = struct.unpack("3i", raw)
    return pid, uid, gid


class DoorConnection:
    """The broker's end of one client's door."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * DOOR_LIMIT)
        self.sock = sock
        self.fd = sock.fileno()
        self.dropped = 0  # packets refused because the queue was full
        self.unread = 0  # bytes in the queue
        self._queue: deque[tuple[bytes, tuple[int, ...]]] = deque()

    @property
    def waiting(self) -> int:
        """Packets that the client has not taken: wait for writability while there are any."""
        return len(self._queue)

    @property
    def choked(self) -> bool:
        """Take no more requests from it until it reads its answers."""
        return len(self._queue) >= QUEUE_LIMIT // 2 or self.unread >= QUEUE_BYTES // 2

    def receive(self) -> Packet | None:
        return receive(self.sock)

    def send(self, data: bytes, descriptors: Sequence[int] = ()) -> bool:
        """Send or queue; the descriptors stay the caller's. False: the queue is full, the packet was dropped and counted."""
        if not self._queue:
            try:
                send(self.sock, data, descriptors)
            except BlockingIOError:
                pass  # queued below
            else:
                return True
        if len(self._queue) >= QUEUE_LIMIT or self.unread + len(data) > QUEUE_BYTES:
            self.dropped += 1
            return False
        self.unread += len(data)
        self._queue.append((data, tuple(os.dup(fd) for fd in descriptors)))
        return True

    def flush(self) -> None:
        """Send what fits. Raises OSError when the peer is gone."""
        while self._queue:
            data, descriptors = self._queue[0]
            try:
                send(self.sock, data, descriptors)
            except BlockingIOError:
                return
            self._queue.popleft()
            self.unread -= len(data)
            for descriptor in descriptors:
                os.close(descriptor)

    def close(self) -> None:
        for _, descriptors in self._queue:
            for descriptor in descriptors:
                os.close(descriptor)
        self._queue.clear()
        self.sock.close()
