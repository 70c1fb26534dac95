"""Descriptors of host files that came through the door, by handle, until the core closes them."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from emu.core.events import HostFile
from emu.core.requests import RegMr, Request
from emu.host.files import is_regular, is_writable
from emu.wire.errors import Malformed

if TYPE_CHECKING:
    from collections.abc import Sequence


def wants_descriptor(op: Request) -> bool:
    """Whether the message has to carry the descriptor of a host file."""
    if isinstance(op, RegMr):
        return op.backing == "host"
    return bool(getattr(op, "host", False))


class HostFiles:
    def __init__(self) -> None:
        self._last = 0
        self._fds: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._fds)

    def take(self, descriptors: Sequence[int]) -> HostFile:
        """Keep the one descriptor of a request. Raises Malformed (and keeps nothing): EBADF, EINVAL."""
        if len(descriptors) != 1:
            raise Malformed(
                errno.EBADF,
                f"a request about a host file brings its descriptor through the door; {len(descriptors)} came",
            )
        fd = os.dup(descriptors[0])
        if not is_regular(fd):
            os.close(fd)
            raise Malformed(errno.EINVAL, "the descriptor is no regular file")
        found = os.fstat(fd)
        self._last += 1
        self._fds[self._last] = fd
        return HostFile(self._last, found.st_dev, found.st_ino, found.st_size, is_writable(fd), _label(fd))

    def fd(self, handle: int) -> int:
        """Raises OSError EBADF for a handle that is closed."""
        try:
            return self._fds[handle]
        except KeyError:
            raise OSError(errno.EBADF, f"no host file has handle {handle}") from None

    def close(self, handle: int) -> None:
        fd = self._fds.pop(handle, -1)
        if fd >= 0:
            os.close(fd)

    def close_all(self) -> None:
        for handle in list(self._fds):
            self.close(handle)


def _label(fd: int) -> str:
    """A name to show; what is no UTF-8 in it is replaced, since messages carry text."""
    return os.fsencode(os.readlink(f"/proc/self/fd/{fd}")).decode(errors="replace")  # noqa: PTH115
