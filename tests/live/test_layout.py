"""Blocks that move, are shared, copied, or fail under the DMA of another process: each event under none, ebusy and mr-revoke.

All events of a protocol run on one broker, one file each; its history is held against the model and against what the protocol promises.
"""

from __future__ import annotations

import errno
import signal

import pytest
from judged import not_shown, wrong
from served import PATIENCE, Served

from emu.verbs.node import Node
from emu.verbs.pyverbs_error import PyverbsRDMAError
from emu.wire.errors import ConnectionLost

BLOCK = 4096
SIZE = 64 * BLOCK
PIECE = 16 * BLOCK
WAIT = 30


def collapse(fs, path):
    fs.fallocate(path, "collapse", PIECE, PIECE, timeout=WAIT)


def insert(fs, path):
    fs.fallocate(path, "insert", PIECE, PIECE, timeout=WAIT)


def zero(fs, path):
    fs.fallocate(path, "zero", PIECE + 10, 2 * PIECE, timeout=WAIT)


def reflink(fs, path):
    fs.reflink(path, f"{path}-clone", timeout=WAIT)


def cow_write(fs, path):
    fs.begin_write(path, PIECE, b"w" * BLOCK).result(WAIT)


def migrate(fs, path):
    fs.migrate(path, timeout=WAIT)


def poison(fs, path):
    fs.poison(path, 5 * BLOCK + 1, timeout=WAIT)


def umount(fs, path):
    fs.umount(path.rpartition("/")[0], timeout=WAIT)


EVENTS = (collapse, insert, zero, reflink, cow_write, migrate, poison, umount)


class Story:
    """A holder with an MR over a file of its own, and another process that floods it."""

    def __init__(self, node: Node, party, remote, event) -> None:
        self.node, self.event, self.path = node, event, f"/mnt/{event.__name__}"
        self.holder = party(node, "holder", emu_events=True)
        self.holder.fs("create", self.path, SIZE)
        self.opcode, access = "write", 7
        if event is cow_write:  # whoever may write shares nothing: this one reads
            node.fs.reflink(self.path, f"{self.path}-clone", timeout=WAIT)
            self.opcode, access = "read", 4
        self.target = self.holder.memory("file", SIZE, access, file=self.path)
        self.peer = remote(node, "peer")
        self.peer.call("memory", "m", SIZE)
        self.peer.call("put", "m", (b"\xaa" * SIZE).hex())
        near, far = self.peer.call("pair", "a", depth=32), self.holder.pair("b")
        self.holder.connect("b", near)
        self.peer.call("connect", "a", far)

    def run(self) -> int:
        """The event under the flood. Its errno, 0 for success."""
        far = {"rkey": self.target["rkey"], "addr": self.target["addr"]}
        assert self.peer.call("do", "a", self.opcode, "m", length=SIZE, **far) == "SUCCESS"
        self.peer.begin("flood", "a", self.opcode, "m", far["rkey"], far["addr"], SIZE, PIECE, 16)
        try:
            self.event(self.node.fs, self.path)
        except PyverbsRDMAError as error:
            return error.error_code
        return 0

    def ended(self) -> set[str]:
        """What the peer's completions said."""
        self.peer.begin("state", "a")
        report = self.peer.end()
        self.peer.end()
        return set(report["statuses"])

    def close(self) -> None:
        self.holder.close()
        self.peer.close()


@pytest.fixture(params=["none", "ebusy", "mr-revoke"])
def run(request, tmp_path, party, remote):
    """Runs an event on this protocol's node, gives (story, errno); the history is judged behind the test."""
    directory = tmp_path / "node"
    with Node(request.param, "4M", 0.1, directory=directory) as node:

        def one(event):
            story = Story(node, party, remote, event)
            code = story.run()
            return story, code

        yield request.param, node, one
    assert wrong(directory, request.param) == []
    if request.param != "none":  # it declares little
        assert not_shown(directory)["S6"] == ""


