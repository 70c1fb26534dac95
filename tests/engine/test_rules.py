"""The rules through their pure face: same answers as in C, nothing changed in place, illegal steps raise."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.engine.rules import (
    Action,
    Outcome,
    QpAttr,
    QpRules,
    QpState,
    RuleEvent,
    ack_timeout_ns,
    rnr_timer_ns,
    step,
)

STATE = 1
TO_INIT = QpAttr(mask=STATE | 8 | 16 | 32, state=QpState.INIT, port=1, access=7)
TO_RTR = QpAttr(
    mask=STATE | 1 << 7 | 1 << 8 | 1 << 12 | 1 << 15 | 1 << 17 | 1 << 20,
    state=QpState.RTR,
    path_mtu=5,
    dest_qpn=9,
)
TO_RTS = QpAttr(
    mask=STATE | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 13 | 1 << 16,
    state=QpState.RTS,
    timeout=14,
    retry_cnt=2,
    rnr_retry=1,
)


def in_rts() -> QpRules:
    qp = QpRules()
    for attr in (TO_INIT, TO_RTR, TO_RTS):
        qp, _ = step(qp, RuleEvent.MODIFY, attr=attr)
    return qp


def test_the_way_to_rts_keeps_each_attribute():
    qp = in_rts()
    assert qp.state is QpState.RTS
    assert (qp.attr.port, qp.attr.access, qp.attr.dest_qpn, qp.attr.timeout, qp.retries_left) == (
        1,
        7,
        9,
        14,
        2,
    )


def test_an_illegal_step_raises_and_the_state_is_still_the_old_one():
    qp = QpRules()
    with pytest.raises(OSError, match="illegal modify") as caught:
        step(qp, RuleEvent.MODIFY, attr=TO_RTS)
    assert caught.value.errno == errno.EINVAL
    assert qp == QpRules()


def test_states_are_values():
    qp = in_rts()
    after, verdict = step(qp, RuleEvent.HEAD)
    assert verdict.actions == Action.EXECUTE
    assert (qp.sq_busy, after.sq_busy) == (0, 1)
    assert hash(qp) == hash(in_rts())


def test_a_lost_peer_is_tried_for_as_often_as_asked():
    qp, _ = step(in_rts(), RuleEvent.HEAD)
    tries = 1
    while True:
        qp, verdict = step(qp, RuleEvent.OUTCOME, outcome=Outcome.NO_ANSWER)
        assert verdict.actions == Action.ARM_ACK
        qp, verdict = step(qp, RuleEvent.TIMER)
        if verdict.actions & Action.COMPLETE:
            break
        tries += 1
    assert (tries, verdict.status, qp.state) == (3, 12, QpState.ERR)


def test_a_refused_request_puts_the_responder_in_error_and_says_why():
    qp, verdict = step(in_rts(), RuleEvent.INBOUND, outcome=Outcome.REM_ACCESS, opcode=0)
    assert verdict.actions & (Action.NAK | Action.EVENT) == Action.NAK | Action.EVENT
    assert (verdict.outcome, verdict.event, qp.state) == (Outcome.REM_ACCESS, 3, QpState.ERR)


def test_encoded_times():
    assert ack_timeout_ns(0) == 0
    assert ack_timeout_ns(14) == 4096 << 14
    assert rnr_timer_ns(1) == 10_000


@given(
    st.lists(
        st.tuples(
            st.sampled_from(list(RuleEvent)),
            st.sampled_from(list(Outcome)),
            st.integers(0, 8),
            st.booleans(),
            st.sampled_from(
                [TO_INIT, TO_RTR, TO_RTS, QpAttr(STATE, QpState.ERR), QpAttr(STATE, QpState.RESET)]
            ),
        ),
        max_size=60,
    )
)
def test_no_sequence_of_events_breaks_an_invariant(events):
    qp = QpRules()
    for event, outcome, opcode, uses_recv, attr in events:
        before = qp
        try:
            qp, verdict = step(qp, event, outcome=outcome, opcode=opcode, uses_recv=uses_recv, attr=attr)
        except OSError:
            continue
        assert not (qp.sq_busy and qp.sq_waiting)
        assert qp.state in (QpState.RTS, QpState.SQD) or not (qp.sq_busy or qp.sq_waiting)
        if verdict.actions & Action.EXECUTE:
            assert qp.sq_busy
        if verdict.actions & Action.COMPLETE and verdict.status:
            assert qp.state is QpState.ERR
        if qp.state is QpState.ERR and before.state is not QpState.ERR:
            assert verdict.actions & Action.FLUSH_SEND
            assert verdict.actions & Action.FLUSH_RECV
        assert qp.retries_left <= 7
        assert qp.rnr_left <= 7
