"""A queue pair's states: the ladder up, the way down, and what is refused on each rung."""

from __future__ import annotations

import errno

import pytest

from emu.verbs import enums as e
from emu.verbs.pyverbs_error import PyverbsRDMAError, PyverbsUserError
from emu.verbs.qp import QP, QPAttr, QPCap, QPInitAttr
from emu.verbs.wr import SGE, SendWR


@pytest.fixture
def here(node, party):
    opened = party(node)
    opened.memory("m", 4096)
    return opened


def new(here, qp_attr: QPAttr | None = None) -> QP:
    init = QPInitAttr(qp_type=e.IBV_QPT_RC, scq=here.cq, rcq=here.cq, cap=QPCap(max_send_wr=4, max_recv_wr=4))
    qp = here.qps["q"] = QP(here.pds["main"], init, qp_attr)
    return qp


def test_a_queue_pair_begins_in_reset_and_climbs(here):
    qp = new(here)
    assert here.state("q") == "RESET"
    attr = QPAttr(dest_qp_num=qp.qp_num, timeout=14, retry_cnt=7, rnr_retry=7)
    qp.to_init(attr)
    assert here.state("q") == "INIT"
    qp.to_rtr(attr)
    assert here.state("q") == "RTR"
    qp.to_rts(attr)
    assert (here.state("q"), qp.qp_state) == ("RTS", e.IBV_QPS_RTS)
    got, init = qp.query(e.IBV_QP_TIMEOUT | e.IBV_QP_DEST_QPN)
    assert (got.timeout, got.dest_qp_num, init.qp_type) == (14, qp.qp_num, e.IBV_QPT_RC)


def test_with_attributes_it_is_returned_in_init(here):
    new(here, QPAttr())
    assert here.state("q") == "INIT"


@pytest.mark.parametrize("target", ["RTR", "RTS", "SQD"])
def test_an_illegal_step_changes_nothing(here, target):
    new(here)
    with pytest.raises(PyverbsRDMAError) as error:
        here.modify("q", target)
    assert error.value.error_code == errno.EINVAL
    assert here.state("q") == "RESET"


def test_a_missing_attribute_changes_nothing(here):
    qp = new(here, QPAttr())
    with pytest.raises(PyverbsRDMAError) as error:
        qp.modify(QPAttr(qp_state=e.IBV_QPS_RTR), e.IBV_QP_STATE | e.IBV_QP_PATH_MTU)
    assert error.value.error_code == errno.EINVAL
    assert here.state("q") == "INIT"


def test_posting_needs_the_right_state(here):
    qp = new(here)
    for state in ("RESET", "INIT", "RTR"):
        assert here.state("q") == state
        with pytest.raises(PyverbsRDMAError) as error:
            here.post("q", "send", "m", length=8)
        assert error.value.error_code == errno.EINVAL
        {"RESET": qp.to_init, "INIT": qp.to_rtr, "RTR": qp.to_rts}[state](QPAttr(dest_qp_num=qp.qp_num))


def test_receives_are_posted_from_init_on(here):
    new(here)
    with pytest.raises(PyverbsRDMAError):
        here.recv("q", "m")
    here.qps["q"].to_init(QPAttr())
    here.recv("q", "m")


def test_reset_forgets_both_queues_and_the_completions(here):
    qp = new(here)
    attr = QPAttr(dest_qp_num=qp.qp_num, qp_access_flags=7, timeout=8, retry_cnt=1)
    qp.to_rts(attr)
    here.recv("q", "m", n=4)
    here.modify("q", "ERR")
    assert here.cq.wait(30)
    here.modify("q", "RESET")
    assert here.cq.poll(16) == (0, [])
    qp.to_rts(attr)
    here.recv("q", "m", n=4)  # all places are free again
    rkey, addr = here.mrs["m"].rkey, here.mrs["m"].buf
    assert here.do("q", "write", "m", length=8, rkey=rkey, addr=addr + 64) == "SUCCESS"


def test_only_reliable_connections_exist(here):
    init = QPInitAttr(scq=here.cq, rcq=here.cq)  # pyverbs' default is UD
    with pytest.raises(PyverbsRDMAError) as error:
        QP(here.pds["main"], init)
    assert error.value.error_code == errno.EOPNOTSUPP


def test_a_queue_pair_needs_completion_queues(here):
    with pytest.raises(PyverbsUserError):
        QP(here.pds["main"], QPInitAttr(qp_type=e.IBV_QPT_RC))


def test_an_overflowing_completion_queue_is_an_error_of_its_own(node, party):
    small = party(node, "small", cqe=4)
    small.memory("m", 4096)
    number = small.pair("q", depth=64)
    small.connect("q", number)
    target = {"rkey": small.mrs["m"].rkey, "addr": small.mrs["m"].buf}
    small.post("q", "write", "m", n=32, length=8, **target)
    names = {small.event()["event"]}
    names.add(small.event()["event"])
    assert "CQ_ERR" in names
    assert small.state("q") == "ERR"


@pytest.mark.parametrize(
    ("opcode", "flags"),
    [
        (e.IBV_WR_ATOMIC_FETCH_AND_ADD, e.IBV_SEND_SIGNALED),
        (e.IBV_WR_SEND_WITH_INV, e.IBV_SEND_SIGNALED),
        (e.IBV_WR_RDMA_WRITE, e.IBV_SEND_SIGNALED | e.IBV_SEND_INLINE),
    ],
)
def test_what_the_nic_lacks_is_refused_when_it_is_posted(here, opcode, flags):
    here.connect("q", here.pair("q"))
    mr = here.mrs["m"]
    good, lacking = (
        SendWR(number, code, 1, sg=[SGE(mr.buf, 8, mr.lkey)], send_flags=bits)
        for number, code, bits in ((1, e.IBV_WR_RDMA_WRITE, e.IBV_SEND_SIGNALED), (2, opcode, flags))
    )
    for wr in (good, lacking):
        wr.set_wr_rdma(mr.rkey, mr.buf + 64)
    good.next_wr, bad = lacking, SendWR(9, num_sge=1, sg=[SGE(0, 8, 0)])
    with pytest.raises(PyverbsRDMAError) as error:
        here.qps["q"].post_send(good, bad)
    assert (error.value.error_code, bad.wr_id) == (errno.EOPNOTSUPP, 2)
    assert here.cq.wait(30)
    assert [wc.wr_id for wc in here.cq.poll(4)[1]] == [1]
    assert here.state("q") == "RTS"
