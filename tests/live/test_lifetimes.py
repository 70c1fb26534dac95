"""Opening and closing: order, garbage collection, forks, the end of the broker, private nodes that leave nothing behind."""

from __future__ import annotations

import errno
import gc
import os
import select
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from party import until

from emu.verbs import enums as e
from emu.verbs.cq import CQ
from emu.verbs.device import Context, get_device_list
from emu.verbs.mr import MR
from emu.verbs.node import Node
from emu.verbs.pd import PD
from emu.verbs.pyverbs_error import PyverbsError, PyverbsRDMAError, PyverbsUserError
from emu.verbs.qp import QP, QPAttr, QPInitAttr

ALL = 7
OBJECTS = ("pds", "mrs", "cqs", "qps")


def counts(node) -> dict[str, int]:
    return {name: node.books[name] for name in OBJECTS}


def furnish(ctx):
    """One of each."""
    pd, cq = PD(ctx), CQ(ctx, 16)
    mr = MR(pd, 4096, ALL)
    qp = QP(pd, QPInitAttr(e.IBV_QPT_RC, scq=cq, rcq=cq), QPAttr(qp_access_flags=ALL))
    return pd, cq, mr, qp


@pytest.fixture
def ctx(node):
    with node.context() as opened:
        yield opened


def test_closing_a_context_closes_everything(node):
    before = counts(node)
    ctx = node.context()
    pd, cq, mr, qp = furnish(ctx)
    assert counts(node) == {name: n + 1 for name, n in before.items()}
    ctx.close()
    for use in (
        lambda: qp.handle,
        lambda: mr.buf,
        cq.poll,
        lambda: pd.handle,
        ctx.query_device,
    ):
        with pytest.raises(PyverbsUserError):
            use()
    until(lambda: counts(node), before)
    for thing in (qp, mr, cq, pd, ctx):
        thing.close()  # once more: nothing happens


@pytest.mark.parametrize("first", ["pd", "cq"])
def test_closing_what_others_depend_on_closes_them_first(node, ctx, first):
    before = counts(node)
    pd, cq, mr, qp = furnish(ctx)
    {"pd": pd, "cq": cq}[first].close()
    with pytest.raises(PyverbsUserError):
        qp.post_recv(None)
    for thing in (pd, cq, mr, qp):
        thing.close()
    until(lambda: counts(node), before)


def test_with_blocks_close_in_reverse(node):
    before = counts(node)
    with (
        node.context() as ctx,
        PD(ctx) as pd,
        CQ(ctx, 16) as cq,
        MR(pd, 4096, ALL),
        QP(pd, QPInitAttr(2, scq=cq, rcq=cq)),
    ):
        assert counts(node)["qps"] == before["qps"] + 1
    until(lambda: counts(node), before)


def test_objects_that_are_let_go_are_destroyed(node, ctx):
    before = counts(node)
    for _ in range(20):
        furnish(ctx)
    gc.collect()
    ctx.books()  # whatever was let go is destroyed with the next call
    until(lambda: counts(node), before)


def test_a_view_outlives_the_registration(ctx):
    pd = PD(ctx)
    mr = MR(pd, 8192, ALL)
    view = mr.view
    tail = view[4096:4100]
    tail[:] = b"here"
    mr.close()
    pd.close()
    del view
    gc.collect()
    assert bytes(tail) == b"here"


def test_reading_and_writing_outside_the_region_is_refused(ctx):
    mr = MR(PD(ctx), 100, ALL)
    mr.write("text", 4, 96)
    assert mr.read(4, 96) == b"text"
    for call in (
        lambda: mr.read(5, 96),
        lambda: mr.read(1, -1),
        lambda: mr.write(b"x", 2),
        lambda: mr.write(b"xx", 2, 99),
    ):
        with pytest.raises(PyverbsUserError):
            call()


def test_an_event_must_be_acknowledged_before_its_element_is_closed(ctx):
    _pd, _cq, mr, qp = furnish(ctx)
    qp.to_rts(QPAttr(dest_qp_num=qp.qp_num, qp_access_flags=ALL, timeout=8, retry_cnt=1))
    from emu.verbs.wr import SGE, SendWR

    wr = SendWR(1, e.IBV_WR_RDMA_WRITE, 1, sg=[SGE(mr.buf, 8, mr.lkey)])
    wr.set_wr_rdma(mr.rkey + 1, mr.buf)
    qp.post_send(wr)
    event = ctx.get_async_event(30)
    assert (event.event_type, event.element) == (e.IBV_EVENT_QP_ACCESS_ERR, qp)
    with pytest.raises(PyverbsRDMAError) as error:
        qp.close()
    assert error.value.error_code == errno.EBUSY
    event.ack()
    event.ack()
    qp.close()


