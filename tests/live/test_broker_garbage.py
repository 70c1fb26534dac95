"""Whatever comes in by the door or the ROUTER: a typed refusal, and the broker serves everybody else as before."""

from __future__ import annotations

import os
import random
import resource
import socket

import msgpack
import pytest
import zmq
from served import PATIENCE, Served, await_true

from emu.broker.sessions import OWED
from emu.wire import codec, door
from emu.wire.client import Dealer
from emu.wire.errors import RequestRefused

pytestmark = pytest.mark.usefixtures("undisturbed")

CASES = [
    (b"\xc1", 0, "EBADMSG"),
    (b"", 0, "EBADMSG"),
    (bytes(range(200, 255)), 0, "EBADMSG"),
    (codec.encode_request("fs_ls", 5, {"path": ""})[:-3], 5, "EBADMSG"),
    (msgpack.packb([1, 2]), 0, "EBADMSG"),
    (codec.encode_request("fs_ls", 0, {}), 0, "EINVAL"),
    (codec.encode_request("fs_ls", 5, {"path": 7}), 5, "EINVAL"),
    (codec.encode_request("fs_truncate", 5, {"path": "/mnt/a", "size": "0"}), 5, "EINVAL"),
    (codec.encode_request("fs_truncate", 5, {"path": "/mnt/a"}), 5, "EINVAL"),
    (codec.encode_request("fs_truncate", 5, {"path": "/mnt/a", "size": 0, "force": True}), 5, "EINVAL"),
    (codec.encode_request("fs_format", 5, {}), 5, "EOPNOTSUPP"),
    (codec.encode_request("bind", 5, {"version": 9, "token": b""}), 5, "EPROTO"),
    (codec.encode_request("dealloc_pd", 5, {"handle": 1}), 5, "EINVAL"),  # somebody else's
    (codec.encode_request("dealloc_pd", 5, {"handle": 2**63}), 5, "EINVAL"),
    (codec.encode_request("fs_create", 5, {"path": "/mnt/../etc/x", "size": 0}), 5, "EINVAL"),
    (codec.encode_request("fs_create", 5, {"path": "/mnt/x", "size": -1}), 5, "EINVAL"),
    (codec.encode_request("fs_create", 5, {"path": "/mnt/x", "size": 2**63}), 5, None),
    (codec.encode_request("fs_truncate", 5, {"path": "/mnt/none", "size": 0}), 5, "ENOENT"),
    (codec.encode_request("hold_arm", 5, {"point": "lunch"}), 5, "EINVAL"),
    (codec.encode_request("cancel", 5, {"request": 99}), 5, "ENOENT"),
]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with Served(tmp_path_factory.mktemp("n", numbered=True)) as broker:
        yield broker


@pytest.fixture(scope="module")
def owner(served):
    """Somebody with a PD (handle 1), whom nothing may disturb."""
    with served.connect(name="owner") as node:
        node.call("alloc_pd")
        yield node


@pytest.fixture
def undisturbed(owner):
    before = owner.call("query_books").result
    yield
    after = owner.call("query_books").result
    before.pop("sessions")
    after.pop("sessions")
    assert after == before


def at_door(served):
    sock = door.connect(str(served.directory / "door"))
    sock.settimeout(PATIENCE)
    door.send(sock, codec.encode_request("hello", 1, {"version": 1}))
    door.receive(sock).close_descriptors()
    return sock


def check(raw, number, name):
    answer = codec.decode_answer(raw)
    assert (answer["id"], answer["ok"]) == (number, False)
    assert answer["definite"] is True
    assert len(answer["error"]) > 15
    assert name in {None, answer["errno"]}


@pytest.mark.parametrize(("raw", "number", "name"), CASES)
def test_by_the_door(served, raw, number, name):
    with at_door(served) as sock:
        sock.send(raw)
        check(door.receive(sock).data, number, name)
        door.send(sock, codec.encode_request("ping", 9, {}))
        assert codec.decode_answer(door.receive(sock).data) == {"id": 9, "ok": True, "result": {}}


@pytest.mark.parametrize(("raw", "number", "name"), CASES)
def test_by_the_router(served, raw, number, name):
    with served.connect() as node:
        dealer = Dealer(f"ipc://{served.directory}/zmq")
        dealer.ask(codec.encode_request("bind", 1, {"version": 1, "token": node.token}), PATIENCE)
        dealer.send(raw)
        assert dealer.socket.poll(PATIENCE * 1000)
        check(dealer.socket.recv(), number, name)
        assert dealer.ask(codec.encode_request("ping", 9, {}), PATIENCE).result == {}
        dealer.close()


def test_before_hello_nothing_is_served(served):
    with door.connect(str(served.directory / "door")) as sock:
        door.send(sock, codec.encode_request("fs_ls", 3, {}))
        check(door.receive(sock).data, 3, "ENOTCONN")


def test_a_stranger_on_the_router_is_served_nothing(served):
    dealer = Dealer(f"ipc://{served.directory}/zmq")
    with pytest.raises(RequestRefused) as caught:
        dealer.ask(codec.encode_request("fs_ls", 3, {}), PATIENCE)
    dealer.close()
    assert caught.value.name == "ENOTCONN"


def test_a_second_hello_is_refused(served):
    with at_door(served) as sock:
        door.send(sock, codec.encode_request("hello", 2, {"version": 1}))
        check(door.receive(sock).data, 2, "EISCONN")


