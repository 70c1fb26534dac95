"""The broker's ROUTER: control for every session that bound a DEALER to itself, over ipc:// and on request tcp://.

A message is one frame behind the identity; others are refused. Nothing here blocks: what a client does not take is kept by libzmq up to
QUEUE_LIMIT messages, then dropped and counted. A client that reconnects with its old identity takes over at once
(ROUTER_HANDOVER). libzmq itself disconnects whoever sends more than FRAME_LIMIT bytes; between MESSAGE_LIMIT and that, the codec
answers EMSGSIZE.

The ROUTER's descriptor tells by edges: after it became readable, and after every send, `receive` until it returns None, or remember
that there may be more (`pending`).
"""

from __future__ import annotations

import errno
import os
import re
from typing import TYPE_CHECKING

import zmq

from emu.wire.door import PATH_LIMIT
from emu.wire.errors import WireError

if TYPE_CHECKING:
    from collections.abc import Sequence

FRAME_LIMIT = 8 << 20
QUEUE_LIMIT = 10_000
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
    return address


class Router:
    """The socket. One thread."""

    def __init__(self, addresses: Sequence[str]) -> None:
        """Bind to all addresses, checked. Raises WireError with the address and its errno."""
        self.dropped = 0
        self.addresses: list[str] = []  # as bound: tcp://127.0.0.1:* has its port here
        self._context = zmq.Context(io_threads=1)
        self._socket = self._context.socket(zmq.ROUTER)
        for option, value in (
            (zmq.ROUTER_HANDOVER, 1),
            (zmq.ROUTER_MANDATORY, 1),
            (zmq.MAXMSGSIZE, FRAME_LIMIT),
            (zmq.SNDHWM, QUEUE_LIMIT),
            (zmq.RCVHWM, QUEUE_LIMIT),
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

    def send(self, identity: bytes, message: bytes) -> bool:
        """False: the client is gone or its queue is full; the message was dropped (the latter is counted)."""
        try:
            self._socket.send_multipart([identity, message], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno == errno.EAGAIN:
                self.dropped += 1
            elif error.errno != errno.EHOSTUNREACH:
                raise
            return False
        return True

    def close(self, linger_ms: int = 0) -> None:
        """linger_ms: how long last words may take to leave."""
        self._socket.close(linger=linger_ms)
        self._context.term()
