"""Whoever opens a door is held by a pidfd: the node sees it end although the door lives on in other hands."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest
from served import PATIENCE, Served, await_true

from emu.history.events import read_events
from emu.history.runs import latest_run
from emu.wire import codec
from emu.wire.door import receive, send

# Opens a door, hands it to its parent, and ends when it is told.
OPEN = """
import array, socket, sys
door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
door.connect(sys.argv[1])
parent = socket.socket(fileno=int(sys.argv[2]))
parent.sendmsg([b"door"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [door.fileno()]))])
parent.recv(1)
"""


@pytest.fixture
def served(tmp_path):
    with Served(tmp_path / "node") as node:
        yield node


def lines(served, *types):
    return [line for line in read_events(latest_run(served.directory / "runs")) if line["type"] in types]


def ask(door, op, number=1, **values):
    send(door, codec.encode_request(op, number, values))
    door.settimeout(PATIENCE)
    packet = receive(door)
    assert packet is not None, "the node hung up"
    packet.close_descriptors()
    return codec.decode_answer(packet.data)


def test_a_door_that_was_handed_on_outlives_its_opener(served):
    ours, childs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, childs:
        command = [sys.executable, "-c", OPEN, str(served.directory / "door"), str(childs.fileno())]
        with subprocess.Popen(command, pass_fds=(childs.fileno(),)) as opener:
            _, handles, _, _ = socket.recv_fds(ours, 16, 1)
            with socket.socket(fileno=handles[0]) as door:
                ask(door, "hello", version=codec.VERSION, name="heir", wants=False)
                await_true("it has opened", lambda: lines(served, "SessionOpened"))
                assert [line["signalable"] for line in lines(served, "SessionOpened")] == [True]
                opener.kill()
                opener.wait(PATIENCE)
                await_true("the opener's end is told", lambda: lines(served, "OwnerEnded"))
                ask(door, "alloc_pd", 2)
        await_true("the last holder hung up", lambda: lines(served, "SessionLost"))
    assert served.end() == 0


def test_an_opener_that_ends_with_its_door_is_lost_and_nothing_else(served):
    command = [sys.executable, "-m", "emu", "fs", "--dir", served.dir, "ls"]
    assert subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False).returncode == 0
    await_true("it hung up", lambda: lines(served, "SessionLost"))
    assert lines(served, "OwnerEnded") == []
    assert served.end() == 0


def test_openers_leave_no_descriptor_behind(served):
    with served.connect() as node:
        before = node.call("stats").result["process"]["descriptors"]
        for _ in range(5):
            with served.connect() as visitor:
                visitor.call("ping")

        def back():
            return node.call("stats").result["process"]["descriptors"] == before

        await_true("their descriptors are closed", back)
