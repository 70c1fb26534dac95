"""What the NIC refuses, code by code, and what it does to the queue pairs (docs/verbs.md, "Completion codes")."""

from __future__ import annotations

import pytest
from party import until

from emu.verbs import enums as e

READ_ONLY = int(e.IBV_ACCESS_LOCAL_WRITE | e.IBV_ACCESS_REMOTE_READ)
WRITE_ONLY = int(e.IBV_ACCESS_LOCAL_WRITE | e.IBV_ACCESS_REMOTE_WRITE)


@pytest.fixture
def link(node, party):
    """Two contexts of this process: `near` posts, `far` owns the target n."""

    def make(length: int = 8192, access: int | None = None, **options):
        near, far = party(node, "near"), party(node, "far")
        near.memory("m", 8192)
        target = far.memory("n", length) if access is None else far.memory("n", length, access)
        a, b = near.pair("a", **options), far.pair("b", **options)
        near.connect("a", b)
        far.connect("b", a)
        return near, far, target

    return make


REASONS = {
    "unknown key": lambda far, t: {"rkey": 0x7FFFFF00, "addr": t["addr"]},
    "key of the next generation": lambda far, t: {"rkey": t["rkey"] + 1, "addr": t["addr"]},
    "key of another protection domain": lambda far, t: far.memory("foreign", 8192, pd="other"),
    "one byte behind the end": lambda far, t: {"rkey": t["rkey"], "addr": t["addr"] + 8192 - 63},
    "one byte before the start": lambda far, t: {"rkey": t["rkey"], "addr": t["addr"] - 1},
    "an address that wraps around": lambda far, t: {"rkey": t["rkey"], "addr": 2**64 - 32},
    "a deregistered key": lambda far, t: (far.forget("n"), t)[1],
}


@pytest.mark.parametrize("op", ["write", "read"])
@pytest.mark.parametrize("reason", REASONS)
def test_remote_access_error(link, op, reason):
    near, far, target = link()
    bad = REASONS[reason](far, target)
    near.post(
        "a",
        op,
        "m",
        length=64,
        rkey=target["rkey"] if reason != "a deregistered key" else bad["rkey"],
        addr=target["addr"],
    )
    near.post("a", op, "m", wr_id=1, length=64, rkey=bad["rkey"], addr=bad["addr"])
    near.post("a", op, "m", wr_id=2, n=3, length=64, rkey=target["rkey"], addr=target["addr"])
    rows = near.gather(5)
    first_bad = 0 if reason == "a deregistered key" else 1
    statuses = [row[1] for row in rows]
    assert statuses[first_bad] == "REM_ACCESS_ERR"
    assert set(statuses[first_bad + 1 :]) == {"WR_FLUSH_ERR"}
    assert [row[0] for row in rows] == [0, 1, 2, 3, 4]
    assert near.state("a") == "ERR"
    assert far.state("b") == "ERR"
    event = far.event()
    assert (event["event"], event["element"]) == ("QP_ACCESS_ERR", "b")


@pytest.mark.parametrize(("op", "access"), [("write", READ_ONLY), ("read", WRITE_ONLY)])
def test_a_right_that_the_region_does_not_give(link, op, access):
    near, far, target = link(access=access)
    assert near.do("a", op, "m", length=8, rkey=target["rkey"], addr=target["addr"]) == "REM_ACCESS_ERR"
    assert far.event()["event"] == "QP_ACCESS_ERR"


@pytest.mark.parametrize(("op", "access"), [("write", READ_ONLY), ("read", WRITE_ONLY)])
def test_a_right_that_the_queue_pair_does_not_give(node, party, op, access):
    near, far = party(node, "near"), party(node, "far")
    near.memory("m", 4096)
    target = far.memory("n", 4096)
    a, b = near.pair("a"), far.pair("b", access=access)
    near.connect("a", b)
    far.connect("b", a, access=access)
    assert near.do("a", op, "m", length=8, rkey=target["rkey"], addr=target["addr"]) in {
        "REM_ACCESS_ERR",
        "REM_INV_REQ_ERR",
    }


def test_nothing_is_written_by_a_refused_request(link):
    near, far, target = link()
    near.put("m", (b"\xff" * 8192).hex())
    status = near.do("a", "write", "m", length=8192, rkey=target["rkey"], addr=target["addr"] + 1)
    assert status == "REM_ACCESS_ERR"
    assert far.mrs["n"].read(8192, 0) == bytes(8192)


