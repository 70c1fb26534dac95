"""The roots of all verbs objects: printing, closing, and who is closed before whom.

Order of closing, as in pyverbs: whoever uses an object holds it, the object knows its users by weak reference and closes them
first. So `ctx.close()`, the end of a `with`, or letting go of everything in any order ends with every object closed
once. An object that is let go without close() is closed by the garbage collector; then the request is put off until the
context is not in the middle of another one (device.Context.put_off).
"""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING, Self, TypeVar

from emu.verbs.pyverbs_error import PyverbsRDMAError, PyverbsUserError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from weakref import WeakSet

T = TypeVar("T", bound="PyverbsCM")


class PyverbsObject:
    """Root of all objects. Those with __slots__ refuse attributes that they do not have."""

    __slots__ = ()

    @property
    def logger(self) -> logging.Logger:
        return logging.getLogger(type(self).__name__)

    def set_log_level(self, val: int | str) -> None:
        self.logger.setLevel(val)


class PyverbsCM(PyverbsObject):
    """Objects that are closed: by close(), at the end of a `with`, or by those they depend on."""

    __slots__ = ()
    unacknowledged = 0  # asynchronous events about it that the program took and has not acknowledged

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Idempotent."""


def close_weakrefs(iterables: Iterable[WeakSet[PyverbsCM]]) -> None:
    """Close each object that is still alive, set by set."""
    for users in iterables:
        for user in list(users):
            user.close()
        users.clear()


def refuse_unacknowledged(element: PyverbsCM) -> None:
    """Verbs would hang here until the program acknowledges; emu says so instead. Raises EBUSY."""
    if element.unacknowledged:
        raise PyverbsRDMAError(
            f"{type(element).__name__} has {element.unacknowledged} asynchronous events that were taken and not "
            "acknowledged: call event.ack() before closing it", errno.EBUSY
        )  # fmt: skip


def closed(what: str) -> PyverbsUserError:
    return PyverbsUserError(f"this {what} is closed; create another one")


def lines(title: str, rows: Iterable[tuple[str, object]]) -> str:
    """The table that str() of a verbs object gives."""
    body = "".join(f"{name:22}: {value!s:<20}\n" for name, value in rows)
    return f"{title}\n{body}" if title else body
