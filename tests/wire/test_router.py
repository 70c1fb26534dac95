"""The ROUTER answers by identity, never blocks, and binds only where it may."""

import errno
import select

import pytest
import zmq

from emu.wire.errors import WireError
from emu.wire.router import KEPT_LIMIT, RECEIVE_LIMIT, SEND_LIMIT, Router, check_address


@pytest.fixture
def router(tmp_path):
    router = Router([f"ipc://{tmp_path}/zmq"])
    yield router
    router.close()


def dealer(context, router, identity=b"me"):
    sock = context.socket(zmq.DEALER)
    sock.setsockopt(zmq.IDENTITY, identity)
    sock.setsockopt(zmq.LINGER, 0)
    sock.connect(router.addresses[0])
    return sock


def await_message(router):
    poller = zmq.Poller()
    poller.register(router._socket, zmq.POLLIN)
    assert poller.poll(10_000)
    assert router.pending
    return router.receive()


def test_messages_and_answers_find_their_way(router):
    with zmq.Context() as context, dealer(context, router) as client:
        client.send(b"ask")
        assert await_message(router) == (b"me", b"ask")
        assert router.receive() is None
        assert router.send(b"me", b"answer")
        assert client.poll(10_000)
        assert client.recv() == b"answer"


def test_more_than_one_frame_is_told_apart(router):
    with zmq.Context() as context, dealer(context, router) as client:
        client.send_multipart([b"a", b"b"])
        assert await_message(router) == (b"me", None)


def test_a_stranger_gets_nothing_and_hurts_nobody(router):
    assert router.send(b"nobody", b"x") is False


def test_a_new_connection_takes_an_old_identity_over(router):
    with zmq.Context() as context, dealer(context, router) as first:
        first.send(b"1")
        await_message(router)
        with dealer(context, router) as second:
            second.send(b"2")
            await_message(router)
            router.send(b"me", b"answer")
            assert second.poll(10_000)


@pytest.mark.parametrize(
    ("address", "number"),
    [
        ("tcp://0.0.0.0:7000", errno.EACCES),
        ("tcp://*:7000", errno.EACCES),
        ("tcp://192.168.1.1:7000", errno.EACCES),
        ("udp://127.0.0.1:7000", errno.EINVAL),
        ("127.0.0.1:7000", errno.EINVAL),
        ("tcp://127.0.0.1:99999", errno.EINVAL),
        ("tcp://127.0.0.1:65536", errno.EINVAL),
        ("tcp://[::1]:1" + "0" * 5000, errno.EINVAL),
        ("ipc://" + "x" * 120, errno.ENAMETOOLONG),
    ],
)
def test_addresses_that_are_refused(address, number):
    with pytest.raises(WireError) as caught:
        check_address(address)
    assert caught.value.errno == number


@pytest.mark.parametrize("port", ["1", "65535", "*"])
def test_addresses_that_are_taken(port):
    assert check_address(f"tcp://127.0.0.1:{port}").endswith(port)


def test_an_address_in_use_is_said():
    tcp = Router(["tcp://127.0.0.1:*"])
    with pytest.raises(WireError, match=r"127\.0\.0\.1") as caught:
        Router(tcp.addresses)
    tcp.close()
    assert caught.value.errno == errno.EADDRINUSE


def unread(context, router):
    """A DEALER that has sent one message, and reads nothing yet."""
    client = context.socket(zmq.DEALER)
    for option, value in ((zmq.IDENTITY, b"me"), (zmq.LINGER, 0), (zmq.RCVHWM, 1)):
        client.setsockopt(option, value)
    client.connect(router.addresses[0])
    client.send(b"ask")
    await_message(router)
    return client


LARGE = bytes(256 << 10)  # some fit into the kernel's buffers


def test_what_a_client_does_not_read_waits_within_a_limit_and_the_rest_is_counted(router):
    with zmq.Context() as context, unread(context, router):
        taken = 0
        while router.send(b"me", LARGE, keep=True):
            taken += 1
            assert taken < 1000
        assert KEPT_LIMIT - len(LARGE) < router.kept(b"me") == router.keeping <= KEPT_LIMIT
        assert taken * len(LARGE) < KEPT_LIMIT + (SEND_LIMIT + 16) * len(LARGE)
        assert router.dropped == 1
        router.forget(b"me")
        assert router.keeping == 0


def test_for_a_client_without_a_session_nothing_is_kept(router):
    with zmq.Context() as context, unread(context, router):
        taken = 0
        while router.send(b"me", LARGE):
            taken += 1
            assert taken < 1000
        assert (router.keeping, router.dropped) == (0, 1)


def test_what_was_kept_arrives_in_order_when_the_client_reads(router):
    with zmq.Context() as context, unread(context, router) as client:
        for n in range(64):
            assert router.send(b"me", b"%d " % n + LARGE, keep=True)
        assert router.keeping
        for n in range(64):
            for _ in range(10_000):
                router.flush()
                if client.poll(10):
                    break
            assert client.recv(zmq.NOBLOCK).startswith(b"%d " % n)
        assert router.keeping == 0


def test_what_was_kept_for_a_client_that_left_is_forgotten(router):
    with zmq.Context() as context:
        with unread(context, router):
            while not router.keeping:
                assert router.send(b"me", LARGE, keep=True)
        for _ in range(10_000):
            router.receive()
            router.flush()
            if not router.keeping:
                return
            select.select([router.fd], [], [], 0.01)
    raise AssertionError(f"{router.keeping} bytes wait for a client that left")


def test_what_clients_send_and_nobody_reads_waits_with_them(router):
    with zmq.Context() as context, context.socket(zmq.DEALER) as client:
        for option, value in ((zmq.LINGER, 0), (zmq.SNDHWM, 1)):
            client.setsockopt(option, value)
        client.connect(router.addresses[0])
        sent = 0
        while client.poll(1000, zmq.POLLOUT):
            client.send(LARGE)
            sent += 1
            assert sent < 1000
        assert sent < RECEIVE_LIMIT + 32
