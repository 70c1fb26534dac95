"""Memory that is refused, denied or waited for, with real processes: wait, wait-fair, layout-lease, immutable, refuse."""

from __future__ import annotations

import errno
import signal
import socket
import subprocess
import sys
import threading

import pytest
from party import RemoteError, until
from served import PATIENCE, Served, await_true, emu

from emu.verbs.mr import MR
from emu.verbs.pd import PD
from emu.verbs.pyverbs_error import PyverbsRDMAError
from emu.wire import codec
from emu.wire.client import connect
from emu.wire.door import receive, send

PAGE = 4096
SIZE = 16 * PAGE
WORD = b"\xaa" * PAGE


class Scene:
    """A holder here with an MR over `path`, and another process that writes into it when it is told."""

    def __init__(self, node, party, remote, path: str) -> None:
        self.node, self.path = node, path
        self.holder = party(node, "holder", emu_events=True)
        self.holder.fs("create", path, SIZE)
        self.needs = {"lease": ("lease", path, "shared"), "mark": ("mark", path)}.get(node.fs.needs("/mnt"))
        if self.needs:
            self.holder.fs(*self.needs)
        self.target = self.holder.memory("file", SIZE, file=path)
        self.peer = remote(node, "peer")
        self.peer.call("memory", "m", PAGE)
        self.peer.call("put", "m", WORD.hex())
        there, here = self.holder.pair("b"), self.peer.call("pair", "a")
        self.holder.connect("b", here)
        self.peer.call("connect", "a", there)

    def write(self, page: int = 0) -> str:
        """One page; how it ended."""
        where = {"rkey": self.target["rkey"], "addr": self.target["addr"] + page * PAGE}
        return self.peer.call("do", "a", "write", "m", length=PAGE, **where)

    def stat(self) -> dict:
        return self.node.fs.stat(self.path)


@pytest.fixture
def scene(node, party, remote, path):
    """scene(protocol): with the mount's protocol changed for this test."""
    before = node.fs.protocol("/mnt")

    def make(protocol: str) -> Scene:
        node.fs.protocol("/mnt", protocol)
        return Scene(node, party, remote, path)

    yield make
    node.fs.protocol("/mnt", before)


def refused(call, number: int) -> None:
    with pytest.raises(PyverbsRDMAError) as caught:
        call()
    assert caught.value.error_code == number, caught.value


# ---- wait


@pytest.mark.parametrize("protocol", ["wait", "wait-fair"])
def test_a_truncate_waits_for_a_deaf_holder_and_everybody_else_goes_on(scene, protocol):
    here = scene(protocol)
    reclaim = here.node.fs.begin_truncate(here.path, 0)
    assert here.write() == "SUCCESS", "the peer goes on"
    assert here.stat()["size"] == SIZE
    assert not reclaim.done
    here.holder.forget("file")
    reclaim.result(PATIENCE)
    assert here.stat()["blocks"] == 0
    assert here.write() == "REM_ACCESS_ERR"


@pytest.mark.parametrize("protocol", ["wait", "wait-fair"])
def test_whoever_is_interrupted_has_changed_nothing(scene, protocol):
    here = scene(protocol)
    before = here.stat()
    reclaim = here.node.fs.begin_truncate(here.path, 0)
    reclaim.cancel()
    refused(lambda: reclaim.result(PATIENCE), errno.EINTR)
    assert here.stat() == before
    assert here.write(3) == "SUCCESS"
    assert here.node.fs.read(here.path, 3 * PAGE, PAGE) == WORD


@pytest.mark.parametrize("protocol", ["wait", "wait-fair"])
def test_a_holder_that_is_killed_is_waited_for_no_longer(scene, remote, protocol):
    here = scene(protocol)
    other = remote(here.node, "other")
    other.call("memory", "file", SIZE, file=here.path)
    here.holder.forget("file")
    reclaim = here.node.fs.begin_punch(here.path, PAGE, PAGE)
    here.node.fs.stat(here.path)
    assert not reclaim.done
    other.kill()
    reclaim.result(PATIENCE)


def test_a_new_pin_comes_in_while_wait_sleeps(scene, remote):
    here = scene("wait")
    reclaim = here.node.fs.begin_punch(here.path, PAGE, PAGE)
    other = remote(here.node, "other")
    other.call("memory", "file", SIZE, file=here.path)
    here.holder.forget("file")
    assert not reclaim.done
    other.call("forget", "file")
    reclaim.result(PATIENCE)


# ---- wait-fair: who comes behind


def parked(here) -> int:
    return int(here.holder.ctx.books()["parked"])


