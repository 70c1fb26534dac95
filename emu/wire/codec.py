"""Messages: bytes into core's types and back. Whatever comes from outside passes through here once, and is typed afterwards.

A message is one msgpack map, at most MESSAGE_LIMIT bytes. Requests are {"op", "id", ...fields of the dataclass}; replies are
{"id", "ok": true, "result"} or {"id", "ok": false, "errno", "error", "definite"}; events are {"event", "fields"}. docs/messages.md
lists them. Decoding goes msgpack with size limits -> op -> table of types -> msgspec, strictly: no coercion, no unknown
field, no missing one. Every refusal is a Malformed that names the field:

    EBADMSG garbage   EMSGSIZE too large   EPROTO version   EOPNOTSUPP unknown op   EINVAL fields   ENAMETOOLONG text

Whatever is wrong with a message, its id is read if it can be found: an answer with id 0 tells its sender nothing.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, cast

import msgpack
import msgspec

from emu.core.errors import errno_name
from emu.core.requests import REQUESTS, Request
from emu.wire.errors import Malformed

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION = 1
DATA_LIMIT = 1 << 20  # bytes of data that one fs_read or fs_write may carry
MESSAGE_LIMIT = DATA_LIMIT + (64 << 10)
TEXT_LIMIT = 4096  # bytes of a path, a name
ITEM_LIMIT = 64  # entries of one map or list in a request
TOKEN_BYTES = 16


@dataclass(frozen=True, slots=True)
class Hello(Request):
    """The first message on the door; also without a door, through the ROUTER, for a remote client that only controls."""

    version: int
    name: str = ""
    wants: bool = False


@dataclass(frozen=True, slots=True)
class Bind(Request):
    """The first message on a DEALER: it speaks for the session whose door gave out this token."""

    version: int
    token: bytes


@dataclass(frozen=True, slots=True)
class Ping(Request):
    """Answered at once."""


@dataclass(frozen=True, slots=True)
class HoldArm(Request):
    """Stop the engine thread (or the loop) that comes to `point` next, `skip` visits later, with this key (0: any)."""

    point: str
    key: int = 0
    skip: int = 0


@dataclass(frozen=True, slots=True)
class HoldWait(Request):
    """Answered when somebody is held at `point`."""

    point: str


@dataclass(frozen=True, slots=True)
class HoldRelease(Request):
    """Disarm, and let go whoever is held there."""

    point: str


@dataclass(frozen=True, slots=True)
class Fault(Request):
    """The next `count` effects of this kind are refused with this errno, as by hardware that does not do as it is told."""

    effect: str
    count: int = 1
    errno: str = "EIO"


@dataclass(frozen=True, slots=True)
class Stats(Request):
    """Figures of engine, loop, history and process."""


SESSION_MESSAGES: dict[str, type[Request]] = {
    "hello": Hello,
    "bind": Bind,
    "ping": Ping,
    "hold_arm": HoldArm,
    "hold_wait": HoldWait,
    "hold_release": HoldRelease,
    "fault": Fault,
    "stats": Stats,
}
OPS: dict[str, type[Request]] = {**SESSION_MESSAGES, **REQUESTS}
NAMES: dict[type[Request], str] = {kind: name for name, kind in OPS.items()}
_FIELDS = {kind: tuple(field.name for field in fields(cast("Any", kind))) for kind in OPS.values()}


def decode_request(raw: bytes) -> tuple[int, Request]:
    """(id, typed request). Raises Malformed, with `.request` set as far as the id could be read."""
    message = unpack(raw)
    request = message.pop("id", 0)
    if type(request) is not int or not 0 < request < 1 << 63:
        raise Malformed(errno.EINVAL, "field id: expected a number from 1 to 2^63 - 1")
    try:
        return request, _typed(message)
    except Malformed as error:
        error.request = request
        raise


def unpack(raw: bytes) -> dict[str, Any]:
    """The map in these bytes. Raises Malformed."""
    if len(raw) > MESSAGE_LIMIT:
        raise Malformed(errno.EMSGSIZE, f"a message has at most {MESSAGE_LIMIT} bytes, this one {len(raw)}")
    try:
        message = msgpack.unpackb(
            raw, raw=False, strict_map_key=True, max_bin_len=MESSAGE_LIMIT, max_str_len=MESSAGE_LIMIT,
            max_array_len=ITEM_LIMIT, max_map_len=ITEM_LIMIT, max_ext_len=0,
        )  # fmt: skip
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        detail = str(error) or type(error).__name__
        refusal = Malformed(errno.EBADMSG, f"this is no msgpack message within the limits: {detail}")
        refusal.request = _readable_id(raw)
        raise refusal from None
    if not isinstance(message, dict) or not all(isinstance(key, str) for key in message):
        raise Malformed(errno.EBADMSG, "a message is a map with text keys")
    return message


def _readable_id(raw: bytes) -> int:
    """The id of a message that cannot be taken, 0 without one. Values are skipped, not made, whatever size they claim."""
    unpacker = msgpack.Unpacker(
        max_buffer_size=MESSAGE_LIMIT, max_str_len=TEXT_LIMIT, max_array_len=0, max_map_len=0
    )
    try:
        unpacker.feed(raw)
        for _ in range(min(unpacker.read_map_header(), ITEM_LIMIT)):
            if unpacker.unpack() == "id":
                found = unpacker.unpack()
                return found if type(found) is int and 0 < found < 1 << 63 else 0
            unpacker.skip()
    except (ValueError, msgpack.UnpackException, RecursionError):
        return 0
    return 0


def _typed(message: dict[str, Any]) -> Request:
    op = message.pop("op", None)
    if not isinstance(op, str):
        raise Malformed(errno.EINVAL, "field op: expected the request's name as text")
    kind = OPS.get(op)
    if kind is None:
        raise Malformed(errno.EOPNOTSUPP, f"no op {op[:64]!r}; known are {', '.join(sorted(OPS))}")
    known = _FIELDS[kind]
    for name in message:
        if name not in known:
            takes = f"its fields are {', '.join(known)}" if known else "it has none"
            raise Malformed(errno.EINVAL, f"op {op}: unknown field {name[:64]}; {takes}")
    _check_version(op, message)
    try:
        typed = msgspec.convert(message, kind, strict=True, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise Malformed(errno.EINVAL, f"op {op}: {error}") from None
    _check_texts(op, message)
    _check_size(op, typed, len(message.get("data", b"")))
    return typed


def _check_texts(op: str, message: dict[str, Any]) -> None:
    for name, value in message.items():
        if isinstance(value, str) and len(value.encode()) > TEXT_LIMIT:
            raise Malformed(
                errno.ENAMETOOLONG,
                f"op {op}: field {name} has {len(value.encode())} bytes of text: use at most {TEXT_LIMIT}",
            )


def _check_version(op: str, message: dict[str, Any]) -> None:
    version = message.get("version", VERSION)
    if op in {"hello", "bind"} and type(version) is int and version != VERSION:
        raise Malformed(errno.EPROTO, f"op {op}: this broker speaks version {VERSION}, not {version}")


def _check_size(op: str, typed: Request, data: int) -> None:
    """What one message would have to carry, in it or in its answer."""
    wanted = max(data, getattr(typed, "length", 0) if op == "fs_read" else 0)
    if wanted > DATA_LIMIT:
        raise Malformed(errno.EMSGSIZE, f"op {op}: at most {DATA_LIMIT} bytes a message; cut it in pieces")


# ---- the other direction


def encode_request(op: str, request: int, values: Mapping[str, Any]) -> bytes:
    """Raises Malformed for what no message can hold, as 2^64."""
    try:
        return _pack({"op": op, "id": request, **values})
    except UnicodeEncodeError:
        raise Malformed(errno.EINVAL, f"op {op}: text that is not UTF-8: use UTF-8 names") from None
    except (OverflowError, TypeError, ValueError) as error:
        raise Malformed(errno.EINVAL, f"op {op}: a field that no message can carry: {error}") from None


def encode_reply(request: int, result: Mapping[str, Any]) -> bytes:
    return _pack({"id": request, "ok": True, "result": result})


def encode_error(request: int, number: int, sentence: str, *, definite: bool = True) -> bytes:
    return _pack(
        {"id": request, "ok": False, "errno": errno_name(number), "error": sentence, "definite": definite}
    )


def encode_event(name: str, values: Mapping[str, Any]) -> bytes:
    return _pack({"event": name, "fields": values})


def decode_answer(raw: bytes) -> dict[str, Any]:
    """A reply or an event, as the client sees it: the broker is trusted to keep the format, not to be bug-free."""
    try:
        message = msgpack.unpackb(raw, raw=False, strict_map_key=False)
    except (ValueError, msgpack.UnpackException) as error:
        raise Malformed(errno.EBADMSG, f"the broker sent something that is no message: {error}") from None
    if not isinstance(message, dict) or not ("event" in message or "id" in message):
        raise Malformed(errno.EBADMSG, "the broker sent a message that is neither reply nor event")
    return message


def _pack(message: Mapping[str, Any]) -> bytes:
    return cast("bytes", msgpack.packb(message, use_bin_type=True))
