"""The rules of queue pair and link over plain bytes: the very C code, (state, event) -> (state, what to do), millions of times.

A state is the bytes of struct emu_qp_rules or struct emu_link: immutable, hashable, compared as a value. What an event does is
in csrc/include/emu/rules.h and link.h. Results are tuples of plain integers, since whoever walks a state space counts microseconds:

    qp    (state, actions, status, event, outcome, rnr_timer)        actions: bits of rules.Action
    link  (state, actions, psn, count, answer, outcome)              actions: bits of LinkAction
"""

from __future__ import annotations

import errno
import struct
from enum import IntEnum, IntFlag
from typing import NamedTuple

from emu.engine._ring import ffi, lib
from emu.engine.rules import QpAttr, RuleEvent

QpStep = tuple[bytes, int, int, int, int, int]
LinkStep = tuple[bytes, int, int, int, int, int]


class LinkEvent(IntEnum):
    OPEN = 0
    CLOSE = 1
    POST = 2
    AGAIN = 3
    ANSWER = 4
    TIMER = 5
    REQUEST = 6
    RAN = 7


class Answer(IntEnum):
    ACK = 0
    SEQUENCE = 1
    NAK = 2


class LinkAction(IntFlag):
    SEND = 1 << 0
    ARM = 1 << 1
    DISARM = 1 << 2
    DONE = 1 << 3
    PROGRESS = 1 << 4
    RETRY = 1 << 5
    REFUSED = 1 << 6
    ACCEPT = 1 << 7
    REPLAY = 1 << 8
    REPLY = 1 << 9
    DROP = 1 << 10
    HOLD = 1 << 11


class Link(NamedTuple):
    """struct emu_link, field by field."""

    open: int = 0
    unacked: int = 0
    sent: int = 0
    next: int = 0
    window: int = 0
    paused: int = 0
    expected: int = 0
    busy: int = 0
    asks: int = 0
    naked: int = 0

    def packed(self) -> bytes:
        return _LINK.pack(*self)

    @classmethod
    def of(cls, state: bytes) -> Link:
        return cls(*_LINK.unpack(state))

    def moved(self, requests: int, expected: int) -> Link:
        """The same link with smaller numbers: what it does depends on their distances only."""
        low = (self.unacked - requests & MASK, self.sent - requests & MASK, self.next - requests & MASK)
        return Link(self.open, *low, self.window, self.paused, self.expected - expected & MASK, *self[7:])


MASK = 0xFFFFFF  # sequence numbers have 24 bits
_LINK = struct.Struct(f"={len(Link._fields)}I")


class Rules:
    """The two functions with memory of their own to work in: one object a thread."""

    def __init__(self) -> None:
        self._qp, self._qp_in, self._qp_out = (
            ffi.new(f"struct emu_{name} *") for name in ("qp_rules", "rule_in", "rule_out")
        )
        self._link, self._link_in, self._link_out = (
            ffi.new(f"struct emu_{name} *") for name in ("link", "link_in", "link_out")
        )
        self._qp_bytes, self._link_bytes = ffi.buffer(self._qp), ffi.buffer(self._link)
        self.new_qp, self.new_link = bytes(self._qp_bytes), bytes(self._link_bytes)

    def qp(
        self, state: bytes, event: int, outcome: int = 0, opcode: int = 0, peer_min_rnr: int = 0
    ) -> QpStep:
        """One event of a queue pair, all but MODIFY. No receive WQE is in use."""
        given, out = self._qp_in, self._qp_out
        given.event, given.outcome, given.opcode, given.peer_min_rnr = event, outcome, opcode, peer_min_rnr
        self._qp_bytes[:] = state
        if lib.emu_qp_step(self._qp, given, out):
            raise OSError(errno.EINVAL, f"the rules know no event {event} without attributes")
        return bytes(self._qp_bytes), out.actions, out.status, out.event, out.outcome, out.rnr_timer

    def modify(self, state: bytes, attr: QpAttr) -> bytes:
        """The queue pair with these attributes. OSError(EINVAL): an illegal step."""
        given = ffi.new("struct emu_rule_in *", {"event": RuleEvent.MODIFY, "attr": tuple(attr)})
        self._qp_bytes[:] = state
        if lib.emu_qp_step(self._qp, given, self._qp_out):
            raise OSError(errno.EINVAL, f"illegal modify to state {attr.state}, mask {attr.mask:#x}")
        return bytes(self._qp_bytes)

    def link(
        self,
        state: bytes,
        event: int,
        psn: int = 0,
        count: int = 0,
        answer: int = 0,
        outcome: int = 0,
        asks: int = 0,
        expected: int = 0,
    ) -> LinkStep:
        """One event of a link. OSError(EINVAL): what no caller may ask."""
        given, out = self._link_in, self._link_out
        given.event, given.psn, given.count, given.expected = event, psn, count, expected
        given.answer, given.outcome, given.asks = answer, outcome, asks
        self._link_bytes[:] = state
        if lib.emu_link_step(self._link, given, out):
            raise OSError(
                errno.EINVAL, f"the link has no use for event {event} with psn {psn}, count {count}"
            )
        return bytes(self._link_bytes), out.actions, out.psn, out.count, out.answer, out.outcome
