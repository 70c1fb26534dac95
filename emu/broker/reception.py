"""Messages in: from bytes to a typed request of a known session, or a typed refusal. The broker goes on in any case.

Requests for the core become `Requested` events in the queue; hello, bind, ping and administration are answered here. Nothing here runs the
core, so that messages can be taken while the loop is held.
"""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from emu.broker.admin import Administrative
from emu.broker.hostfiles import wants_descriptor
from emu.core.events import OwnerEnded, Requested, SessionLost, SessionOpened
from emu.core.requests import DOOR_ONLY, LS_BYTES, FsLs, FsRead, FsWrite, Request
from emu.wire import codec
from emu.wire.codec import NAMES, Bind, Hello, Ping
from emu.wire.door import DOOR_DATA_LIMIT, DOOR_LIMIT
from emu.wire.errors import Malformed

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.broker.admin import Admin
    from emu.broker.hostfiles import HostFiles
    from emu.broker.sessions import Session, Sessions, Way
    from emu.core.events import Event, HostFile
    from emu.engine.broker import Engine
    from emu.host.opener import Opener
    from emu.wire.door import DoorConnection, Packet
    from emu.wire.router import Router

DEVICE = "emu0"


@dataclass(slots=True, eq=False)
class Visitor:
    """Somebody at the door; a session once it has said hello."""

    door: DoorConnection
    opener: Opener | None = None
    session: Session | None = None


