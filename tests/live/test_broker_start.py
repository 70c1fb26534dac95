"""A broker's beginning and end: one a directory, clear refusals, nothing left behind."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess

import pytest
from served import COMMAND, PATIENCE, Served, await_true, emu

from emu.history.events import read_events
from emu.history.runs import latest_run, read_meta
from emu.wire import codec, door
from emu.wire.client import Dealer, connect
from emu.wire.errors import ConnectionLost, RequestRefused


@pytest.fixture
def served(tmp_path):
    with Served(tmp_path / "n") as broker:
        yield broker


def test_hello_tells_the_session_and_hands_out_two_pages(served):
    with served.connect(name="first") as node:
        assert (node.session, node.device, len(node.token)) == (1, "emu0", 16)
        assert [os.fstat(fd).st_size for fd in node.descriptors] == [4096, 4096]
        assert node.call("ping").result == {}


def test_the_ready_line_is_on_stdout(tmp_path):
    with subprocess.Popen(
        [*COMMAND, "broker", "--dir", str(tmp_path / "n")], stdout=subprocess.PIPE
    ) as broker:
        assert broker.stdout.readline() == f"emu: ready {tmp_path}/n/door\n".encode()
        broker.terminate()
        assert broker.wait(PATIENCE) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_cleanly(served, number):
    node = served.connect()
    node.call("fs_create", path="/mnt/a", size=4096)
    assert served.end(number) == 0
    assert served.words == ""
    assert node.next_event(PATIENCE) == {"event": "DEVICE_FATAL", "fields": {}}
    with pytest.raises(ConnectionLost):
        node.next_event(0)
    with pytest.raises(ConnectionLost) as caught:
        node.call("ping")
    assert caught.value.definite
    node.close()
    left = {path.name for path in served.directory.iterdir()}
    assert left == {"lock", "books.sqlite", "reserve", "pm0.img", "pm0.gen", "runs"}
    run = latest_run(served.directory / "runs")
    kinds = [line["type"] for line in read_events(run)]
    assert {
        "DeviceAdded",
        "OpenDevice",
        "MountAdded",
        "SessionOpened",
        "Requested",
        "Commit",
        "Allocate",
        "Reply",
    } <= set(kinds)
    assert read_meta(run)["options"]["pmem"] == [{"name": "pm0", "size": 8 << 20}]


def test_a_second_broker_is_refused_and_the_first_goes_on(served):
    second = emu("broker", "--dir", served.directory)
    assert second.returncode == 64
    assert second.stderr.startswith(f"emu: broker {served.directory}: EADDRINUSE: ")
    assert str(served.process.pid) in second.stderr
    with served.connect() as node:
        node.call("ping")


def test_sockets_of_a_dead_broker_do_not_matter(served):
    assert served.end(signal.SIGKILL) == -signal.SIGKILL
    assert (served.directory / "door").exists()
    with pytest.raises(ConnectionLost, match="emu broker --dir"):
        served.connect()
    served.start()
    with served.connect() as node:
        node.call("ping")


def test_another_size_of_a_device_is_refused(served):
    assert served.end() == 0
    again = emu("broker", "--dir", served.directory, "--pmem", "pm0=16M")
    assert (again.returncode, again.stdout) == (64, "")
    assert "EINVAL: --pmem pm0=16M: device pm0 has 8388608 bytes in the books" in again.stderr


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize(
    "names",
    [
        ("lock",),
        ("door",),
        ("zmq",),
        ("lock", "door", "zmq"),
        ("thesis.tex",),
        ("runs", "lock"),
        ("books.sqlite", "door"),
    ],
)
def test_a_directory_that_holds_something_else_is_not_taken(tmp_path, names):
    for name in names:
        (tmp_path / name).write_text("a stranger's")
    tmp_path.chmod(0o755)
    before = contents(tmp_path)
    for more in ([], ["--ephemeral"]):
        ended = emu("broker", "--dir", tmp_path, *more)
        assert (ended.returncode, ended.stdout) == (64, "")
        assert ended.stderr.startswith(f"emu: broker {tmp_path}: ENOTEMPTY: it holds something else (")
    assert (contents(tmp_path), tmp_path.stat().st_mode & 0o7777) == (before, 0o755)


def test_the_history_says_which_protocol_was_chosen_for_host_files(tmp_path):
    with Served(tmp_path / "n", "--pmem", "pm0=1M", "--mount", "/mnt=pm0,dax,protocol=ebusy") as served:
        meta = read_meta(latest_run(served.directory / "runs"))
        assert meta["options"]["host_protocol"] == "ebusy"


def test_a_lock_that_was_removed_lets_no_second_broker_in(served):
    (served.directory / "lock").unlink()
    ended = emu("broker", "--dir", served.directory, *served.options)
    assert (ended.returncode, ended.stdout) == (64, "")
    assert "EADDRINUSE: another broker answers at" in ended.stderr
    with served.connect() as node:
        assert node.call("ping").result == {}


def test_a_broker_removes_its_own_door_alone(served):
    there = served.directory / "door"
    there.rename(served.directory / "moved")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as another:
        another.bind(str(there))
        assert served.end() == 0
        assert there.exists()


@pytest.mark.parametrize("mode", [0o1777, 0o775, 0o702])
def test_a_directory_that_others_may_write_is_refused_and_keeps_its_mode(tmp_path, mode):
    tmp_path.chmod(mode)
    ended = emu("broker", "--dir", tmp_path)
    assert ended.returncode == 64
    assert ended.stderr.startswith(f"emu: broker {tmp_path}: EPERM: {tmp_path} has mode {mode:04o}")
    assert (list(tmp_path.iterdir()), tmp_path.stat().st_mode & 0o7777) == ([], mode)


@pytest.mark.parametrize("lock", ["", "4711\n"])
def test_what_a_start_that_came_to_nothing_left_is_taken_again(tmp_path, lock):
    (tmp_path / "lock").write_text(lock)
    (tmp_path / "runs").mkdir()
    tmp_path.chmod(0o750)
    with Served(tmp_path) as served:
        assert served.end() == 0
    assert tmp_path.stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize(
    ("options", "name", "says"),
    [
        (["--pmem", "pm0"], "EINVAL", "NAME=SIZE"),
        (["--pmem", "pm0=5"], "EINVAL", "multiple of 4096"),
        (["--mount", "/mnt=pm0"], "EINVAL", "no --pmem pm0"),
        (["--pmem", "a=1M", "--mount", "/mnt=a,protocol=nosuch"], "EINVAL", "mr-revoke"),
        (["--host-protocol", "nosuch"], "EINVAL", "mr-revoke"),
        (["--threads", "99"], "EINVAL", "1 to 8"),
        (["--listen", "tcp://0.0.0.0:7000"], "EACCES", "loopback"),
        (["--allocator", "worst-fit"], "EINVAL", "freed-first"),
        (["--nonsense"], "EINVAL", "nonsense"),
    ],
)
def test_bad_options_are_refused_with_what_would_be_right(tmp_path, options, name, says):
    ended = emu("broker", "--dir", tmp_path / "n", *options)
    assert ended.returncode == 64
    last = ended.stderr.strip().splitlines()[-1]
    assert name in last
    assert says in last
    assert not list(tmp_path.glob("n/door"))


def test_a_directory_that_is_too_deep_for_a_socket_is_refused(tmp_path):
    ended = emu("broker", "--dir", tmp_path / ("x" * 100))
    assert (ended.returncode, "107" in ended.stderr) == (64, True)


def test_memory_that_cannot_be_had_is_refused_by_name_and_leaves_no_half_image(tmp_path):
    ended = emu("broker", "--dir", tmp_path / "n", "--pmem", "pm0=4000T", "--mount", "/mnt=pm0")
    assert ended.returncode == 64
    assert f"{tmp_path}/n/pm0.img: " in ended.stderr
    with Served(tmp_path / "n") as served:
        assert served.end() == 0


@pytest.mark.parametrize("where", ["dir", "history"])
def test_a_place_that_takes_no_files_is_refused_by_name(tmp_path, where):
    (tmp_path / "file").touch()
    places = {"dir": tmp_path / "n", "history": tmp_path / "h", where: tmp_path / "file" / "x"}
    ended = emu("broker", "--dir", places["dir"], "--history", places["history"], "--pmem", "pm0=8M")
    assert ended.returncode == 64
    assert any(f"{name}: {tmp_path}/file" in ended.stderr for name in ("ENOTDIR", "EEXIST"))


def test_an_odd_time_scale_is_refused(tmp_path):
    ended = emu("broker", "--dir", tmp_path / "n", env={**os.environ, "EMU_TIME_SCALE": "fast"})
    assert (ended.returncode, "EMU_TIME_SCALE" in ended.stderr) == (64, True)


def test_the_lifelines_end_ends_it_and_ephemeral_leaves_nothing(tmp_path):
    life, end = os.pipe()
    directory = tmp_path / "n"
    with _with_lifeline(directory, life) as broker:
        os.close(life)
        with connect(directory) as node:
            node.call("ping")
        os.close(end)
        assert broker.wait(PATIENCE) == 0
    assert not directory.exists()


def _with_lifeline(directory, life):
    ready, ready_end = os.pipe()
    command = [
        *COMMAND,
        "broker",
        "--dir",
        str(directory),
        "--ready",
        str(ready_end),
        "--lifeline",
        str(life),
        "--ephemeral",
    ]
    broker = subprocess.Popen(command, pass_fds=(ready_end, life))
    os.close(ready_end)
    assert select.select([ready], [], [], PATIENCE)[0]
    assert os.read(ready, 10) == b"ready\n"
    assert os.read(ready, 10) == b""
    os.close(ready)
    return broker


def test_no_history_leaves_no_run(tmp_path):
    with Served(tmp_path / "n", "--no-history") as served:
        assert served.end() == 0
    assert not (tmp_path / "n" / "runs").exists()


def test_the_directory_and_sockets_are_private(served):
    assert served.directory.stat().st_mode & 0o077 == 0
    for name in ("door", "zmq"):
        assert (served.directory / name).stat().st_mode & 0o077 == 0


def test_another_version_is_refused(served):
    sock = door.connect(str(served.directory / "door"))
    door.send(sock, codec.encode_request("hello", 1, {"version": 7}))
    answer = codec.decode_answer(door.receive(sock).data)
    assert (answer["id"], answer["errno"], answer["definite"]) == (1, "EPROTO", True)
    sock.close()


def test_a_dealer_without_its_token_is_refused(served):
    dealer = Dealer(f"ipc://{served.directory}/zmq")
    with pytest.raises(RequestRefused) as caught:
        dealer.ask(codec.encode_request("bind", 1, {"version": 1, "token": b"0" * 16}), PATIENCE)
    dealer.close()
    assert caught.value.name == "EACCES"


def test_a_hung_up_door_before_hello_is_forgotten(served):
    with served.connect() as node:
        before = node.call("stats").result["process"]["descriptors"]
        for _ in range(20):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            sock.connect(str(served.directory / "door"))
            sock.close()
        await_true(
            "the hung-up doors' descriptors are closed",
            lambda: node.call("stats").result["process"]["descriptors"] <= before,
        )
