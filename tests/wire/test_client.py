"""Nothing that a broker may answer, or not know how to answer, makes a caller wait for ever."""

from __future__ import annotations

import errno
import threading

import pytest

from emu.wire import codec, door
from emu.wire.client import connect
from emu.wire.errors import ConnectionLost, RequestRefused

PATIENCE = 10
UNREADABLE = codec.encode_error(0, errno.EBADMSG, "this is no message")


@pytest.fixture
def broker(tmp_path):
    """A door that says hello, and answers with id 0 once `asked` requests have come. -> its directory"""
    listener = door.listen(str(tmp_path / "door"))
    listener.setblocking(True)

    def serve(asked: int) -> None:
        client, _ = listener.accept()
        with client:
            door.receive(client)
            welcome = {"session": 1, "token": b"t", "device": "emu0", "zmq": "", "ctx": 0}
            door.send(client, codec.encode_reply(1, welcome))
            for _ in range(asked):
                door.receive(client)
            door.send(client, UNREADABLE)
            door.receive(client)

    def start(asked: int):
        threading.Thread(target=serve, args=(asked,), daemon=True).start()
        return connect(tmp_path, zeromq=False)

    yield start
    listener.close()


def test_a_refusal_without_an_id_ends_the_one_request_under_way(broker):
    with broker(1) as node:
        with pytest.raises(RequestRefused, match="no message") as caught:
            node.call("ping", timeout=PATIENCE)
        assert (caught.value.name, node.lost) == ("EBADMSG", False)


def test_where_it_may_be_about_several_the_connection_ends(broker):
    with broker(2) as node:
        pending = [node.start("ping"), node.start("fs_ls", path="")]
        for each in pending:
            with pytest.raises(ConnectionLost, match="one of 2 requests: this is no message") as caught:
                each.result(PATIENCE)
            assert not caught.value.definite
        assert node.lost
