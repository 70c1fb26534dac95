"""Memory taken back while another process writes into it: truncate, punch, unlink, unplug, under each protocol."""

from __future__ import annotations

import errno
import os
import time

import pytest

from emu.verbs.mr import MR
from emu.verbs.pd import PD
from emu.verbs.pyverbs_error import PyverbsRDMAError

MIB = 1 << 20
SIZE = 4 * MIB


class Scene:
    """A holder here with an MR over `path`, and another process that floods it with writes."""

    def __init__(self, node, party, remote, path: str, host: bool = False) -> None:
        self.node, self.path = node, path
        self.holder = party(node, "holder", emu_events=True)
        if host:
            with open(path, "wb") as file:
                file.truncate(SIZE)
            self.target = self.holder.memory("file", SIZE, path=path)
        else:
            self.holder.fs("create", path, SIZE)
            self.target = self.holder.memory("file", SIZE, file=path)
        self.peer = remote(node, "peer")
        self.peer.call("memory", "m", MIB)
        self.peer.call("put", "m", (b"\xaa" * 4096).hex())
        self.connect("b", "a")

    def connect(self, far: str, near: str) -> None:
        b, a = self.holder.pair(far), self.peer.call("pair", near, depth=64)
        self.holder.connect(far, b and a)
        self.peer.call("connect", near, b)

    def flood(self) -> None:
        self.peer.begin(
            "flood", "a", "write", "m", self.target["rkey"], self.target["addr"], SIZE, 256 << 10, 32
        )
        while self.holder.mrs["file"].read(1, SIZE - MIB) != b"\xaa":
            self.holder.event(timeout=0.005)  # until the first round is nearly over

    def ended(self) -> dict:
        """The peer's flood, which an error ended (or the next command does)."""
        return self.peer.end()

    def stopped(self) -> dict:
        self.peer.begin("state", "a")
        answer = self.peer.end()
        self.peer.end()
        return answer


@pytest.fixture(params=["dax", "host"])
def scene(request, node, party, remote, path, tmp_path):
    name = str(tmp_path / "file") if request.param == "host" else path
    return Scene(node, party, remote, name, host=request.param == "host")


@pytest.fixture
def dax(node, party, remote, path):
    return Scene(node, party, remote, path)


def size_of(scene) -> int:
    if os.path.exists(scene.path):
        return os.stat(scene.path).st_size
    return scene.holder.fs("stat", scene.path)["size"]


def under(scene, protocol: str):
    mount = "host" if os.path.exists(scene.path) else "/mnt"
    before = scene.node.fs.protocol(mount)
    assert scene.node.fs.protocol(mount, protocol) == protocol
    return mount, before


@pytest.fixture
def protocol(scene):
    """Sets the protocol of the scene's mount for one test."""
    set_ones = []

    def choose(name: str) -> None:
        set_ones.append(under(scene, name))

    yield choose
    for mount, before in set_ones:
        scene.node.fs.protocol(mount, before)