def test_a_new_pin_queues_behind_wait_fair(scene, remote):
    here = scene("wait-fair")
    reclaim = here.node.fs.begin_punch(here.path, PAGE, PAGE)
    other = remote(here.node, "other")
    other.begin("memory", "file", SIZE, file=here.path)
    assert until(lambda: parked(here), 1)
    assert not reclaim.done
    here.holder.forget("file")
    reclaim.result(PATIENCE)
    assert other.end()["length"] == SIZE
    assert parked(here) == 0


def test_a_pin_that_waits_is_refused_when_the_file_has_become_too_short(scene, remote):
    here = scene("wait-fair")
    reclaim = here.node.fs.begin_truncate(here.path, PAGE)
    other = remote(here.node, "other")
    other.begin("memory", "file", SIZE, file=here.path)
    assert until(lambda: parked(here), 1)
    here.holder.forget("file")
    reclaim.result(PATIENCE)
    with pytest.raises(RemoteError, match="past the end"):
        other.end()


def test_who_is_killed_in_the_queue_leaves_it(scene, remote):
    here = scene("wait-fair")
    reclaim = here.node.fs.begin_punch(here.path, PAGE, PAGE)
    other = remote(here.node, "other")
    other.begin("memory", "file", SIZE, file=here.path)
    assert until(lambda: parked(here), 1)
    other.kill()
    assert until(lambda: parked(here), 0) == 0
    here.holder.forget("file")
    reclaim.result(PATIENCE)


def test_ctrl_c_takes_a_registration_out_of_the_queue(scene, party):
    here = scene("wait-fair")
    reclaim = here.node.fs.begin_punch(here.path, PAGE, PAGE)
    other = party(here.node, "other")

    def interrupt() -> None:
        until(lambda: parked(here), 1)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        MR(PD(other.ctx), SIZE, 7, file=here.path)
    thread.join()
    assert parked(here) == 0
    assert other.ctx.books()["mrs"] == 2, "of the holder and its peer"
    here.holder.forget("file")
    reclaim.result(PATIENCE)


# ---- layout-lease


def test_a_lease_with_a_pin_denies_and_one_without_is_broken(scene):
    here = scene("layout-lease")
    refused(lambda: here.node.fs.truncate(here.path, 0), errno.ETXTBSY)
    refused(lambda: here.node.fs.unlink(here.path), errno.ETXTBSY)
    assert here.write() == "SUCCESS"
    refused(lambda: here.holder.fs("lease", here.path, "none"), errno.EBUSY)
    here.holder.forget("file")
    here.node.fs.truncate(here.path, 0)
    told = here.holder.event()
    assert (told["event"], told["fields"]["path"], told["fields"]["event"]) == (
        "LEASE_BROKEN",
        here.path,
        "truncate",
    )


def test_leases_of_two_processes_conflict_unless_they_are_shared(scene, remote):
    here = scene("layout-lease")
    other = remote(here.node, "other")
    with pytest.raises(RemoteError, match="take a layout lease") as caught:
        other.call("memory", "file", SIZE, file=here.path)
    assert caught.value.errno == errno.EPERM
    with pytest.raises(RemoteError) as caught:
        other.call("fs", "lease", here.path, "exclusive")
    assert caught.value.errno == errno.EAGAIN
    other.call("fs", "lease", here.path, "shared")
    assert other.call("memory", "file", SIZE, file=here.path)["length"] == SIZE


