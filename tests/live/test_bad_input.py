"""Bad input through the verbs face: each gets an errno and a sentence, the broker goes on, and nothing has changed."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import pickle
import select
import struct
import time

import pytest
from party import until

from emu.engine.ring import Memory
from emu.verbs import enums as e
from emu.verbs.cq import CQ
from emu.verbs.mr import MR
from emu.verbs.node import Node
from emu.verbs.pyverbs_error import PyverbsError, PyverbsRDMAError
from emu.verbs.qp import TO_RTR, TO_RTS

SIZE = 1 << 20
ALL = 7
F_GET_SEALS = 1034
SEALS = 0x1 | 0x2 | 0x4  # SEAL, SHRINK, GROW
RING_HEADER = struct.Struct("=IIII")


def refused(call, *numbers: int) -> PyverbsError:
    """The call's error: one of these errnos and a sentence of its own."""
    with pytest.raises(PyverbsError) as error:
        call()
    assert error.value.errno in numbers, str(error.value)
    assert len(str(error.value)) > 30
    return error.value


@pytest.fixture
def here(node, party, path):
    opened = party(node)
    opened.fs("create", path, SIZE)
    before = opened.books()
    yield opened
    until(opened.books, before)


LENGTHS = [0, -1, 2**63, 2**63 - 1, 2**64]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("backing", ["anon", "dax", "host"])
def test_registration_of_an_impossible_length(here, path, tmp_path, length, backing):
    host = tmp_path / "file"
    host.write_bytes(bytes(8192))
    where = {"anon": {}, "dax": {"file": path}, "host": {"path": host}}[backing]
    refused(lambda: MR(here.pds["main"], length, ALL, **where), errno.EINVAL, errno.ENOMEM, errno.EFBIG)


def test_more_memory_than_the_host_has_is_not_registered(node, party):
    pd = party(node).pds["main"]
    for length in (2**44, 2**46 - 1, 2**46, 2**46 + 1, 2**47, 2**62):
        refused(lambda length=length: MR(pd, length, ALL), errno.ENOMEM)


def test_a_region_that_cannot_be_mapped_here_is_given_back(node, party, monkeypatch):
    here = party(node)
    before = here.books()

    def full(*_, **__):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    with monkeypatch.context() as here_is_no_room:
        here_is_no_room.setattr(Memory, "map", full)
        refused(lambda: MR(here.pds["main"], 8192, ALL), errno.ENOMEM)
    until(here.books, before)
    MR(here.pds["main"], 8192, ALL).close()


@pytest.mark.parametrize("offset", [-4096, SIZE, SIZE - 4096, 2**63, 2**62, 1, 100])
def test_registration_beyond_the_file(here, path, offset):
    refused(lambda: MR(here.pds["main"], 8192, ALL, file=path, offset=offset), errno.EINVAL)


@pytest.mark.parametrize("size", [-1, 2**63, 2**64])
def test_truncate_to_an_impossible_size(here, path, size):
    refused(lambda: here.fs("truncate", path, size), errno.EINVAL, errno.EFBIG, errno.ENOSPC)
    assert here.fs("stat", path)["size"] == SIZE


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 0), (0, -1), (-1, 4096), (0, 2**63), (2**63, 4096), (2**62, 2**62 * 3)]
)
def test_punch_of_an_impossible_range(here, path, offset, length):
    refused(lambda: here.fs("punch", path, offset, length), errno.EINVAL)
    assert here.fs("stat", path)["size"] == SIZE


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, -1), (2**63, 1), (0, 2**63)])
def test_read_of_an_impossible_range(here, path, offset, length):
    refused(
        lambda: here.ctx.call("fs_read", path=path, offset=offset, length=length),
        errno.EINVAL,
        errno.EMSGSIZE,
    )


@pytest.mark.parametrize("offset", [-1, 2**63 - 2, 2**63])
def test_write_at_an_impossible_offset(here, path, offset):
    refused(lambda: here.fs("write", path, offset, b"data"), errno.EINVAL, errno.ENOSPC, errno.EFBIG)
    assert here.fs("stat", path)["size"] == SIZE


