"""What is due and when. Arming the same name again moves it; a name is a number of the core's or a text of the shell's."""

from __future__ import annotations

import heapq
import itertools
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

Name = int | str


class Timers:
    """Times are seconds of `clock`; `scale` multiplies what is armed (EMU_TIME_SCALE)."""

    def __init__(self, scale: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._scale, self._clock = scale, clock
        self._heap: list[tuple[float, int, Name]] = []
        self._armed: dict[Name, int] = {}
        self._serial = itertools.count()

    def arm(self, name: Name, seconds: float, *, scaled: bool = True) -> None:
        serial = next(self._serial)
        self._armed[name] = serial
        wait = seconds * self._scale if scaled else seconds
        heapq.heappush(self._heap, (self._clock() + wait, serial, name))

    def disarm(self, name: Name) -> None:
        """A name that is not armed is left alone."""
        self._armed.pop(name, None)

    def due(self, limit: int = 64) -> list[Name]:
        """Up to `limit` names whose time has come, earliest first; they are disarmed."""
        names: list[Name] = []
        now = self._clock()
        while len(names) < limit and self._heap and (self._stale() or self._heap[0][0] <= now):
            _, serial, name = heapq.heappop(self._heap)
            if self._armed.get(name) == serial:
                del self._armed[name]
                names.append(name)
        return names

    def wait(self) -> float | None:
        """Seconds until something is due; None: nothing is armed."""
        while self._heap and self._stale():
            heapq.heappop(self._heap)
        return max(0.0, self._heap[0][0] - self._clock()) if self._heap else None

    def _stale(self) -> bool:
        _, serial, name = self._heap[0]
        return self._armed.get(name) != serial
