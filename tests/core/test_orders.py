"""S10: what concurrent file operations leave is what some order of them leaves, whenever each answer of the shell arrives."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.core import effects as fx
from emu.core import events as ev
from emu.core import requests as rq
from emu.core.machine import Core
from emu.protocols import registry

_spec = importlib.util.spec_from_file_location("orders", Path(__file__).with_name("orders.py"))
orders = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(orders)

PROTOCOLS = registry.load().protocols
BLOCKS, BLOCK, PATH = 8, 4096, "/mnt/a"


class Memory:
    """A core, and a shell with a device of real bytes. What nobody owns holds 0xEE; answers wait until they are delivered."""

    def __init__(self, protocol):
        self.core = Core(PROTOCOLS)
        self.bytes = bytearray(b"\xee" * BLOCKS * BLOCK)
        self.waiting, self.replies, self.numbers = [], {}, 0
        self.feed(ev.DeviceAdded("pm0", BLOCKS))
        self.feed(ev.MountAdded("/mnt", "pm0", dax=True, protocol=protocol))
        self.feed(ev.SessionOpened(1, "one", door=True, wants=True))

    def feed(self, event):
        effects = self.core.step(event)
        self.core.committed()
        for effect in sorted(effects, key=lambda effect: not effect.before_commit):
            self.carry_out(effect)

    def carry_out(self, effect):
        answers = {fx.InstallKey: "key", fx.Quiesce: "cookie", fx.Unmap: "cookie"}
        events = {fx.InstallKey: ev.KeyInstalled, fx.Quiesce: ev.Quiesced, fx.Unmap: ev.Unmapped}
        if isinstance(effect, fx.Reply | fx.Fail):
            self.replies[effect.request] = effect
        elif isinstance(effect, fx.Allocate | fx.Blank | fx.Zero):
            self.fill(effect.runs, 0)
        elif isinstance(effect, fx.Release):
            self.fill(effect.runs, 0xEE)
        elif isinstance(effect, fx.Store):
            at = 0
            for offset, length in effect.runs:
                self.bytes[offset : offset + length] = effect.data[at : at + length]
                at += length
        if type(effect) in answers:
            self.waiting.append(events[type(effect)](getattr(effect, answers[type(effect)])))
        elif isinstance(effect, fx.Arm):
            self.waiting.append(ev.TimerFired(effect.timer))
        elif hasattr(effect, "token"):
            value = {"data": self.load(effect.pieces)} if isinstance(effect, fx.Load) else {}
            self.waiting.append(ev.Answered(effect.token, 0, value))

    def fill(self, runs, byte):
        for offset, length in runs:
            self.bytes[offset : offset + length] = bytes([byte]) * length

    def load(self, pieces):
        return b"".join(bytes(n) if at < 0 else bytes(self.bytes[at : at + n]) for at, n in pieces)

    def send(self, op):
        self.numbers += 1
        self.feed(ev.Requested(1, self.numbers, op))
        return self.numbers

    def deliver(self, choice):
        self.feed(self.waiting.pop(choice % len(self.waiting)))

    def ask(self, op):
        request = self.send(op)
        while self.waiting:
            self.deliver(0)
        assert isinstance(self.replies[request], fx.Reply), self.replies[request]
        return self.replies[request].result

    def prepared(self):
        """The file, and an MR over it."""
        self.ask(rq.FsCreate(PATH, len(orders.START)))
        self.ask(rq.FsWrite(PATH, 0, orders.START))
        pd = self.ask(rq.AllocPd())["handle"]
        self.ask(rq.RegMr(pd, len(orders.START), 7, 0, "dax", PATH))
        return self

    def content(self):
        return self.ask(rq.FsRead(PATH, 0, BLOCKS * BLOCK))["data"]


EDGES = st.sampled_from([0, 50, 3000, 4096, 4999, 5000, 6000, 8192, 9000])
SPANS = st.tuples(EDGES, EDGES).filter(lambda span: span[0] < span[1])
DRAWN = st.one_of(
    st.sampled_from(orders.OPERATIONS),
    EDGES.map(lambda size: ("fs_truncate", {"size": size})),
    SPANS.map(lambda span: ("fs_punch", {"offset": span[0], "length": span[1] - span[0]})),
    SPANS.map(lambda span: ("fs_write", {"offset": span[0], "data": b"x" * (span[1] - span[0])})),
)


def request_of(operation):
    name, fields = operation
    return rq.REQUESTS[name](path=PATH, **fields)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["mr-revoke", "none"]),
    st.lists(DRAWN, min_size=2, max_size=4),
    st.lists(st.integers(0, 5), max_size=12),
)
def test_s10_concurrent_operations_leave_what_some_order_leaves(protocol, operations, choices):
    """choices: 0 and 1 ask the next, others deliver one of the answers that wait; in the end all are asked and delivered."""
    node, asked, earlier = Memory(protocol).prepared(), [], set()

    def ask_next():
        done = {at for at, request in enumerate(asked) if request in node.replies}
        earlier.update((at, len(asked)) for at in done)
        asked.append(node.send(request_of(operations[len(asked)])))

    for choice in choices:
        if choice < 2 and len(asked) < len(operations):
            ask_next()
        elif node.waiting:
            node.deliver(choice)
    while len(asked) < len(operations):
        ask_next()
    while node.waiting:
        node.deliver(0)
    assert all(isinstance(node.replies[request], fx.Reply) for request in asked)
    assert orders.differs(node.content(), operations, earlier) == ""


@pytest.mark.parametrize("sizes", [(50, 4000), (0, 4999), (4097, 4999)])
def test_a_truncate_that_finds_the_file_smaller_brings_no_old_bytes_back(sizes):
    """Both were asked while the file was larger than either; the second waited for the first."""
    node = Memory("mr-revoke").prepared()
    requests = [node.send(rq.FsTruncate(PATH, size)) for size in sizes]
    while node.waiting:
        node.deliver(0)
    assert all(isinstance(node.replies[request], fx.Reply) for request in requests)
    assert node.content() == orders.serial([("fs_truncate", {"size": size}) for size in sizes])


def test_a_punch_up_to_the_end_spares_what_was_written_behind_it_meanwhile():
    node = Memory("mr-revoke").prepared()
    node.send(rq.FsPunch(PATH, 0, 5000))
    node.ask(rq.FsWrite(PATH, 5000, b"W" * 3000))
    assert node.content() == bytes(5000) + b"W" * 3000