@pytest.mark.parametrize(
    "op", [("truncate", 0), ("punch", 0, 4096), ("unlink",), ("stat",), ("read", 0, 8), ("write", 0, b"x")]
)
def test_a_missing_file(here, op):
    refused(lambda: here.fs(op[0], "/mnt/missing", *op[1:]), errno.ENOENT)


@pytest.mark.parametrize(
    "name", ["/mnt/../etc/passwd", "/mnt/a/../../b", "/mnt/./a", "/mnt//a", "/mnt/", "/mnt/" + "x" * 300, ""]
)
def test_a_name_that_leads_elsewhere(here, name):
    refused(
        lambda: here.fs("create", name, 4096),
        errno.EINVAL,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.EISDIR,
        errno.EEXIST,
    )
    refused(
        lambda: MR(here.pds["main"], 4096, ALL, file=name),
        errno.EINVAL,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.EISDIR,
    )


def test_a_host_path_that_is_no_file(here, tmp_path):
    refused(lambda: MR(here.pds["main"], 4096, ALL, path=tmp_path / "missing"), errno.ENOENT)
    refused(lambda: MR(here.pds["main"], 4096, ALL, path=tmp_path), errno.EISDIR, errno.EINVAL)
    os.mkfifo(tmp_path / "fifo")
    refused(
        lambda: MR(here.pds["main"], 4096, ALL, path=tmp_path / "fifo"),
        errno.EINVAL,
        errno.ENODEV,
        errno.EOPNOTSUPP,
    )


