"""A client's connection to a broker: the door, a ZeroMQ DEALER beside it, and one thread that sorts what comes back.

    with connect("/run/user/1000/emu", name="holder", wants=True) as node:
        answer = node.call("alloc_pd")                      # -> answer.result, answer.descriptors
        pending = node.start("fs_truncate", path="/mnt/a", size=0)
        pending.result(timeout=5)                           # or pending.cancel()
        event = node.next_event(timeout=1)                  # {"event": ..., "fields": {...}} or None

Any thread may call anything. Requests whose messages carry descriptors go through the door, all others through ZeroMQ (a
connection made with `zeromq=False` uses the door for all). The answers are found by request id. Errors are emu.wire.errors: each has
.errno, a sentence, .definite. When the door hangs up, every request under way ends in ConnectionLost, and one event DEVICE_FATAL
arrives, whether the broker could still send it or not.

A refusal without an id (0) is about a message that the broker could not read. It belongs to the one request under way on its channel; where
several are, nobody can tell which of them will never be answered, and the connection ends: nobody waits for ever.

`event_fd` is readable while events wait (an eventfd semaphore): for whoever polls descriptors.
"""

from __future__ import annotations

import errno
import itertools
import os
import select
import sys
import threading
import time
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import zmq

from emu.core.requests import DOOR_ONLY
from emu.host.times import scaled
from emu.wire import codec, door
from emu.wire.errors import AnswerTimedOut, ConnectionLost, Malformed, RequestRefused, WireError, errno_number

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Sequence
    from types import TracebackType

DEVICE_FATAL = "DEVICE_FATAL"
DEFAULT_TIMEOUT = 30.0
PING_EVERY = 5.0  # seconds, of a remote client
SILENCE_LIMIT = 30.0  # after which a remote client gives its broker up, and the broker its client
FIRST_REQUEST = 3  # 1 was hello, 2 bind
_PEER_GONE = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN)


def directory(given: str | os.PathLike[str] | None = None) -> Path:
    """Where the node is: as given, else $EMU_DIR, else $XDG_RUNTIME_DIR/emu, else /tmp/emu-UID."""
    if given:
        return Path(given)
    if named := os.environ.get("EMU_DIR"):
        return Path(named)
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(runtime) / "emu"
    return Path(f"/tmp/emu-{os.getuid()}")  # noqa: S108 - INTERFACE's last resort; the broker makes it 0700 and checks the owner


@dataclass(frozen=True, slots=True)
class Answer:
    """A request's result. The descriptors belong to the caller."""

    result: dict[str, Any]
    descriptors: tuple[int, ...] = ()


@dataclass(slots=True)
class Pending:
    """A request under way."""

    connection: Connection
    request: int
    op: str
    at_door: bool  # where it was sent, and its answer comes
    future: Future[Answer] = field(default_factory=Future)

    @property
    def done(self) -> bool:
        return self.future.done()

    def result(self, timeout: float | None = None) -> Answer:
        """Wait for the answer. Raises RequestRefused, ConnectionLost, AnswerTimedOut (the request goes on)."""
        try:
            return self.future.result(timeout)
        except TimeoutError:
            raise AnswerTimedOut(f"{self.op}: no answer after {timeout} s; the request goes on") from None
        except WireError as error:
            raise error.with_traceback(None) from None

    def cancel(self) -> None:
        """Interrupt a reclaim: it answers EINTR, having changed nothing, unless it has already gone too far."""
        with suppress(RequestRefused):  # it ended meanwhile: its own answer tells
            self.connection.call("cancel", request=self.request)


