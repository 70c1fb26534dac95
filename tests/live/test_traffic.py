"""What a reliable connection carries: SEND, WRITE, READ, in one process and between two, and the rules of its queues."""

from __future__ import annotations

import errno
import itertools

import pytest

from emu.verbs import enums as e
from emu.verbs.pyverbs_error import PyverbsRDMAError
from emu.verbs.wr import RecvWR, SendWR

BIG = 3 << 20  # many quanta


@pytest.fixture
def pair(node, party):
    """One process, one context, two connected queue pairs a and b, memory m (4 KiB) and n."""
    here = party(node)
    here.memory("m", 4096)
    target = here.memory("n", 4096)
    a, b = here.pair("a"), here.pair("b")
    here.connect("a", b)
    here.connect("b", a)
    return here, target


def test_a_write_lands_where_it_was_meant_to(pair):
    here, target = pair
    here.put("m", b"hello".hex(), 100)
    assert (
        here.do("a", "write", "m", offset=100, length=5, rkey=target["rkey"], addr=target["addr"] + 7)
        == "SUCCESS"
    )
    assert bytes.fromhex(here.get("n", 14)) == bytes(7) + b"hello" + bytes(2)


def test_a_read_brings_the_bytes(pair):
    here, target = pair
    here.put("n", b"there".hex(), 4091)
    assert here.do("a", "read", "m", length=5, rkey=target["rkey"], addr=target["addr"] + 4091) == "SUCCESS"
    assert bytes.fromhex(here.get("m", 5)) == b"there"


def test_a_send_fills_the_receive_buffer(pair):
    here, _ = pair
    here.recv("b", "n", offset=64, length=100, wr_id=9)
    here.put("m", b"message".hex())
    here.post("a", "send", "m", length=7, wr_id=3)
    rows = sorted(here.gather(2))
    assert rows[0][:3] == [3, "SUCCESS", e.IBV_WC_SEND]
    assert rows[1] == [9, "SUCCESS", e.IBV_WC_RECV, 7]
    assert bytes.fromhex(here.get("n", 7, 64)) == b"message"


def test_a_message_is_gathered_and_scattered_by_pieces(pair):
    here, _ = pair
    here.put("m", b"abcdefgh".hex())
    qp = here.qps["b"]
    qp.post_recv(RecvWR(1, 2, [here.sge("n", 0, 3), here.sge("n", 10, 20)]))
    here.qps["a"].post_send(
        SendWR(2, e.IBV_WR_SEND, 3, sg=[here.sge("m", 6, 2), here.sge("m", 0, 1), here.sge("m", 2, 2)])
    )
    assert {row[1] for row in here.gather(2)} == {"SUCCESS"}
    assert bytes.fromhex(here.get("n", 12)) == b"gha" + bytes(7) + b"cd"


def test_immediate_data_arrives_with_the_message(pair):
    here, _ = pair
    here.recv("b", "n")
    here.qps["a"].post_send(SendWR(5, e.IBV_WR_SEND_WITH_IMM, 1, 0xCAFE, [here.sge("m", 0, 4)]))
    wcs = []
    while len(wcs) < 2 and here.cq.wait(30):
        wcs += here.cq.poll(2)[1]
    received = next(wc for wc in wcs if wc.opcode == e.IBV_WC_RECV)
    assert (received.imm_data, received.wc_flags & e.IBV_WC_WITH_IMM) == (0xCAFE, e.IBV_WC_WITH_IMM)
    assert received.src_qp == here.qps["a"].qp_num


def test_a_write_with_immediate_data_takes_a_receive(pair):
    here, target = pair
    here.recv("b", "n", wr_id=8)
    here.put("m", b"data".hex())
    wr = SendWR(5, e.IBV_WR_RDMA_WRITE_WITH_IMM, 1, 77, [here.sge("m", 0, 4)])
    wr.set_wr_rdma(target["rkey"], target["addr"] + 512)
    here.qps["a"].post_send(wr)
    wcs = []
    while len(wcs) < 2 and here.cq.wait(30):
        wcs += here.cq.poll(2)[1]
    received = next(wc for wc in wcs if wc.wr_id == 8)
    assert (received.opcode, received.imm_data, received.byte_len) == (e.IBV_WC_RECV_RDMA_WITH_IMM, 77, 4)
    assert here.mrs["n"].read(4, 512) == b"data"


def test_chained_requests_are_posted_with_one_call(pair):
    here, target = pair
    second = here.request("write", "m", wr_id=2, length=8, rkey=target["rkey"], addr=target["addr"])
    first = here.request("write", "m", wr_id=1, length=8, rkey=target["rkey"], addr=target["addr"])
    first.next_wr = second
    here.qps["a"].post_send(first)
    assert [row[:2] for row in here.gather(2)] == [[1, "SUCCESS"], [2, "SUCCESS"]]