class Reception:
    def __init__(
        self, engine: Engine, sessions: Sessions, router: Router, admin: Admin, files: HostFiles,
        submit: Callable[[Event], None],
    ) -> None:  # fmt: skip
        self._engine, self._sessions, self._router = engine, sessions, router
        self._admin, self._files, self._submit = admin, files, submit
        self.refused = 0  # messages that were no requests

    # ---- by the door

    def packet(self, visitor: Visitor, packet: Packet) -> None:
        """One packet; its descriptors are closed here."""
        request = 0
        try:
            _check_whole(packet)
            request, op = codec.decode_request(packet.data)
            self._at_door(visitor, request, op, packet)
        except Malformed as error:
            self.refused += 1
            raw = codec.encode_error(error.request or request, error.errno, str(error))
            self._sessions.say(visitor.door, error.request or request, raw)
        except OSError as error:  # no descriptor left for it
            self.refused += 1
            raw = codec.encode_error(request, error.errno or errno.EIO, error.strerror or str(error))
            self._sessions.say(visitor.door, request, raw)
        finally:
            packet.close_descriptors()

    def _at_door(self, visitor: Visitor, request: int, op: Request, packet: Packet) -> None:
        session = visitor.session
        if isinstance(op, Hello):
            if session is not None:
                raise Malformed(errno.EISCONN, "hello has been said on this door: one door is one context")
            self._welcome(visitor, request, op)
        elif session is None:
            raise Malformed(errno.ENOTCONN, f"op {NAMES[type(op)]}: the first message is hello")
        elif isinstance(op, Bind):
            raise Malformed(errno.EINVAL, "op bind is for a ZeroMQ DEALER")
        else:
            if isinstance(op, FsRead) and op.length > DOOR_DATA_LIMIT:
                raise Malformed(
                    errno.EMSGSIZE, f"op fs_read: at most {DOOR_DATA_LIMIT} bytes a message through the door"
                )
            host = self._files.take(packet.descriptors) if wants_descriptor(op) else None
            self._request(session, request, op, None, host)

    def _welcome(self, visitor: Visitor, request: int, op: Hello) -> None:
        try:
            context = self._engine.ctx_add()
        except OSError as error:
            raise Malformed(error.errno or errno.EIO, f"op hello: {error.strerror}") from None
        session = self._sessions.open(op.name, wants=op.wants, door=visitor.door, slot=context.slot)
        visitor.session, session.opener = session, visitor.opener
        signalable = session.opener is not None and session.opener.signalable
        self._submit(SessionOpened(session.number, op.name, door=True, wants=op.wants, signalable=signalable))
        raw = codec.encode_reply(request, {**self._greeting(session), "ctx": context.slot})
        self._sessions.say(visitor.door, request, raw, (context.ctx_fd, context.bell_fd))
        os.close(context.ctx_fd)
        os.close(context.bell_fd)

    def hung_up(self, visitor: Visitor) -> None:
        """The door's other end is gone."""
        if visitor.session is not None:
            self.lost(visitor.session)

    def opener_ended(self, visitor: Visitor) -> None:
        """The process that connected has ended; somebody else has its end of the door."""
        if visitor.session is not None:
            self._submit(OwnerEnded(visitor.session.number))

    def lost(self, session: Session) -> None:
        if not session.mute:
            self._sessions.lose(session)
            self._admin.lost(session.number)
            self._submit(SessionLost(session.number))

    # ---- by the ROUTER

    def message(self, identity: bytes, raw: bytes | None) -> None:
        """One message of a DEALER."""
        request = 0
        try:
            request, op = codec.decode_request(_one_frame(raw))
            self._at_router(identity, request, op)
        except Malformed as error:
            self.refused += 1
            self._sessions.tell(
                identity, codec.encode_error(error.request or request, error.errno, str(error))
            )

    def _at_router(self, identity: bytes, request: int, op: Request) -> None:
        session = self._sessions.of_identity(identity)
        if isinstance(op, Hello):
            self._welcome_remote(identity, request, op, session)
        elif isinstance(op, Bind):
            self._bind(identity, request, op)
        elif session is None:
            raise Malformed(
                errno.ENOTCONN,
                f"op {NAMES[type(op)]}: the first message is bind with the token that the door gave out, or hello",
            )
        else:
            session.heard = time.monotonic()
            if NAMES[type(op)] in DOOR_ONLY or wants_descriptor(op):
                raise Malformed(
                    errno.EOPNOTSUPP,
                    f"op {NAMES[type(op)]}: descriptors travel with it, so it needs the door",
                )
            self._request(session, request, op, identity, None)

    def _welcome_remote(self, identity: bytes, request: int, op: Hello, known: Session | None) -> None:
        if known is not None:
            raise Malformed(errno.EISCONN, "this DEALER has a session already")
        session = self._sessions.open(op.name, wants=op.wants, door=None)
        self._sessions.bind(session.token, identity)
        self._submit(SessionOpened(session.number, op.name, door=False, wants=op.wants))
        self._sessions.tell(identity, codec.encode_reply(request, self._greeting(session)))

    def _bind(self, identity: bytes, request: int, op: Bind) -> None:
        session = self._sessions.bind(op.token, identity)
        if session is None:
            raise Malformed(errno.EACCES, "op bind: this token is nobody's")
        session.heard = time.monotonic()
        self._sessions.tell(identity, codec.encode_reply(request, {"session": session.number}))

    def _greeting(self, session: Session) -> dict[str, object]:
        return {
            "session": session.number,
            "token": session.token,
            "zmq": self._router.addresses[0],
            "version": codec.VERSION,
            "device": DEVICE,
        }

    # ---- by either

    def _request(self, session: Session, request: int, op: Request, way: Way, host: HostFile | None) -> None:
        why = self._sessions.begin(session, request, way, _data(op))
        if why:
            if host is not None:
                self._files.close(host.handle)
            raise Malformed(errno.EALREADY if request in session.ways else errno.EAGAIN, why)
        if isinstance(op, Ping):
            self._sessions.reply(session.number, request, {})
        elif isinstance(op, Administrative):
            self._administer(session, request, op)
        else:
            self._submit(Requested(session.number, request, op, host))

    def _administer(self, session: Session, request: int, op: Administrative) -> None:
        try:
            self._admin.take(session, request, op)
        except Malformed as error:
            self._sessions.fail(session.number, request, error.errno, str(error))
        except OSError as error:
            self._sessions.fail(
                session.number, request, error.errno or errno.EIO, error.strerror or str(error)
            )


def _data(op: Request) -> int:
    """Bytes of data that it brings, or that its answer will bring."""
    if isinstance(op, FsLs):
        return LS_BYTES
    return op.length if isinstance(op, FsRead) else len(op.data) if isinstance(op, FsWrite) else 0


def _check_whole(packet: Packet) -> None:
    if packet.cut:
        raise Malformed(
            errno.EMSGSIZE,
            f"a message through the door has at most {DOOR_LIMIT} bytes: send it through ZeroMQ, or in pieces",
        )


def _one_frame(raw: bytes | None) -> bytes:
    if raw is None:
        raise Malformed(errno.EBADMSG, "a message is one frame")
    return raw
