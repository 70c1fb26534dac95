"""How fast emu is, each figure beside its limit measured in the same minute on the same machine.

A row's value is the median of ROUNDS rounds; its `against` is measured in turn with it, round by round, so that a noisy
neighbour slows both. Two limits: memcpy over buffers of the same size, and a bare ZeroMQ echo of a msgpack map between two processes,
which is what the control plane cannot beat. Nothing here decides a test.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import statistics
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import msgpack
import zmq

from emu.verbs import enums as e
from emu.verbs.cq import CQ
from emu.verbs.mr import MR
from emu.verbs.node import Node
from emu.verbs.pd import PD
from emu.verbs.qp import QP, QPAttr, QPCap, QPInitAttr
from emu.verbs.wr import SGE, SendWR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROUNDS = 7
ACCESS = e.IBV_ACCESS_LOCAL_WRITE | e.IBV_ACCESS_REMOTE_WRITE
DEPTH = 64
LARGEST = 1 << 20


@dataclass(frozen=True)
class Row:
    """One figure, as INTERFACE's `emu bench --json` has it. ratio = value / against_value; reach: the ratio aimed at."""

    name: str
    value: float
    unit: str
    against: str | None
    against_value: float | None
    ratio: float | None
    reach: float | None = None
    ok: bool | None = None
    note: str = ""


def timed(work: Callable[[], None], times: int) -> float:
    """Microseconds for one."""
    began = time.perf_counter_ns()
    for _ in range(times):
        work()
    return (time.perf_counter_ns() - began) / times / 1000


def compared(
    name: str, unit: str, ours: Callable[[], float], against: str, theirs: Callable[[], float], note: str
) -> Row:
    """Both in turn, medians."""
    pairs = [(ours(), theirs()) for _ in range(ROUNDS)]
    value, other = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    return Row(name, round(value, 3), unit, against, round(other, 3), round(ratio, 3), note=note)


class Bench:
    """A private node, and a queue pair connected to another in this process."""

    def __init__(self, stack: ExitStack) -> None:
        node = stack.enter_context(Node())
        self.ctx = stack.enter_context(node.context())
        self.pd, self.cq = PD(self.ctx), CQ(self.ctx, 2 * DEPTH)
        self.source = MR(self.pd, LARGEST, ACCESS)
        self.target = MR(self.pd, LARGEST, ACCESS)
        self.qp, self.peer = self._queue_pair(), self._queue_pair()
        self._connect(self.qp, self.peer)
        self._connect(self.peer, self.qp)

    def _queue_pair(self) -> QP:
        cap = QPCap(max_send_wr=DEPTH)
        return QP(self.pd, QPInitAttr(e.IBV_QPT_RC, scq=self.cq, rcq=self.cq, cap=cap, sq_sig_all=1))

    def _connect(self, qp: QP, other: QP) -> None:
        attr = QPAttr(dest_qp_num=other.qp_num, timeout=14, retry_cnt=7)
        attr.qp_access_flags = ACCESS
        qp.to_rts(attr)

    def request(self, size: int) -> SendWR:
        wr = SendWR(opcode=e.IBV_WR_RDMA_WRITE, num_sge=1, sg=[SGE(self.source.buf, size, self.source.lkey)])
        wr.set_wr_rdma(self.target.rkey, self.target.buf)
        return wr

    def drain(self, count: int) -> None:
        while count:
            got, completions = self.cq.poll(DEPTH)
            for wc in completions:
                if wc.status != e.IBV_WC_SUCCESS:
                    raise RuntimeError(f"a WRITE of the benchmark ended in {wc.status!r}")
            count -= got

    def one_write(self, size: int) -> float:
        """Microseconds from post to completion."""
        wr = self.request(size)

        def work() -> None:
            self.qp.post_send(wr)
            self.drain(1)

        return timed(work, 500)

    def pipelined(self, size: int, batches: int) -> float:
        """GB/s with DEPTH requests outstanding."""
        chain = [self.request(size) for _ in range(DEPTH)]

        def work() -> None:
            self.qp.post_send_batch(chain)
            self.drain(DEPTH)

        return size * DEPTH / timed(work, batches) / 1000

    def register(self) -> float:
        def work() -> None:
            MR(self.pd, 4096, ACCESS).close()

        return timed(work, 50)

    def truncate(self) -> float:
        """Microseconds of a truncate that revokes one MR."""
        total = 0.0
        for _ in range(20):
            self.ctx.fs.create("/mnt/bench", 65536)
            mr = MR(self.pd, 65536, ACCESS, file="/mnt/bench")
            began = time.perf_counter_ns()
            self.ctx.fs.truncate("/mnt/bench", 0)
            total += (time.perf_counter_ns() - began) / 1000
            mr.close()
            self.ctx.fs.unlink("/mnt/bench")
        return total / 20


def memcpy(size: int, batches: int) -> float:
    """GB/s between two buffers."""
    source, target = ctypes.create_string_buffer(size), ctypes.create_string_buffer(size)

    def work() -> None:
        for _ in range(DEPTH):
            ctypes.memmove(target, source, size)

    return size * DEPTH / timed(work, batches) / 1000


class Echo:
    """The bare round trip: msgpack over DEALER and ROUTER on ipc://, to another process."""

    def __init__(self, stack: ExitStack) -> None:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="emu-"))
        address = f"ipc://{folder}/echo"
        process = multiprocessing.get_context("spawn").Process(
            target=echo_server, args=(address,), daemon=True
        )
        process.start()
        stack.callback(process.join)
        context = stack.enter_context(zmq.Context())
        self.socket = stack.enter_context(context.socket(zmq.DEALER))
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(address)
        stack.callback(self.socket.send, b"")
        self.round_trip()

    def round_trip(self) -> None:
        self.socket.send(msgpack.packb({"op": "ping", "id": 1}))
        msgpack.unpackb(self.socket.recv())

    def measure(self) -> float:
        return timed(self.round_trip, 200)


def echo_server(address: str) -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.bind(address)
        while True:
            identity, raw = router.recv_multipart()
            if not raw:
                return
            router.send_multipart([identity, msgpack.packb(msgpack.unpackb(raw))])


def rows() -> Iterator[Row]:
    """Each row as soon as it is measured."""
    with ExitStack() as stack:
        bench, echo = Bench(stack), Echo(stack)
        control = "echo of a msgpack map over ZeroMQ, round trip"
        yield compared("WRITE 8 B, post to completion, Python", "us", lambda: bench.one_write(8), control, echo.measure,
                       "the data path leaves the control plane alone")  # fmt: skip
        for size, batches in ((4096, 60), (65536, 30), (LARGEST, 6)):
            yield compared(
                f"WRITE {size >> 10} KiB, pipelined, Python", "GB/s", lambda s=size, b=batches: bench.pipelined(s, b),  # type: ignore[misc]
                f"memcpy {size >> 10} KiB", lambda s=size, b=batches: memcpy(s, b), "one engine thread, history on",  # type: ignore[misc]
            )  # fmt: skip
        yield compared("reg_mr + dereg_mr, one at a time", "us", bench.register, control, echo.measure,
                       "two requests, a memfd, a grace period")  # fmt: skip
        yield compared("truncate that revokes one MR", "us", bench.truncate, control, echo.measure,
                       "gate, quiesce, unmap, commit, free")  # fmt: skip


def as_json(found: list[Row]) -> dict[str, Any]:
    return {"schema": 1, "cores": os.cpu_count(), "rounds": ROUNDS, "rows": [asdict(row) for row in found]}