LOCAL = {
    "unknown key": lambda near: {"lkey": 0x7FFFFF00},
    "beyond the region": lambda near: {"offset": 8192 - 32},
}


@pytest.mark.parametrize("reason", LOCAL)
def test_local_protection_error(link, reason):
    near, far, target = link()
    near.post(
        "a",
        "write",
        "m",
        **{"length": 64, "rkey": target["rkey"], "addr": target["addr"], **LOCAL[reason](near)},
    )
    near.post("a", "write", "m", wr_id=1, length=64, rkey=target["rkey"], addr=target["addr"])
    assert [row[1] for row in near.gather(2)] == ["LOC_PROT_ERR", "WR_FLUSH_ERR"]
    assert near.state("a") == "ERR"
    assert far.event(timeout=0.0) is None


def test_a_read_into_memory_without_local_write(link):
    near, _, target = link()
    near.memory("ro", 4096, int(e.IBV_ACCESS_REMOTE_READ))
    assert near.do("a", "read", "ro", length=64, rkey=target["rkey"], addr=target["addr"]) == "LOC_PROT_ERR"


def test_a_message_longer_than_the_buffer(link):
    near, far, _ = link()
    far.recv("b", "n", length=16, wr_id=7)
    assert near.do("a", "send", "m", length=64) == "REM_INV_REQ_ERR"
    assert far.gather(1)[0][:2] == [7, "LOC_LEN_ERR"]


def test_a_message_into_a_buffer_whose_region_is_gone(link):
    near, far, _ = link()
    far.recv("b", "n", length=64, wr_id=7)
    far.forget("n")
    assert near.do("a", "send", "m", length=64) == "REM_OP_ERR"
    assert far.gather(1)[0][:2] == [7, "LOC_PROT_ERR"]


def test_no_receive_buffer_is_retried_and_then_given_up(link):
    near, _, _ = link()
    assert near.do("a", "send", "m", length=8) == "RNR_RETRY_EXC_ERR"
    assert near.state("a") == "ERR"


def test_a_receive_buffer_that_comes_late_is_in_time(node, party):
    near, far = party(node, "near"), party(node, "far")
    near.memory("m", 4096)
    far.memory("n", 4096)
    a, b = near.pair("a"), far.pair("b")
    near.connect("a", b, rnr_retry=7)  # for ever
    far.connect("b", a)
    near.post("a", "send", "m", length=8)
    assert not near.cq.wait(0.2)
    far.recv("b", "n")
    assert near.gather(1)[0][1] == "SUCCESS"


@pytest.mark.parametrize("how", ["in error", "destroyed", "its process is gone"])
def test_a_peer_that_does_not_answer(node, party, remote, how):
    near, far = party(node, "near"), remote(node, "far")
    near.memory("m", 4096)
    target = far.call("memory", "n", 4096)
    a, b = near.pair("a"), far.call("pair", "b")
    near.connect("a", b)
    far.call("connect", "b", a)
    assert near.do("a", "write", "m", rkey=target["rkey"], addr=target["addr"]) == "SUCCESS"
    if how == "in error":
        far.call("modify", "b", "ERR")
    elif how == "destroyed":
        far.call("destroy", "b")
    else:
        sessions = node.books["sessions"]
        far.kill()
        until(lambda: node.books["sessions"], sessions - 1)
    assert near.do("a", "write", "m", rkey=target["rkey"], addr=target["addr"]) == "RETRY_EXC_ERR"


def test_a_queue_pair_in_error_flushes_what_is_posted(link):
    _, far, target = link()
    far.recv("b", "n", wr_id=1, n=3)
    far.modify("b", "ERR")
    assert [row[:2] for row in far.gather(3)] == [[i, "WR_FLUSH_ERR"] for i in (1, 2, 3)]
    far.recv("b", "n", wr_id=9)
    far.post("b", "write", "n", wr_id=10, length=8, rkey=target["rkey"], addr=target["addr"])
    assert sorted(row[:2] for row in far.gather(2)) == [[9, "WR_FLUSH_ERR"], [10, "WR_FLUSH_ERR"]]