def test_closing_a_context_does_not_wait_for_acknowledgements(node):
    before = counts(node)
    ctx = node.context(emu_events=True)
    pd = PD(ctx)
    ctx.fs.create("/mnt/unacknowledged", 4096)
    mr, other = MR(pd, 4096, ALL, file="/mnt/unacknowledged"), MR(pd, 4096, ALL)
    ctx.fs.truncate("/mnt/unacknowledged", 0)
    assert ctx.get_async_event(30).element is mr
    ctx.close()
    for thing in (mr, other, pd):
        with pytest.raises(PyverbsUserError):
            thing.handle  # noqa: B018
    until(lambda: counts(node), before)


@pytest.mark.parametrize("kind", ["pd", "cq", "mr", "qp"])
def test_a_close_that_failed_can_be_repeated(node, ctx, monkeypatch, kind):
    before = counts(node)
    things = dict(zip(("pd", "cq", "mr", "qp"), furnish(ctx), strict=True))
    refused = PyverbsRDMAError("busy", errno.EBUSY)

    def refuse(*_):
        raise refused

    for used in {"pd": ("qp", "mr"), "cq": ("qp",)}.get(kind, ()):
        things[used].close()
    with monkeypatch.context() as patch:
        patch.setattr(ctx, "destroy", refuse)
        with pytest.raises(PyverbsRDMAError):
            things[kind].close()
    assert things[kind].handle
    for thing in ("qp", "mr", "cq", "pd"):
        things[thing].close()
    assert counts(node) == before


def test_devices(node):
    assert [device.name for device in get_device_list()] == [b"emu0"]
    with Context(name="emu0", dir=node.dir) as ctx:
        attr = ctx.query_device()
        assert attr.max_qp > 0
        assert attr.max_mr_size > 0
        assert attr.max_srq == 0
        with pytest.raises(AttributeError):
            attr.max_nonsense  # noqa: B018
        assert ctx.query_port(1).state == e.IBV_PORT_ACTIVE
        assert ctx.query_gid(1, 0).gid.startswith("fe80:")
    with pytest.raises(PyverbsRDMAError) as error:
        Context(name="mlx5_0", dir=node.dir)
    assert error.value.error_code == errno.ENODEV


def test_no_broker_is_said_in_words(tmp_path):
    with pytest.raises(PyverbsRDMAError) as error:
        Context(dir=tmp_path)
    assert error.value.error_code in {errno.ENOENT, errno.ECONNREFUSED}
    assert str(tmp_path) in str(error.value)


def test_a_forked_child_is_refused_and_does_not_keep_the_session(node):
    before = node.books["sessions"]
    ctx = node.context()
    mr = MR(PD(ctx), 4096, ALL)
    reading, writing = os.pipe()
    stop_reading, stop_writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            ctx.books()
            said = b"served"
        except PyverbsUserError as error:
            said = str(error).encode()
        os.write(writing, said)
        os.read(stop_reading, 1)
        os._exit(0)
    try:
        assert b"forked child" in os.read(reading, 4096)
        assert MR(mr.pd, 4096, ALL).handle  # the parent's goes on
        ctx.close()
        until(lambda: node.books["sessions"], before)  # although the child lives
    finally:
        os.write(stop_writing, b"x")
        os.waitpid(child, 0)
        for fd in (reading, writing, stop_reading, stop_writing):
            os.close(fd)


