"""Who is connected, and by which way an answer or an event reaches them.

A session is opened by `hello` on the door (its context; it may own memory) or through the ROUTER (remote: control only). A DEALER
binds itself to a session by the token that the door gave out; from then on events go there. Every request is answered by the way
it came. Who asks for more than OWED bytes without reading is refused (EAGAIN), and who lets answers pile up all the same is cut off
(`overrun`); events that nobody takes are dropped and counted. A session whose door hangs up stays in the book, mute, until the core has taken back all it held (`forget`).
"""

from __future__ import annotations

import errno
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from emu.wire import codec
from emu.wire.door import DOOR_LIMIT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from emu.host.opener import Opener
    from emu.wire.door import DoorConnection
    from emu.wire.router import Router

OUTSTANDING = 4096  # requests of one session that may be under way
OWED = 16 << 20  # bytes of data in requests under way and in answers that wait to be read, of one session
EVENT_ROOM = 1 << 20  # bytes that may wait for a client when an event comes; what is above is for answers
Way = bytes | None  # the identity a request came from; None: the door


@dataclass(slots=True, eq=False)
class Session:
    number: int
    name: str
    wants: bool
    token: bytes
    door: DoorConnection | None
    slot: int = -1  # of its context in the engine
    opener: Opener | None = None  # the process that opened the door
    identity: bytes | None = None
    heard: float = 0.0
    mute: bool = False  # lost: nothing is said to it any more
    ways: dict[int, tuple[Way, int]] = field(
        default_factory=dict
    )  # by request under way; with its bytes of data
    owed: int = 0  # bytes of data of the requests under way
    events_lost: int = 0


class Sessions:
    """The book, and the one place where bytes leave for clients."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._last = 0
        self._numbered: dict[int, Session] = {}
        self._by_token: dict[bytes, Session] = {}
        self._by_identity: dict[bytes, Session] = {}
        self.broken: list[DoorConnection] = []  # a send found the peer gone; the loop hangs up
        self.overrun: list[Session] = []  # reads no answers; the loop cuts it off
        self.writers: set[DoorConnection] = set()  # something waits for room; the loop watches

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._numbered.values()))

    def __len__(self) -> int:
        return len(self._numbered)

    def open(self, name: str, *, wants: bool, door: DoorConnection | None, slot: int = -1) -> Session:
        self._last += 1
        token = secrets.token_bytes(codec.TOKEN_BYTES)
        session = Session(self._last, name, wants, token, door, slot, heard=time.monotonic())
        self._numbered[session.number] = session
        self._by_token[token] = session
        return session

    def get(self, number: int) -> Session | None:
        return self._numbered.get(number)

    def of_identity(self, identity: bytes) -> Session | None:
        return self._by_identity.get(identity)

    def bind(self, token: bytes, identity: bytes) -> Session | None:
        """From now on this DEALER alone speaks for the token's session. None: nobody has this token."""
        session = self._by_token.get(token)
        if session is None or session.mute:
            return None
        if session.identity is not None:
            self._unbind(session.identity)
        if (other := self._by_identity.pop(identity, None)) is not None:
            other.identity = None
        session.identity = identity
        self._by_identity[identity] = session
        return session

    def lose(self, session: Session) -> None:
        """It is gone: no word reaches it, its token opens nothing."""
        session.mute = True
        self._by_token.pop(session.token, None)
        if session.identity is not None:
            self._unbind(session.identity)
        session.ways.clear()

    def _unbind(self, identity: bytes) -> None:
        self._by_identity.pop(identity, None)
        self._router.forget(identity)

    def forget(self, number: int) -> Session | None:
        """The core holds nothing of it any more."""
        session = self._numbered.pop(number, None)
        if session is not None:
            self.lose(session)
        return session

    def silent_since(self, moment: float) -> list[Session]:
        """Sessions without a door that have said nothing since."""
        return [s for s in self if s.door is None and not s.mute and s.heard < moment]

    # ---- requests and their answers

    def begin(self, session: Session, request: int, way: Way, data: int = 0) -> str:
        """Note how request came; `data`: bytes it brings or asks for. Returns why it cannot be taken, or nothing."""
        if request in session.ways:
            return f"request {request} is still under way: ids of requests under way differ"
        if len(session.ways) >= OUTSTANDING:
            return f"{OUTSTANDING} requests are under way already"
        if data and session.owed + data + self._unread(session) > OWED:
            return f"{OWED} bytes are under way or wait to be read already: read the answers"
        session.ways[request] = (way, data)
        session.owed += data
        return ""

    def _unread(self, session: Session) -> int:
        by_router = self._router.kept(session.identity) if session.identity is not None else 0
        return by_router + (session.door.unread if session.door is not None else 0)

    def reply(
        self, number: int, request: int, result: Mapping[str, Any], descriptors: Sequence[int] = ()
    ) -> None:
        self._end(number, request, codec.encode_reply(request, result), descriptors)

    def fail(self, number: int, request: int, error: int, sentence: str, *, definite: bool = True) -> None:
        self._end(number, request, codec.encode_error(request, error, sentence, definite=definite), ())

    def _end(self, number: int, request: int, raw: bytes, descriptors: Sequence[int]) -> None:
        session = self._numbered.get(number)
        if session is None or request not in session.ways:
            return  # lost meanwhile
        way, data = session.ways.pop(request)
        session.owed -= data
        if way is not None:
            self.tell(way, raw)
        elif (
            session.door is not None
            and not self.say(session.door, request, raw, descriptors)
            and session.door not in self.broken
        ):
            self._overran(session)

    def tell(self, identity: bytes, raw: bytes) -> None:
        """One answer to a DEALER. For one without a session nothing waits."""
        session = self._by_identity.get(identity)
        if session is None:
            self._router.send(identity, raw)
        elif not self._router.send(identity, raw, keep=True) and self._router.kept(identity):
            self._overran(session)  # it is there, and takes nothing

    def _overran(self, session: Session) -> None:
        if not session.mute and session not in self.overrun:
            self.overrun.append(session)

    def say(self, door: DoorConnection, request: int, raw: bytes, descriptors: Sequence[int] = ()) -> bool:
        """One packet through a door."""
        if len(raw) > DOOR_LIMIT:
            sentence = f"the answer has {len(raw)} bytes, the door carries {DOOR_LIMIT}: ask through ZeroMQ, or in pieces"
            raw, descriptors = codec.encode_error(request, errno.EMSGSIZE, sentence, definite=False), ()
        try:
            sent = door.send(raw, descriptors)
        except OSError:
            self.broken.append(door)
            return False
        if door.waiting:
            self.writers.add(door)
        return sent

    def event(self, number: int, name: str, values: Mapping[str, Any]) -> bool:
        """An asynchronous event. False: nobody takes it (counted)."""
        session = self._numbered.get(number)
        if session is None or session.mute:
            return False
        raw = codec.encode_event(name, values)
        if session.identity is not None:
            room = self._router.kept(session.identity) < EVENT_ROOM
            sent = self._router.send(session.identity, raw, keep=room)
        else:
            sent = session.door is not None and not session.door.choked and self.say(session.door, 0, raw)
        session.events_lost += not sent
        return sent
