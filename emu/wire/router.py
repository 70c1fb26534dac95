"""The broker's ROUTER: control for every session that bound a DEALER to itself, over ipc:// and on request tcp://.

A message is one frame behind the identity; others are refused. Nothing here blocks. What a client does not take waits: SEND_LIMIT messages
with libzmq, and KEPT_LIMIT bytes here, for identities that belong to a session only (`keep`); the rest is dropped and counted.
What a client sends and nobody has read waits too: RECEIVE_LIMIT messages, then its connection is not read. libzmq itself disconnects whoever
sends a frame of more than FRAME_LIMIT bytes; between MESSAGE_LIMIT and that, the codec answers EMSGSIZE. So for peers that speak through libzmq memory
is bounded by the number of connections. A client that reconnects with its old identity takes over at once (ROUTER_HANDOVER).

It is not bounded against a peer that writes ZMTP itself: libzmq keeps the frames of a message until the last has come, counts messages, not
frames (RCVHWM), limits a frame, not a message (MAXMSGSIZE), and shows nothing of it here. Who begins a message and never ends it
can fill the broker's memory, without a token; it is given back when that connection ends. No option of libzmq prevents it. Who can reach
the socket: on ipc:// the node's user and root (the socket is mode 0600), on tcp:// every user of this host.

The ROUTER's descriptor tells by edges: after it became readable, and after every send, `receive` until it returns None, or remember
that there may be more (`pending`). It does not tell which client has room again: while something is `kept`, `flush` tries, each turn.
"""

from __future__ import annotations

import errno
import os
import re
from collections import deque
from typing import TYPE_CHECKING

import zmq

from emu.wire.door import PATH_LIMIT
from emu.wire.errors import WireError

if TYPE_CHECKING:
    from collections.abc import Sequence

FRAME_LIMIT = 2 << 20
SEND_LIMIT = 16  # messages that libzmq holds for one client
RECEIVE_LIMIT = 32  # and from one
KEPT_LIMIT = 32 << 20  # bytes that wait here for one client
LAST_PORT = 65535
_LOCAL = re.compile(r"tcp://(127\.\d+\.\d+\.\d+|localhost|\[::1\]):(\d+|\*)")


def check_address(address: str) -> str:
    """Refuse what the broker must not, or cannot, listen on. Returns the address."""
    if address.startswith("ipc://"):
        if len(os.fsencode(address.removeprefix("ipc://"))) > PATH_LIMIT:
            raise WireError(
                errno.ENAMETOOLONG, f"{address}: more than {PATH_LIMIT} bytes, the limit of a unix socket"
            )
    elif not address.startswith("tcp://"):
        raise WireError(errno.EINVAL, f"{address}: an address is ipc://PATH or tcp://ADDRESS:PORT")
    elif not _LOCAL.fullmatch(address):
        raise WireError(
            errno.EACCES, f"{address}: without keys only loopback is served, as tcp://127.0.0.1:7000; whoever connects controls the node"
        )  # fmt: skip
    elif (port := address.rpartition(":")[2]) != "*" and int(port.lstrip("0")[:6] or "0") > LAST_PORT:
        raise WireError(
            errno.EINVAL, f"{address[:64]}: a port is a number up to {LAST_PORT}, or * for any that is free"
        )
    return address


class Kept:
    """Messages that wait for one client."""

    __slots__ = ("bytes", "messages")

    def __init__(self) -> None:
        self.bytes = 0
        self.messages: deque[bytes] = deque()

    def append(self, message: bytes) -> bool:
        if self.bytes + len(message) > KEPT_LIMIT:
            return False
        self.bytes += len(message)
        self.messages.append(message)
        return True


class Router:
    """The socket. One thread."""

    def __init__(self, addresses: Sequence[str]) -> None:
        """Bind to all addresses, checked. Raises WireError with the address and its errno."""
        self.dropped = 0
        self._kept: dict[bytes, Kept] = {}
        self.addresses: list[str] = []  # as bound: tcp://127.0.0.1:* has its port here
        self._context = zmq.Context(io_threads=1)
        self._socket = self._context.socket(zmq.ROUTER)
        for option, value in (
            (zmq.ROUTER_HANDOVER, 1),
            (zmq.ROUTER_MANDATORY, 1),
            (zmq.MAXMSGSIZE, FRAME_LIMIT),
            (zmq.SNDHWM, SEND_LIMIT),
            (zmq.RCVHWM, RECEIVE_LIMIT),
            (zmq.LINGER, 0),
        ):
            self._socket.setsockopt(option, value)
        for address in addresses:
            self._bind(address)
        self.fd = int(self._socket.getsockopt(zmq.FD))

    def _bind(self, address: str) -> None:
        try:
            self._socket.bind(check_address(address))
        except WireError:
            self.close()
            raise
        except zmq.ZMQError as error:
            self.close()
            raise WireError(error.errno or errno.EINVAL, f"{address}: {error.strerror}") from None
        self.addresses.append(self._socket.getsockopt_string(zmq.LAST_ENDPOINT))

    @property
    def pending(self) -> bool:
        """There is something to receive."""
        return bool(int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)

    def receive(self) -> tuple[bytes, bytes | None] | None:
        """(identity, message) or None when there is nothing. The message is None when it was not exactly one frame."""
        try:
            frames = self._socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return None
        return frames[0], frames[1] if len(frames) == 2 else None

    def send(self, identity: bytes, message: bytes, *, keep: bool = False) -> bool:
        """False: the client is gone or its queue is full; the message was dropped (the latter is counted). `keep`: it may wait here."""
        kept = self._kept.get(identity)
        if kept is None:
            try:
                self._socket.send_multipart([identity, message], zmq.NOBLOCK)
            except zmq.ZMQError as error:
                return error.errno == errno.EAGAIN and self._keep(identity, message, keep=keep)
            return True
        return self._keep(identity, message, keep=keep)

    def _keep(self, identity: bytes, message: bytes, *, keep: bool) -> bool:
        if keep and self._kept.setdefault(identity, Kept()).append(message):
            return True
        self.dropped += 1
        return False

    def kept(self, identity: bytes) -> int:
        """Bytes that wait here for this client."""
        waiting = self._kept.get(identity)
        return waiting.bytes if waiting else 0

    @property
    def keeping(self) -> int:
        """Bytes that wait here for all."""
        return sum(kept.bytes for kept in self._kept.values())

    def flush(self) -> None:
        """Send of what is kept all that clients have room for."""
        for identity in list(self._kept):
            if self._sent(identity, self._kept[identity]):
                del self._kept[identity]

    def _sent(self, identity: bytes, kept: Kept) -> bool:
        """Whether nothing waits for it any more; for a client that is gone nothing does."""
        while kept.messages:
            try:
                self._socket.send_multipart([identity, kept.messages[0]], zmq.NOBLOCK)
            except zmq.ZMQError as error:
                return error.errno != errno.EAGAIN
            kept.bytes -= len(kept.messages.popleft())
        return True

    def forget(self, identity: bytes) -> None:
        """Nobody speaks for a session by this identity any more."""
        self._kept.pop(identity, None)

    def close(self, linger_ms: int = 0) -> None:
        """linger_ms: how long last words may take to leave."""
        self._socket.close(linger=linger_ms)
        self._context.term()
