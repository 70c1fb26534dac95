"""One event at a time through core, commit and effects: the order that the promises rest on.

    event -> core.step -> [before-commit effects] -> commit of what changed durably -> effects, replies among them -> next event

All effects of a step are carried out before the next event is looked at, so a before-commit effect never meets an earlier step's
open effects, and whatever an effect answers at once is an event at the end of the queue.

A commit that fails (disk full, EIO) is undone in the core, blocks that had been prepared are given back, and: a request is answered
with the errno, definitely without effect; any other event (a key is quiesced, a client has died) is a fact that cannot be refused. So is
an unplug by surprise, however it was asked for: memory that is gone is gone, and is taken off the engine whatever the disk says.
A fact's commit has space of its own on a full disk (reserve.py); when that is not enough either, or the disk is broken, it is stepped
again every RETRY seconds until the disk takes it, and stderr says that it waits, why, and when it goes on. The broker goes on
meanwhile; a reclaim that waits for this can be cancelled.

A step that needs something large which is still being made (spares.py) is undone as if it had never been, and comes again, first in the
queue, when that is there. Until then everybody else's steps go on.
"""

from __future__ import annotations

import errno
import sys
import time
from collections import deque
from typing import TYPE_CHECKING

from emu.broker.spares import Later
from emu.core.effects import CloseHandle, Offline, Poison
from emu.core.errors import errno_name
from emu.core.events import Missed, Requested, SessionLost
from emu.core.requests import FsPoison, FsUnplug

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.broker.effects import Effects
    from emu.broker.journal import Journal
    from emu.broker.record import Record
    from emu.broker.timers import Timers
    from emu.core.effects import Effect
    from emu.core.events import Event
    from emu.core.machine import Core

RETRY = 0.1  # seconds
TURN = 0.02  # seconds of steps in one turn: some cost a thousand times what others do
RETRY_TIMER = "retry"