def test_two_requests_under_way_may_not_share_an_id(served):
    with at_door(served) as sock:
        for _ in range(2):
            door.send(sock, codec.encode_request("hold_wait", 4, {"point": "completion"}))
        check(door.receive(sock).data, 4, "EALREADY")


def test_oversize_messages_are_refused_and_cost_nobody_else(served):
    with at_door(served) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        sock.send(b"\0" * (door.DOOR_LIMIT + 1))
        check(door.receive(sock).data, 0, "EMSGSIZE")
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.connect(f"ipc://{served.directory}/zmq")
        dealer.send(b"\0" * (codec.MESSAGE_LIMIT + 1))
        assert dealer.poll(PATIENCE * 1000)
        check(dealer.recv(), 0, "EMSGSIZE")
        dealer.send(b"\0" * (16 << 20))  # libzmq hangs up; the next connection is served
        dealer.send_multipart([b"two", b"frames"])
        assert dealer.poll(PATIENCE * 1000)
        check(dealer.recv(), 0, "EBADMSG")


def test_descriptors_that_nobody_asked_for_are_closed(served, owner):
    with at_door(served) as sock:
        before = owner.call("stats").result["process"]["descriptors"]
        fd = os.memfd_create("unasked")
        for n in range(50):
            door.send(sock, codec.encode_request("ping", n + 1, {}), (fd, fd, fd, fd))
            door.receive(sock)
        os.close(fd)
        assert owner.call("stats").result["process"]["descriptors"] == before


def test_a_host_request_needs_exactly_one_regular_file(served):
    with at_door(served) as sock:
        ask = codec.encode_request("fs_truncate", 3, {"path": "x", "size": 0, "host": True})
        door.send(sock, ask)
        check(door.receive(sock).data, 3, "EBADF")
        reader, writer = os.pipe()
        door.send(sock, ask, (reader,))
        check(door.receive(sock).data, 3, "EINVAL")
        os.close(reader)
        os.close(writer)


def test_random_bytes_are_all_answered(served):
    draw = random.Random(1)
    with at_door(served) as sock:
        good = codec.encode_request("fs_truncate", 7, {"path": "/mnt/none", "size": 0})
        for _ in range(500):
            raw = bytearray(good)
            for _ in range(draw.randint(1, 6)):
                raw[draw.randrange(len(raw))] = draw.randrange(256)
            sock.send(bytes(raw[: draw.randint(0, len(raw))]) or b"\xc1")
            answer = codec.decode_answer(door.receive(sock).data)
            assert answer["ok"] is False


def test_who_asks_without_reading_is_stopped_and_loses_nothing_while_others_are_served(served, owner):
    with at_door(served) as sock:
        sock.setblocking(False)
        sent = idle = 0
        while idle < 20:
            try:
                sock.send(codec.encode_request("ping", sent + 1, {}))
                sent, idle = sent + 1, 0
            except BlockingIOError:
                owner.call("ping")
                idle += 1
        assert sent > door.QUEUE_LIMIT // 2
        sock.settimeout(PATIENCE)
        for n in range(sent):
            assert codec.decode_answer(door.receive(sock).data)["id"] == n + 1


def test_when_descriptors_run_out_newcomers_wait_and_everybody_else_is_served(tmp_path):
    with Served(tmp_path / "n") as served, served.connect() as node:
        used = node.call("stats").result["process"]["descriptors"]
        soft, hard = resource.prlimit(served.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(served.process.pid, resource.RLIMIT_NOFILE, (used + 2, hard))
        doors = [door.connect(str(served.directory / "door")) for _ in range(8)]
        for sock in doors:
            sock.settimeout(PATIENCE)
            door.send(sock, codec.encode_request("hello", 1, {"version": 1}))
        for _ in range(20):
            node.call("ping")
        resource.prlimit(served.process.pid, resource.RLIMIT_NOFILE, (soft, hard))
        answers = []
        for sock in doors:
            packet = door.receive(sock)
            answers.append(codec.decode_answer(packet.data))
            packet.close_descriptors()
            sock.close()
        assert all(answer["ok"] or answer["errno"] == "EMFILE" for answer in answers)
        assert any(answer["ok"] for answer in answers)


def test_a_dealer_that_asks_and_never_reads_costs_little_memory(served, owner):
    owner.call("fs_create", path="/mnt/read", size=1 << 20)
    before = owner.call("stats").result["process"]["rss"]
    with zmq.Context() as context, context.socket(zmq.DEALER) as deaf:
        for option, value in ((zmq.LINGER, 0), (zmq.RCVHWM, 1)):
            deaf.setsockopt(option, value)
        deaf.connect(f"ipc://{served.directory}/zmq")
        deaf.send(codec.encode_request("hello", 1, {"version": 1}))
        for request in range(2, 400):
            deaf.send(
                codec.encode_request(
                    "fs_read", request, {"path": "/mnt/read", "offset": 0, "length": 1 << 20}
                )
            )
        deaf.send(codec.encode_request("fs_create", 400, {"path": "/mnt/last", "size": 0}))
        await_true("all has been taken", lambda: "/mnt/last" in paths(owner))
        stats = owner.call("stats").result
        assert stats["wire"]["kept"] <= OWED + (1 << 20)
        assert stats["process"]["rss"] - before < 100 << 20
    owner.call("fs_unlink", path="/mnt/read")
    owner.call("fs_unlink", path="/mnt/last")


def paths(node):
    return [file["path"] for file in node.call("fs_ls", path="/mnt").result["files"]]
