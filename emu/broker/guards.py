"""Guarded host files: one kernel lease an aperture, kept on the description that the client passed (emu/host/filelease.py).

OpenHost(guard) -> take -> Answered{guarded, why}      SIGIO -> LeaseBroken each -> ... -> YieldLease: the foreign program goes on
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from emu.core.events import LeaseBroken
from emu.host import filelease

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.broker.timers import Timers
    from emu.core.events import Event


TIMER: Final = "guards"
LOOK: Final = 0.05  # seconds; the kernel waits for 45


class Guards:
    """Descriptors of guarded files by the core's aperture; while there are some, the timer rings."""

    def __init__(self, timers: Timers) -> None:
        self._timers = timers
        self._held: dict[int, int] = {}
        self._told: set[int] = set()

    def __len__(self) -> int:
        return len(self._held)

    def take(self, aperture: int, fd: int) -> dict[str, Any]:
        """What the core is answered: {guarded, why}. The descriptor stays the caller's."""
        try:
            ours = os.dup(fd)
        except OSError as error:
            return {"guarded": False, "why": f"no descriptor is left to hold it by ({error.strerror})"}
        if why := filelease.take(ours):
            os.close(ours)
            return {"guarded": False, "why": why}
        self._held[aperture] = ours
        self._timers.arm(TIMER, LOOK, scaled=False)
        return {"guarded": True, "why": ""}

    def look(self, submit: Callable[[Event], None]) -> None:
        """Tell the core of each lease that somebody breaks, once."""
        if self._held:
            self._timers.arm(TIMER, LOOK, scaled=False)
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
