"""Guarded host files: one kernel lease an aperture, kept on the description that the client passed (emu/host/filelease.py).

OpenHost(guard) -> take -> Answered{guarded, why}      SIGIO -> LeaseBroken each -> ... -> YieldLease: the foreign program goes on
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from emu.core.events import LeaseBroken
from emu.host import filelease

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.core.events import Event


class Guards:
    """Descriptors of guarded files by the core's aperture; `broken` after a SIGIO."""

    def __init__(self) -> None:
        self._held: dict[int, int] = {}
        self._told: set[int] = set()

    def __len__(self) -> int:
        return len(self._held)

    def take(self, aperture: int, fd: int) -> dict[str, Any]:
        """What the core is answered: {guarded, why}. The descriptor stays the caller's."""
        ours = os.dup(fd)
        if why := filelease.take(ours):
            os.close(ours)
            return {"guarded": False, "why": why}
        self._held[aperture] = ours
        return {"guarded": True, "why": ""}

    def broken(self, submit: Callable[[Event], None]) -> None:
        """Tell the core of each lease that somebody breaks, once."""
        for aperture, fd in self._held.items():
            found = filelease.state(fd)
            if found != filelease.HELD and aperture not in self._told:
                self._told.add(aperture)
                submit(LeaseBroken(aperture, taken=found == filelease.TAKEN))

    def give_back(self, aperture: int) -> None:
        """The foreign program goes on; the file is unguarded from here on."""
        fd = self._held.pop(aperture, -1)
        self._told.discard(aperture)
        if fd >= 0:
            try:
                filelease.give_back(fd)
            finally:
                os.close(fd)

    def close(self) -> None:
        for aperture in list(self._held):
            self.give_back(aperture)
