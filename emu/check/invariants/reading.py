"""A history's lines, read once, and kept with the history: `read(history)`. No judgement is made here.

One pass, one method for each type of line, in four parts: read_files.py, read_keys.py, read_reclaims.py, read_changes.py. If you add a type of line:
its method, a row of the table at the end, docs/invariants.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from emu.check.invariants.read_changes import Changes
from emu.check.invariants.reclaims import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from emu.check.history import History
    from emu.check.invariants.rows import Json
    from emu.check.invariants.timeline import Reading


def read(history: History) -> Reading:
    """At the first call; the same Reading afterwards."""
    return history.once(_read)


def _read(history: History) -> Reading:
    reader = Reader()
    for line in history.events:
        if line["kind"] == "gap":
            break
        if line.get("type") == "Loaded":
            reader = reader.reborn(line)
        reader.line(line)
    reader.close(last=True)
    reader.found.files = reader.files
    return reader.found


@dataclass
class Reader(Changes):
    """One life of the broker, line by line."""

    def reborn(self, line: Json) -> Reader:
        """Nothing of an earlier life is there but what the line loads."""
        self.close(last=True)
        at = self.place(line)
        for mapped in self.keys.values():
            mapped.died = at
        life = self.life + 1
        return Reader(self.found, step=self.step, life=life, turn=Step(life, None), files=self.files)

    def line(self, line: Json) -> None:
        event = line["kind"] == "event"
        if event:
            self._next(line)
        self.turn.lines.append(line)
        read, placed = _LINES.get(line["type"]), event or line["type"] in _PLACED
        if read is None and not placed:
            return
        self.here = self.found.last = self.place(line)
        if placed:
            self.found.places[self.here.n] = self.here
        if read is not None:
            read(self, line)

    def _next(self, event: Json) -> None:
        """Another step."""
        self.close(last=False)
        self.turn = Step(self.life, event)
        self.step += 1
        self.stepping = self.acting = self.asking = self.fencing = self.request = None
        self.answer = {}


_PLACED = frozenset(
    {
        "Notify",
        "Reply",
        "Restore",
        "InstallKey",
        "Remap",
        "DropRight",
        "FenceRight",
        "GrantRight",
        "ReturnRight",
    }
)
_LINES: Mapping[str, Callable[[Reader, Json], None]] = {
    "Loaded": Reader.loaded,
    "Commit": Reader.committed,
    "SessionOpened": Reader.opened,
    "SessionLost": Reader.lost,
    "EndSession": Reader.end_session,
    "MountAdded": Reader.mounted,
    "OpenDevice": Reader.device_opened,
    "MapPages": Reader.map_pages,
    "Requested": Reader.requested,
    "Undone": Reader.undone,
    "PutBack": Reader.undone,
    "Defect": Reader.undone,
    "Reply": Reader.reply,
    "Fail": Reader.fail,
    "InstallKey": Reader.install,
    "Remap": Reader.remap,
    "KeyInstalled": Reader.installed,
    "Quiesce": Reader.ask,
    "FenceRight": Reader.ask,
    "Invalidate": Reader.ask,
    "Answered": Reader.done,
    "Unmap": Reader.ask,
    "Quiesced": Reader.answered,
    "RightFenced": Reader.answered,
    "Unmapped": Reader.answered,
    "RemoveKey": Reader.remove,
    "Release": Reader.hand,
    "Allocate": Reader.hand,
    "Zero": Reader.applying,
    "HostTruncate": Reader.applying,
    "PageOut": Reader.applying,
    "HostPunch": Reader.applying,
    "Offline": Reader.offline,
    "Online": Reader.online,
    "Phase": Reader.phase,
}