class Connection:
    """One session. Made by `connect` (local, with a door) or `connect_remote` (tcp: control only, owns no memory)."""

    def __init__(self, sock: socket.socket | None, dealer: Dealer | None, welcome: Answer) -> None:
        """Socket, dealer and descriptors become the connection's."""
        self.session: int = welcome.result["session"]
        self.token: bytes = welcome.result["token"]
        self.device: str = welcome.result["device"]
        self.ctx_slot: int = welcome.result.get("ctx", -1)
        self.descriptors = welcome.descriptors  # of the context page and the bell page
        self._sock, self._dealer = sock, dealer
        self._requests = itertools.count(FIRST_REQUEST)
        self._pending: dict[int, Pending] = {}
        self._events: deque[dict[str, Any]] = deque()
        self._outbox: deque[bytes] = deque()
        self._lock = threading.Lock()
        self._lost: ConnectionLost | None = None
        self.fatal = False  # the context was destroyed: what asks its NIC for something is answered EIO
        self._closing = self._closed_from_inside = self._ended = False
        self._listeners = 0  # threads in next_event, which use event_fd
        self.event_fd = os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._heard = self._pinged = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="emu-connection", daemon=True)
        self._thread.start()

    # ---- what callers use

    @property
    def door(self) -> int:
        """The descriptor that is the context: whoever has it, after SCM_RIGHTS or a fork, keeps the session alive. -1: without a door."""
        return self._sock.fileno() if self._sock is not None else -1

    @property
    def lost(self) -> bool:
        """The broker is gone; the only thing left to do is close()."""
        return self._lost is not None

    def call(
        self,
        op: str,
        *,
        descriptors: Sequence[int] = (),
        timeout: float | None = DEFAULT_TIMEOUT,
        **values: Any,
    ) -> Answer:
        """Ask and wait. `values` are the fields of the request (emu/core/requests.py)."""
        return self.start(op, descriptors=descriptors, **values).result(timeout)

    def start(self, op: str, *, descriptors: Sequence[int] = (), **values: Any) -> Pending:
        """Ask. Descriptors sent along stay the caller's. Raises ConnectionLost, and WireError for what cannot be sent."""
        through_door = self._dealer is None or bool(descriptors) or op in DOOR_ONLY
        if through_door and self._sock is None:
            raise WireError(
                errno.ENOTCONN, f"{op} needs a door: memory and queues exist only for local clients"
            )
        pending = Pending(self, next(self._requests), op, through_door)
        raw = codec.encode_request(op, pending.request, values)
        limit = door.DOOR_LIMIT if through_door else codec.MESSAGE_LIMIT
        if len(raw) > limit:
            raise WireError(
                errno.EMSGSIZE, f"{op}: a message has at most {limit} bytes here, this one {len(raw)}"
            )
        self._register(pending)
        if through_door:
            self._send_through_door(pending, raw, descriptors)
        else:
            self._outbox.append(raw)
            os.eventfd_write(self._wake, 1)
        return pending

    def next_event(self, timeout: float | None = None) -> dict[str, Any] | None:
        """The oldest event that nobody has taken: {"event": name, "fields": {...}}. None after `timeout` s (None: for ever).

        Raises ConnectionLost when nothing can come any more: after DEVICE_FATAL was taken, or when this end was closed.
        """
        with self._lock:
            self._refuse_closed()
            self._listeners += 1
        try:
            return self._await_event(timeout)
        finally:
            with self._lock:
                self._listeners -= 1
                last = self._ended and not self._listeners
            if last:
                self._close_descriptors()

    def _await_event(self, timeout: float | None) -> dict[str, Any] | None:
        poll = select.poll()
        poll.register(self.event_fd, select.POLLIN)
        end = None if timeout is None else time.monotonic() + timeout
        while poll.poll(None if end is None else max(0.0, (end - time.monotonic()) * 1000)):
            with self._lock:
                self._refuse_closed()
                if self._lost and not self._events:  # the descriptor stays readable, for the others who wait
                    raise ConnectionLost(str(self._lost), self._lost.errno, definite=True)
                with suppress(BlockingIOError):  # another thread took it
                    os.eventfd_read(self.event_fd)
                    return self._events.popleft()
        return None

    def _refuse_closed(self) -> None:
        if self._closing:
            raise ConnectionLost("this connection has been closed", definite=True)

    def close(self) -> None:
        """End the session: the broker takes everything back. Idempotent."""
        if (
            sys.is_finalizing()
        ):  # the thread is frozen by now, perhaps with the lock: the kernel closes the door with the process
            return
        with self._lock:
            if self._closing:
                return
            self._closing = True
            self._closed_from_inside = threading.current_thread() is self._thread  # by the garbage collector
            os.eventfd_write(self.event_fd, 1)  # who waits for an event looks, and goes
        os.eventfd_write(self._wake, 1)
        if threading.current_thread() is not self._thread:
            self._thread.join()
            self._release_descriptors()

    def _release_descriptors(self) -> None:
        """Now, or by the last who waits for an event."""
        with self._lock:
            self._ended = True
            waiting = self._listeners
        if not waiting:
            self._close_descriptors()

    def _close_descriptors(self) -> None:
        _close_all((*self.descriptors, self.event_fd, self._wake))

    def abandon(self) -> None:
        """In a forked child, which has no thread of it: close this copy of the door, which would keep the session alive."""
        if self._sock:
            self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- sending

    def _register(self, pending: Pending) -> None:
        with self._lock:
            if self._lost:
                raise ConnectionLost(str(self._lost), self._lost.errno, definite=True)
            self._refuse_closed()
            self._pending[pending.request] = pending

    def _send_through_door(self, pending: Pending, raw: bytes, descriptors: Sequence[int]) -> None:
        assert self._sock is not None
        try:
            door.send(self._sock, raw, descriptors)
        except TimeoutError:
            self._pending.pop(pending.request, None)
            raise AnswerTimedOut(f"{pending.op}: the broker does not take messages") from None
        except OSError as error:
            self._pending.pop(pending.request, None)
            if error.errno in _PEER_GONE:
                raise ConnectionLost("the broker hung up", definite=True) from None
            raise WireError(
                error.errno or errno.EIO, f"{pending.op}: cannot be sent: {error.strerror}"
            ) from None

    # ---- the thread that receives

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._wake, zmq.POLLIN)
        if self._sock:
            poller.register(self._sock.fileno(), zmq.POLLIN)
        if self._dealer:
            poller.register(self._dealer.socket, zmq.POLLIN)
        why = "this connection has been closed"
        try:
            while not self._closing:
                poller.poll(None if self._sock else int(scaled(PING_EVERY) * 1000))
                self._turn()
        except (ConnectionLost, Malformed, OSError, zmq.ZMQError) as error:
            why = str(error)
        finally:
            self._end(why)
            if self._closed_from_inside:
                self._release_descriptors()

    def _turn(self) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        while self._dealer and self._outbox:
            self._dealer.send(self._outbox.popleft())
        if self._dealer:
            for raw in self._dealer.drain():
                self._take(raw)
        if self._sock:
            self._drain_door(self._sock)
        else:
            self._keep_alive()

    def _drain_door(self, sock: socket.socket) -> None:
        while _readable(sock):
            packet = door.receive(sock)
            if packet is None:
                raise ConnectionLost("the broker hung up")
            self._take(packet.data, packet.descriptors, at_door=True)

    def _keep_alive(self) -> None:
        """Without a door silence is all that tells of a broker's end."""
        now = time.monotonic()
        if now - self._heard > scaled(SILENCE_LIMIT):
            raise ConnectionLost(f"the broker has been silent for {scaled(SILENCE_LIMIT):g} s")
        if now - self._pinged >= scaled(PING_EVERY) and self._dealer:
            self._pinged = now
            self._dealer.send(codec.encode_request("ping", next(self._requests), {}))

    def _take(self, raw: bytes, descriptors: tuple[int, ...] = (), *, at_door: bool = False) -> None:
        self._heard = time.monotonic()
        message = codec.decode_answer(raw)
        if "event" in message:
            _close_all(descriptors)
            self._note(message)
            return
        pending = self._pending.pop(message["id"] or self._only_one(message, at_door), None)
        if pending is None:  # the answer to a ping, or to a request whose sending failed half way
            _close_all(descriptors)
        elif message["ok"]:
            pending.future.set_result(Answer(message["result"], descriptors))
        else:
            _close_all(descriptors)
            pending.future.set_exception(refusal(message))

    def _only_one(self, message: dict[str, Any], at_door: bool) -> int:
        """The request that an answer without an id is about. Raises ConnectionLost when that cannot be known."""
        with self._lock:
            asked = [number for number, pending in self._pending.items() if pending.at_door is at_door]
        if len(asked) > 1:
            raise ConnectionLost(
                f"the broker could not read one of {len(asked)} requests: {message.get('error')}"
            )
        return asked[0] if asked else 0

    def _note(self, event: dict[str, Any]) -> None:
        if event["event"] == DEVICE_FATAL and event["fields"].get("destroyed"):
            self.fatal = True  # of this context alone: the node goes on
        elif event["event"] == DEVICE_FATAL:
            raise ConnectionLost("the device is gone: the broker ends")
        with self._lock:
            self._events.append(event)
            os.eventfd_write(self.event_fd, 1)

    def _end(self, why: str) -> None:
        """Nothing comes any more: say so to everybody who waits."""
        with self._lock:
            if not self._closing:
                self._lost = ConnectionLost(why)
                self._events.append({"event": DEVICE_FATAL, "fields": {}})
                os.eventfd_write(self.event_fd, 2)  # one stays: no later wait is long
            orphans = list(self._pending.values())
            self._pending.clear()
        for pending in orphans:
            pending.future.set_exception(ConnectionLost(f"{pending.op}: {why}"))
        if self._sock:
            self._sock.close()
        if self._dealer:
            self._dealer.close()