def test_the_owners_own_truncate_lets_the_peer_write_into_another_file(scene):
    here = scene("layout-lease")
    here.holder.fs("truncate", here.path, 0)
    victim = here.path + "-victim"
    here.node.fs.create(victim, SIZE)
    content = bytes(range(256)) * (SIZE // 256)
    here.node.fs.write(victim, 0, content)
    assert [here.write(page) for page in range(3)] == ["SUCCESS"] * 3
    found = here.node.fs.read(victim, 0, SIZE)
    assert found != content
    assert WORD in found


# Opens a context on our door's other end, takes the lease, registers, hands the descriptor on, and ends when it is told.
OPEN = """
import array, socket, sys
from emu.wire import codec
from emu.wire.door import receive, send
door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
door.connect(sys.argv[1])
def ask(number, op, **values):
    send(door, codec.encode_request(op, number, values))
    packet = receive(door)
    packet.close_descriptors()
    return codec.decode_answer(packet.data)["result"]
ask(1, "hello", version=1, name="opener", wants=False)
pd = ask(2, "alloc_pd")["handle"]
ask(3, "fs_lease", path=sys.argv[3], kind="shared")
mr = ask(4, "reg_mr", pd=pd, length=4096, access=7, iova=0, backing="dax", path=sys.argv[3], offset=0, importer="sync-revocable")
parent = socket.socket(fileno=int(sys.argv[2]))
parent.sendmsg([str(mr["handle"]).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [door.fileno()]))])
parent.recv(1)
"""


def test_a_lease_does_not_follow_the_descriptor_and_the_pin_does(tmp_path):
    with Served(
        tmp_path / "node", "--pmem", "pm0=8M", "--mount", "/mnt=pm0,dax,protocol=layout-lease"
    ) as served:
        admin = served.connect()
        admin.call("fs_create", path="/mnt/a", size=SIZE)
        ours, childs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with ours, childs:
            command = [
                sys.executable,
                "-c",
                OPEN,
                str(served.directory / "door"),
                str(childs.fileno()),
                "/mnt/a",
            ]
            ours.settimeout(PATIENCE)
            with subprocess.Popen(command, pass_fds=(childs.fileno(),)) as opener:
                said, handles, _, _ = socket.recv_fds(ours, 16, 1)
                with socket.socket(fileno=handles[0]) as door:
                    truncate = admin.start("fs_truncate", path="/mnt/a", size=0)
                    with pytest.raises(Exception, match="refuses") as caught:
                        truncate.result(PATIENCE)
                    assert caught.value.errno == errno.ETXTBSY
                    opener.kill()
                    opener.wait(PATIENCE)
                    await_true(
                        "the lease is gone",
                        lambda: admin.call("fs_stat", path="/mnt/a").result["leases"] == 0,
                    )
                    truncate = admin.start("fs_truncate", path="/mnt/a", size=0)
                    assert admin.call("fs_stat", path="/mnt/a").result["size"] == SIZE
                    assert not truncate.done, "nobody has the lease, and somebody the pin"
                    send(door, codec.encode_request("dereg_mr", 9, {"handle": int(said)}))
                    packet = receive(door)
                    assert packet is not None
                    truncate.result(PATIENCE)
        admin.close()
        assert served.end() == 0


# ---- immutable, refuse


def test_a_marked_file_is_denied_pinned_or_not(scene):
    here = scene("immutable")
    refused(lambda: here.node.fs.truncate(here.path, 0), errno.EPERM)
    refused(lambda: here.node.fs.mark(here.path, immutable=False), errno.EBUSY)
    here.holder.forget("file")
    refused(lambda: here.node.fs.punch(here.path, 0, PAGE), errno.EPERM)
    here.node.fs.mark(here.path, immutable=False)
    here.node.fs.truncate(here.path, 0)


def test_a_mark_outlives_a_broker_that_is_killed(tmp_path):
    options = ("--pmem", "pm0=8M", "--mount", "/mnt=pm0,dax,protocol=immutable")
    with Served(tmp_path / "node", *options) as served:
        where = ("fs", "--dir", served.dir)
        assert emu(*where, "create", "/mnt/a", "64K").returncode == 0
        assert emu(*where, "mark", "/mnt/a", "on").returncode == 0
        served.end(signal.SIGKILL)
    with Served(tmp_path / "node", *options) as served:
        denied = emu(*where, "truncate", "/mnt/a", "0")
        assert denied.returncode == 1
        assert "truncate /mnt/a: EPERM" in denied.stderr
        assert "marked" in emu(*where, "stat", "/mnt/a").stdout
        assert emu(*where, "mark", "/mnt/a", "off").returncode == 0
        assert emu(*where, "truncate", "/mnt/a", "0").returncode == 0
        served.end()


def test_refuse_admits_nobody_and_so_nobody_is_in_the_way(node, party, path):
    before = node.fs.protocol("/mnt")
    node.fs.protocol("/mnt", "refuse")
    try:
        holder = party(node, "holder")
        holder.fs("create", path, SIZE)
        refused(lambda: holder.memory("file", SIZE, file=path), errno.EOPNOTSUPP)
        node.fs.truncate(path, 0)
    finally:
        node.fs.protocol("/mnt", before)


def test_a_lease_from_the_command_line_lasts_as_long_as_the_command(tmp_path):
    with Served(
        tmp_path / "node", "--pmem", "pm0=8M", "--mount", "/mnt=pm0,dax,protocol=layout-lease"
    ) as served:
        where = ("fs", "--dir", served.dir)
        emu(*where, "create", "/mnt/a", "64K")
        command = [sys.executable, "-m", "emu", *where, "lease", "/mnt/a", "exclusive", "--keep"]
        with (
            subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as keeper,
            connect(served.directory) as other,
        ):
            assert "held until interrupted" in keeper.stderr.readline()
            taken = emu(*where, "lease", "/mnt/a", "shared")
            assert (taken.returncode, "EAGAIN" in taken.stderr) == (1, True)
            keeper.send_signal(signal.SIGINT)
            assert keeper.wait(PATIENCE) == 0
            await_true("it is gone", lambda: other.call("fs_stat", path="/mnt/a").result["leases"] == 0)
            assert emu(*where, "lease", "/mnt/a", "shared").returncode == 0
            assert emu(*where, "lease", "/mnt/a", "forever").returncode == 64
        served.end()
