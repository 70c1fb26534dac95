"""The queue pair's rules as pure functions for the simulator and the explorer: the very C code that the engine runs.

`step(qp, event)` returns a new `QpRules` and what to do; nothing is changed in place, so states can be kept, compared
and hashed. See csrc/include/emu/rules.h for what each event and action means. The link's rules, and both over plain bytes for
whoever takes millions of steps, are in emu.engine.link.
"""

from __future__ import annotations

import errno
from enum import IntEnum, IntFlag
from typing import Any, NamedTuple

from emu.engine._ring import ffi, lib


class QpState(IntEnum):
    RESET = 0
    INIT = 1
    RTR = 2
    RTS = 3
    SQD = 4
    SQE = 5
    ERR = 6


class RuleEvent(IntEnum):
    MODIFY = 0
    HEAD = 1
    OUTCOME = 2
    TIMER = 3
    INBOUND = 4
    BROKEN = 5
    CQ_ERROR = 6
    PEER_DEAD = 7
    PROGRESS = 8


class Outcome(IntEnum):
    OK = 0
    LOC_PROT = 1
    LOC_LEN = 2
    LOC_QP_OP = 3
    REM_ACCESS = 4
    REM_INV_REQ = 5
    REM_OP = 6
    RNR = 7
    NO_ANSWER = 8


class Action(IntFlag):
    EXECUTE = 1 << 0
    COMPLETE = 1 << 1
    FLUSH_SEND = 1 << 2
    FLUSH_RECV = 1 << 3
    ARM_ACK = 1 << 4
    ARM_RNR = 1 << 5
    EVENT = 1 << 6
    ACK = 1 << 7
    NAK = 1 << 8
    RECV_ERROR = 1 << 9
    RESET = 1 << 10
    HOLD = 1 << 11
    DISARM = 1 << 12


class QpAttr(NamedTuple):
    """struct emu_qp_attr, field by field."""

    mask: int = 0
    state: int = 0
    cur_state: int = 0
    access: int = 0
    pkey_index: int = 0
    port: int = 0
    path_mtu: int = 0
    dest_qpn: int = 0
    rq_psn: int = 0
    sq_psn: int = 0
    timeout: int = 0
    retry_cnt: int = 0
    rnr_retry: int = 0
    min_rnr_timer: int = 0
    max_rd_atomic: int = 0
    max_dest_rd_atomic: int = 0
    dlid: int = 0


class QpRules(NamedTuple):
    """All that the rules remember of a queue pair (struct emu_qp_rules)."""

    state: QpState = QpState.RESET
    attr: QpAttr = QpAttr()
    retries_left: int = 0
    rnr_left: int = 0
    sq_waiting: int = 0
    sq_busy: int = 0
    drain_notify: int = 0


class Verdict(NamedTuple):
    """What to do; status, event, outcome and rnr_timer hold where an action speaks of them."""

    actions: Action
    status: int
    event: int
    outcome: Outcome
    rnr_timer: int


def step(
    qp: QpRules,
    event: RuleEvent,
    *,
    outcome: Outcome = Outcome.OK,
    opcode: int = 0,
    uses_recv: bool = False,
    peer_min_rnr: int = 0,
    attr: QpAttr | None = None,
) -> tuple[QpRules, Verdict]:
    """Apply one event. Raises OSError(EINVAL) for an illegal MODIFY."""
    state = ffi.new("struct emu_qp_rules *", tuple(qp))
    given = ffi.new(
        "struct emu_rule_in *", (event, outcome, opcode, uses_recv, peer_min_rnr, tuple(attr or QpAttr()))
    )
    out = ffi.new("struct emu_rule_out *")
    if lib.emu_qp_step(state, given, out) < 0:
        wanted = attr or QpAttr()
        raise OSError(errno.EINVAL, f"queue pair in {qp.state.name}: illegal modify, mask {wanted.mask:#x}")
    return _rules(state), Verdict(
        Action(out.actions), out.status, out.event, Outcome(out.outcome), out.rnr_timer
    )


def _rules(state: Any) -> QpRules:
    attr = QpAttr(*(int(getattr(state.attr, name)) for name in QpAttr._fields))
    rest = (state.retries_left, state.rnr_left, state.sq_waiting, state.sq_busy, state.drain_notify)
    return QpRules(QpState(state.state), attr, *rest)


def ack_timeout_ns(timeout: int) -> int:
    """Nanoseconds of the encoded local ACK timeout; 0: for ever."""
    return int(lib.emu_ack_timeout_ns(timeout))


def rnr_timer_ns(min_rnr_timer: int) -> int:
    """Nanoseconds of the encoded RNR timer."""
    return int(lib.emu_rnr_timer_ns(min_rnr_timer))
