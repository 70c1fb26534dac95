"""Files on a mount without dax: MRs over pages, taken back, written back and dropped while another process writes into them."""

from __future__ import annotations

import errno
import signal

import pytest
from served import Served

from emu.check.history import History
from emu.check.invariants import judge
from emu.check.validate import validate
from emu.history.runs import latest_run
from emu.protocols import registry
from emu.verbs.node import Node
from emu.verbs.pyverbs_error import PyverbsRDMAError

PAGE = 4096
SIZE = 64 * PAGE
PROTOCOLS = registry.load().protocols


@pytest.fixture
def cold(tmp_path):
    """Starts nodes whose mount has a page cache; at the end their histories are held against the model and what was promised."""
    nodes = []

    def start(protocol: str, *options: str) -> Node:
        node = Node(protocol, "4M", 0.1, dax=False, directory=tmp_path / f"n{len(nodes)}", options=options)
        nodes.append((protocol, node.start()))
        return node

    yield start
    for protocol, node in nodes:
        node.stop()
        history = History.read(latest_run(node.path / "runs"))
        assert [str(refusal) for refusal in validate(history, PROTOCOLS)] == []
        promises = PROTOCOLS[protocol].promises
        broken = {j.name: j.breaches[0] for j in judge(history, promised=promises) if j.breaches}
        assert {name: b.sentence for name, b in broken.items() if name in promises} == {}


class Scene:
    """A holder here with an MR over a file, and another process that writes into it."""

    def __init__(self, node, party, remote) -> None:
        self.node = node
        self.holder = party(node, "holder", emu_events=True)
        self.peer = remote(node, "peer")
        self.peer.call("memory", "m", SIZE)
        self.stage("/mnt/a")

    def stage(self, path: str) -> None:
        """A new file, a new MR over it, a new pair of queue pairs."""
        self.path, self.pair = path, path.rpartition("/")[2]
        self.holder.fs("create", path, SIZE)
        self.target = self.holder.memory(self.pair, SIZE, file=path)
        near, far = self.peer.call("pair", self.pair, depth=64), self.holder.pair(self.pair)
        self.holder.connect(self.pair, near)
        self.peer.call("connect", self.pair, far)

    def write(self, byte: int, offset: int = 0, length: int = SIZE) -> str:
        """One WRITE of the peer's; its status."""
        self.peer.call("put", "m", bytes([byte]).hex() * length)
        addr = self.target["addr"] + offset
        return self.peer.call(
            "do", self.pair, "write", "m", rkey=self.target["rkey"], addr=addr, length=length
        )

    def flood(self) -> None:
        self.peer.begin(
            "flood", self.pair, "write", "m", self.target["rkey"], self.target["addr"], SIZE, PAGE, 32
        )

    def stopped(self) -> dict:
        """The flood's report; the next command ends it."""
        self.peer.begin("state", self.pair)
        report = self.peer.end()
        self.peer.end()
        return report["statuses"]

    def read(self, path: str = "") -> bytes:
        return self.node.fs.read(path or self.path, 0, SIZE)

    def image(self) -> bytes:
        """The device's bytes of the file, as a kill of the broker would leave them."""
        found = bytearray(SIZE)
        with open(self.node.path / "pm0.img", "rb") as image:
            for offset, at, length, _since in self.node.fs.stat(self.path)["extents"]:
                image.seek(at)
                found[offset : offset + length] = image.read(length)
        return bytes(found)


@pytest.fixture
def scene(cold, party, remote):
    return lambda protocol, *options: Scene(cold(protocol, *options), party, remote)


TAKING = {
    "truncate": lambda fs, path: fs.truncate(path, 0, timeout=30),
    "punch": lambda fs, path: fs.punch(path, 0, SIZE, timeout=30),
    "unlink": lambda fs, path: fs.unlink(path, timeout=30),
    "writeback": lambda fs, path: fs.writeback(path, timeout=30),
    "memory-pressure": lambda fs, path: fs.pressure(path, timeout=30),
}


def under_dma(one):
    """Each kind in turn, a file and an MR each, with a flood of WRITEs under way."""
    for kind, take in TAKING.items():
        one.stage(f"/mnt/{kind}")
        one.flood()
        yield kind, lambda take=take: take(one.node.fs, one.path)


