"""A live engine belongs in a process of its own (its SIGBUS handler must not meet pytest's): `in_process` runs a script there."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

PRELUDE = """
import os, select
from emu.engine.broker import GONE, VACANT, Engine, EventKind, MrState, hold_points, memfd
from emu.engine.ring import CompletionQueue, ContextPage, Memory, PostError, QueuePair, Sge, WorkRequest, stamp_fill

INIT = (1 | 8 | 16 | 32, {"state": 1, "port": 1, "access": 0xF})
RTS = (1 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 16 | 1 << 13, {"state": 3, "timeout": 8, "retry_cnt": 2, "rnr_retry": 2})
SIZE = 1 << 20
SIGNALED, WRITE, SEND = 2, 0, 2


def rtr(peer):
    mask = 1 | 1 << 7 | 1 << 8 | 1 << 20 | 1 << 12 | 1 << 17 | 1 << 15
    return mask, {"state": 2, "path_mtu": 5, "dest_qpn": peer, "min_rnr_timer": 1}


class End:
    def __init__(self, engine):
        self.ctx = engine.ctx_add()
        self.page = ContextPage(self.ctx.ctx_fd, self.ctx.bell_fd)
        made = engine.cq_add(self.ctx.slot, 64)
        self.cq_number, self.cq = made.number, CompletionQueue(made.fd)
        self.made = engine.qp_add(ctx=self.ctx.slot, pd=1, send_cq=made.number, recv_cq=made.number, max_send_wr=20,
                                  max_recv_wr=20, max_send_sge=3, max_recv_sge=3)
        self.num, self.qp = self.made.qp_num, QueuePair(self.page, self.made.fd)
        for fd in (self.ctx.ctx_fd, self.ctx.bell_fd, made.fd, self.made.fd):
            os.close(fd)

    def next(self):
        assert self.cq.wait(30)
        (wc,) = self.cq.poll(1)
        self.qp.release(wc.is_recv, wc.wq_head)
        return wc


def pair(engine):
    a, b = End(engine), End(engine)
    for end, peer in ((a, b), (b, a)):
        engine.qp_modify(end.num, *INIT)
        engine.qp_modify(end.num, *rtr(peer.num))
        engine.qp_modify(end.num, *RTS)
    return a, b


def memory(engine, key, size=SIZE, access=7):
    fd = memfd("test", size)
    aperture = engine.aperture_add(fd, size)
    memory = Memory(size)
    memory.map(fd, [[0, size]])
    os.close(fd)
    engine.mr_install(key=key, pd=1, access=access, importer=0, aperture=aperture, iova=memory.addr, length=size,
                      extents=[(0, size)])
    return memory, aperture


def event(engine, kind):
    while True:
        assert select.select([engine], [], [], 30)[0], f"no event {kind!r} came"
        for found in engine.events():
            if found.kind == kind:
                return found
"""


@pytest.fixture
def in_process():
    def run(script: str) -> str:
        source = PRELUDE + textwrap.dedent(script)
        done = subprocess.run(
            [sys.executable, "-c", source], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, f"the script ended with {done.returncode}:\n{done.stderr}"
        return done.stdout

    return run
