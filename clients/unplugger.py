"""The unplugger: takes a pmem device away, in order or by surprise, and puts a new one in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emu.clients.reclaimer import Reclaimer, timed

if TYPE_CHECKING:
    from emu.clients.talk import Command


class Unplugger(Reclaimer):
    """A reclaimer of whole devices."""

    name = "unplugger"

    def do_unplug(self, *, device: str, surprise: bool, retries: int, **_: Any) -> Command:
        return self.insist(lambda: self.ctx.fs.unplug(device, surprise), retries)

    def do_plug(self, *, device: str, **_: Any) -> Command:
        """A new, empty namespace at the same addresses."""
        return {"tries": [timed(lambda: self.ctx.fs.plug(device))]}


if __name__ == "__main__":
    Unplugger().main()
