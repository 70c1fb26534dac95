"""The loop's face of the history, and the epoch: one counter that orders what the core orders and what engine threads do.

The epoch advances at every Phase, Allocate, Share, Release, Poison, Offline, Online, Remap; the line of such an effect carries the new number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emu.core.effects import Allocate, Offline, Online, Phase, Poison, Release, Remap, Share
from emu.history.events import fields_of

if TYPE_CHECKING:
    from emu.core.effects import Effect
    from emu.core.events import Event
    from emu.core.machine import Change
    from emu.engine.broker import Engine
    from emu.history.events import EventsWriter

_ADVANCING = (Phase, Allocate, Share, Release, Poison, Offline, Online, Remap)


class Record:
    """Without a writer nothing is kept, but the epoch advances all the same."""

    def __init__(self, engine: Engine, writer: EventsWriter | None) -> None:
        self._engine, self.writer = engine, writer
        self.epoch = engine.epoch
        self.events = 0  # told to the core in this life

    def event(self, event: Event) -> None:
        self.events += 1
        if self.writer:
            self.writer.note("event", self.epoch, event)

    def effect(self, effect: Effect) -> None:
        """Before the effect is carried out."""
        if isinstance(effect, _ADVANCING):
            self.epoch = self._engine.epoch_advance()
        if self.writer:
            values = fields_of(effect)
            if isinstance(effect, Phase):
                values["inflight"] = self._engine.mr_inflight(effect.keys) if effect.keys else 0
            self.writer.line("effect", self.epoch, type(effect).__name__, values)

    def durable(self, delta: list[Change]) -> None:
        """What has just become durable. Its rows are plain already: nothing is copied for the line."""
        if self.writer:
            self.writer.line("commit", self.epoch, "Commit", {"changes": len(delta), "delta": delta})

    def loaded(self, rows: list[Change]) -> None:
        """A life begins, with the durable rows that it found."""
        if self.writer:
            self.writer.line("commit", self.epoch, "Loaded", {"changes": len(rows), "delta": rows})

    def shell(self, name: str, **values: Any) -> None:
        """What the shell itself has to say."""
        if self.writer:
            self.writer.line("shell", self.epoch, name, values)

    def ended(self) -> None:
        """The last line of a life that came to a clean end: a history without it has lost its tail, or was cut off."""
        self.shell("Ended", events=self.events)
        self.flush()

    def flush(self) -> None:
        if self.writer:
            self.writer.flush()
