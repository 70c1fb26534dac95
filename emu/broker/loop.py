"""The loop: one thread, one epoll. A turn gathers what has come, steps the core through it, and sends what there is to say.

    turn = epoll (door, connections, ROUTER, engine, signals, lifeline) -> ROUTER drained -> timers -> at most STEPS steps,
           and no more once they have taken steps.TURN seconds -> a piece of what is written back (flushes.py) -> dead connections hung up, writers watched -> history flushed

Each source gives a bounded share a turn, so that nobody who floods is served alone; what is left over keeps the next poll from
sleeping. While the loop is held at a hold point (admin.py), or a step prepares large memory (memory.py), `serve_once` does the
gathering half only: pings and figures are answered, whoever hung up is noticed, and what is for the core waits in the queue.
"""

from __future__ import annotations

import errno
import select
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from emu.broker.guards import TIMER as GUARDS_TIMER
from emu.broker.invalidation import TIMER as INVALIDATION_TIMER
from emu.broker.reception import Visitor
from emu.broker.steps import RETRY_TIMER
from emu.core.events import (
    Answered,
    CqReported,
    MemoryFaulted,
    Missed,
    QpReported,
    Quiesced,
    TimerFired,
    Unmapped,
    WritebackDue,
)
from emu.engine.broker import EventKind
from emu.host.opener import Opener
from emu.host.times import scaled
from emu.wire import codec
from emu.wire.client import DEVICE_FATAL, SILENCE_LIMIT
from emu.wire.door import DoorConnection, hung_up, peer_credentials

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from emu.broker.admin import Admin
    from emu.broker.effects import Effects
    from emu.broker.flushes import Flushes
    from emu.broker.invalidation import Invalidations
    from emu.broker.memory import Memory
    from emu.broker.reception import Reception
    from emu.broker.record import Record
    from emu.broker.sessions import Session, Sessions
    from emu.broker.steps import Steps
    from emu.broker.timers import Name, Timers
    from emu.engine.broker import Engine, EngineEvent
    from emu.wire.router import Router

STEPS = 256  # core steps a turn
MESSAGES = 64  # ROUTER messages a turn
PACKETS = 16  # packets of one door a turn
VISITORS = 16  # new doors a turn
SILENCE_TIMER = "silence"
DOOR_TIMER = "door"
WRITEBACK_TIMER = "writeback"  # dirty pages are due
KEPT_PAUSE = 0.02  # seconds until a client that did not read is tried again
DOOR_PAUSE = 0.1  # seconds without new doors when descriptors have run out
CQ_ERR = 0  # IBV_EVENT_CQ_ERR
_READ = select.EPOLLIN | select.EPOLLRDHUP
_GONE = select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP


