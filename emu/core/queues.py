"""Protection domains, completion queues, queue pairs: the books of what the engine makes.

A CQ or QP has its row from the request on (so that its PD and CQs cannot go meanwhile); `made` once the engine has it.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Final

from emu.core.asking import alive, answer, check_range, fail, owned, refuse, reply
from emu.core.effects import EndCq, EndQp, GetQp, MakeCq, MakeQp, Notify, SetQp
from emu.core.errors import errno_name
from emu.core.rows import Cq, Pd, Qp, Token

if TYPE_CHECKING:
    from collections.abc import Mapping

    from emu.core.books import Books
    from emu.core.events import Answered, CqReported, QpReported, Requested
    from emu.core.requests import (
        AllocPd,
        CreateCq,
        CreateQp,
        DeallocPd,
        DestroyCq,
        DestroyQp,
        ModifyQp,
        QueryQp,
    )

MAX_PD: Final = 65536
MAX_CQ: Final = 65536
MAX_CQE: Final = 65536
MAX_QP: Final = 4096
MAX_WR: Final = 32768
MAX_SGE: Final = 16
RC: Final = 2
RESET: Final = 0  # IBV_QPS_RESET
STATE, DEST_QPN = 1, 1 << 20  # IBV_QP_*: bits of a modify_qp's mask

# IBV_EVENT_* on a queue pair or completion queue.
QP_EVENTS: Mapping[int, str] = {
    1: "QP_FATAL",
    2: "QP_REQ_ERR",
    3: "QP_ACCESS_ERR",
    4: "COMM_EST",
    5: "SQ_DRAINED",
    16: "QP_LAST_WQE_REACHED",
}
CQ_EVENTS: Mapping[int, str] = {0: "CQ_ERR"}


def limit(count: int, most: int, what: str) -> None:
    if count >= most:
        refuse(
            errno.ENOMEM, f"this context has {count} {what} already, the most it may have: destroy some first"
        )


def need_door(b: Books, event: Requested, what: str) -> None:
    if not b.sessions[event.session].door:
        refuse(errno.EPERM, f"a control-only session owns no {what}: connect through the node's door")


def alloc_pd(b: Books, event: Requested, _op: AllocPd) -> None:
    limit(len(b.pds_of.of(event.session)), MAX_PD, "protection domains")
    handle = b.number("pd")
    b.pds.put(handle, Pd(event.session))
    reply(b, event, {"handle": handle})


def dealloc_pd(b: Books, event: Requested, op: DeallocPd) -> None:
    owned(b.pds, event, op.handle, "PD")
    mrs, qps = len(b.mrs_in.of(op.handle)), len(b.qps_in.of(op.handle))
    if mrs or qps:
        refuse(errno.EBUSY, f"PD {op.handle} has {mrs} MRs and {qps} QPs: deregister and destroy them first")
    b.pds.drop(op.handle)
    reply(b, event)


def create_cq(b: Books, event: Requested, op: CreateCq) -> None:
    need_door(b, event, "completion queue")
    check_range("cqe", op.cqe, 1, MAX_CQE)
    limit(len(b.cqs_of.of(event.session)), MAX_CQ, "completion queues")
    handle, token = b.number("cq"), b.number("token")
    b.cqs.put(handle, Cq(event.session, op.cqe))
    b.tokens.put(token, Token("make_cq", event.session, event.request, cq=handle))
    b.emit(MakeCq(token, event.session, op.cqe))


def cq_made(b: Books, number: int, token: Token, event: Answered) -> None:
    if event.errno:
        b.cqs.drop(token.cq)
        fail(b, token.session, token.request, event.errno, refused("create_cq", event))
        return
    b.cqs.put(token.cq, b.cqs[token.cq]._replace(number=int(event.value["cq"]), made=True))
    answer(b, token.session, token.request, {"handle": token.cq, **event.value}, descriptors=number)


def destroy_cq(b: Books, event: Requested, op: DestroyCq) -> None:
    row = owned(b.cqs, event, op.handle, "CQ")
    users = len(b.qps_on.of(op.handle))
    if users or not row.made:
        refuse(errno.EBUSY, f"CQ {op.handle} serves {users} QPs: destroy them first")
    b.cqs.drop(op.handle)
    b.emit(EndCq(row.number))
    reply(b, event)


def usable_cq(b: Books, event: Requested, handle: int) -> Cq:
    row: Cq = owned(b.cqs, event, handle, "CQ")
    if not row.made:
        refuse(errno.EINVAL, f"CQ {handle} is not made yet: wait for the answer to create_cq")
    return row


def create_qp(b: Books, event: Requested, op: CreateQp) -> None:
    need_door(b, event, "queue pair")
    owned(b.pds, event, op.pd, "PD")
    send, recv = usable_cq(b, event, op.send_cq), usable_cq(b, event, op.recv_cq)
    if op.type != RC:
        refuse(errno.EOPNOTSUPP, f"QP type {op.type} is not there: RC (2) is the transport of this version")
    for name in ("max_send_wr", "max_recv_wr"):
        check_range(name, getattr(op, name), 0, MAX_WR)
    for name in ("max_send_sge", "max_recv_sge"):
        check_range(name, getattr(op, name), 0, MAX_SGE)
    limit(len(b.qps_of.of(event.session)), MAX_QP, "queue pairs")
    handle, token = b.number("qp"), b.number("token")
    b.qps.put(handle, Qp(event.session, op.pd, op.send_cq, op.recv_cq))
    b.tokens.put(token, Token("make_qp", event.session, event.request, qp=handle))
    sizes = (op.max_send_wr, op.max_recv_wr, op.max_send_sge, op.max_recv_sge)
    b.emit(MakeQp(token, event.session, op.pd, send.number, recv.number, op.type, *sizes, op.sq_sig_all))


def qp_made(b: Books, number: int, token: Token, event: Answered) -> None:
    if event.errno:
        b.qps.drop(token.qp)
        fail(b, token.session, token.request, event.errno, refused("create_qp", event))
        return
    b.qps.put(token.qp, b.qps[token.qp]._replace(qp_num=int(event.value["qp_num"]), made=True))
    answer(b, token.session, token.request, {"handle": token.qp, **event.value}, descriptors=number)
    if not alive(b, token.session) or b.sessions[token.session].dead:
        end_qp(b, token.qp)


def usable_qp(b: Books, event: Requested, handle: int) -> Qp:
    row: Qp = owned(b.qps, event, handle, "QP")
    if row.ending or not row.made:
        refuse(
            errno.EINVAL, f"QP {handle} is {'being destroyed' if row.ending else 'not made yet'}: use another"
        )
    return row


def modify_qp(b: Books, event: Requested, op: ModifyQp) -> None:
    row = usable_qp(b, event, op.handle)
    token = b.number("token")
    dest = 0 if op.mask & STATE and op.attrs.get("state") == RESET else -1
    if op.mask & DEST_QPN:
        dest = op.attrs.get("dest_qpn", -1)
    b.tokens.put(token, Token("set_qp", event.session, event.request, qp=op.handle, dest=dest))
    b.emit(SetQp(token, row.qp_num, op.mask, dict(op.attrs)))


def query_qp(b: Books, event: Requested, op: QueryQp) -> None:
    row = usable_qp(b, event, op.handle)
    token = b.number("token")
    b.tokens.put(token, Token("get_qp", event.session, event.request, qp=op.handle))
    b.emit(GetQp(token, row.qp_num))


def qp_answered(b: Books, _number: int, token: Token, event: Answered) -> None:
    what = "modify_qp" if token.kind == "set_qp" else "query_qp"
    if event.errno:
        fail(b, token.session, token.request, event.errno, refused(what, event))
        return
    if token.dest >= 0 and token.qp in b.qps:
        b.qps.put(token.qp, b.qps[token.qp]._replace(dest=token.dest))
    answer(b, token.session, token.request, dict(event.value))


def destroy_qp(b: Books, event: Requested, op: DestroyQp) -> None:
    row: Qp = owned(b.qps, event, op.handle, "QP")
    if row.ended:
        b.qps.drop(op.handle)
        reply(b, event)
    elif row.ending and b.sessions[event.session].dead:
        _join(b, event, op.handle)
    else:
        usable_qp(b, event, op.handle)
        end_qp(b, op.handle, event.request)


def _join(b: Books, event: Requested, handle: int) -> None:
    """It is ending with its context: the answer comes with that."""
    for number, token in b.tokens.items():
        if token.kind == "end_qp" and token.qp == handle:
            if token.request:
                refuse(errno.EINVAL, f"QP {handle} is being destroyed: wait for that answer")
            b.tokens.put(number, token._replace(request=event.request))


def end_qp(b: Books, handle: int, request: int = 0) -> None:
    row = b.qps[handle]
    token = b.number("token")
    b.qps.put(handle, row._replace(ending=True))
    b.tokens.put(token, Token("end_qp", row.session, request, qp=handle))
    b.emit(EndQp(token, row.qp_num))


def qp_ended(b: Books, _number: int, token: Token, _event: Answered) -> None:
    row, session = b.qps[token.qp], b.sessions[token.session]
    if session.dead and not session.dying and not token.request:
        b.qps.put(token.qp, row._replace(ended=True))
        return
    b.qps.drop(token.qp)
    answer(b, token.session, token.request)


def refused(what: str, event: Answered) -> str:
    why = event.value.get("error") or "check the arguments and the limits of query_device"
    return f"{what}: the engine refused with {errno_name(event.errno)}: {why}"


def qp_reported(b: Books, event: QpReported) -> None:
    handle = b.qp_numbered.first(event.qp_num)
    if handle is not None:
        _tell(b, b.qps[handle].session, QP_EVENTS.get(event.code, f"QP_EVENT_{event.code}"), {"qp": handle})


def cq_reported(b: Books, event: CqReported) -> None:
    handle = b.cq_numbered.first(event.cq)
    if handle is not None:
        _tell(b, b.cqs[handle].session, CQ_EVENTS.get(event.code, f"CQ_EVENT_{event.code}"), {"cq": handle})


def _tell(b: Books, session: int, name: str, fields: dict[str, Any]) -> None:
    if alive(b, session):
        b.emit(Notify(session, name, fields))
