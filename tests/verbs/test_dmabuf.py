"""A buffer's object against its context, its name and the processes that have it."""

from __future__ import annotations

import errno
import os

import pytest

from emu.verbs.device import Context
from emu.verbs.node import Node
from emu.verbs.pyverbs_error import PyverbsUserError

SIZE = 1 << 20


@pytest.fixture
def node(tmp_path):
    with Node("mr-revoke", "16M", directory=tmp_path / "n", options=["--dmabuf", "4M"]) as node:
        yield node


@pytest.fixture
def ctx(node):
    with Context(dir=node.dir) as ctx:
        yield ctx


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def refused(ctx, name):
    with pytest.raises(Exception) as refusal:
        ctx.dmabuf.stat(name)
    return refusal.value.errno


def test_a_buffer_closes_behind_its_context_and_its_view_outlives_both(node):
    ctx = Context(dir=node.dir)
    buffer = ctx.dmabuf.create("x", SIZE)
    view = buffer.view
    ctx.close()
    buffer.close()
    buffer.close()
    view[0] = 7
    assert view[0] == 7


def test_a_buffer_closes_behind_its_destruction_and_leaves_another_of_its_name_alone(ctx):
    before = descriptors()
    first = ctx.dmabuf.create("x", SIZE)
    ctx.dmabuf.destroy("x")
    with ctx.dmabuf.create("x", SIZE) as second:
        first.close()
        assert ctx.dmabuf.stat("x")["ino"] == second.ino
    assert refused(ctx, "x") == errno.ENOENT
    assert descriptors() == before


def test_what_is_asked_of_a_closed_buffer_says_that_it_is_closed(ctx):
    buffer = ctx.dmabuf.create("x", SIZE)
    buffer.close()
    for ask in (lambda: buffer.view, lambda: buffer.read(4), lambda: buffer.write(b"1"), buffer.move):
        with pytest.raises(PyverbsUserError, match="closed"):
            ask()


def test_a_buffer_that_is_let_go_ends_and_keeps_no_descriptor(ctx):
    before = descriptors()
    buffer = ctx.dmabuf.create("x", SIZE)
    assert buffer.size == SIZE
    del buffer
    assert descriptors() == before
    assert refused(ctx, "x") == errno.ENOENT


def test_a_forked_childs_close_is_its_own(ctx):
    buffer = ctx.dmabuf.create("x", SIZE)
    child = os.fork()
    if not child:
        code = 1
        try:
            buffer.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert ctx.dmabuf.stat("x")["state"] == "ready"
    buffer.write(b"here")
    assert buffer.read(4) == b"here"
    buffer.close()