def in_child(call) -> str:
    """What `call` gives in a forked child, whose copies of this process's objects it uses."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = str(call())
        except PyverbsError as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(child, 0)
    return said


def completed(here) -> None:
    """A write of "q" to itself has completed, and nobody has polled the completion."""
    here.connect("q", here.pair("q"))
    target = here.mrs["m"]
    here.post("q", "write", "m", length=8, rkey=target.rkey, addr=target.buf + 64)
    assert here.cq.wait(30)


@pytest.mark.parametrize("use", ["poll", "wait"])
def test_a_forked_child_takes_no_completions(node, party, use):
    here = party(node)
    here.memory("m", 4096)
    completed(here)
    assert "forked child" in in_child({"poll": here.cq.poll, "wait": lambda: here.cq.wait(1)}[use])
    assert here.cq.poll(4)[0] == 1


@pytest.mark.parametrize("closed", ["qp", "cq", "pd", "ctx"])
def test_what_a_forked_child_closes_is_its_copy(node, party, closed):
    here = party(node)
    here.memory("m", 4096)
    completed(here)
    thing = {"qp": here.qps["q"], "cq": here.cq, "pd": here.pds["main"], "ctx": here.ctx}[closed]
    assert in_child(thing.close) == "None"
    assert here.cq.poll(4)[0] == 1
    assert here.state("q") == "RTS"


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_a_forked_child_does_not_end_the_node(fresh, end):
    node = fresh()
    files = node.fs
    assert in_child(getattr(node, end)) == "None"
    assert node.path.is_dir()
    with node.context() as ctx:
        assert ctx.books()["sessions"] == 2
    assert files.ls() == node.fs.ls()


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_the_end_of_the_broker_is_an_event_and_then_eio(fresh, end):
    node = fresh()
    ctx = node.context()
    pd, cq, mr, qp = furnish(ctx)
    getattr(node, end)()
    event = ctx.get_async_event(30)
    assert (event.event_type, event.element) == (e.IBV_EVENT_DEVICE_FATAL, None)
    event.ack()
    calls = (
        ctx.get_async_event,  # once: nothing comes after it
        lambda: ctx.get_async_event(60),
        ctx.query_device,
        lambda: MR(pd, 4096, ALL),
        lambda: qp.query(1),
        cq.poll,
        ctx.fs.ls,
        lambda: cq.wait(1),
    )
    for call in calls:
        with pytest.raises(PyverbsRDMAError) as error:
            call()
        assert error.value.error_code == errno.EIO
    for thing in (qp, mr, cq, pd, ctx):
        thing.close()
    node.start()
    with node.context() as again:
        furnish(again)


def test_a_reclaim_under_way_when_the_broker_dies_is_in_doubt(fresh, party):
    node = fresh()
    here = party(node)
    here.fs("create", "/mnt/a", 8192)
    target = here.memory("file", 8192, file="/mnt/a")
    here.connect("q", here.pair("q"))
    here.ctx.call("hold_arm", point="quantum-half", key=target["rkey"])
    here.post("q", "write", "file", length=4096, rkey=target["rkey"], addr=target["addr"] + 4096)
    here.ctx.call("hold_wait", point="quantum-half")
    reclaim = here.ctx.fs.begin_truncate("/mnt/a", 0)
    node.kill()
    with pytest.raises(PyverbsRDMAError) as error:
        reclaim.result(30)
    assert (error.value.error_code, error.value.definite) == (errno.EIO, False)


def test_one_thread_waits_for_events_while_another_works(fresh):
    node = fresh()
    ctx = node.context()
    heard = []
    waiter = threading.Thread(target=lambda: heard.append(ctx.get_async_event(60)))
    waiter.start()
    for _ in range(50):
        MR(PD(ctx), 4096, ALL).close()
    node.kill()
    waiter.join(60)
    assert heard[0].event_type == e.IBV_EVENT_DEVICE_FATAL
    ctx.close()


def test_closing_a_context_ends_the_waiting_for_its_events(node):
    ctx = node.context()
    refused = []

    def wait():
        try:
            ctx.get_async_event()
        except PyverbsUserError as error:
            refused.append(error)

    waiters = [threading.Thread(target=wait, daemon=True) for _ in range(3)]
    for waiter in waiters:
        waiter.start()
    for _ in range(50):
        MR(PD(ctx), 4096, ALL).close()
    ctx.close()
    for waiter in waiters:
        waiter.join(30)
    assert len(refused) == 3


def test_who_waits_for_a_completion_hears_of_the_end(fresh, party):
    node = fresh()
    here = party(node)
    killer = subprocess.Popen(
        [sys.executable, "-c", f"import os, signal; os.kill({node.pid}, signal.SIGKILL)"]
    )
    with pytest.raises(PyverbsRDMAError) as error:
        here.cq.wait()
    assert error.value.error_code == errno.EIO
    assert killer.wait() == 0
    node.kill()


def test_files_survive_the_broker(fresh):
    node = fresh()
    node.fs.create("/mnt/a", 8192)
    node.fs.write("/mnt/a", 5000, b"still here")
    node.kill()
    node.start()
    assert node.fs.read("/mnt/a", 5000, 10) == b"still here"
    assert node.fs.stat("/mnt/a")["size"] == 8192


def test_a_private_node_leaves_nothing_behind():
    with Node() as node:
        pid, path = node.pid, node.path
        assert path.is_dir()
    assert not path.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_private_node_dies_with_its_parent():
    """kill -9 of the program that opened it: broker and directory are gone."""
    program = textwrap.dedent("""
        import sys
        import emu
        node = emu.node()
        print(node.pid, node.dir, flush=True)
        sys.stdin.read()
    """)
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    pid, path = parent.stdout.readline().split()
    broker = os.pidfd_open(int(pid))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert select.select([broker], [], [], 60)[0], "the broker outlived its parent"
    os.close(broker)
    assert not Path(path).exists()
    for pipe in (parent.stdin, parent.stdout):
        pipe.close()


def test_contexts_without_an_address_share_one_embedded_node(monkeypatch):
    monkeypatch.delenv("EMU_DIR", raising=False)
    with Context() as first, Context(name="emu0") as second:
        assert first.dir == second.dir
        path = Path(first.dir)
        first.fs.create("/mnt/a", 4096)
        assert second.fs.stat("/mnt/a")["size"] == 4096
    assert not path.exists()


def test_emu_dir_names_the_node(node, monkeypatch):
    monkeypatch.setenv("EMU_DIR", node.dir)
    with Context() as ctx:
        assert ctx.dir == node.dir


def test_a_broker_that_does_not_come_up_says_why():
    with pytest.raises(PyverbsRDMAError) as error:
        Node("no-such-protocol").start()
    assert "no-such-protocol" in str(error.value)