def test_ebusy_denies_while_the_peer_writes_on(scene):
    one = scene("ebusy")
    for kind, take in under_dma(one):
        with pytest.raises(PyverbsRDMAError) as caught:
            take()
        assert caught.value.error_code == errno.EBUSY, kind
        assert one.stopped().keys() == {"SUCCESS"}, kind


def test_mr_revoke_takes_the_mr_first(scene):
    one = scene("mr-revoke")
    for kind, take in under_dma(one):
        take()
        assert one.peer.end()["statuses"]["REM_ACCESS_ERR"] == 1, kind
        if kind in {"writeback", "memory-pressure"}:
            assert one.read() == one.image(), "what was acknowledged is on the device"


def test_none_lets_the_peer_write_on(scene):
    one = scene("none")
    for kind, take in under_dma(one):
        take()
        assert one.stopped().keys() == {"SUCCESS"}, kind
        assert one.write(0xEE) == "SUCCESS", kind


def test_a_page_that_is_dropped_under_the_dma_comes_to_another_file(scene):
    """none: what the peer writes is in nobody's file, and then in somebody else's."""
    one = scene("none")
    assert one.write(0xAA) == "SUCCESS"
    one.node.fs.pressure("/mnt/a")
    assert one.write(0xBB) == "SUCCESS"
    assert one.read() == b"\xaa" * SIZE, "acknowledged, and nowhere"
    one.node.fs.pressure("/mnt/a")
    one.holder.fs("create", "/mnt/b", SIZE)
    one.node.fs.write("/mnt/b", 0, b"\x11" * SIZE)
    assert one.read("/mnt/b") == b"\x11" * SIZE
    assert one.write(0xCC) == "SUCCESS"
    assert one.read("/mnt/b") == b"\xcc" * SIZE


def test_a_file_that_is_extended_again_has_other_pages(scene):
    """The facts of Linux: 0 at once, SUCCESS, and two contents: the file's and the MR's."""
    one = scene("none")
    one.node.fs.truncate("/mnt/a", 0)
    one.node.fs.create("/mnt/b", SIZE)
    one.node.fs.read("/mnt/b", 0, SIZE)  # has the pages that became free
    one.node.fs.truncate("/mnt/a", SIZE)
    assert one.write(0xBB) == "SUCCESS"
    assert one.read() == bytes(SIZE)


def test_what_the_nic_writes_behind_a_writeback_is_dirty_again_when_its_mr_goes(scene):
    one = scene("none")
    assert one.write(0xAA) == "SUCCESS"
    one.node.fs.writeback("/mnt/a")
    assert one.image() == b"\xaa" * SIZE
    assert one.node.fs.stat("/mnt/a")["dirty"] == []
    assert one.write(0xBB) == "SUCCESS"
    assert one.image() == b"\xaa" * SIZE
    one.holder.forget("a")
    assert one.node.fs.stat("/mnt/a")["dirty"] == [[0, SIZE]]
    one.node.fs.pressure("/mnt/a")
    assert one.node.fs.stat("/mnt/a")["pages"] == []
    assert one.read() == one.image() == b"\xbb" * SIZE


def test_the_broker_writes_back_by_itself(scene):
    one = scene("none", "--writeback", "0.2")
    assert one.write(0xAA) == "SUCCESS"
    one.holder.forget("a")
    while one.node.fs.stat("/mnt/a")["dirty"]:
        one.holder.event(timeout=0.01)
    assert one.image() == b"\xaa" * SIZE


def test_readers_and_writers_of_the_file_go_through_its_pages(scene):
    one = scene("mr-revoke")
    assert one.write(0xAA) == "SUCCESS"
    one.node.fs.write("/mnt/a", PAGE - 5, b"written")
    assert one.holder.mrs["a"].read(9, PAGE - 6) == b"\xaawritten\xaa"
    assert one.read()[PAGE - 6 : PAGE + 3] == b"\xaawritten\xaa"
    one.node.fs.punch("/mnt/a", 2 * PAGE + 1, 2 * PAGE)
    assert one.read()[2 * PAGE : 4 * PAGE + 2] == b"\xaa" + bytes(2 * PAGE) + b"\xaa"


