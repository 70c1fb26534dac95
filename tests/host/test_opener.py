"""The process that connected: named by a descriptor, signalled through it, seen ending."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import subprocess
import sys

import pytest

from emu.host import opener as module
from emu.host.opener import Opener

CONNECT = """
import os, socket, sys
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
sock.connect(sys.argv[1])
sock.recv(1)
"""


@pytest.fixture
def listener(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind(str(tmp_path / "door"))
        sock.listen()
        yield sock


@pytest.fixture
def visitor(listener):
    """A process that has connected, and our end of it."""
    with subprocess.Popen([sys.executable, "-c", CONNECT, listener.getsockname()]) as process:
        sock, _ = listener.accept()
        with sock:
            yield process, sock
        process.kill()


@pytest.fixture(params=["from the socket", "by the pid"])
def way(request, monkeypatch):
    if request.param == "by the pid":
        monkeypatch.setattr(module, "SO_PEERPIDFD", 1 << 20)  # an older kernel knows no such option


@pytest.mark.usefixtures("way")
def test_a_visitor_can_be_signalled_and_is_seen_ending(visitor):
    process, sock = visitor
    opener = Opener.of(sock)
    assert opener.signalable
    assert not opener.ended()
    opener.signal(signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL
    assert select.select([opener.fd], [], [], 30)[0]
    assert opener.ended()
    with pytest.raises(ProcessLookupError):
        opener.signal(signal.SIGKILL)
    opener.close()
    opener.close()
    assert not opener.signalable


def test_the_descriptor_is_not_inherited_and_names_the_visitor(visitor):
    process, sock = visitor
    opener = Opener.of(sock)
    assert not os.get_inheritable(opener.fd)
    with open(f"/proc/self/fdinfo/{opener.fd}") as info:
        assert f"Pid:\t{process.pid}\n" in info.read()
    opener.close()


@pytest.mark.usefixtures("way")
def test_a_visitor_that_has_ended_before_is_nobody_to_signal(visitor):
    process, sock = visitor
    process.kill()
    process.wait(30)
    opener = Opener.of(sock)
    assert opener is None or not opener.signalable
    if opener is not None:
        opener.close()


def test_we_do_not_signal_ourselves():
    ours, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, other:
        assert Opener.of(ours) is None


def test_a_process_that_may_not_be_signalled_counts_as_one_that_cannot(visitor, monkeypatch):
    def refuse(_fd, _number):
        raise PermissionError(errno.EPERM, "not yours")

    monkeypatch.setattr(signal, "pidfd_send_signal", refuse)
    opener = Opener.of(visitor[1])
    assert not opener.signalable
    assert not opener.ended()
    opener.close()
