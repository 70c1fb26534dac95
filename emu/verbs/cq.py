"""Completion queues. `poll` looks into shared memory and never sleeps; `wait` (emu's own) sleeps until there is something to poll.

A completion frees the entries of its work queue up to its own, unsignaled ones included: they can be posted again once it
has been *polled*.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING
from weakref import WeakSet

from emu.engine.ring import Closed, Completion, CompletionQueue
from emu.verbs import enums as e
from emu.verbs.base import PyverbsCM, PyverbsObject, close_weakrefs, closed, lines, refuse_unacknowledged
from emu.verbs.pyverbs_error import PyverbsRDMAError

if TYPE_CHECKING:
    from emu.verbs.device import Context

SLICE = 0.05  # seconds between two looks at the broker while sleeping: the futex is woken by completions only
STATUS = tuple(e.ibv_wc_status)
TEXT = {
    e.IBV_WC_SUCCESS: "success",
    e.IBV_WC_LOC_LEN_ERR: "local length error",
    e.IBV_WC_LOC_QP_OP_ERR: "local QP operation error",
    e.IBV_WC_LOC_PROT_ERR: "local protection error",
    e.IBV_WC_WR_FLUSH_ERR: "work request flushed",
    e.IBV_WC_LOC_ACCESS_ERR: "local access error",
    e.IBV_WC_REM_INV_REQ_ERR: "remote invalid request",
    e.IBV_WC_REM_ACCESS_ERR: "remote access error",
    e.IBV_WC_REM_OP_ERR: "remote operation error",
    e.IBV_WC_RETRY_EXC_ERR: "transport retry counter exceeded",
    e.IBV_WC_RNR_RETRY_EXC_ERR: "receiver not ready, retry counter exceeded",
    e.IBV_WC_FATAL_ERR: "fatal error",
    e.IBV_WC_GENERAL_ERR: "general error",
}


def cqe_status_to_str(status: int) -> str:
    """A completion status in words."""
    if not 0 <= status < len(STATUS):
        return f"unknown status {status}"
    return TEXT.get(STATUS[status], STATUS[status].name)


class WC(PyverbsObject):
    """A completion. Unless status is IBV_WC_SUCCESS only wr_id, status, qp_num and vendor_err hold."""

    __slots__ = (
        "byte_len", "dlid_path_bits", "imm_data", "opcode", "pkey_index", "qp_num", "sl", "slid", "src_qp", "status",
        "vendor_err", "wc_flags", "wr_id",
    )  # fmt: skip

    def __init__(
        self,
        wr_id: int = 0,
        status: int = 0,
        opcode: int = 0,
        vendor_err: int = 0,
        byte_len: int = 0,
        qp_num: int = 0,
        src_qp: int = 0,
        imm_data: int = 0,
        wc_flags: int = 0,
        pkey_index: int = 0,
        slid: int = 0,
        sl: int = 0,
        dlid_path_bits: int = 0,
    ) -> None:
        self.wr_id, self.opcode, self.vendor_err, self.byte_len = wr_id, opcode, vendor_err, byte_len
        self.status: int = STATUS[status] if 0 <= status < len(STATUS) else status
        self.qp_num, self.src_qp, self.imm_data, self.wc_flags = qp_num, src_qp, imm_data, wc_flags
        self.pkey_index, self.slid, self.sl, self.dlid_path_bits = pkey_index, slid, sl, dlid_path_bits

    def __str__(self) -> str:
        rows = [("WR ID", self.wr_id), ("status", cqe_status_to_str(self.status)), ("opcode", self.opcode)]
        rows += [("vendor error", self.vendor_err), ("byte length", self.byte_len), ("QP num", self.qp_num)]
        return lines("", [*rows, ("source QP", self.src_qp), ("WC flags", self.wc_flags)])


class CQ(PyverbsCM):
    """A completion queue of at least `cqe` entries. When it overflows, all its queue pairs go to ERR (event CQ_ERR)."""

    def __init__(
        self,
        creator: Context,
        cqe: int,
        cq_context: object = None,
        channel: object = None,
        comp_vector: int = 0,
    ) -> None:
        self._handle: int | None = None
        if channel is not None or comp_vector != 0:
            raise PyverbsRDMAError("there are no completion channels: use cq.wait(timeout)", errno.EOPNOTSUPP)
        self.context, self.cqe, self.cq_context = creator, cqe, cq_context
        self.qps: WeakSet[PyverbsCM] = WeakSet()
        answer = creator.call("create_cq", cqe=cqe)
        self._handle = int(answer.result["handle"])
        try:
            self.ring = CompletionQueue(answer.descriptors[0])
        finally:
            for fd in answer.descriptors:
                os.close(fd)
        creator.cqs.add(self)
        creator.register("cq", self._handle, self)

    @property
    def handle(self) -> int:
        if self._handle is None:
            raise closed("CQ")
        return self._handle

    def poll(self, num_entries: int = 1) -> tuple[int, list[WC]]:
        """(number, completions): those that are there, at most num_entries. Nothing there and the broker gone: EIO."""
        self.handle  # noqa: B018 - refuses a closed one
        self.context.session.check_process()
        completions: list[WC] = []
        while len(completions) < num_entries:
            try:
                taken = self.ring.poll(num_entries - len(completions))
            except Closed:
                if completions:
                    break  # what was taken before another thread closed it
                raise closed("CQ") from None
            if not taken:
                break
            completions += map(self._take, taken)
        if not completions:
            self.context.session.check()
        return len(completions), completions

    def _take(self, c: Completion) -> WC:
        qp = self.context.numbered.get(c.qp_num)
        if qp is not None:
            qp.ring.release(c.is_recv, c.wq_head)
        return WC(
            c.wr_id, c.status, c.opcode, c.vendor_err, c.byte_len, c.qp_num, c.src_qp, c.imm_data, c.wc_flags
        )  # fmt: skip

    def wait(self, timeout: float | None = None) -> bool:
        """Of emu's own: sleep until there is a completion (True) or `timeout` seconds have passed (False). EIO: the broker is gone."""
        self.handle  # noqa: B018 - refuses a closed one
        self.context.session.check_process()
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            left = SLICE if end is None else min(SLICE, end - time.monotonic())
            try:
                if self.ring.wait(max(0.0, left)):
                    return True
            except InterruptedError:
                continue  # Python has run the handler, which did not raise
            except Closed:
                raise closed("CQ") from None
            self.context.session.check()
            if end is not None and time.monotonic() >= end:
                return False

    def purge(self, qp_num: int) -> None:
        """Drop what was not polled of a queue pair that is empty or gone."""
        with suppress(Closed):  # by another thread: nothing is left to drop
            self.ring.purge(qp_num)

    def close(self) -> None:
        """Close its queue pairs, then itself. In a forked child only the copy is let go."""
        if self._handle is None:
            return
        if self.context.foreign:
            self._handle = None
            return
        refuse_unacknowledged(self)
        close_weakrefs([self.qps])
        handle, self._handle = self._handle, None
        try:
            self.context.destroy("destroy_cq", handle)
        except PyverbsRDMAError:
            self._handle = self.context.kept(handle)
            raise
        finally:
            if self._handle is None:
                self.ring.close()

    def __del__(self) -> None:
        handle = getattr(self, "_handle", None)
        if handle is not None:
            self.context.put_off("destroy_cq", handle)

    def __str__(self) -> str:
        return lines("CQ", [("Handle", self.handle), ("CQEs", self.cqe)])
