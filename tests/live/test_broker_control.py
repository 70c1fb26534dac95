"""Clients and the shell: emu fs, emu protocol, remote control, hold points of the engine, who is dead and who is not."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from served import COMMAND, PATIENCE, Served, await_true, emu

from emu.broker.sessions import OWED
from emu.core.requests import LS_BYTES, LS_FILES
from emu.wire import codec
from emu.wire.client import Dealer, connect_remote
from emu.wire.errors import ConnectionLost, RequestRefused, WireError


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with Served(
        tmp_path_factory.mktemp("n"), "--pmem", "pm0=8M", "--pmem", "pm1=1M", "--mount", "/mnt=pm0,dax,protocol=ebusy",
        "--mount", "/other=pm1,dax", "--listen", "tcp://127.0.0.1:*",
    ) as broker:  # fmt: skip
        yield broker


@pytest.fixture
def node(served):
    with served.connect(name="test") as connection:
        yield connection


@pytest.fixture
def fs(served):
    def run(*arguments, **options):
        return emu("fs", "--dir", served.directory, *arguments, **options)

    run.directory = served.directory
    return run


def test_files_from_the_shell(fs, node):
    assert fs("create", "/mnt/shell", "1M").returncode == 0
    assert fs("write", "/mnt/shell", "4K", input="words").returncode == 0
    assert fs("read", "/mnt/shell", "4096", "5").stdout == "words"
    listed = fs("ls", "/mnt").stdout.split("\n")
    assert listed[0].split() == ["path", "ino", "size", "blocks", "pins"]
    assert listed[1].split() == ["/mnt/shell", "1", "1048576", "256", "0"]
    assert fs("truncate", "/mnt/shell", "8K").returncode == 0
    assert fs("punch", "/mnt/shell", "0", "4K").returncode == 0
    found = json.loads(fs("--json", "stat", "/mnt/shell").stdout)
    assert (found["size"], found["blocks"], found["layout"]) == (8192, 1, 3)
    assert "since" in fs("stat", "/mnt/shell").stdout
    assert fs("unlink", "/mnt/shell").returncode == 0
    with pytest.raises(RequestRefused):
        node.call("fs_stat", path="/mnt/shell")


@pytest.fixture
def crowd(node):
    """More files than a page of fs_ls has."""
    names = [f"/other/crowd/{at:03}" for at in range(LS_FILES + 50)]
    for made in [node.start("fs_create", path=name, size=0) for name in names]:
        made.result(PATIENCE)
    yield names
    for gone in [node.start("fs_unlink", path=name) for name in names]:
        gone.result(PATIENCE)


def test_a_listing_has_all_its_pages(fs, node, crowd):
    assert len(node.call("fs_ls", path="/other/crowd").result["files"]) == LS_FILES
    found = json.loads(fs("--json", "ls", "/other/crowd").stdout)
    assert [file["path"] for file in found["files"]] == crowd
    assert fs("ls", "/other/crowd").stdout.count("/other/crowd/") == len(crowd)
    assert fs("ls", "/other/nobody").returncode == 1


@pytest.mark.usefixtures("crowd")
def test_who_asks_for_many_listings_is_told_to_read_the_answers(node):
    node.call("hold_arm", point="turn-start")
    node.call("hold_wait", point="turn-start")
    pages = OWED // LS_BYTES
    asked = [node.start("fs_ls") for _ in range(pages + 20)]
    node.call("ping")  # all have come
    node.call("hold_release", point="turn-start")
    assert {len(pending.result(PATIENCE).result["files"]) for pending in asked[:pages]} == {LS_FILES}
    for pending in asked[pages:]:
        with pytest.raises(RequestRefused, match="read the answers") as refused:
            pending.result(PATIENCE)
        assert refused.value.errno == errno.EAGAIN
    node.call("fs_ls")


def test_large_files_pass_through_the_shell_in_pieces(served, fs):
    data = os.urandom((1 << 21) + 777)
    assert fs("create", "/mnt/large", "0").returncode == 0
    command = [*COMMAND, "fs", "--dir", str(served.directory)]
    subprocess.run([*command, "write", "/mnt/large", "0"], input=data, check=True)
    assert (
        subprocess.run([*command, "read", "/mnt/large", "0", "1G"], check=True, capture_output=True).stdout
        == data
    )
    fs("unlink", "/mnt/large")


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (("truncate", "/mnt/none", "0"), 1, "emu: truncate /mnt/none: ENOENT: "),
        (("create", "/nowhere/a", "0"), 1, "emu: create /nowhere/a: ENOENT: "),
        (("create", "/mnt/../a", "0"), 1, "emu: create /mnt/../a: EINVAL: "),
        (("create", "/mnt/a", "-1"), 1, "emu: create /mnt/a: EINVAL: "),
        (("create", "/mnt/a", "1T"), 1, "emu: create /mnt/a: ENOSPC: "),
        (("unplug", "pm9"), 1, "emu: unplug pm9: ENODEV: "),
        (("truncate", "/mnt/a", "lots"), 64, "EINVAL"),
        (("truncate", "/mnt/a"), 64, "EINVAL"),
        (("shred", "/mnt/a"), 64, "EINVAL"),
        ((), 64, "EINVAL"),
    ],
)
def test_refusals_on_the_shell(fs, arguments, code, error):
    ended = fs(*arguments)
    assert (ended.returncode, ended.stdout) == (code, "")
    last = ended.stderr.strip().splitlines()[-1]
    assert error in last
    assert len(last) > len(error) + 10


def test_a_path_beyond_every_limit_is_answered_at_once(fs):
    ended = fs("create", "/mnt/" + "x" * 5000, "1K")
    assert (ended.returncode, "ENAMETOOLONG" in ended.stderr) == (1, True)
    assert "use at most 4096" in ended.stderr


@pytest.mark.parametrize("name", ["new\nline", "escape\x1b[2J", "del\x7f", "c1\x9b", b"not-utf-8-\xff"])
def test_a_name_that_no_terminal_should_see_is_refused(fs, name):
    path = b"/mnt/" + name if isinstance(name, bytes) else f"/mnt/{name}"
    ended = subprocess.run(
        [*COMMAND, "fs", "--dir", str(fs.directory), "create", path, "0"],
        capture_output=True,
        check=False,
        timeout=PATIENCE,
    )
    assert ended.returncode == 1
    (line,) = ended.stderr.decode("ascii").splitlines()
    assert line.startswith("emu: create /mnt/")
    assert ": EINVAL: " in line
    assert "UTF-8" in line
    assert line.isprintable()


def test_a_closed_stream_is_told(fs):
    fs("create", "/mnt/closed", "4K")
    emu_fs = " ".join([*COMMAND, "fs", "--dir", str(fs.directory)])
    for command, says in (("write /mnt/closed 0 <&-", "input"), ("read /mnt/closed 0 10 >&-", "output")):
        ended = subprocess.run(
            ["sh", "-c", f"{emu_fs} {command}"], capture_output=True, text=True, check=False
        )
        what = " ".join(command.split()[:2])
        assert ended.returncode == 1
        assert ended.stderr == f"emu: {what}: EBADF: standard {says} is closed: give a file or a pipe\n"
    fs("unlink", "/mnt/closed")


def test_a_write_that_does_not_fit_says_how_far_it_came(served, fs):
    fs("create", "/mnt/full", "0")
    command = [*COMMAND, "fs", "--dir", str(served.directory), "write", "/mnt/full", "0"]
    ended = subprocess.run(command, input=bytes(9 << 20), capture_output=True, check=False)
    said = ended.stderr.decode()
    assert ended.returncode == 1
    assert (
        f"; {json.loads(fs('--json', 'stat', '/mnt/full').stdout)['size']} bytes were written before" in said
    )
    assert "ENOSPC: device pm0: 256 blocks wanted, " in said
    assert " free: truncate" in said
    fs("unlink", "/mnt/full")


@pytest.mark.parametrize(
    "numbers", [("0", str(1 << 63)), (str(1 << 63), "1"), ("1", str((1 << 63) - 1)), ("0", "-1")]
)
def test_a_read_beyond_what_a_file_can_have_is_refused(fs, numbers):
    fs("create", "/mnt/short", "4K")
    ended = fs("read", "/mnt/short", *numbers)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "EINVAL: " in ended.stderr
    assert "out of range" in ended.stderr
    fs("unlink", "/mnt/short")


def test_a_command_waits_for_a_broker_that_is_just_starting(tmp_path):
    command = [*COMMAND, "broker", "--dir", str(tmp_path / "n"), "--pmem", "pm0=1M", "--mount", "/mnt=pm0"]
    early = subprocess.Popen(
        [*COMMAND, "protocol", "--dir", str(tmp_path / "n"), "/mnt"], stdout=subprocess.PIPE
    )
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as broker:
        assert early.communicate(timeout=PATIENCE)[0] == b"mr-revoke\n"
        broker.terminate()
        assert broker.wait(PATIENCE) == 0


def test_no_broker_is_exit_64(tmp_path):
    ended = emu("fs", "--dir", tmp_path, "ls")
    assert ended.returncode == 64
    assert "emu broker --dir" in ended.stderr


def test_protocols_are_shown_and_changed(served):
    ask = ("protocol", "--dir", served.directory)
    assert emu(*ask, "/mnt").stdout == "ebusy\n"
    assert emu(*ask, "/mnt", "mr-revoke").stdout == "mr-revoke\n"
    assert emu(*ask, "/mnt", "ebusy").stdout == "ebusy\n"
    wrong = emu(*ask, "/mnt", "nosuch")
    assert (wrong.returncode, "EINVAL" in wrong.stderr) == (1, True)
    assert emu(*ask, "/nowhere").returncode == 1


def register(node, path, length=8192):
    pd = node.call("alloc_pd").result["handle"]
    answer = node.call("reg_mr", pd=pd, length=length, access=7, iova=0, backing="dax", path=path)
    os.close(answer.descriptors[0])
    return answer.result


def test_ebusy_reaches_the_shell(fs, node):
    node.call("fs_create", path="/mnt/held", size=8192)
    held = register(node, "/mnt/held")
    ended = fs("truncate", "/mnt/held", "0")
    assert ended.returncode == 1
    assert ended.stderr.startswith("emu: truncate /mnt/held: EBUSY: ")
    node.call("dereg_mr", handle=held["handle"])
    assert fs("truncate", "/mnt/held", "0").returncode == 0


def test_a_host_file_is_truncated_through_its_descriptor(fs, tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"x" * 10000)
    assert fs("truncate", victim, "5000").returncode == 0
    assert victim.stat().st_size == 5000
    assert fs("punch", victim, "0", "4K").returncode == 0
    assert victim.read_bytes() == bytes(4096) + b"x" * 904
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    odd.write_bytes(b"x" * 100)
    assert fs("truncate", odd, "10").returncode == 0
    assert odd.stat().st_size == 10


def test_ctrl_c_takes_a_waiting_reclaim_back(served, node, party):
    """A copy is held half way, so the revoke waits; the interrupted truncate has changed nothing, and says so."""
    node.call("fs_create", path="/other/a", size=8192)
    holder = party(served, "holder")
    target = holder.memory("file", 8192, file="/other/a")
    holder.memory("source", 8192)
    a, b = holder.pair("a"), holder.pair("b")
    holder.connect("a", b)
    holder.connect("b", a)
    node.call("hold_arm", point="quantum-half", key=target["rkey"])
    holder.post("a", "write", "source", rkey=target["rkey"], addr=target["addr"])
    node.call("hold_wait", point="quantum-half", timeout=PATIENCE)
    command = [*COMMAND, "fs", "--dir", str(served.directory), "truncate", "/other/a", "0"]
    shell = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    await_true(
        "the truncation waits, or has ended",
        lambda: node.call("query_books").result["reclaims"] or shell.poll() is not None,
    )
    assert shell.poll() is None
    shell.send_signal(signal.SIGINT)
    _, words = shell.communicate(timeout=PATIENCE)
    node.call("hold_release", point="quantum-half")
    assert words.startswith("emu: truncate /other/a: EINTR: "), words
    assert shell.returncode == 1
    assert node.call("fs_stat", path="/other/a").result["size"] == 8192
    holder.gather(1)


def test_remote_control_over_tcp(served, node):
    address = tcp_address(served)
    with connect_remote(address, name="far") as far:
        assert far.session != node.session
        far.call("fs_create", path="/mnt/far", size=4096)
        assert far.call("fs_stat", path="/mnt/far").result["blocks"] == 1
        far.call("fs_unlink", path="/mnt/far")
        with pytest.raises(WireError, match="door"):
            far.call("reg_mr", pd=1, length=4096, access=1, iova=0)


def tcp_address(served):
    """The port that the system chose, as the broker's process holds it."""
    inodes = set()
    for fd in os.listdir(f"/proc/{served.process.pid}/fd"):
        link = os.readlink(f"/proc/{served.process.pid}/fd/{fd}")
        inodes |= {link[8:-1]} if link.startswith("socket:[") else set()
    for line in Path(f"/proc/{served.process.pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[9] in inodes and fields[3] == "0A":
            return f"tcp://127.0.0.1:{int(fields[1].partition(':')[2], 16)}"
    raise AssertionError("the broker listens on no tcp port")


def test_a_silent_remote_client_expires(tmp_path):
    with Served(tmp_path / "n", "--listen", "tcp://127.0.0.1:*", scale=0.002) as served:
        far = Dealer(tcp_address(served))
        far.ask(codec.encode_request("hello", 1, {"version": 1}), PATIENCE)
        with served.connect() as node:
            await_true("the silent session expires", lambda: node.call("query_books").result["sessions"] == 1)
            node.call("ping")
        far.close()


CLIENT = """
import sys
from emu.wire.client import connect
node = connect(sys.argv[1], name="victim")
pd = node.call("alloc_pd").result["handle"]
node.call("reg_mr", pd=pd, length=8192, access=7, iova=0)
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def victim(served):
    with subprocess.Popen(
        [sys.executable, "-c", CLIENT, str(served.directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def test_a_killed_client_leaves_nothing(node, victim):
    def counts():
        books = node.call("query_books").result
        return {name: books[name] for name in ("sessions", "pds", "mrs")}

    before = counts()
    victim.kill()
    victim.wait(PATIENCE)
    expected = {"sessions": before["sessions"] - 1, "pds": before["pds"] - 1, "mrs": before["mrs"] - 1}
    await_true(f"of {before} remains {expected}", lambda: counts() == expected)


def test_a_stopped_client_is_not_dead(node, victim):
    before = node.call("query_books").result
    victim.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, victim.pid, os.WSTOPPED)
    for _ in range(50):
        node.call("ping")
    assert node.call("query_books").result == before
    victim.send_signal(signal.SIGCONT)


def test_another_clients_handle_is_refused(served, node):
    pd = node.call("alloc_pd").result["handle"]
    with served.connect() as other, pytest.raises(RequestRefused) as caught:
        other.call("dealloc_pd", handle=pd)
    assert caught.value.errno
    node.call("dealloc_pd", handle=pd)


def test_the_event_descriptor_tells_of_events(served):
    with served.connect() as node:
        assert not select.select([node.event_fd], [], [], 0)[0]
        assert node.next_event(0) is None


def test_closing_ends_what_is_under_way(served):
    node = served.connect()
    pending = node.start("hold_wait", point="completion")
    node.close()
    with pytest.raises(ConnectionLost):
        pending.result(PATIENCE)


def test_figures(node):
    found = node.call("stats").result
    assert found["engine"]["contexts"] >= 1
    assert found["books"]["sessions"] >= 1
    assert found["process"]["rss"] > 1 << 20
    assert (found["loop"]["defects"], found["loop"]["failures"]) == (0, 0)