RECLAIMS = {
    "truncate": lambda fs, path: fs.truncate(path, 0, timeout=30),
    "truncate in the middle": lambda fs, path: fs.truncate(path, SIZE // 2 + 100, timeout=30),
    "punch": lambda fs, path: fs.punch(path, MIB, MIB, timeout=30),
}


@pytest.mark.parametrize("reclaim", RECLAIMS)
def test_mr_revoke_gives_the_peer_an_error_and_the_reclaimer_its_memory(scene, protocol, reclaim):
    protocol("mr-revoke")
    scene.flood()
    RECLAIMS[reclaim](scene.node.fs, scene.path)
    report = scene.ended()
    assert report["statuses"]["REM_ACCESS_ERR"] == 1
    assert report["statuses"]["SUCCESS"] + report["statuses"].get("WR_FLUSH_ERR", 0) + 1 == report["posted"]
    events = {scene.holder.event()["event"] for _ in range(2)}
    assert events <= {"MR_REVOKED", "MR_REVOKING", "QP_ACCESS_ERR"}
    assert "MR_REVOKED" in events
    if reclaim == "truncate":
        assert size_of(scene) == 0


def test_a_revoked_key_stays_an_error_until_dereg(scene, protocol):
    protocol("mr-revoke")
    scene.node.fs.truncate(scene.path, 0)
    target = scene.target
    assert (
        scene.peer.call("do", "a", "write", "m", rkey=target["rkey"], addr=target["addr"], length=8)
        == "REM_ACCESS_ERR"
    )
    scene.connect("b2", "a2")
    assert (
        scene.peer.call("do", "a2", "read", "m", rkey=target["rkey"], addr=target["addr"], length=8)
        == "REM_ACCESS_ERR"
    )
    scene.holder.forget("file")
    again = scene.holder.memory("again", 4096)
    assert again["rkey"] != target["rkey"]


def test_only_who_asked_hears_of_a_revoke(dax, party, node):
    """verbs has no event of a memory region: a program that knows nothing of emu's gets none."""
    plain = party(node, "plain")
    plain.memory("same", SIZE, file=dax.path)
    node.fs.truncate(dax.path, 0, timeout=30)
    event = dax.holder.event()
    assert (event["event"], event["element"]) == ("MR_REVOKED", "file")
    assert event["fields"]["mr"] == dax.target["handle"]
    assert plain.event(timeout=0.1) is None
    assert dax.holder.event(timeout=0.0) is None


@pytest.mark.parametrize("reclaim", RECLAIMS)
def test_ebusy_refuses_and_changes_nothing(scene, protocol, reclaim):
    protocol("ebusy")
    scene.flood()
    with pytest.raises(PyverbsRDMAError) as error:
        RECLAIMS[reclaim](scene.node.fs, scene.path)
    assert error.value.error_code == errno.EBUSY
    assert error.value.definite
    assert scene.stopped()["statuses"].keys() == {"SUCCESS"}
    assert size_of(scene) == SIZE
    scene.holder.forget("file")
    RECLAIMS[reclaim](scene.node.fs, scene.path)


def test_none_frees_under_the_dma(dax):
    mount, before = under(dax, "none")
    try:
        dax.flood()
        dax.node.fs.truncate(dax.path, 0, timeout=30)
        assert dax.node.fs.stat(dax.path)["size"] == 0
        assert dax.stopped()["statuses"].keys() == {"SUCCESS"}
    finally:
        dax.node.fs.protocol(mount, before)


def test_unlink_takes_the_blocks_and_revokes(dax):
    dax.flood()
    dax.node.fs.unlink(dax.path, timeout=30)
    assert dax.ended()["statuses"]["REM_ACCESS_ERR"] == 1
    with pytest.raises(PyverbsRDMAError) as error:
        dax.node.fs.stat(dax.path)
    assert error.value.error_code == errno.ENOENT


def test_unplug_of_one_file_takes_it_from_its_users(scene, protocol):
    protocol("mr-revoke")
    scene.flood()
    scene.node.fs.unplug(scene.path, timeout=30)
    assert scene.ended()["statuses"]["REM_ACCESS_ERR"] == 1


@pytest.mark.parametrize("surprise", [False, True])
def test_unplug_and_plug_of_a_device(fresh, party, remote, surprise):
    node = fresh()
    scene = Scene(node, party, remote, "/mnt/a")
    scene.flood()
    node.fs.unplug(node.device, surprise=surprise, timeout=30)
    assert scene.ended()["statuses"]["REM_ACCESS_ERR"] == 1
    with pytest.raises(PyverbsRDMAError) as error:
        scene.holder.memory("more", SIZE, file="/mnt/a")
    assert error.value.error_code in {errno.ENODEV, errno.ENOENT, errno.ENXIO}
    node.fs.plug(node.device)
    scene.holder.fs("create", "/mnt/b", SIZE)
    scene.holder.memory("new", SIZE, file="/mnt/b")


def test_a_nodes_protocol_is_that_of_host_files_too(fresh, tmp_path):
    node = fresh(protocol="ebusy")
    (tmp_path / "file").write_bytes(bytes(4096))
    with node.context() as ctx:
        held = MR(PD(ctx), 4096, 0, path=tmp_path / "file")
        assert node.fs.protocol("host") == "ebusy"
        with pytest.raises(PyverbsRDMAError) as error:
            node.fs.truncate(str(tmp_path / "file"), 0, timeout=30)
        assert error.value.error_code == errno.EBUSY
        held.close()


def test_ebusy_cannot_stop_a_surprise_unplug(fresh, party, remote):
    node = fresh(protocol="ebusy")
    scene = Scene(node, party, remote, "/mnt/a")
    scene.flood()
    with pytest.raises(PyverbsRDMAError) as error:
        node.fs.unplug(node.device, timeout=30)
    assert error.value.error_code == errno.EBUSY
    node.fs.unplug(node.device, surprise=True, timeout=30)
    assert "SUCCESS" in scene.stopped()["statuses"]


def test_growing_and_cutting_what_is_not_registered_disturbs_nobody(dax):
    dax.flood()
    dax.node.fs.truncate(dax.path, 2 * SIZE)
    dax.node.fs.truncate(dax.path, SIZE)
    assert dax.stopped()["statuses"].keys() == {"SUCCESS"}
    assert dax.holder.event(timeout=0.0) is None


def test_a_host_file_cut_behind_the_brokers_back_is_an_error_and_no_crash(node, party, remote, tmp_path):
    scene = Scene(node, party, remote, str(tmp_path / "file"), host=True)
    scene.flood()
    os.truncate(scene.path, 0)
    statuses = scene.ended()["statuses"]
    assert set(statuses) <= {"SUCCESS", "REM_ACCESS_ERR", "REM_OP_ERR", "WR_FLUSH_ERR"}
    assert statuses.keys() & {"REM_ACCESS_ERR", "REM_OP_ERR"}
    names = {scene.holder.event()["event"] for _ in range(2)}
    assert "MEMORY_FAULT" in names
    assert node.books["sessions"] >= 2


def test_a_reclaim_that_waits_can_be_cancelled(fresh, party):
    """A held engine thread keeps the quiesce from ending; the reclaimer gives up; nothing has changed but the revoked key."""
    node = fresh()
    holder = party(node, "holder")
    holder.fs("create", "/mnt/a", SIZE)
    target = holder.memory("file", SIZE, file="/mnt/a")
    holder.memory("m", MIB)
    a, b = holder.pair("a"), holder.pair("b")
    holder.connect("a", b)
    holder.connect("b", a)
    holder.ctx.call("hold_arm", point="quantum-half", key=target["rkey"])
    holder.post("a", "write", "m", rkey=target["rkey"], addr=target["addr"])
    holder.ctx.call("hold_wait", point="quantum-half")
    reclaim = node.fs.begin_truncate("/mnt/a", 0)
    with pytest.raises(PyverbsRDMAError) as error:
        reclaim.result(timeout=0.3)
    assert (error.value.error_code, reclaim.done) == (errno.ETIMEDOUT, False)
    reclaim.cancel()
    with pytest.raises(PyverbsRDMAError) as error:
        reclaim.result(timeout=30)
    assert error.value.error_code == errno.EINTR
    assert node.fs.stat("/mnt/a")["size"] == SIZE
    holder.ctx.call("hold_release", point="quantum-half")
    holder.gather(1)
    node.fs.truncate("/mnt/a", 0, timeout=30)
    assert node.fs.stat("/mnt/a")["size"] == 0


def test_a_revoke_takes_what_an_invalidation_costs(fresh, party):
    """A lower bound, not a speed: the answer of the hardware is held back for that long."""
    node = fresh("mr-revoke", options=["--invalidation-cost", "50000"])
    here = party(node)
    here.ctx.fs.create("/mnt/a", 1 << 16)
    here.memory("f", 1 << 16, file="/mnt/a")
    began = time.monotonic()
    here.ctx.fs.truncate("/mnt/a", 0)
    assert time.monotonic() - began >= 0.05
