"""Work requests and attributes: pyverbs' arguments and defaults, and what the ring gets."""

import inspect

import pytest

from emu.verbs import enums as e
from emu.verbs.addr import GID, AHAttr, GlobalRoute
from emu.verbs.cq import CQ, WC, cqe_status_to_str
from emu.verbs.mr import MR
from emu.verbs.pyverbs_error import PyverbsError, PyverbsRDMAError, PyverbsUserError
from emu.verbs.qp import QP, QPAttr, QPCap, QPInitAttr
from emu.verbs.wr import SGE, RecvWR, SendWR, chain


def test_a_send_request_becomes_a_ring_entry():
    wr = SendWR(7, e.IBV_WR_RDMA_WRITE, 2, 5, [SGE(0x1000, 64, 3), SGE(0x2000, 32, 4)], e.IBV_SEND_FENCE)
    wr.set_wr_rdma(0x99, 0xABC)
    ring = wr.work_request()
    assert (ring.wr_id, ring.opcode, ring.flags, ring.imm_data) == (
        7,
        e.IBV_WR_RDMA_WRITE,
        e.IBV_SEND_FENCE,
        5,
    )
    assert (ring.rkey, ring.remote_addr) == (0x99, 0xABC)
    assert [tuple(s) for s in ring.sges] == [(0x1000, 64, 3), (0x2000, 32, 4)]


def test_atomics_carry_their_operands():
    wr = SendWR(1, e.IBV_WR_ATOMIC_CMP_AND_SWP, 1, sg=[SGE(0, 8, 0)])
    wr.set_wr_atomic(2, 3, 4, 5)
    assert wr.work_request()[-4:] == (3, 2, 4, 5)


@pytest.mark.parametrize("make", [SendWR, RecvWR])
def test_a_request_needs_its_pieces(make):
    for arguments in ({}, {"num_sge": 1}, {"sg": [SGE(0, 1, 0)]}, {"num_sge": 2, "sg": [SGE(0, 1, 0)]}):
        with pytest.raises(PyverbsUserError):
            make(**arguments)


def test_requests_are_chained_in_order():
    third = SendWR(3, num_sge=1, sg=[SGE(0, 1, 0)])
    second = SendWR(2, num_sge=1, sg=[SGE(0, 1, 0)], next_wr=third)
    first = SendWR(1, num_sge=1, sg=[SGE(0, 1, 0)], next_wr=second)
    assert [wr.wr_id for wr in chain(first)] == [1, 2, 3]


def parameters(callable_object) -> list[str]:
    return [name for name in inspect.signature(callable_object).parameters if name != "self"]


def test_pyverbs_positional_arguments_keep_their_places():
    assert parameters(CQ)[:5] == ["creator", "cqe", "cq_context", "channel", "comp_vector"]
    assert parameters(QP) == ["creator", "init_attr", "qp_attr"]
    assert parameters(MR)[:5] == ["pd", "length", "access", "address", "implicit"]
    assert parameters(QPCap) == [
        "max_send_wr",
        "max_recv_wr",
        "max_send_sge",
        "max_recv_sge",
        "max_inline_data",
    ]
    assert parameters(QPInitAttr) == ["qp_type", "qp_context", "scq", "rcq", "srq", "cap", "sq_sig_all"]
    assert parameters(QPAttr)[:4] == ["qp_state", "cur_qp_state", "port_num", "path_mtu"]
    assert parameters(SendWR) == ["wr_id", "opcode", "num_sge", "imm_data", "sg", "send_flags", "next_wr"]
    assert parameters(RecvWR) == ["wr_id", "num_sge", "sg", "next_wr"]
    assert parameters(MR.write) == ["data", "length", "offset"]
    assert parameters(MR.read) == ["length", "offset"]
    assert parameters(CQ.poll) == ["num_entries"]


def test_pyverbs_defaults():
    cap, attr, init = QPCap(), QPAttr(), QPInitAttr()
    assert (cap.max_send_wr, cap.max_recv_wr, cap.max_send_sge, cap.max_recv_sge, cap.max_inline_data) == (
        1,
        10,
        1,
        1,
        0,
    )
    assert (init.qp_type, init.sq_sig_all) == (e.IBV_QPT_UD, 1)
    assert (attr.qp_state, attr.cur_qp_state, attr.port_num, attr.path_mtu) == (
        e.IBV_QPS_INIT,
        0,
        1,
        e.IBV_MTU_1024,
    )
    wr = SendWR(num_sge=1, sg=[SGE(0, 1, 0)])
    assert (wr.opcode, wr.send_flags, wr.wr_id) == (e.IBV_WR_SEND, e.IBV_SEND_SIGNALED, 0)


def test_a_completion_prints_its_status():
    wc = WC(wr_id=4, status=10, qp_num=9)
    assert wc.status.name == "IBV_WC_REM_ACCESS_ERR"
    assert "remote access error" in str(wc)
    assert cqe_status_to_str(99) == "unknown status 99"


def test_addresses_are_kept():
    route = GlobalRoute(dgid=GID("fe80:0000:0000:0000:0000:0000:0000:0001"), sgid_index=1)
    ah = AHAttr(gr=route, is_global=1, port_num=1)
    assert ah.dgid == "fe80:0000:0000:0000:0000:0000:0000:0001"
    with pytest.raises(PyverbsUserError):
        AHAttr(is_global=1)
    with pytest.raises(PyverbsUserError):
        GID("nonsense")


def test_errors_carry_the_errno():
    error = PyverbsRDMAError("truncate /mnt/a: held", 16)
    assert (error.errno, error.error_code, error.definite) == (16, 16, True)
    assert str(error) == "truncate /mnt/a: held. Errno: 16, Device or resource busy"
    assert isinstance(error, PyverbsError)
    assert PyverbsUserError("no").errno == 22


@pytest.mark.parametrize("make", [SendWR, RecvWR])
def test_the_pieces_of_a_request_can_be_replaced(make):
    wr = make(num_sge=1, sg=[SGE(0, 1, 0)])
    wr.sg_list = SGE(64, 8, 3)
    assert [tuple(s) for s in wr.work_request().sges] == [(64, 8, 3)]
    wr.sg_list = [SGE(64, 8, 3), SGE(128, 8, 3)]
    wr.num_sge = 1
    assert [tuple(s) for s in wr.work_request().sges] == [(64, 8, 3)]
    wr.num_sge = 3
    with pytest.raises(PyverbsUserError):
        wr.work_request()


def test_attributes_that_do_not_exist_are_refused():
    wr = {"num_sge": 1, "sg": [SGE(0, 1, 0)]}
    for thing in (SGE(0, 1, 0), SendWR(**wr), RecvWR(**wr), WC(), QPAttr(), QPCap(), QPInitAttr()):
        with pytest.raises(AttributeError):
            thing.rq_psm = 9
