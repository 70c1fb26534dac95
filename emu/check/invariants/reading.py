"""A history's lines, read once, and kept with the history: `read(history)`. No judgement is made here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.check.invariants.reader import Reader

if TYPE_CHECKING:
    from emu.check.history import History
    from emu.check.invariants.timeline import Reading


def read(history: History) -> Reading:
    """At the first call; the same Reading afterwards."""
    return history.once(_read)


def _read(history: History) -> Reading:
    reader = Reader()
    for line in history.events:
        if line.get("type") == "Loaded":
            reader = reader.reborn(line)
        reader.line(line)
    return reader.found
