"""The ROUTER answers by identity, never blocks, and binds only where it may."""

import errno

import pytest
import zmq

from emu.wire.errors import WireError
from emu.wire.router import Router, check_address


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
        ("ipc://" + "x" * 120, errno.ENAMETOOLONG),
    ],
)
def test_addresses_that_are_refused(address, number):
    with pytest.raises(WireError) as caught:
        check_address(address)
    assert caught.value.errno == number


def test_an_address_in_use_is_said():
    tcp = Router(["tcp://127.0.0.1:*"])
    with pytest.raises(WireError, match=r"127\.0\.0\.1") as caught:
        Router(tcp.addresses)
    tcp.close()
    assert caught.value.errno == errno.EADDRINUSE
