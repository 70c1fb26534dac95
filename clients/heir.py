"""The heir: is handed the descriptor of somebody's context, and holds it. It asks nothing, answers nothing, and reads nothing from it.

Whoever has the descriptor keeps the session, and every pin of it, alive, though another process opened it: what V25 asks about. Times are
CLOCK_MONOTONIC ns, for the lines Holds and LetsGo of a run.
"""

from __future__ import annotations

import os
import socket
import time
from typing import Any

from emu.clients.talk import Client, Command

WAITS = 60.0  # seconds for the one who hands over


def hand_over(door: int, path: str, session: int) -> None:
    """For whoever opened: a copy of the context's descriptor to the heir that listens at `path`. Raises OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as to:
        to.connect(path)
        socket.send_fds(to, [str(session).encode()], [door])


class Heir(Client):
    """One descriptor at most."""

    held = -1

    def do_start(self, *, path: str, **_: Any) -> Command:
        """Listen at `path`."""
        self.path, self.listener = path, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.settimeout(WAITS)
        self.listener.bind(path)
        self.listener.listen(1)
        return {}

    def do_take(self, **_: Any) -> Command:
        """Wait for whoever hands over. session: as he calls it; t: from when on it is held."""
        sock, _where = self.listener.accept()
        with sock:
            said, descriptors, _flags, _from = socket.recv_fds(sock, 64, 1)
        self.held = descriptors[0]
        self.listener.close()
        os.unlink(self.path)  # noqa: PTH108 - a text
        return {"session": int(said), "t": time.monotonic_ns()}

    def do_let_go(self, **_: Any) -> Command:
        """Close it. t: until when it was held."""
        now = time.monotonic_ns()
        self.close()
        return {"t": now}

    def close(self) -> None:
        if self.held >= 0:
            os.close(self.held)
            self.held = -1


if __name__ == "__main__":
    Heir().main()