# ---- making one


def connect(
    where: str | os.PathLike[str] | None = None, *, name: str = "", wants: bool = False, zeromq: bool = True,
    timeout: float = DEFAULT_TIMEOUT,
) -> Connection:  # fmt: skip
    """A local session at the node in `where` (default: `directory()`).

    wants: MR_REVOKING, MR_REVOKED, MR_RESTORED are delivered. zeromq=False: everything goes through the door.
    Raises ConnectionLost (no broker), RequestRefused (another user's, version), WireError.
    """
    sock = door.connect(str(directory(where) / "door"))
    dealer: Dealer | None = None
    welcome = Answer({})
    try:
        sock.settimeout(timeout)
        hello = codec.encode_request("hello", 1, {"version": codec.VERSION, "name": name, "wants": wants})
        welcome = _ask_door(sock, hello)
        if zeromq:
            dealer = Dealer(welcome.result["zmq"])
            dealer.ask(
                codec.encode_request("bind", 2, {"version": codec.VERSION, "token": welcome.result["token"]}),
                timeout,
            )
        return Connection(sock, dealer, welcome)
    except BaseException:
        sock.close()
        _close_all(welcome.descriptors)
        if dealer:
            dealer.close()
        raise


def connect_remote(address: str, *, name: str = "", timeout: float = DEFAULT_TIMEOUT) -> Connection:
    """A session without a door, as tcp://127.0.0.1:7000: it controls, and owns no memory."""
    dealer = Dealer(address)
    try:
        hello = codec.encode_request("hello", 1, {"version": codec.VERSION, "name": name, "wants": False})
        return Connection(None, dealer, dealer.ask(hello, timeout))
    except BaseException:
        dealer.close()
        raise