def test_a_host_file_opened_for_reading_is_not_written(here, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(bytes(8192))
    with file.open("rb") as only_read:
        call = here.ctx.session.call
        values = {"pd": here.pds["main"].handle, "length": 4096, "access": ALL, "iova": 0, "backing": "host"}
        refused(lambda: call("reg_mr", [only_read.fileno()], path=str(file), **values), errno.EACCES)


def test_another_clients_handles(here, node, party):
    other = party(node, "other")
    other.memory("m", 4096)
    number = other.pair("q")
    call = here.ctx.call
    refused(lambda: call("dereg_mr", handle=other.mrs["m"].handle), errno.EINVAL)
    refused(lambda: call("dealloc_pd", handle=other.pds["main"].handle), errno.EINVAL)
    refused(lambda: call("destroy_cq", handle=other.cq.handle), errno.EINVAL)
    refused(lambda: call("destroy_qp", handle=other.qps["q"].handle), errno.EINVAL)
    refused(lambda: call("query_qp", handle=other.qps["q"].handle), errno.EINVAL)
    refused(
        lambda: call("reg_mr", pd=other.pds["main"].handle, length=4096, access=ALL, iova=0), errno.EINVAL
    )
    values = {"pd": here.pds["main"].handle, "recv_cq": here.cq.handle}
    refused(lambda: call("create_qp", send_cq=other.cq.handle, **values), errno.EINVAL)
    other.connect("q", number)
    assert other.do("q", "write", "m", rkey=other.mrs["m"].rkey, addr=other.mrs["m"].buf) == "SUCCESS"
    other.close()


def test_what_is_in_use_cannot_be_destroyed(node, party):
    here = party(node)
    here.memory("m", 4096)
    here.pair("q")
    refused(lambda: here.ctx.call("dealloc_pd", handle=here.pds["main"].handle), errno.EBUSY)
    refused(lambda: here.ctx.call("destroy_cq", handle=here.cq.handle), errno.EBUSY)


@pytest.mark.parametrize("cqe", [0, -1, 2**31, 2**63])
def test_a_completion_queue_of_an_impossible_size(here, cqe):
    refused(lambda: CQ(here.ctx, cqe), errno.EINVAL)


@pytest.mark.parametrize("values", [{"depth": -1}, {"depth": 1 << 20}, {"sge": 1000}, {"sge": -1}])
def test_a_queue_pair_of_an_impossible_size(here, values):
    refused(lambda: here.pair("q", **values), errno.EINVAL, errno.ENOMEM)


def test_access_flags_that_make_no_sense(here):
    pd = here.pds["main"]
    refused(lambda: MR(pd, 4096, e.IBV_ACCESS_REMOTE_WRITE), errno.EINVAL)
    refused(lambda: MR(pd, 4096, 1 << 30), errno.EINVAL)
    refused(lambda: MR(pd, 4096, -1), errno.EINVAL)
    refused(lambda: MR(pd, 4096, ALL | e.IBV_ACCESS_HUGETLB), errno.EOPNOTSUPP, errno.EINVAL)


def test_unknown_things_have_names_in_the_sentence(here, path):
    assert "mm-revoke" in str(refused(lambda: here.fs("protocol", "/mnt", "mm-revoke"), errno.EINVAL))
    assert "/nowhere" in str(refused(lambda: here.fs("protocol", "/nowhere"), errno.ENOENT))
    assert "pm9" in str(refused(lambda: here.fs("unplug", "pm9"), errno.ENODEV))
    assert "pm9" in str(refused(lambda: here.fs("plug", "pm9"), errno.ENODEV))
    assert path in str(refused(lambda: here.fs("create", path, 1), errno.EEXIST))


def test_a_full_device(fresh, party):
    node = fresh(size="1M")
    here = party(node)
    refused(lambda: here.fs("create", "/mnt/a", 2 << 20), errno.ENOSPC)
    here.fs("create", "/mnt/b", 1 << 20)
    refused(lambda: here.fs("create", "/mnt/c", 4096), errno.ENOSPC)
    refused(lambda: here.fs("write", "/mnt/b", 1 << 20, b"more"), errno.ENOSPC)
    here.fs("truncate", "/mnt/b", (1 << 20) + 1)  # a hole
    refused(lambda: here.fs("write", "/mnt/b", 1 << 20, b"x"), errno.ENOSPC)
    here.fs("unlink", "/mnt/b")
    here.fs("create", "/mnt/c", 1 << 20)


def test_registration_on_an_unplugged_device(fresh, party):
    node = fresh()
    here = party(node)
    here.fs("create", "/mnt/a", SIZE)
    node.fs.unplug(node.device)
    refused(lambda: here.memory("m", 4096, file="/mnt/a"), errno.ENODEV)
    refused(lambda: here.fs("create", "/mnt/b", 4096), errno.ENODEV)
    refused(lambda: here.fs("write", "/mnt/a", 0, b"x"), errno.ENODEV)


def test_a_mount_without_dax_gives_pages_of_its_cache(fresh, party):
    node = fresh(dax=False)
    here = party(node)
    here.fs("create", "/mnt/a", SIZE)
    here.memory("m", 4096, file="/mnt/a")
    here.put("m", b"page".hex())
    assert here.fs("read", "/mnt/a", 0, 8) == b"page\0\0\0\0".hex()


def test_a_second_broker_on_the_same_directory_is_refused(node):
    error = refused(Node(directory=node.dir).start, errno.ENODEV)
    assert node.dir in str(error)
    assert node.fs.ls()["mounts"]


# ---- what the door handed over


def test_no_owner_can_cut_its_rings_or_its_memory(node, party):
    """Every descriptor that the broker hands out: sealed, or not the client's to resize."""
    here = party(node)
    call, handles = here.ctx.session.call, {"pd": here.pds["main"].handle}
    cq = call("create_cq", cqe=16)
    qp = call("create_qp", send_cq=here.cq.handle, recv_cq=here.cq.handle, **handles)
    mr = call("reg_mr", length=65536, access=ALL, iova=0, **handles)
    for fd in (*here.ctx.session.descriptors, *cq.descriptors, *qp.descriptors, *mr.descriptors):
        assert fcntl.fcntl(fd, F_GET_SEALS) & SEALS == SEALS
        for size in (0, 1, 1 << 30):
            with pytest.raises(PermissionError):
                os.ftruncate(fd, size)
    for answer in (cq, qp, mr):
        for fd in answer.descriptors:
            os.close(fd)


def test_a_device_image_that_was_cut_costs_completions_and_no_broker(fresh, party):
    """Who has registered a file of a dax mount has the device's descriptor, as a pmem device's owner would."""
    node = fresh()
    here = party(node)
    here.fs("create", "/mnt/a", SIZE)
    target = here.memory("file", SIZE, file="/mnt/a")
    here.memory("m", SIZE)
    a, b = here.pair("a"), here.pair("b")
    here.connect("a", b)
    here.connect("b", a)
    values = {
        "pd": here.pds["main"].handle,
        "length": SIZE,
        "access": ALL,
        "iova": 0,
        "backing": "dax",
        "path": "/mnt/a",
    }
    answer = here.ctx.session.call("reg_mr", **values)
    (fd,) = answer.descriptors
    os.ftruncate(fd, 0)
    os.close(fd)
    assert here.do("a", "write", "m", rkey=target["rkey"], addr=target["addr"]) in {
        "REM_ACCESS_ERR",
        "REM_OP_ERR",
    }
    refused(lambda: here.fs("read", "/mnt/a", 0, 8), errno.EFAULT, errno.EIO)
    assert node.fs.ls()["mounts"]


# ---- garbage in the rings


class Rings:
    """A connected queue pair whose send ring is written by hand, past the client library."""

    def __init__(self, here) -> None:
        self.here, self.end = here, time.monotonic() + 30
        here.memory("m", 65536)
        answer = here.ctx.session.call(
            "create_qp",
            pd=here.pds["main"].handle,
            send_cq=here.cq.handle,
            recv_cq=here.cq.handle,
            max_send_wr=16,
            max_recv_wr=16,
        )
        self.handle, self.number = answer.result["handle"], answer.result["qp_num"]
        (fd,) = answer.descriptors
        self.map = mmap.mmap(fd, os.fstat(fd).st_size)
        os.close(fd)
        attrs = {"state": 1, "pkey_index": 0, "port": 1, "access": 7}
        self.modify(e.IBV_QP_STATE | e.IBV_QP_PKEY_INDEX | e.IBV_QP_PORT | e.IBV_QP_ACCESS_FLAGS, attrs)
        attrs = {
            "state": 2,
            "dest_qpn": self.number,
            "path_mtu": 3,
            "rq_psn": 0,
            "max_dest_rd_atomic": 1,
            "min_rnr_timer": 1,
        }
        self.modify(TO_RTR, {**attrs, "dlid": 0})
        self.modify(
            TO_RTS,
            {"state": 3, "timeout": 8, "retry_cnt": 1, "rnr_retry": 1, "sq_psn": 0, "max_rd_atomic": 1},
        )
        slot, depth = struct.unpack_from("=II", self.map, 16)
        self.slot, self.depth = slot, depth
        self.sq_off = struct.unpack_from("=I", self.map, 16 + 5 * 4)[0]

    def modify(self, mask: int, attrs: dict) -> None:
        self.here.ctx.call("modify_qp", handle=self.handle, mask=int(mask), attrs=attrs)

    def wqe(self, slot: int, raw: bytes) -> None:
        self.map[self.sq_off + 64 * slot : self.sq_off + 64 * slot + 64] = raw.ljust(64, b"\0")

    def publish(self, index: int) -> None:
        struct.pack_into("=I", self.map, 64, index & 0xFFFFFFFF)

    def ring(self) -> None:
        """The doorbell: bits in the context page and in the bell page; the engine's rescan needs no wake-up."""
        ctx_fd, bell_fd = self.here.ctx.session.descriptors
        for fd, offset_bits, offset_summary, bit in ((ctx_fd, 128, 64, self.slot), (bell_fd, 192, 128, None)):
            page = mmap.mmap(fd, 4096)
            number = RING_HEADER.unpack_from(mmap.mmap(ctx_fd, 4096), 0)[3] if bit is None else bit
            for offset, value in (
                (offset_bits + 8 * (number // 64), 1 << number % 64),
                (offset_summary, 1 << number // 64),
            ):
                word = struct.unpack_from("=Q", page, offset)[0]
                struct.pack_into("=Q", page, offset, word | value)

    def state(self) -> int:
        return self.here.ctx.call("query_qp", handle=self.handle).result["state"]

    def fails(self) -> None:
        """A completion in error or an event says so, and its state agrees."""
        fd = self.here.ctx.session.event_fd
        while not self.here.cq.wait(0.02) and not select.select([fd], [], [], 0.02)[0]:
            assert time.monotonic() < self.end, "garbage in a ring went unnoticed"
        assert all(wc.status != e.IBV_WC_SUCCESS for wc in self.here.cq.poll(16)[1])
        assert self.state() == e.IBV_QPS_ERR


def wild(opcode=0, num_sge=1, length=64, addr=0, lkey=0, rkey=0, remote=0, flags=2) -> bytes:
    return struct.pack(
        "=QBBHIQIIQIIQQ", 1, opcode, flags, num_sge, 0, remote, rkey, length, addr, lkey, 0, 0, 0
    )


GARBAGE = {
    "an opcode that does not exist": (lambda r: r.wqe(0, wild(opcode=200)), 1),
    "more SGEs than the queue has": (lambda r: r.wqe(0, wild(num_sge=65535)), 1),
    "a wild length and key": (lambda r: r.wqe(0, wild(length=2**32 - 1, addr=2**64 - 1, lkey=0xFFFFFFFF)), 1),
    "random bytes": (lambda r: r.wqe(0, bytes(range(7, 71))), 1),
    "a producer index that jumped by 2^31": (lambda r: None, 2**31),
    "a producer index that went back": (lambda r: None, -1),
    "a producer index one beyond the ring": (lambda r: None, 17),
    "a destroyed header": (lambda r: r.map.__setitem__(slice(0, 64), b"\xff" * 64), 2**31),
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_in_a_ring_hurts_that_queue_pair_alone(node, party, remote, kind):
    bystander = remote(node, "bystander")
    target = bystander.call("memory", "m", 65536)
    number = bystander.call("pair", "q", depth=64)
    bystander.call("connect", "q", number)
    bystander.begin("flood", "q", "write", "m", target["rkey"], target["addr"], 65536, 4096, 32)
    rings = Rings(party(node, "vandal"))
    spoil, index = GARBAGE[kind]
    spoil(rings)
    rings.publish(index)
    rings.ring()
    rings.fails()
    bystander.begin("state", "q")
    assert set(bystander.end()["statuses"]) == {"SUCCESS"}
    assert bystander.end() == "RTS"


def test_garbage_in_the_bell_page_delays_at_most(node, party):
    """A client may scribble over the page that all share: others' work is found by the engine's own rescan."""
    vandal, other = party(node, "vandal"), party(node, "other")
    page = mmap.mmap(vandal.ctx.session.descriptors[1], 4096)
    page[64:4096] = os.urandom(4096 - 64)
    other.memory("m", 65536)
    other.connect("q", other.pair("q"))
    for _ in range(20):
        page[64:4096] = bytes(4096 - 64)
        assert (
            other.do("q", "write", "m", length=8, rkey=other.mrs["m"].rkey, addr=other.mrs["m"].buf)
            == "SUCCESS"
        )


def test_an_errno_survives_pickling():
    error = pickle.loads(pickle.dumps(PyverbsRDMAError("truncate /mnt/a: held", errno.EBUSY, definite=True)))
    assert (error.errno, error.error_code, error.definite) == (errno.EBUSY, errno.EBUSY, True)