def test_the_first_request_that_was_not_posted_is_told(pair):
    here, target = pair
    values = {"length": 8, "rkey": target["rkey"], "addr": target["addr"]}
    wrs = [here.request("write", "m", wr_id=i, **values) for i in range(20)]
    for one, following in itertools.pairwise(wrs):
        one.next_wr = following
    bad = here.request("write", "m", **values)
    with pytest.raises(PyverbsRDMAError):
        here.qps["a"].post_send(wrs[0], bad)
    assert bad.wr_id == 16
    here.gather(16)


def test_work_completes_in_the_order_it_was_posted(pair):
    here, target = pair
    here.post("a", "write", "m", n=15, length=256, rkey=target["rkey"], addr=target["addr"])
    assert [row[0] for row in here.gather(15)] == list(range(15))


def test_an_unsignaled_request_completes_silently_and_frees_its_place(node, party):
    here = party(node)
    here.memory("m", 4096)
    target = here.memory("n", 4096)
    a, b = here.pair("a", depth=4, signal_all=0), here.pair("b")
    here.connect("a", b)
    here.connect("b", a)
    for turn in range(5):
        here.post("a", "write", "m", n=3, length=8, rkey=target["rkey"], addr=target["addr"], flags=0)
        here.post("a", "write", "m", length=8, rkey=target["rkey"], addr=target["addr"], wr_id=turn)
        assert here.gather(1) == [[turn, "SUCCESS", e.IBV_WC_RDMA_WRITE, 8]]


def test_a_full_queue_refuses_and_posts_what_fits(pair):
    here, target = pair
    values = {"length": 8, "rkey": target["rkey"], "addr": target["addr"]}
    with pytest.raises(PyverbsRDMAError) as error:
        here.post("a", "write", "m", n=20, **values)
    assert error.value.error_code == errno.ENOMEM
    assert "16 were posted" in str(error.value)
    here.gather(16)
    here.post("a", "write", "m", n=16, **values)
    here.gather(16)


def test_bytes_cross_between_two_processes(node, party, remote):
    here, there = party(node), remote(node)
    here.memory("m", BIG)
    target = there.call("memory", "n", BIG)
    a, b = here.pair("a"), there.call("pair", "b")
    here.connect("a", b)
    there.call("connect", "b", a)
    pattern = bytes(range(256)) * (BIG // 256)
    here.mrs["m"].write(pattern, BIG)
    assert here.do("a", "write", "m", rkey=target["rkey"], addr=target["addr"]) == "SUCCESS"
    for offset in (0, 65536 - 8, BIG - 300):
        assert bytes.fromhex(there.call("get", "n", 300, offset)) == pattern[offset : offset + 300]
    there.call("put", "n", b"from the other side".hex(), 70000)
    assert here.do("a", "read", "m", rkey=target["rkey"], addr=target["addr"]) == "SUCCESS"
    assert here.mrs["m"].read(19, 70000) == b"from the other side"


def test_messages_go_both_ways_between_two_processes(node, party, remote):
    here, there = party(node), remote(node)
    here.memory("m", 4096)
    there.call("memory", "n", 4096)
    a, b = here.pair("a"), there.call("pair", "b")
    here.connect("a", b)
    there.call("connect", "b", a)
    there.call("recv", "b", "n", wr_id=1)
    here.put("m", b"ping".hex())
    assert here.do("a", "send", "m", length=4) == "SUCCESS"
    assert there.call("gather", 1) == [[1, "SUCCESS", e.IBV_WC_RECV, 4]]
    assert bytes.fromhex(there.call("get", "n", 4)) == b"ping"
    here.recv("a", "m", offset=100)
    there.call("put", "n", b"pong".hex())
    assert there.call("do", "b", "send", "n", length=4) == "SUCCESS"
    assert here.gather(1)[0][1:] == ["SUCCESS", e.IBV_WC_RECV, 4]
    assert here.mrs["m"].read(4, 100) == b"pong"


def test_memory_is_addressed_by_the_iova_that_was_asked_for(node, party):
    here = party(node)
    here.memory("m", 4096)
    target = here.memory("n", 4096, iova=0)
    assert target["addr"] == 0
    a, b = here.pair("a"), here.pair("b")
    here.connect("a", b)
    here.connect("b", a)
    here.put("m", b"zero".hex())
    assert here.do("a", "write", "m", length=4, rkey=target["rkey"], addr=16) == "SUCCESS"
    assert here.mrs["n"].read(4, 16) == b"zero"
