"""Whatever bytes come in: a typed request, or a typed refusal that names what is wrong."""

import errno

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.core import requests
from emu.wire import codec
from emu.wire.errors import Malformed


def refuse(raw):
    with pytest.raises(Malformed) as caught:
        codec.decode_request(raw)
    assert caught.value.definite
    return caught.value


def pack(**message):
    return msgpack.packb(message)


def test_a_request_becomes_its_dataclass():
    raw = codec.encode_request("fs_truncate", 7, {"path": "/mnt/a", "size": 4096})
    assert codec.decode_request(raw) == (7, requests.FsTruncate("/mnt/a", 4096))


def test_every_request_has_a_name_and_a_type():
    assert set(codec.OPS) >= set(requests.REQUESTS)
    assert all(codec.OPS[name] is kind for kind, name in codec.NAMES.items())


@pytest.mark.parametrize(
    ("message", "number", "says"),
    [
        ({"op": "fs_truncate", "id": 1, "path": "/a", "size": "4"}, errno.EINVAL, "size"),
        ({"op": "fs_truncate", "id": 1, "path": "/a", "size": True}, errno.EINVAL, "size"),
        ({"op": "fs_truncate", "id": 1, "path": "/a", "size": 4.0}, errno.EINVAL, "size"),
        ({"op": "fs_truncate", "id": 1, "path": b"/a", "size": 4}, errno.EINVAL, "path"),
        ({"op": "fs_truncate", "id": 1, "path": "/a"}, errno.EINVAL, "size"),
        ({"op": "fs_truncate", "id": 1, "path": "/a", "size": 4, "sise": 4}, errno.EINVAL, "sise"),
        ({"op": "fs_write", "id": 1, "path": "/a", "offset": 0, "data": "dGV4dA=="}, errno.EINVAL, "data"),
        (
            {"op": "modify_qp", "id": 1, "handle": 1, "mask": 1, "attrs": {"state": "RTS"}},
            errno.EINVAL,
            "attrs",
        ),
        ({"op": "fs_shrink", "id": 1}, errno.EOPNOTSUPP, "fs_truncate"),
        ({"op": 5, "id": 1}, errno.EINVAL, "op"),
        ({"op": "x" * 5000, "id": 1}, errno.EOPNOTSUPP, "no op"),
        ({"op": "fs_ls", "id": 1, "path": "/" * 5000}, errno.ENAMETOOLONG, "field path has 5000 bytes"),
        ({"op": "fs_ls", "id": 1, "path": "\u00e4" * 2049}, errno.ENAMETOOLONG, "4098 bytes"),
        ({"id": 1}, errno.EINVAL, "op"),
        ({"op": "hello", "id": 1, "version": 2}, errno.EPROTO, "version 1"),
        ({"op": "hello", "id": 1, "version": "1"}, errno.EINVAL, "version"),
        ({"op": "ping", "id": 1, "x": 1}, errno.EINVAL, "x"),
        ({"op": "fs_read", "id": 1, "path": "/a", "offset": 0, "length": 1 << 21}, errno.EMSGSIZE, "1048576"),
    ],
)
def test_a_wrong_message_is_refused_by_name(message, number, says):
    error = refuse(msgpack.packb(message))
    assert (error.errno, error.request) == (number, 1)
    assert says in str(error)


@pytest.mark.parametrize("request_id", [0, -1, 1 << 63, "1", None, 1.0, True])
def test_an_id_is_a_positive_number(request_id):
    error = refuse(pack(op="ping", id=request_id))
    assert (error.errno, error.request) == (errno.EINVAL, 0)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xc1",
        b"\x00" * 100,
        b"\x81\xa2op",  # truncated
        b"\xff" * 64,
        msgpack.packb([1, 2, 3]),
        msgpack.packb({1: 2}),
        msgpack.packb({b"op": "ping"}),
        msgpack.packb({"op": "ping", "id": 1}) + b"x",
        msgpack.packb({"op": "ping", "id": 1, "x": list(range(100))}),
        b"\xdf\xff\xff\xff\xff",  # a map that claims four thousand million entries
        b"\x91" * 2000 + b"\x00",
        msgpack.packb({"op": msgpack.ExtType(1, b"x"), "id": 1}),
        b"\x82\xa2op\xa4\xff\xfe\xfd\xfc\xa2id\x01",
    ],
)
def test_garbage_is_refused(raw):
    assert refuse(raw).errno == errno.EBADMSG


