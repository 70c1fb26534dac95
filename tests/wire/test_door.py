"""The door: whole packets, descriptors, cut ones marked, bounded queues, hang-ups seen."""

import errno
import os
import socket

import pytest

from emu.wire import door
from emu.wire.door import DOOR_LIMIT, QUEUE_LIMIT, DoorConnection
from emu.wire.errors import ConnectionLost, WireError


@pytest.fixture
def pair():
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    yield here, there
    here.close()
    there.close()


def count_descriptors():
    return len(os.listdir("/proc/self/fd"))


def test_a_packet_arrives_whole_with_its_descriptors(pair):
    here, there = pair
    fd = os.memfd_create("x")
    os.write(fd, b"inside")
    door.send(here, b"a" * 1000, (fd, fd))
    os.close(fd)
    packet = door.receive(there)
    assert packet.data == b"a" * 1000
    assert not packet.cut
    assert [os.pread(fd, 6, 0) for fd in packet.descriptors] == [b"inside", b"inside"]
    packet.close_descriptors()


def test_a_packet_over_the_limit_is_marked_not_shortened(pair):
    here, there = pair
    here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * DOOR_LIMIT)
    here.send(b"a" * (DOOR_LIMIT + 1))
    packet = door.receive(there)
    assert packet.cut
    with pytest.raises(WireError) as caught:
        door.send(here, b"a" * (DOOR_LIMIT + 1))
    assert caught.value.errno == errno.EMSGSIZE


def test_the_largest_packet_fits_the_default_buffer(pair):
    here, there = pair
    door.send(here, b"a" * DOOR_LIMIT)
    assert len(door.receive(there).data) == DOOR_LIMIT


def test_an_empty_packet_is_no_hang_up(pair):
    here, there = pair
    here.send(b"")
    assert door.receive(there).data == b""
    here.close()
    assert door.receive(there) is None


def test_more_descriptors_than_allowed_leave_none_behind(pair):
    here, there = pair
    before = count_descriptors()
    fds = [os.memfd_create("x") for _ in range(door.DESCRIPTORS + 6)]
    socket.send_fds(here, [b"a"], fds)
    packet = door.receive(there)
    packet.close_descriptors()
    for fd in fds:
        os.close(fd)
    assert count_descriptors() == before


def test_a_client_that_does_not_read_fills_a_bounded_queue_and_is_choked(pair):
    here, there = pair
    before = count_descriptors()
    connection = DoorConnection(here)
    fd = os.memfd_create("x")
    sent = 0
    while connection.send(sent.to_bytes(4, "little") * 256, (fd,)):
        sent += 1
    os.close(fd)
    assert connection.choked
    assert connection.waiting == QUEUE_LIMIT
    assert connection.dropped == 1
    got = 0
    while got < sent:
        packet = door.receive(there)
        assert int.from_bytes(packet.data[:4], "little") == got
        packet.close_descriptors()
        got += 1
        connection.flush()
    assert not connection.waiting
    assert not connection.choked
    assert count_descriptors() == before


def test_a_paths_length_is_checked(tmp_path):
    with pytest.raises(WireError, match="107") as caught:
        door.listen(str(tmp_path / ("x" * 120)))
    assert caught.value.errno == errno.ENAMETOOLONG


def test_nobody_at_the_door_is_said_with_the_way_out(tmp_path):
    with pytest.raises(ConnectionLost, match="emu broker --dir") as caught:
        door.connect(str(tmp_path / "door"))
    assert (caught.value.errno, caught.value.definite) == (errno.ENOENT, True)


def test_listening_makes_a_private_socket_and_tells_who_comes(tmp_path):
    listener = door.listen(str(tmp_path / "door"))
    assert (tmp_path / "door").stat().st_mode & 0o077 == 0
    client = door.connect(str(tmp_path / "door"))
    accepted, _ = listener.accept()
    assert door.peer_credentials(accepted) == (os.getpid(), os.getuid(), os.getgid())
    for sock in (listener, client, accepted):
        sock.close()
