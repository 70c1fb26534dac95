"""What the lab's processes do alike with verbs: open the node, make a queue pair, connect it, and the message that hands over a key.

A queue pair is named by its number alone: the parties are on one node, and the lab carries the numbers between them.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from emu.verbs import enums as e
from emu.verbs.addr import AHAttr
from emu.verbs.device import Context
from emu.verbs.qp import QP, QPAttr, QPCap, QPInitAttr

if TYPE_CHECKING:
    from emu.verbs.cq import CQ
    from emu.verbs.pd import PD

REMOTE = e.IBV_ACCESS_LOCAL_WRITE | e.IBV_ACCESS_REMOTE_WRITE | e.IBV_ACCESS_REMOTE_READ
U32 = 0xFFFFFFFF


class Target(NamedTuple):
    """Registered memory of somebody else's: the stretch `start`..`start + length` of file `ino`, as `rkey` names it.

    on_demand: 1 where the region follows its file: what others write there under a newer layout is rightly seen.
    """

    rkey: int
    addr: int
    length: int
    ino: int
    layout: int
    start: int
    on_demand: int = 0


_TARGET = struct.Struct("<IQQIIQI")
TARGET_BYTES = _TARGET.size


def pack_target(target: Target) -> bytes:
    return _TARGET.pack(*target)


def unpack_target(raw: bytes) -> Target:
    return Target(*_TARGET.unpack_from(raw))


def open_node(directory: str, label: str, *, events: bool = False) -> Context:
    return Context(dir=directory, label=label, emu_events=events)


def queue_pair(pd: PD, cq: CQ, depth: int) -> QP:
    """A reliable queue pair in INIT; every request is signaled."""
    cap = QPCap(max_send_wr=depth, max_recv_wr=1, max_send_sge=1, max_recv_sge=1)
    init = QPInitAttr(qp_type=e.IBV_QPT_RC, scq=cq, rcq=cq, cap=cap, sq_sig_all=1)
    attr = QPAttr(port_num=1)
    attr.qp_access_flags = REMOTE
    return QP(pd, init, attr)


def connect(qp: QP, other: int) -> None:
    """To RTS, towards queue pair number `other`."""
    attr = QPAttr(port_num=1)
    attr.qp_access_flags = REMOTE
    attr.dest_qp_num = other
    attr.path_mtu = e.IBV_MTU_4096
    attr.max_dest_rd_atomic = attr.max_rd_atomic = 1
    attr.min_rnr_timer = 1
    attr.timeout, attr.retry_cnt, attr.rnr_retry = 12, 3, 7
    attr.ah_attr = AHAttr(port_num=1)
    qp.to_rts(attr)
