"""The tenant: a holder that lives through many reclaims. It registers its file, lets go when it hears that the memory is wanted back, and registers
anew when it is asked to. What a registration needs first (a lease, a mark) it gets by itself.

It says `gone` when it has let go, or has lost its context.
"""

from __future__ import annotations

import errno
import os
import select
import signal
from contextlib import suppress
from typing import Any

from emu.clients.links import REMOTE, connect, open_node, queue_pair
from emu.clients.talk import Client, Command

from emu.verbs.cq import CQ
from emu.verbs.mr import MR
from emu.verbs.pd import PD
from emu.verbs.pyverbs_error import PyverbsError, PyverbsRDMAError

NOTICES = ("MR_REVOKING", "MR_REVOKED")


class Tenant(Client):
    """One file, one MR at a time, the passive end of one queue pair at a time."""

    def __init__(self) -> None:
        self._heard, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGIO, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self.mr: MR | None = None
        self.ctx: Any = None
        super().__init__()

    def do_start(self, *, node: str, path: str, mount: str, length: int, **_: Any) -> Command:
        self.node, self.path, self.length = node, path, length
        self._open()
        self.needs = str(self.ctx.call("protocol", mount=mount, name="").result.get("needs", ""))
        return {}

    def _open(self) -> None:
        self.ctx = open_node(self.node, "tenant", events=True)
        self.pd = PD(self.ctx)
        self.cq = CQ(self.ctx, 64)

    def do_register(self, **_: Any) -> Command:
        """A registration and a queue pair of its own: {qp, rkey, addr}, or {refused: errno's name}."""
        self._let_go()
        if self.ctx is None:
            self._open()
        try:
            self._prepare()
            self.mr = MR(self.pd, self.length, REMOTE, file=self.path)
        except PyverbsRDMAError as error:
            return {"refused": errno.errorcode.get(error.errno, str(error.errno))}
        self.qp = queue_pair(self.pd, self.cq, 4)
        return {"qp": self.qp.qp_num, "rkey": self.mr.rkey, "addr": self.mr.buf}

    def _prepare(self) -> None:
        if self.needs == "lease":
            self.ctx.fs.lease(self.path, "exclusive")
        elif self.needs == "mark":
            self.ctx.fs.mark(self.path, True)

    def do_connect(self, *, other: int, **_: Any) -> Command:
        connect(self.qp, other)
        return {}

    # ---- living

    def step(self) -> None:
        watched = [self.talk.wake, self._heard] + ([self.ctx.session.event_fd] if self.ctx else [])
        ready = select.select(watched, [], [])[0]
        if self._heard in ready:
            os.read(self._heard, 64)
            self._vacate()
        if len(watched) == 3 and watched[2] in ready:
            self._told()
        command = self.talk.hear(0)
        if command is not None:
            self.obey(command)

    def _told(self) -> None:
        try:
            event = self.ctx.get_async_event(timeout=0)
        except PyverbsError:
            self._lost()
            return
        if event is None:
            return
        event.ack()
        name = event.event_type.name
        if any(name.endswith(notice) for notice in NOTICES):
            self._vacate()
        elif name.endswith("DEVICE_FATAL"):
            self._lost()

    def _vacate(self) -> None:
        if self.mr is not None:
            self._let_go()
            self.talk.note("gone")

    def _let_go(self) -> None:
        mr, self.mr = self.mr, None
        if mr is not None:
            with suppress(PyverbsError):  # of a context that was destroyed nothing is left to give back
                mr.close()

    def _lost(self) -> None:
        """The context is dead: all of it goes, and another is opened when somebody wants a registration."""
        self.mr = None
        ctx, self.ctx = self.ctx, None
        with suppress(PyverbsError):
            ctx.close()
        self.talk.note("gone")

    def close(self) -> None:
        if self.ctx is not None:
            self.ctx.close()


if __name__ == "__main__":
    Tenant().main()
