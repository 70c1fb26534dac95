"""What every client of the control plane can answer: what files there are, where their bytes lie, how the blocks add up.

Taker, reclaimer and unplugger share this root; the lab asks whichever it has.
"""

from __future__ import annotations

import errno
from typing import Any

from emu.clients.links import open_node
from emu.clients.talk import Client, Command

from emu.verbs.pyverbs_error import PyverbsRDMAError


class Observer(Client):
    """A context without memory of its own."""

    name = "observer"

    def __init__(self) -> None:
        super().__init__()
        self.exported: dict[str, Any] = {}  # buffers live as long as somebody has them here

    def do_start(self, *, node: str, **_: Any) -> Command:
        self.ctx = open_node(node, self.name)
        return {}

    def do_survey(self, *, device: str, **_: Any) -> Command:
        """The files of a device with their extents, and the books. What lies on a device that is gone nobody can look at."""
        listing = self.ctx.fs.ls()
        stats = [self._stat(file["path"]) for file in listing["files"]]
        files = [
            {
                "path": s["path"],
                "ino": s["ino"],
                "size": s["size"],
                "extents": [list(e) for e in s["extents"]],
                "origin": s.get("origin", 0),
                **({"pages": [list(page) for page in s["pages"]]} if "pages" in s else {}),
            }
            for s in stats
            if s.get("device") == device
        ]
        return {
            "files": files,
            "out_of_reach": [s["path"] for s in stats if "device" not in s],
            "devices": listing["devices"],
            "mounts": listing["mounts"],
            "books": self.ctx.books(),
        }

    def _stat(self, path: str) -> Command:
        """Of a file, or of a buffer, which is a file of its own device; its name alone if the device is gone."""
        if path.startswith("/"):
            try:
                return dict(self.ctx.fs.stat(path))
            except PyverbsRDMAError as error:
                if error.errno != errno.ENODEV:
                    raise
                return {"path": path}
        return {**self.ctx.dmabuf.stat(path.removeprefix("dmabuf/")), "path": path}

    def do_export(self, *, buffer: str, size: int, **_: Any) -> Command:
        """A dma-buf of its own, for others to import."""
        self.exported[buffer] = self.ctx.dmabuf.create(buffer, size)
        return {}

    def close(self) -> None:
        self.ctx.close()
