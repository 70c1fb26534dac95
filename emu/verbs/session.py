"""A context's session with its broker, as the verbs objects use it: errors become pyverbs', forked copies are refused, and what the
garbage collector wants destroyed waits until nobody is in the middle of a call.

The wire's Connection does the talking (a thread of its own sorts answers and events); this file only adapts it.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from emu.verbs.pyverbs_error import PyverbsRDMAError, PyverbsUserError
from emu.wire import client
from emu.wire.errors import ConnectionLost, WireError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SESSIONS: WeakSet[Session] = WeakSet()


class Session:
    """One door, one ZeroMQ session. `lost`: the broker is gone, only close() is left."""

    def __init__(self, directory: str, label: str, wants: bool) -> None:
        self._pid, self._closed = os.getpid(), False
        self._garbage: deque[tuple[str, dict[str, Any]]] = deque()
        try:
            self._connection = client.connect(directory, name=label, wants=wants)
        except WireError as error:
            raise PyverbsRDMAError(f"no context on the node in {directory}: {error}", error.errno) from None
        self.directory = directory
        self.device, self.number = self._connection.device, self._connection.session
        self.descriptors = self._connection.descriptors
        _SESSIONS.add(self)

    @property
    def lost(self) -> bool:
        return self._connection.lost

    @property
    def fatal(self) -> bool:
        """The context was destroyed, by a reclaim or with the NIC; the node is there."""
        return self._connection.fatal

    @property
    def over(self) -> bool:
        """What it made has ended with it, or is another process's."""
        return self._closed or self.foreign or self.lost or self.fatal

    @property
    def door(self) -> int:
        return self._connection.door

    @property
    def foreign(self) -> bool:
        """A forked child's copy of the parent's session."""
        return os.getpid() != self._pid

    def check_process(self) -> None:
        """Refuse a forked child."""
        if self.foreign:
            raise PyverbsUserError(
                f"this context was opened by process {self._pid} and cannot be used by its forked child: open a Context "
                "in the child (or start children by spawn)"
            )

    def check(self) -> None:
        """Refuse a forked child and a dead device."""
        self.check_process()
        if self.lost:
            raise PyverbsRDMAError(
                f"the broker in {self.directory} is gone: close this context and open another one",
                errno.EIO,
                definite=True,
            )

    def check_device(self) -> None:
        """Refuse to post to a device that is gone: the doorbell rings nowhere."""
        self.check()
        if self.fatal:
            raise PyverbsRDMAError(
                "the context was destroyed (DEVICE_FATAL): close it and open another one",
                errno.EIO,
                definite=True,
            )

    def call(
        self,
        op: str,
        descriptors: Sequence[int] = (),
        timeout: float | None = client.DEFAULT_TIMEOUT,
        **values: Any,
    ) -> client.Answer:
        """Ask and wait. Raises PyverbsRDMAError; EIO when the broker is or goes away."""
        self.check()
        self._sweep()
        with pyverbs_errors(op):
            return self._connection.call(op, descriptors=descriptors, timeout=timeout, **values)

    def start(self, op: str, descriptors: Sequence[int] = (), **values: Any) -> client.Pending:
        """Ask, and look at the answer later."""
        self.check()
        self._sweep()
        with pyverbs_errors(op):
            return self._connection.start(op, descriptors=descriptors, **values)

    def put_off(self, op: str, **values: Any) -> None:
        """For finalizers, which may run in the middle of any call: destroy this with the next call (or at close)."""
        self._garbage.append((op, values))

    def _sweep(self) -> None:
        while self._garbage:
            op, values = self._garbage.popleft()
            with suppress(
                WireError
            ):  # nobody is left who could be told; what could not be destroyed ends with the session
                self._connection.call(
                    op, **values
                )  # one by one: what depends on others was let go before them

    def next_event(self, timeout: float | None) -> dict[str, Any] | None:
        self.check_process()
        self._sweep()
        with pyverbs_errors("get_async_event"):
            return self._connection.next_event(timeout)

    @property
    def event_fd(self) -> int:
        return self._connection.event_fd

    def abandon(self) -> None:
        """In a forked child: this copy of the door must not keep the session alive beyond the parent."""
        self._connection.abandon()

    def close(self) -> None:
        """Hang up: the broker takes everything back. Idempotent; in a forked child only the copies are closed."""
        self._closed = True
        if not self.foreign:
            self._connection.close()


@contextmanager
def pyverbs_errors(what: str) -> Iterator[None]:
    """The wire's errors, with errno and sentence, as pyverbs' ones."""
    try:
        yield
    except ConnectionLost as error:
        raise PyverbsRDMAError(f"{what}: {error}", errno.EIO, definite=error.definite) from None
    except WireError as error:
        raise PyverbsRDMAError(f"{what}: {error}", error.errno, definite=error.definite) from None
    except OverflowError as error:
        raise PyverbsRDMAError(f"{what}: a number is beyond 64 bits: {error}", errno.EINVAL) from None


def _abandon() -> None:
    for session in _SESSIONS:
        session.abandon()


os.register_at_fork(after_in_child=_abandon)