class Dealer:
    """A DEALER socket with its context; one thread at a time."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._context = zmq.Context(io_threads=1)
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.SNDHWM, 10_000)
        self.socket.setsockopt(zmq.RCVHWM, 100_000)
        try:
            self.socket.connect(address)
        except zmq.ZMQError as error:
            self.close()
            raise WireError(error.errno or errno.EINVAL, f"{address}: {error}", definite=True) from None

    def send(self, raw: bytes) -> None:
        self.socket.send(raw)

    def drain(self) -> Iterator[bytes]:
        """What has arrived."""
        with suppress(zmq.Again):
            while True:
                yield self.socket.recv(zmq.NOBLOCK)

    def ask(self, raw: bytes, timeout: float) -> Answer:
        """The first exchange."""
        self.send(raw)
        if not self.socket.poll(int(timeout * 1000)):
            raise ConnectionLost(f"{self.address}: no answer in {timeout:g} s", errno.ETIMEDOUT)
        return _answer(codec.decode_answer(self.socket.recv()), ())

    def close(self) -> None:
        self.socket.close(linger=0)
        self._context.term()


def refusal(message: dict[str, Any]) -> RequestRefused:
    """The error that a reply carries."""
    return RequestRefused(errno_number(message["errno"]), message["error"], definite=message["definite"])


def _ask_door(sock: socket.socket, raw: bytes) -> Answer:
    try:
        door.send(sock, raw)
        packet = door.receive(sock)
    except TimeoutError:
        raise ConnectionLost("the broker does not answer", errno.ETIMEDOUT, definite=True) from None
    except OSError as error:
        raise ConnectionLost(f"the broker hung up: {error.strerror}", definite=True) from None
    if packet is None:
        raise ConnectionLost("the broker hung up", definite=True)
    return _answer(codec.decode_answer(packet.data), packet.descriptors)


def _answer(message: dict[str, Any], descriptors: tuple[int, ...]) -> Answer:
    if not message.get("ok"):
        _close_all(descriptors)
        raise refusal(message)
    return Answer(message["result"], descriptors)


def _readable(sock: socket.socket) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
