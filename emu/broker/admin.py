"""Administration through the same messages: hold points of engine and loop, refusals of hardware, and figures.

A hold is armed at a point, met by whoever comes there (an engine thread, or the loop itself at one of LOOP_POINTS), and released. While the
loop is held it still reads messages and answers hold_release, hold_wait, ping and stats; everything else waits in the queue.
`hold_wait` is answered when somebody is held there, at once if somebody is.

A hold belongs to the session that armed it and ends with it: whoever dies in the middle of an experiment stops nobody. Anybody may release it.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from emu.core.effects import Reply
from emu.core.events import Requested
from emu.core.requests import QueryBooks
from emu.engine.broker import hold_points
from emu.host.process import open_descriptors, resident_bytes
from emu.wire.codec import Fault, HoldArm, HoldRelease, HoldWait, Stats
from emu.wire.errors import Malformed

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.broker.refusals import Refusals
    from emu.broker.sessions import Session, Sessions
    from emu.core.machine import Core
    from emu.engine.broker import Engine, EngineEvent

Administrative = HoldArm | HoldWait | HoldRelease | Fault | Stats
LOOP_POINTS = ("turn-start", "before-commit", "after-commit", "before-effect", "after-effect")


@dataclass(slots=True)
class Armed:
    """A hold of the loop's."""

    skip: int
    held: bool = False


class Admin:
    def __init__(
        self,
        engine: Engine,
        core: Core,
        sessions: Sessions,
        refusals: Refusals,
        figures: Callable[[], dict[str, Any]],
    ) -> None:
        self._refusals = refusals
        self._engine, self._core, self._sessions, self._figures = engine, core, sessions, figures
        self._engine_points = hold_points()
        self._armed: dict[str, Armed] = {}
        self._held: dict[str, dict[str, Any]] = {}
        self._waiting: dict[str, list[tuple[int, int]]] = {}  # point -> (session, request)
        self._owner: dict[str, int] = {}  # point -> session
        self.spin: Callable[[], bool]  # set by the loop: serve messages once; False when the broker ends

    def take(self, session: Session, request: int, op: Administrative) -> None:
        """A request of this room. Raises Malformed, OSError."""
        if isinstance(op, Fault):
            self._refusals.arm(session.number, op.effect, op.count, op.errno)
            self._sessions.reply(session.number, request, {})
            return
        if isinstance(op, Stats):
            self._sessions.reply(session.number, request, self.stats(session.number, request))
            return
        self._check(op.point)
        if isinstance(op, HoldWait):
            self._wait(session.number, request, op.point)
            return
        if isinstance(op, HoldArm):
            self._arm(op)
            self._owner[op.point] = session.number
        else:
            self._release(op.point)
        self._sessions.reply(session.number, request, {})

    def visit(self, point: str, effect: str = "") -> None:
        """The loop comes to one of its points. effect: the name of the one that it is about to carry out, or has."""
        if self._armed and (hold := self._armed.get(point)) and not hold.held:
            if hold.skip:
                hold.skip -= 1
                return
            hold.held = True
            self._met(point, {"point": point, "thread": -1, "key": 0, "wr_id": 0, "effect": effect})
            while self._armed.get(point) is hold and self.spin():
                pass

    def lost(self, session: int) -> None:
        """Its holds are released, and it waits no more. The loop, if it is held, goes on when it has read what there is to read."""
        self._refusals.lost(session)
        for point in [point for point, owner in self._owner.items() if owner == session]:
            self._release(point)
        for point, waiting in list(self._waiting.items()):
            self._waiting[point] = [who for who in waiting if who[0] != session]

    def engine_held(self, event: EngineEvent) -> None:
        """An engine thread stopped."""
        point = self._engine_points[event.code]
        self._met(point, {"point": point, "thread": event.id, "key": event.cookie, "wr_id": event.offset})

    def stats(self, session: int, request: int) -> dict[str, Any]:
        """Engine, core, loop, process."""
        effects = self._core.step(Requested(session, request, QueryBooks()))
        books = next((effect.result for effect in effects if isinstance(effect, Reply)), {})
        process = {"rss": resident_bytes(), "descriptors": open_descriptors()}
        return {"engine": self._engine.stats(), "books": books, "process": process, **self._figures()}

    def _check(self, point: str) -> None:
        if point not in LOOP_POINTS and point not in self._engine_points[1:]:
            known = ", ".join([*self._engine_points[1:], *LOOP_POINTS])
            raise Malformed(errno.EINVAL, f"no hold point {point[:64]!r}; there are {known}")

    def _arm(self, op: HoldArm) -> None:
        if not (0 <= op.key < 1 << 32 and 0 <= op.skip < 1 << 32):
            raise Malformed(errno.EINVAL, "key and skip are numbers from 0 to 2^32 - 1")
        if op.point not in LOOP_POINTS:
            self._engine.hold_arm(op.point, op.key, op.skip)
        elif op.point in self._armed:
            raise OSError(errno.EBUSY, f"a hold at {op.point} is armed already")
        else:
            self._armed[op.point] = Armed(op.skip)

    def _release(self, point: str) -> None:
        if point in LOOP_POINTS:
            self._armed.pop(point, None)
        else:
            self._engine.hold_release(point)
        self._held.pop(point, None)
        self._owner.pop(point, None)

    def _wait(self, session: int, request: int, point: str) -> None:
        if point in self._held:
            self._sessions.reply(session, request, self._held[point])
        else:
            self._waiting.setdefault(point, []).append((session, request))

    def _met(self, point: str, who: dict[str, Any]) -> None:
        self._held[point] = who
        for session, request in self._waiting.pop(point, []):
            self._sessions.reply(session, request, who)
