"""What an invalidation costs: how long the emulated hardware takes to say that it has stopped, beyond what our engine takes.

A real NIC's invalidation takes from about a microsecond to some milliseconds, and which protocol is least bad may hang on that. It is no fact of
this machine, so it is not assumed but swept (`emu broker --invalidation-cost`, `emu compare --sweep`): the answer to each Quiesce is held back
for that long. Answers of the engine keep their order, several of them wait at the same time, and EMU_TIME_SCALE does not touch them. A Quiesce
that is refused costs nothing, since no hardware has begun with it: its answer comes at once, and ahead of those that are held back.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.broker.timers import Timers
    from emu.core.events import Event

TIMER: Final = "invalidation"


class Invalidations:
    """cost: seconds; 0: answers go on at once."""

    def __init__(
        self,
        cost: float,
        timers: Timers,
        submit: Callable[[Event], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cost, self._timers, self._submit, self._clock = cost, timers, submit, clock
        self._held: deque[tuple[float, Event]] = deque()

    def answered(self, event: Event) -> None:
        """The engine has stopped."""
        if not self._cost:
            self._submit(event)
            return
        self._held.append((self._clock() + self._cost, event))
        if len(self._held) == 1:
            self._timers.arm(TIMER, self._cost, scaled=False)

    def due(self) -> None:
        """The timer has rung."""
        while self._held and self._held[0][0] <= self._clock():
            self._submit(self._held.popleft()[1])
        if self._held:
            self._timers.arm(TIMER, max(0.0, self._held[0][0] - self._clock()), scaled=False)
