"""Queue pairs: created through the broker, moved through their states by it; posted to through shared memory alone.

States, and what each step must bring along (csrc/include/emu/rules.h holds the rules themselves):

    RESET --to_init--> INIT --to_rtr--> RTR --to_rts--> RTS      any --> ERR, RESET
            port,        path, MTU, dest_qp_num,  timeout, retry_cnt,
            access       rq_psn, ...              rnr_retry, sq_psn, ...
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

from emu.engine.ring import Closed, PostError, QueuePair
from emu.verbs import enums as e
from emu.verbs.addr import AHAttr
from emu.verbs.base import PyverbsCM, PyverbsObject, closed, lines, refuse_unacknowledged
from emu.verbs.pd import PD
from emu.verbs.pyverbs_error import PyverbsRDMAError, PyverbsUserError
from emu.verbs.wr import RecvWR, SendWR, W, chain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from emu.engine.ring import WorkRequest
    from emu.verbs.cq import CQ

# mask bit, attribute here, attribute in a message (struct emu_qp_attr)
ATTRIBUTES = (
    (e.IBV_QP_STATE, "qp_state", "state"),
    (e.IBV_QP_CUR_STATE, "cur_qp_state", "cur_state"),
    (e.IBV_QP_ACCESS_FLAGS, "qp_access_flags", "access"),
    (e.IBV_QP_PKEY_INDEX, "pkey_index", "pkey_index"),
    (e.IBV_QP_PORT, "port_num", "port"),
    (e.IBV_QP_PATH_MTU, "path_mtu", "path_mtu"),
    (e.IBV_QP_DEST_QPN, "dest_qp_num", "dest_qpn"),
    (e.IBV_QP_RQ_PSN, "rq_psn", "rq_psn"),
    (e.IBV_QP_SQ_PSN, "sq_psn", "sq_psn"),
    (e.IBV_QP_TIMEOUT, "timeout", "timeout"),
    (e.IBV_QP_RETRY_CNT, "retry_cnt", "retry_cnt"),
    (e.IBV_QP_RNR_RETRY, "rnr_retry", "rnr_retry"),
    (e.IBV_QP_MIN_RNR_TIMER, "min_rnr_timer", "min_rnr_timer"),
    (e.IBV_QP_MAX_QP_RD_ATOMIC, "max_rd_atomic", "max_rd_atomic"),
    (e.IBV_QP_MAX_DEST_RD_ATOMIC, "max_dest_rd_atomic", "max_dest_rd_atomic"),
)
TO_INIT = e.IBV_QP_STATE | e.IBV_QP_PKEY_INDEX | e.IBV_QP_PORT | e.IBV_QP_ACCESS_FLAGS
TO_RTR = (
    e.IBV_QP_STATE | e.IBV_QP_AV | e.IBV_QP_PATH_MTU | e.IBV_QP_DEST_QPN | e.IBV_QP_RQ_PSN
    | e.IBV_QP_MAX_DEST_RD_ATOMIC | e.IBV_QP_MIN_RNR_TIMER
)  # fmt: skip
TO_RTS = (
    e.IBV_QP_STATE | e.IBV_QP_TIMEOUT | e.IBV_QP_RETRY_CNT | e.IBV_QP_RNR_RETRY | e.IBV_QP_SQ_PSN
    | e.IBV_QP_MAX_QP_RD_ATOMIC
)  # fmt: skip

OPCODES = frozenset(
    {
        e.IBV_WR_SEND,
        e.IBV_WR_SEND_WITH_IMM,
        e.IBV_WR_RDMA_WRITE,
        e.IBV_WR_RDMA_WRITE_WITH_IMM,
        e.IBV_WR_RDMA_READ,
    }
)
FLAGS = int(e.IBV_SEND_FENCE | e.IBV_SEND_SIGNALED | e.IBV_SEND_SOLICITED)


@dataclass(slots=True)
class QPCap(PyverbsObject):
    """Sizes of a queue pair. Inline data is not captured at posting: max_inline_data must be 0."""

    max_send_wr: int = 1
    max_recv_wr: int = 10
    max_send_sge: int = 1
    max_recv_sge: int = 1
    max_inline_data: int = 0


@dataclass(slots=True)
class QPInitAttr(PyverbsObject):
    """What a queue pair is made from. qp_type: IBV_QPT_RC is the one that exists (pyverbs' default is UD)."""

    qp_type: int = e.IBV_QPT_UD
    qp_context: object = None
    scq: CQ | None = None
    rcq: CQ | None = None
    srq: None = None
    cap: QPCap = field(default_factory=QPCap)
    sq_sig_all: int = 1

    @property
    def send_cq(self) -> CQ | None:
        return self.scq

    @property
    def recv_cq(self) -> CQ | None:
        return self.rcq


@dataclass(slots=True)
class QPAttr(PyverbsObject):
    """Attributes for modify and query; which of them count is said by the mask."""

    qp_state: int = e.IBV_QPS_INIT
    cur_qp_state: int = e.IBV_QPS_RESET
    port_num: int = 1
    path_mtu: int = e.IBV_MTU_1024
    path_mig_state: int = e.IBV_MIG_MIGRATED
    qkey: int = 0
    rq_psn: int = 0
    sq_psn: int = 0
    dest_qp_num: int = 0
    qp_access_flags: int = 0
    cap: QPCap = field(default_factory=QPCap)
    ah_attr: AHAttr = field(default_factory=AHAttr)
    pkey_index: int = 0
    en_sqd_async_notify: int = 0
    sq_draining: int = 0
    max_rd_atomic: int = 0
    max_dest_rd_atomic: int = 0
    min_rnr_timer: int = 0
    timeout: int = 0
    retry_cnt: int = 0
    rnr_retry: int = 0


class QP(PyverbsCM):
    """A queue pair of protection domain `creator`; with qp_attr it is returned in INIT (as pyverbs does for RC)."""

    def __init__(self, creator: PD, init_attr: QPInitAttr, qp_attr: QPAttr | None = None) -> None:
        self._handle: int | None = None
        if not isinstance(creator, PD):
            raise PyverbsUserError(f"a QP is made from a PD, not from a {type(creator).__name__}")
        if init_attr.scq is None or init_attr.rcq is None:
            raise PyverbsUserError("a QP needs scq= and rcq= in its QPInitAttr")
        self.pd, self.context = creator, creator.ctx
        self.scq, self.rcq, self._init = init_attr.scq, init_attr.rcq, init_attr
        self._state = e.IBV_QPS_RESET
        self._create(init_attr)
        creator.qps.add(self)
        self.context.qps.add(self)
        for cq in (self.scq, self.rcq):
            cq.qps.add(self)
        self.context.register("qp", self.handle, self)
        self.context.numbered[self.qp_num] = self
        if qp_attr is not None:
            self.to_init(qp_attr)

    def _create(self, init: QPInitAttr) -> None:
        cap = init.cap
        if cap.max_inline_data or init.srq is not None:
            raise PyverbsRDMAError(
                "there is neither inline data nor a shared receive queue", errno.EOPNOTSUPP
            )
        answer = self.context.call(
            "create_qp", pd=self.pd.handle, send_cq=self.scq.handle, recv_cq=self.rcq.handle, type=int(init.qp_type),
            max_send_wr=cap.max_send_wr, max_recv_wr=cap.max_recv_wr, max_send_sge=cap.max_send_sge,
            max_recv_sge=cap.max_recv_sge, sq_sig_all=bool(init.sq_sig_all),
        )  # fmt: skip
        self._handle, self._number = int(answer.result["handle"]), int(answer.result["qp_num"])
        try:
            self.ring = QueuePair(self.context.page, answer.descriptors[0])
        finally:
            for fd in answer.descriptors:
                os.close(fd)

    @property
    def handle(self) -> int:
        if self._handle is None:
            raise closed("QP")
        return self._handle

    @property
    def qp_num(self) -> int:
        return self._number

    @property
    def qp_type(self) -> int:
        return self._init.qp_type

    @property
    def qp_state(self) -> int:
        """The state by the last modify or query of this program; query() asks the device."""
        return self._state

    # ---- states

    def to_init(self, qp_attr: QPAttr) -> None:
        qp_attr.qp_state = e.IBV_QPS_INIT
        self.modify(qp_attr, TO_INIT)

    def to_rtr(self, qp_attr: QPAttr) -> None:
        """From INIT, or from RESET by way of INIT."""
        if self._state != e.IBV_QPS_INIT:
            self.to_init(qp_attr)
        qp_attr.qp_state = e.IBV_QPS_RTR
        self.modify(qp_attr, TO_RTR)

    def to_rts(self, qp_attr: QPAttr) -> None:
        """From RTR, or from INIT or RESET by way of it."""
        if self._state != e.IBV_QPS_RTR:
            self.to_rtr(qp_attr)
        qp_attr.qp_state = e.IBV_QPS_RTS
        self.modify(qp_attr, TO_RTS)

    def modify(self, qp_attr: QPAttr, comp_mask: int) -> None:
        """Set what the mask names. EINVAL: an illegal step or a missing attribute; nothing has changed then."""
        attrs = {wire: int(getattr(qp_attr, name)) for bit, name, wire in ATTRIBUTES if comp_mask & bit}
        if comp_mask & e.IBV_QP_AV:
            attrs["dlid"] = qp_attr.ah_attr.dlid
        self.context.call("modify_qp", handle=self.handle, mask=int(comp_mask), attrs=attrs)
        if comp_mask & e.IBV_QP_STATE:
            self._state = e.ibv_qp_state(qp_attr.qp_state)
            if self._state == e.IBV_QPS_RESET:
                self._forget()

    def _forget(self) -> None:
        """Gone to RESET: both rings are empty, unpolled completions are dropped."""
        try:
            self.ring.reset()
        except Closed:
            raise closed("QP") from None
        for cq in {self.scq, self.rcq}:
            cq.purge(self.qp_num)

    def query(self, attr_mask: int) -> tuple[QPAttr, QPInitAttr]:
        """(attributes, what it was made from). Those outside the mask keep their defaults."""
        result = self.context.call("query_qp", handle=self.handle).result
        attr = QPAttr(cap=self._init.cap)
        for bit, name, wire in ATTRIBUTES:
            if wire in result and (attr_mask | e.IBV_QP_STATE) & bit:
                setattr(attr, name, int(result[wire]))
        self._state = e.ibv_qp_state(int(result["state"]))
        attr.qp_state = attr.cur_qp_state = self._state
        return attr, self._init

    # ---- work

    def post_send(self, wr: SendWR, bad_wr: SendWR | None = None) -> None:
        """Post wr and those chained behind it. ENOMEM: ring full, EINVAL: state or request; bad_wr: becomes the first not posted."""
        self._post(self._send, chain(wr), bad_wr, "post_send")

    def post_recv(self, wr: RecvWR, bad_wr: RecvWR | None = None) -> None:
        self._post(self.ring.post_recv, chain(wr), bad_wr, "post_recv")

    def post_send_batch(self, wrs: Sequence[SendWR]) -> None:
        """Of emu's own: post many with one doorbell, without chaining them. The first that was not posted is in the error."""
        self._post(self._send, wrs, None, "post_send")

    def post_recv_batch(self, wrs: Sequence[RecvWR]) -> None:
        self._post(self.ring.post_recv, wrs, None, "post_recv")

    def _send(self, requests: Sequence[WorkRequest]) -> None:
        """Post as far as this NIC has the operations; the first that it has not is refused, the queue pair goes on."""
        for i, request in enumerate(requests):
            if request.opcode not in OPCODES or request.flags & ~FLAGS:
                self.ring.post_send(requests[:i])
                raise PostError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), i)
        self.ring.post_send(requests)

    def _post(
        self, post: Callable[[Sequence[WorkRequest]], None], wrs: Sequence[W], bad_wr: W | None, what: str
    ) -> None:
        self.handle  # noqa: B018 - refuses a closed one
        self.context.session.check_device()
        try:
            post([wr.work_request() for wr in wrs])
        except PostError as error:
            if bad_wr is not None:
                _become(bad_wr, wrs[error.bad])
            raise PyverbsRDMAError(
                f"{what} on QP {self.qp_num}: {_why(error)}", error.errno or errno.EIO
            ) from None
        except Closed:
            raise closed("QP") from None
        except (OverflowError, TypeError, OSError) as error:
            _refuse(what, error)

    def close(self) -> None:
        """Destroy it. Nothing of it runs any more when this returns; peers get no answer. In a forked child: its copy."""
        if self._handle is None:
            return
        if self.context.foreign:
            self._handle = None  # the rings are the parent's, whose completions must stay
            return
        refuse_unacknowledged(self)
        handle, self._handle = self._handle, None
        try:
            self.context.destroy("destroy_qp", handle)
            for cq in {self.scq, self.rcq}:
                cq.purge(self.qp_num)
        except PyverbsRDMAError:
            self._handle = self.context.kept(handle)
            raise
        finally:
            if self._handle is None:
                self.context.numbered.pop(self.qp_num, None)
                self.ring.close()

    def __del__(self) -> None:
        handle = getattr(self, "_handle", None)
        if handle is not None:
            self.context.put_off("destroy_qp", handle)

    def __str__(self) -> str:
        state = e.ibv_qp_state(self._state).name
        return lines("QP", [("QP type", self.qp_type), ("  number", self.qp_num), ("  state", state)])


def _become(bad_wr: SendWR | RecvWR, wr: SendWR | RecvWR) -> None:
    for name in (*type(wr).__slots__, "sg", "num_sge"):
        setattr(bad_wr, name, getattr(wr, name))


def _why(error: PostError) -> str:
    if error.errno == errno.ENOMEM:
        return f"the queue is full, {error.bad} were posted; poll completions first"
    if error.errno == errno.EOPNOTSUPP:
        return f"request {error.bad} has an opcode or a flag that this NIC lacks (atomics, invalidation, inline data)"
    return f"request {error.bad} has too many SGEs, or the queue pair is in a state in which posting fails"


def _refuse(what: str, error: Exception) -> NoReturn:
    raise PyverbsRDMAError(
        f"{what}: a field of the work request is out of its range: {error}", errno.EINVAL
    ) from None