class Loop:
    """Assembled by start.py; `run` returns when `stop` has been called."""

    def __init__(
        self, *, door: socket.socket, router: Router, engine: Engine, memory: Memory, sessions: Sessions, reception: Reception,
        steps: Steps, effects: Effects, timers: Timers, admin: Admin, record: Record, uid: int,
        invalidations: Invalidations, flushes: Flushes,
        writeback: float = 0.0,
    ) -> None:  # fmt: skip
        self._door, self._router, self._engine, self._memory = door, router, engine, memory
        self._sessions, self._reception, self._steps, self._effects = sessions, reception, steps, effects
        self._timers, self._admin, self._record, self._uid = timers, admin, record, uid
        self._invalidations, self._flushes = invalidations, flushes
        self._epoll = select.epoll()
        self._sources: dict[int, Callable[[int], None]] = {}
        self._visitors: dict[int, Visitor] = {}
        self._masks: dict[int, int] = {}
        self._stopping = False
        self.turns = 0
        self.cut_off = 0  # sessions that read no answers
        admin.spin = self._serve_held
        memory.breathe = self._serve_between
        self.watch(door.fileno(), self._welcome)
        self.watch(router.fd, lambda _mask: None)  # it only wakes: the ROUTER is drained every turn
        self.watch(engine.fileno(), self._engine_events)
        timers.arm(SILENCE_TIMER, SILENCE_LIMIT / 4)
        self._writeback = writeback
        if writeback:
            timers.arm(WRITEBACK_TIMER, writeback)

    def watch(self, fd: int, method: Callable[[int], None], mask: int = select.EPOLLIN) -> None:
        self._epoll.register(fd, mask)
        self._sources[fd] = method

    def stop(self) -> None:
        self._stopping = True

    def run(self) -> None:
        while not self._stopping:
            self.serve_once(self._patience())
            self._admin.visit("turn-start")
            self._steps.run(STEPS)
            self._flushes.turn()
            self._settle()
            self.turns += 1

    def _patience(self) -> float | None:
        return 0 if self._steps.waiting or self._flushes.waiting else self._idle()

    def _idle(self) -> float | None:
        """How long nothing needs us; libzmq does not say when a client for whom something is kept has room."""
        if self._router.pending:
            return 0
        due = self._timers.wait()
        return min(due if due is not None else KEPT_PAUSE, KEPT_PAUSE) if self._router.keeping else due

    def serve_once(self, timeout: float | None) -> None:
        """Gather: everything that came becomes an event in the queue, or is answered."""
        for fd, mask in self._epoll.poll(timeout, 64):
            if (method := self._sources.get(fd)) is not None:
                method(mask)
        for _ in range(MESSAGES):
            if (message := self._router.receive()) is None:
                break
            self._reception.message(*message)
        self._router.flush()
        for name in self._timers.due():
            self._timer(name)

    def _serve_held(self) -> bool:
        """Half a turn while a hold point stops the other half."""
        self.serve_once(self._idle())
        self._settle()
        return not self._stopping

    def _serve_between(self) -> None:
        """Half a turn between two pieces of a long preparation; it waits for nobody."""
        self.serve_once(0)
        self._settle()

    def _settle(self) -> None:
        """What the turn left behind."""
        while self._sessions.overrun:
            self._cut_off(self._sessions.overrun.pop())
        while self._sessions.broken:
            self._hang_up(self._sessions.broken.pop())
        while self._sessions.writers:
            self._rewatch(self._sessions.writers.pop())
        self._record.flush()

    def _cut_off(self, session: Session) -> None:
        """Its answers pile up: it is lost, as if it had died."""
        self._record.shell("CutOff", session=session.number, client=session.name)
        self.cut_off += 1
        if session.door is not None:
            self._hang_up(session.door)
        else:
            self._reception.lost(session)

    # ---- the door

    def _welcome(self, _mask: int) -> None:
        try:
            for _ in range(VISITORS):
                sock, _ = self._door.accept()
                self._admit(sock)
        except BlockingIOError:
            return
        except OSError as error:  # no descriptor left: whoever waits outside waits on
            self._record.shell("DoorClosed", errno=error.errno, error=str(error))
            self._epoll.unregister(self._door.fileno())
            self._timers.arm(DOOR_TIMER, DOOR_PAUSE)

    def _admit(self, sock: socket.socket) -> None:
        connection = DoorConnection(sock)
        _, uid, _ = peer_credentials(sock)
        if uid not in {self._uid, 0}:
            self._sessions.say(
                connection,
                0,
                codec.encode_error(
                    0, errno.EPERM, f"this node belongs to uid {self._uid}: only it and root are served"
                ),
            )
            connection.close()
            return
        visitor = Visitor(connection, Opener.of(sock))
        try:
            self.watch(connection.fd, lambda mask: self._at_door(visitor, mask), _READ)
        except OSError as error:  # the host watches no more: whoever is kept would never be heard
            self._record.shell("TurnedAway", errno=error.errno, error=str(error))
            self._let_go(visitor)
            connection.close()
            return
        self._visitors[connection.fd] = visitor
        self._masks[connection.fd] = _READ
        self._watch_opener(visitor)

    def _watch_opener(self, visitor: Visitor) -> None:
        """A process that cannot be watched cannot be held to its end: it counts as one that no signal reaches."""
        if visitor.opener is None:
            return
        try:
            self.watch(visitor.opener.fd, lambda _mask: self._opener_ended(visitor))
        except OSError:
            visitor.opener.close()

    def _opener_ended(self, visitor: Visitor) -> None:
        """Its own descriptors were closed before: a door that is open now is open in other hands; one that is not says so itself."""
        if visitor.opener is None or not visitor.opener.ended():
            return  # news of another, whose descriptor had this number before
        self._let_go(visitor)
        if not hung_up(visitor.door.sock):
            self._reception.opener_ended(visitor)

    def _let_go(self, visitor: Visitor) -> None:
        if visitor.opener is None or visitor.opener.fd < 0:
            return
        if self._sources.pop(visitor.opener.fd, None) is not None:
            self._epoll.unregister(visitor.opener.fd)
        visitor.opener.close()

    def _at_door(self, visitor: Visitor, mask: int) -> None:
        try:
            if mask & _GONE:
                raise ConnectionResetError
            if mask & select.EPOLLOUT:
                visitor.door.flush()
                self._rewatch(visitor.door)
            if mask & select.EPOLLIN:
                self._read(visitor)
        except OSError:
            self._hang_up(visitor.door)

    def _read(self, visitor: Visitor) -> None:
        with suppress(BlockingIOError):
            for _ in range(PACKETS):
                packet = visitor.door.receive()
                if packet is None:
                    raise ConnectionResetError
                self._reception.packet(visitor, packet)
                if visitor.door.choked:
                    return

    def _visitor_of(self, door: DoorConnection) -> Visitor | None:
        """None: this door has been hung up already; its number may be somebody else's by now."""
        visitor = self._visitors.get(door.fd)
        return visitor if visitor is not None and visitor.door is door else None

    def _rewatch(self, door: DoorConnection) -> None:
        """A door with a queue is watched for room; one whose queue is half full is not read."""
        if self._visitor_of(door) is None:
            return
        mask = (
            select.EPOLLRDHUP
            | (0 if door.choked else select.EPOLLIN)
            | (select.EPOLLOUT if door.waiting else 0)
        )
        if self._masks[door.fd] != mask:
            self._masks[door.fd] = mask
            self._epoll.modify(door.fd, mask)

    def _hang_up(self, door: DoorConnection) -> None:
        visitor = self._visitor_of(door)
        if visitor is None:
            return
        self._epoll.unregister(door.fd)
        del self._visitors[door.fd], self._sources[door.fd], self._masks[door.fd]
        self._let_go(visitor)
        door.close()
        self._reception.hung_up(visitor)

    # ---- engine and timers

    def _engine_events(self, _mask: int) -> None:
        for event in self._engine.events():
            self._engine_event(event)

    def _engine_event(self, event: EngineEvent) -> None:
        if event.kind is EventKind.QUIESCED:
            if not self._effects.grace_ended(event.cookie):
                self._invalidations.answered(self._effects.fence_of(event.cookie) or Quiesced(event.cookie))
        elif event.kind is EventKind.UNMAPPED:
            self._steps.submit(Unmapped(event.cookie))
        elif event.kind is EventKind.QP_GONE:
            self._steps.submit(Answered(event.cookie))
        elif event.kind is EventKind.ASYNC:
            report = CqReported if event.code == CQ_ERR else QpReported
            self._steps.submit(report(event.id, event.code))
        elif event.kind is EventKind.FAULT:
            self._steps.submit(Missed(event.id, event.cookie, event.offset, event.bytes, bool(event.code)))
        elif event.kind is EventKind.HELD:
            self._admin.engine_held(event)
        elif (aperture := self._memory.core_number(event.id)) is not None:
            self._steps.submit(MemoryFaulted(aperture, event.offset))

    def _timer(self, name: Name) -> None:
        if isinstance(name, int):
            self._steps.submit(TimerFired(name))
        elif name == GUARDS_TIMER:
            self._effects.guards.look(self._steps.submit)
        elif name == INVALIDATION_TIMER:
            self._invalidations.due()
        elif name == RETRY_TIMER:
            self._steps.retry()
        elif name == WRITEBACK_TIMER:
            self._steps.submit(WritebackDue())
            self._timers.arm(WRITEBACK_TIMER, self._writeback)
        elif name == DOOR_TIMER:
            self._epoll.register(self._door.fileno(), select.EPOLLIN)
        else:
            for session in self._sessions.silent_since(time.monotonic() - scaled(SILENCE_LIMIT)):
                self._reception.lost(session)
            self._timers.arm(SILENCE_TIMER, SILENCE_LIMIT / 4)

    # ---- the end

    def farewell(self) -> None:
        """Tell every client, and hang up."""
        for session in self._sessions:
            self._sessions.event(session.number, DEVICE_FATAL, {})
        for visitor in list(self._visitors.values()):
            self._hang_up(visitor.door)
        self._record.ended()
        self._epoll.close()