@pytest.mark.parametrize(
    "raw",
    [
        msgpack.packb({"op": "ping", "id": 7, "x": list(range(100))}),
        msgpack.packb({"op": "ping", "id": 7, "x": msgpack.ExtType(1, b"x")}),
        msgpack.packb({"x": {str(n): n for n in range(100)}, "id": 7}),
        msgpack.packb({"op": "ping", "id": 7, 1: 2}),
        b"\x83\xa2id\x07\xa2op\xa4\xff\xfe\xfd\xfc\xa1x\x01",
        b"\x83\xa2id\x07\xa2op",
    ],
)
def test_the_id_is_read_where_it_can_be(raw):
    error = refuse(raw)
    assert (error.errno, error.request) == (errno.EBADMSG, 7)


@pytest.mark.parametrize(
    "raw",
    [
        b"\x80",
        b"\x81\xa2id\xc0",
        b"\x82\xa2id\x00\xc1",
        b"\xdf\xff\xff\xff\xff" + b"\xa1x\x01" * 200 + b"\xa2id\x01",
        b"\x82\xa1x" + b"\x91" * 2000,
        b"\x81\xa2id\xdd\xff\xff\xff\xff",
        b"\x81" + msgpack.packb("x" * 5000) + b"\x01\xa2id\x01",
    ],
)
def test_where_there_is_no_id_it_is_0(raw):
    assert refuse(raw).request == 0


def test_a_message_over_the_limit_is_refused_unread():
    assert refuse(b"\x00" * (codec.MESSAGE_LIMIT + 1)).errno == errno.EMSGSIZE


def test_data_of_exactly_the_limit_passes():
    raw = codec.encode_request("fs_write", 1, {"path": "/a", "offset": 0, "data": bytes(codec.DATA_LIMIT)})
    assert codec.decode_request(raw)[1].data == bytes(codec.DATA_LIMIT)


def outcome(raw):
    try:
        return codec.decode_request(raw)
    except Malformed as error:
        return error


@given(st.binary(max_size=300))
def test_any_bytes_are_typed_or_refused(raw):
    found = outcome(raw)
    if isinstance(found, Malformed):
        assert found.errno in {errno.EBADMSG, errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTO, errno.EMSGSIZE}
    else:
        assert found[0] > 0
        assert type(found[1]) in codec.NAMES


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(sorted(codec.OPS)), st.data())
def test_any_fields_are_typed_or_refused(op, data):
    names = codec._FIELDS[codec.OPS[op]]
    message = {name: data.draw(VALUES) for name in names}
    found = outcome(msgpack.packb({"op": op, "id": 1, **message}))
    if isinstance(found, Malformed):
        assert found.request == 1
    else:
        assert type(found[1]) is codec.OPS[op]


def test_answers_come_back():
    assert codec.decode_answer(codec.encode_reply(3, {"a": b"x"})) == {
        "id": 3,
        "ok": True,
        "result": {"a": b"x"},
    }
    assert codec.decode_answer(codec.encode_error(3, errno.EBUSY, "in use", definite=False)) == {
        "id": 3, "ok": False, "errno": "EBUSY", "error": "in use", "definite": False,
    }  # fmt: skip
    assert codec.decode_answer(codec.encode_event("MR_REVOKED", {"handle": 1})) == {
        "event": "MR_REVOKED", "fields": {"handle": 1},
    }  # fmt: skip


@pytest.mark.parametrize("size", [1 << 64, -(1 << 63) - 1, object(), "\udc80"])
def test_what_no_message_can_carry_is_refused_by_the_sender(size):
    with pytest.raises(Malformed) as caught:
        codec.encode_request("fs_truncate", 1, {"path": "/a", "size": size})
    assert caught.value.errno == errno.EINVAL