class Steps:
    """`visit` is called at the loop's hold points."""

    def __init__(
        self, core: Core, journal: Journal, timers: Timers, record: Record, visit: Callable[..., None],
        refuse: Callable[[Requested, int, str], None], clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._core, self._journal, self._timers, self._record = core, journal, timers, record
        self._visit, self._refuse, self._clock = visit, refuse, clock
        self._queue: deque[Event] = deque()
        self._postponed: deque[Event] = deque()
        self._late: list[Event] = []  # facts that could not be noted so far, in this queue or that
        self.effects: Effects  # set by whoever assembles: effects submit their answers here
        self.count = 0
        self.undone = 0
        self.defects = 0

    def submit(self, event: Event) -> None:
        self._queue.append(event)

    def retry(self) -> None:
        """Postponed events come first again."""
        self._queue.extendleft(reversed(self._postponed))
        self._postponed.clear()

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def postponed(self) -> int:
        """Facts that the books lack so far."""
        return len(self._late)

    def run(self, limit: int) -> None:
        """At most `limit` events; when TURN seconds have gone, no further one is begun."""
        end = self._clock() + TURN
        while self._queue and limit > 0:
            self.step(self._queue.popleft())
            limit -= 1
            if self._clock() >= end:
                return

    def step(self, event: Event) -> bool:
        """One event, to its end. False: it was undone, or has to wait."""
        if isinstance(event, SessionLost) and any(_asked_by(event.session, late) for late in self._late):
            self._postponed.append(event)  # behind what its session did
            return False
        self._record.event(event)
        self.count += 1
        try:
            effects = self._core.step(event)
        except Exception as error:  # noqa: BLE001 - a defect of core or protocol: nothing has changed, everybody else goes on
            self._defect(event, error)
            return False
        begun: list[Effect] = []
        try:
            self._prepare(effects, begun)
            self._commit(fact=_is_fact(event))
        except Later as later:
            self._put_back(event, begun, later)
            return False
        except OSError as error:
            self._undo(event, begun, error)
            if isinstance(event, Requested) and not _is_fact(event):
                number = error.errno or errno.EIO
                self._answer(event, number, f"nothing has changed: {error.strerror or error}")
            else:
                self._postpone(event, effects, error)
            return False
        self._noted(event)
        self.effects.behind_commit(effects)
        for effect in effects:
            if not effect.before_commit:
                self._visit("before-effect", type(effect).__name__)
                self.effects.carry_out(effect)
                self._visit("after-effect", type(effect).__name__)
        return True

    def strict(self, event: Event) -> None:
        """A step of the start, before anybody is served: it succeeds, or its exception ends the start."""
        self._record.event(event)
        effects = self._core.step(event)
        for effect in effects:
            self._record.effect(effect)
            self.effects.perform(effect)
        self._commit(fact=False)

    def _prepare(self, effects: tuple[Effect, ...], begun: list[Effect]) -> None:
        for effect in effects:
            if effect.before_commit:
                begun.append(effect)
                self.effects.carry_out(effect)
            elif self.effects.prepare(effect):
                begun.append(effect)

    def _commit(self, *, fact: bool) -> None:
        delta = self._core.delta()
        if delta:
            self._visit("before-commit")
            self._journal.commit(delta, fact=fact)
            self._record.durable(delta)
        self._core.committed()
        if delta:
            self._visit("after-commit")

    def _put_back(self, event: Event, begun: list[Effect], later: Later) -> None:
        self._core.undo()
        self._record.shell("PutBack", event=type(event).__name__)
        for effect in reversed(begun):
            self.effects.take_back(effect)
        later.then(lambda: self._queue.appendleft(event))

    def _undo(self, event: Event, begun: list[Effect], error: OSError) -> None:
        self._core.undo()
        self.undone += 1
        number = error.errno or errno.EIO
        self._record.shell("Undone", event=type(event).__name__, errno=number, error=str(error))
        for effect in reversed(begun):
            self.effects.take_back(effect)

    def _postpone(self, event: Event, effects: tuple[Effect, ...], error: OSError) -> None:
        if not self._late:
            _say(
                f"{errno_name(error.errno or errno.EIO)}: {error.strerror or error}: a {type(event).__name__} cannot be refused and waits "
                f"for it, a reclaim perhaps too; it is tried again every {RETRY:g} s: make space there, or mend the disk"
            )
        if event not in self._late:
            self._late.append(event)
            self._ahead(effects)
        self._postponed.append(event)
        self._timers.arm(RETRY_TIMER, RETRY)

    def _ahead(self, effects: tuple[Effect, ...]) -> None:
        """Memory that was unplugged by surprise is gone now; only the books follow."""
        for effect in effects:
            if isinstance(effect, Poison) or (isinstance(effect, Offline) and not effect.token):
                self._record.shell("Ahead", effect=type(effect).__name__, aperture=effect.aperture)
                try:
                    self.effects.perform(effect)
                except OSError as error:  # it comes again behind the commit
                    self._record.shell(
                        "EffectFailed", effect=type(effect).__name__, errno=error.errno, error=str(error)
                    )

    def _noted(self, event: Event) -> None:
        if self._late and event in self._late:
            self._late.remove(event)
            if not self._late:
                _say("what had to wait for the disk has been written; everything goes on")

    def _defect(self, event: Event, error: Exception) -> None:
        self.defects += 1
        self._noted(event)
        self._record.shell("Defect", event=type(event).__name__, error=f"{type(error).__name__}: {error}")
        if isinstance(event, Missed):  # the engine tells it once, and somebody waits
            self._postponed.append(event)
            self._timers.arm(RETRY_TIMER, RETRY)
        if isinstance(event, Requested):
            self._answer(
                event, getattr(error, "errno", None) or errno.EIO, f"{type(error).__name__}: {error}"
            )

    def _answer(self, event: Requested, number: int, sentence: str) -> None:
        if event.host is not None:
            self.effects.carry_out(CloseHandle(event.host.handle))
        self._refuse(event, number, sentence)


def _is_fact(event: Event) -> bool:
    """It has happened: nobody can be told that it has not."""
    if not isinstance(event, Requested) or isinstance(event.op, FsPoison):
        return True
    return isinstance(event.op, FsUnplug) and event.op.surprise


def _asked_by(session: int, event: Event) -> bool:
    return isinstance(event, Requested) and event.session == session


def _say(sentence: str) -> None:
    print(f"emu: broker: {sentence}", file=sys.stderr, flush=True)
