"""The link's rules through their face over bytes: same layout and answers as in C, nothing changed in place, nonsense raises."""

from __future__ import annotations

import errno

import pytest
from emu.engine._ring import ffi
from hypothesis import given
from hypothesis import strategies as st

from emu.engine.link import MASK, Answer, Link, LinkAction, LinkEvent, Rules
from emu.engine.rules import Outcome, QpAttr, QpRules, QpState, RuleEvent, step


def opened(rules, psn=0, expected=0, window=0):
    return rules.link(rules.new_link, LinkEvent.OPEN, psn=psn, expected=expected, count=window)[0]


def test_the_tuple_has_the_layout_of_the_struct():
    rules = Rules()
    names = [name for name, _field in ffi.typeof("struct emu_link").fields]
    assert names == list(Link._fields)
    state = opened(rules, psn=5, expected=9, window=3)
    assert Link.of(state) == Link(open=1, unacked=5, sent=5, next=5, window=3, expected=9)
    assert Link.of(state).packed() == state


@pytest.mark.parametrize(
    ("enum", "prefix"), [(LinkEvent, "EMU_LINK_"), (Answer, "EMU_ANSWER_"), (LinkAction, "EMU_LACT_")]
)
def test_the_enums_are_the_header_s(enum, prefix):
    names = {"EMU_LINK_": "event", "EMU_ANSWER_": "answer", "EMU_LACT_": "action"}
    header = ffi.typeof(f"enum emu_link_{names[prefix]}").relements
    assert {name.removeprefix(prefix): value for name, value in header.items()} == {
        member.name: int(member) for member in enum
    }


def test_states_are_values():
    rules = Rules()
    before = opened(rules, psn=7)
    after, actions, psn, count, _answer, _outcome = rules.link(before, LinkEvent.POST, count=2)
    assert (actions, psn, count) == (LinkAction.SEND | LinkAction.ARM, 7, 2)
    assert before == opened(Rules(), psn=7) != after


def test_nonsense_raises():
    rules = Rules()
    with pytest.raises(OSError, match="no use") as caught:
        rules.link(opened(rules), LinkEvent.RAN)
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(OSError, match="no event"):
        rules.qp(rules.new_qp, 99)
    with pytest.raises(OSError, match="illegal modify"):
        rules.modify(rules.new_qp, QpAttr(mask=1, state=QpState.RTS))


def test_the_queue_pair_over_bytes_does_what_the_tuples_do():
    rules = Rules()
    init = QpAttr(mask=1 | 8 | 16 | 32, state=QpState.INIT, port=1, access=7)
    state = rules.modify(rules.new_qp, init)
    qp, _ = step(QpRules(), RuleEvent.MODIFY, attr=init)
    for event in (RuleEvent.HEAD, RuleEvent.INBOUND, RuleEvent.TIMER, RuleEvent.PEER_DEAD, RuleEvent.HEAD):
        qp, verdict = step(qp, event)
        state, *rest = rules.qp(state, event)
        assert tuple(rest) == tuple(map(int, verdict))
        assert int.from_bytes(state[:4], "little") == qp.state


@given(
    st.lists(
        st.tuples(
            st.sampled_from(list(LinkEvent)),
            st.integers(0, 12),
            st.integers(0, 4),
            st.sampled_from(list(Answer)),
            st.sampled_from(list(Outcome)),
            st.booleans(),
        ),
        max_size=60,
    ),
    st.sampled_from([0, 3, MASK - 4, MASK]),
)
def test_no_sequence_of_events_breaks_an_invariant(events, base):
    """Whatever arrives: unacked <= sent <= next, and the same at every place of the number space."""
    rules = Rules()
    near, far = opened(rules), opened(rules, psn=base, expected=base)
    for event, psn, count, answer, outcome, asks in events:
        if event is LinkEvent.OPEN:
            continue
        given = {"count": count, "answer": answer, "outcome": outcome, "asks": asks}
        try:
            near, actions, at, many, *_ = rules.link(near, event, psn=psn, **given)
        except OSError:
            with pytest.raises(OSError):
                rules.link(far, event, psn=psn + base & MASK, **given)
            continue
        far, same, there, often, *_ = rules.link(far, event, psn=psn + base & MASK, **given)
        link = Link.of(near)
        assert (actions, many) == (same, often)
        if actions & (LinkAction.SEND | LinkAction.REPLY):
            assert there == at + base & MASK
        assert (link.sent - link.unacked & MASK) <= (link.next - link.unacked & MASK) < MASK // 2
        if link.open:
            assert Link.of(far).moved(base, base) == link