def test_each_event_is_as_its_protocol_decides(run):
    protocol, node, one = run
    for event in EVENTS:
        story, code = one(event)
        statuses = story.ended()
        if protocol == "none":
            assert code == 0, event
            assert statuses <= {"SUCCESS"}, event
        elif protocol == "ebusy":
            assert code == errno.EBUSY, event
            assert statuses <= {"SUCCESS"}, event
        else:
            assert code == 0, event
            while story.holder.event()["event"] != "MR_REVOKED":
                pass  # the queue pair's error may come first
            assert "REM_ACCESS_ERR" in statuses, event
        story.close()
        if event is poison:
            with pytest.raises(PyverbsRDMAError) as caught:
                node.fs.read(story.path, 5 * BLOCK, 10)
            assert caught.value.error_code == errno.EIO
    if protocol != "ebusy":  # the last event was the umount
        with pytest.raises(PyverbsRDMAError, match="under no mount"):
            node.fs.stat("/mnt/zero")
        node.fs.mount("/mnt", "pm0", protocol)
        assert node.fs.stat("/mnt/zero")["size"] == SIZE
        assert node.fs.stat("/mnt/collapse")["size"] == SIZE - PIECE
        assert node.fs.stat("/mnt/insert")["size"] == SIZE + PIECE
    books = node.fs.ls()["devices"][0]
    assert books["bad"] == 1


def test_a_clone_keeps_what_it_was_cloned_from(fresh):
    fs = fresh("mr-revoke", "1M").fs
    fs.create("/mnt/a", 3 * BLOCK)
    fs.write("/mnt/a", 0, b"before" * 2000)
    fs.reflink("/mnt/a", "/mnt/b")
    fs.write("/mnt/a", BLOCK, b"behind")
    assert fs.read("/mnt/b", 0, 12000) == b"before" * 2000
    assert fs.read("/mnt/a", BLOCK, 6) == b"behind"
    fs.migrate("/mnt/b")
    fs.unlink("/mnt/a")
    assert fs.read("/mnt/b", 0, 12000) == b"before" * 2000


MOVES = {
    "migrate": ("fs_migrate", {"path": "/mnt/a"}),
    "cow-write": ("fs_write", {"path": "/mnt/b", "offset": 100, "data": b"new"}),
    "reflink": ("fs_reflink", {"path": "/mnt/a", "to": "/mnt/c"}),
    "collapse": ("fs_fallocate", {"path": "/mnt/a", "mode": "collapse", "offset": 0, "length": BLOCK}),
    "zero": ("fs_fallocate", {"path": "/mnt/b", "mode": "zero", "offset": 10, "length": 2 * BLOCK}),
    "poison": ("fs_poison", {"path": "/mnt/a", "offset": BLOCK}),
}


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("point", ["before-commit", "after-commit"])
def test_a_kill_in_the_middle_leaves_it_done_or_not_done(tmp_path, move, point):
    """Two files share four blocks when the broker is killed: behind the restart each reads as before, or as after, and nothing is lost."""
    with Served(tmp_path / "n") as broker:
        with broker.connect() as node:
            node.call("fs_create", path="/mnt/a", size=4 * BLOCK)
            node.call("fs_write", path="/mnt/a", offset=0, data=b"A" * 4 * BLOCK)
            node.call("fs_reflink", path="/mnt/a", to="/mnt/b")
            node.call("hold_arm", point=point)
            op, fields = MOVES[move]
            pending = node.start(op, **fields)
            node.call("hold_wait", point=point)
            assert broker.end(signal.SIGKILL) == -signal.SIGKILL
            with pytest.raises(ConnectionLost):
                pending.result(PATIENCE)
        broker.start()
        with broker.connect() as node:
            other = "/mnt/b" if fields["path"] == "/mnt/a" else "/mnt/a"
            if move != "poison":
                assert (
                    node.call("fs_read", path=other, offset=0, length=4 * BLOCK).result["data"]
                    == b"A" * 4 * BLOCK
                )
            counts = node.call("query_books").result["devices"]["pm0"]
            assert counts["quarantined"] == 0
            assert counts["free"] + counts["owned"] + counts["bad"] == counts["total"]
            done = point == "after-commit"
            assert counts["bad"] == (done and move == "poison")
            for path in ("/mnt/a", "/mnt/b"):
                node.call("fs_unlink", path=path)
            if move == "reflink" and done:
                assert (
                    node.call("fs_read", path="/mnt/c", offset=0, length=BLOCK).result["data"] == b"A" * BLOCK
                )
                node.call("fs_unlink", path="/mnt/c")
            counts = node.call("query_books").result["devices"]["pm0"]
            assert (counts["owned"], counts["free"]) == (0, counts["total"] - counts["bad"])