def test_the_devices_unplug_keeps_what_the_nic_wrote(scene):
    one = scene("mr-revoke")
    assert one.write(0xAA) == "SUCCESS"
    extents = one.node.fs.stat("/mnt/a")["extents"]
    one.node.fs.unplug("pm0")
    with open(one.node.path / "pm0.img", "rb") as image:
        image.seek(extents[0][1])
        assert image.read(PAGE) == b"\xaa" * PAGE


KILLED = [("fs_write", "before-commit")] + [
    (op, point)
    for op in ("fs_write", "fs_writeback", "fs_pressure")
    for point in ("before-effect", "after-effect")  # pages are not durable: the other two commit nothing
]


@pytest.mark.parametrize(("op", "point"), KILLED)
def test_a_kill_anywhere_loses_nothing_that_was_acknowledged(tmp_path, point, op):
    """fs_write is on the device when it is answered, whatever happens to the pages afterwards."""
    with Served(tmp_path / "n", "--pmem", "pm0=1M", "--mount", "/mnt=pm0,protocol=none") as served:
        with served.connect() as node:
            node.call("fs_create", path="/mnt/a", size=3 * PAGE)
            node.call("fs_read", path="/mnt/a", offset=0, length=3 * PAGE)
            node.call("fs_write", path="/mnt/a", offset=100, data=b"\xaa" * 2 * PAGE)
            pd = node.call("alloc_pd").result["handle"]
            node.call("reg_mr", pd=pd, length=3 * PAGE, access=7, iova=0, backing="page-cache", path="/mnt/a")
            node.call("hold_arm", point=point)
            fields = {"fs_write": {"path": "/mnt/a", "offset": 3 * PAGE, "data": b"\xbb" * PAGE}}
            node.start(op, **fields.get(op, {"target" if op == "fs_pressure" else "path": "/mnt/a"}))
            node.call("hold_wait", point=point)
            served.end(signal.SIGKILL)
        served.start()
        with served.connect() as node:
            found = node.call("fs_read", path="/mnt/a", offset=0, length=4 * PAGE).result["data"]
            assert found[: 3 * PAGE] == bytes(100) + b"\xaa" * 2 * PAGE + bytes(PAGE - 100)
            assert found[3 * PAGE :] in {b"", bytes(PAGE), b"\xbb" * PAGE}
            assert node.call("fs_stat", path="/mnt/a").result["dirty"] == []


def test_others_are_answered_while_a_large_file_is_written_back(tmp_path):
    """What they ask for finds the file as if it had been written back at once."""
    size, tail = 64 << 20, (64 << 20) - PAGE
    with Served(tmp_path / "n", "--pmem", "pm0=80M", "--mount", "/mnt=pm0,protocol=none") as served:
        with served.connect() as node, served.connect() as other:
            node.call("fs_create", path="/mnt/a", size=size)
            pd = node.call("alloc_pd").result["handle"]
            node.call("reg_mr", pd=pd, length=size, access=7, iova=0, backing="page-cache", path="/mnt/a")
            node.call("hold_arm", point="before-effect")
            saved = node.start("fs_writeback", path="/mnt/a")
            node.call("hold_wait", point="before-effect")
            asked = [
                other.start("fs_stat", path="/mnt/a"),
                other.start("fs_write", path="/mnt/a", offset=tail, data=b"\xaa" * PAGE),
                other.start("fs_read", path="/mnt/a", offset=tail, length=PAGE),
            ]
            other.call("ping")  # answered behind them: they wait for the step now
            node.call("hold_release", point="before-effect")
            assert saved.result(60).result == {}
            stat, _written, read = (pending.result(60).result for pending in asked)
            assert (stat["dirty"], read["data"]) == ([], b"\xaa" * PAGE)
        served.end()
    history = History.read(latest_run(tmp_path / "n" / "runs"))
    (flush,) = history.of("Flush")
    (done,) = [line for line in history.of("Answered") if line["token"] == flush["token"]]
    between = [line for line in history.of("Reply") if flush["n"] < line["n"] < done["n"]]
    assert len(between) == len(asked)
    assert [str(refusal) for refusal in validate(history, PROTOCOLS)] == []
    promises = PROTOCOLS["none"].promises
    broken = {j.name for j in judge(history, promised=promises) if j.breaches}
    assert broken & set(promises) == set()
