"""What a small world tells whoever listens, so that a run of it leaves the history that a live one would.

`world.tape` is None, or one of these. Effects are the core's own objects (not the model's short tuples); peers count from 1, quanta from 0,
blocks are the device's. A world that is walked (explored) has no tape and pays one look at None for each of these calls.

A step's effects are carried out in order, whoever does it: an effect that the model does at once (Phase, Arm, Notify, ...) and does not
tell of is taken to happen right in front of the next one that it tells of, or with the step's last one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.core.effects import Effect
    from emu.core.events import Event
    from emu.core.machine import Change


class Tape(Protocol):
    """Called in the order in which it happens; whoever drives the world knows at what time."""

    def stepped(self, event: Event, effects: Sequence[Effect], delta: Sequence[Change]) -> None:
        """The core took the event and `delta` (core.delta() before core.committed()) was committed. Nothing of `effects` is carried out yet."""

    def carried(self, effect: Effect) -> None:
        """The shell carries out this effect of the last step, now."""

    def dropped(self) -> None:
        """What is left of the last step's effects is never carried out: the broker was killed."""

    def loaded(self, rows: Sequence[Change]) -> None:
        """A life of the broker begins, the first one too, with these durable rows (core.durable(), at a first start none). DeviceAdded,
        MountAdded and so on follow as steps; sessions, keys, requests and timers of the life before are gone.
        """

    def began(self, peer: int, key: int) -> None:
        """The peer posts a WRITE over the whole region under `key`."""

    def entered(self, peer: int, quantum: int, block: int, translated: int, now: int, absent: bool) -> None:
        """A quantum looks at its key, finds it live, and starts: generation at translation, and now."""

    def left(self, peer: int, quantum: int, block: int, translated: int, now: int, absent: bool) -> None:
        """Its last byte is there (or, absent, has vanished)."""

    def completed(self, peer: int, status: int) -> None:
        """The WRITE is over: IBV_WC_* (0 success, 10 REM_ACCESS_ERR when the key forbade the next quantum, 5 flushed)."""
