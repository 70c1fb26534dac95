"""The unplugger: takes a device away, in order or by surprise, a pmem device, the NIC or a mount, and puts a new device in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emu.clients.asks import timed
from emu.clients.reclaimer import Reclaimer

if TYPE_CHECKING:
    from emu.clients.talk import Command


class Unplugger(Reclaimer):
    """A reclaimer of whole devices."""

    name = "unplugger"

    def do_plug(self, *, device: str, **_: Any) -> Command:
        """A new, empty namespace at the same addresses."""
        return {"tries": [timed(lambda: self.ctx.fs.plug(device))]}

    def do_mount(self, *, mount: str, device: str, protocol: str, dax: bool, **_: Any) -> Command:
        """The same device at the same place again."""
        return {"tries": [timed(lambda: self.ctx.fs.mount(mount, device, protocol, dax))]}


if __name__ == "__main__":
    Unplugger().main()
