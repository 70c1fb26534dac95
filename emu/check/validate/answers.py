"""What the core has asked of the world, and what the world may answer: each thing once, in the life in which it was asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from emu.core import effects as do
from emu.core import events
from emu.core.decision import IMPORTERS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NANO = 1_000_000_000


@dataclass
class Outstanding:
    """By kind of answer. `timers`: armed and not yet fired, with the earliest time of that (None: not known)."""

    sessions: set[int] = field(default_factory=set)
    ever: set[int] = field(default_factory=set)
    orphans: set[int] = field(default_factory=set)
    requests: set[tuple[int, int]] = field(
        default_factory=set
    )  # open; a number may come again once it was answered
    cookies: dict[tuple[str, int], int] = field(default_factory=dict)
    installing: set[int] = field(default_factory=set)
    dynamic: set[int] = field(default_factory=set)  # keys under which the engine may miss memory
    tokens: set[int] = field(default_factory=set)
    timers: dict[int, float] = field(default_factory=dict)
    qps: set[int] = field(default_factory=set)

    def ordered(self, effect: do.Effect, time: int, scale: float) -> str:
        """The core ordered this. Returns what is wrong with it, or ""."""
        if isinstance(effect, do.Quiesce | do.Invalidate):
            self.cookies["Quiesce", effect.cookie] = 1
        elif isinstance(effect, do.Unmap):
            self.cookies["Unmap", effect.cookie] = 1
        elif isinstance(effect, do.FenceRight):
            self.cookies["FenceRight", effect.fence] = 1
        elif isinstance(effect, do.ReturnRight):
            self.cookies["ReturnRight", effect.right] = 1
        elif isinstance(effect, do.InstallKey):
            self.installing.add(effect.key)
            if effect.importer == IMPORTERS["dynamic"]:
                self.dynamic.add(effect.key)
        elif isinstance(effect, do.RemoveKey):
            self.dynamic.discard(effect.key)
        elif isinstance(effect, do.Arm):
            self.timers[effect.timer] = time + effect.seconds * scale * NANO
        elif isinstance(effect, do.Reply | do.Fail):
            return self._replied(effect)
        elif getattr(effect, "token", 0) and not isinstance(effect, do.Reply):
            self.tokens.add(effect.token)  # type: ignore[attr-defined]
        return ""

    def _replied(self, effect: do.Reply | do.Fail) -> str:
        place = effect.session, effect.request
        if place not in self.requests:
            return f"request {effect.request} of session {effect.session} is answered, and is not open"
        self.requests.discard(place)
        return ""

    def happened(self, event: events.Event, time: int) -> str:
        """The world told this. Returns why it cannot have, or ""."""
        check = CHECKS.get(type(event))
        return check(self, event, time) if check else ""


def _opened(all_: Outstanding, event: events.SessionOpened, _time: int) -> str:
    if event.session in all_.ever:
        return f"session {event.session} opens a second time"
    all_.ever.add(event.session)
    all_.sessions.add(event.session)
    return ""


def _lost(all_: Outstanding, event: events.SessionLost, _time: int) -> str:
    if event.session not in all_.sessions:
        return f"session {event.session} is lost and was not open"
    all_.sessions.discard(event.session)
    return ""


def _owner_ended(all_: Outstanding, event: events.OwnerEnded, _time: int) -> str:
    if event.session not in all_.sessions:
        return f"the opener of session {event.session} ends, and the session was not open"
    if event.session in all_.orphans:
        return f"the opener of session {event.session} ends a second time"
    all_.orphans.add(event.session)
    return ""


def _requested(all_: Outstanding, event: events.Requested, _time: int) -> str:
    if event.session not in all_.ever:
        return f"session {event.session} asks and was never opened"
    if (event.session, event.request) in all_.requests:
        return f"request {event.request} of session {event.session} is asked again before it was answered"
    all_.requests.add((event.session, event.request))
    return ""


def _cookie(ask: str) -> Callable[[Outstanding, Any, int], str]:
    def check(all_: Outstanding, event: Any, _time: int) -> str:
        if not all_.cookies.pop((ask, event.cookie), 0):
            return f"cookie {event.cookie} is answered, and no {ask} asked for it"
        return ""

    return check


def _fenced(all_: Outstanding, event: events.RightFenced, _time: int) -> str:
    if not all_.cookies.pop(("FenceRight", event.fence), 0):
        return f"fence {event.fence} is answered, and nobody asked for it"
    return ""


def _returned(all_: Outstanding, event: events.RightReturned, _time: int) -> str:
    if not all_.cookies.pop(("ReturnRight", event.right), 0):
        return f"right {event.right} is noted as returned, and nobody gave it back"
    return ""


def _installed(all_: Outstanding, event: events.KeyInstalled, _time: int) -> str:
    if event.key not in all_.installing:
        return f"key {event.key:#x} is installed, and nobody asked for that"
    all_.installing.discard(event.key)
    return ""


def _answered(all_: Outstanding, event: events.Answered, _time: int) -> str:
    if event.token not in all_.tokens:
        return f"token {event.token} is answered, and nobody waits for it"
    all_.tokens.discard(event.token)
    if "qp_num" in event.value:
        all_.qps.add(event.value["qp_num"])
    return ""


def _missed(all_: Outstanding, event: events.Missed, _time: int) -> str:
    if event.key not in all_.dynamic:
        return f"key {event.key:#x} misses memory, and no dynamic importer has it"
    return ""


def _fired(all_: Outstanding, event: events.TimerFired, time: int) -> str:
    due = all_.timers.pop(event.timer, None)
    if due is None:
        return f"timer {event.timer} fires and was not armed"
    if time < due:
        return f"timer {event.timer} fires {(due - time) / 1e6:.3f} ms before its time"
    return ""


def _reported(all_: Outstanding, event: events.QpReported, _time: int) -> str:
    return "" if event.qp_num in all_.qps else f"queue pair {event.qp_num} reports and was never made"


CHECKS: Mapping[type[events.Event], Callable[[Outstanding, Any, int], str]] = {
    events.SessionOpened: _opened,
    events.SessionLost: _lost,
    events.OwnerEnded: _owner_ended,
    events.Requested: _requested,
    events.Quiesced: _cookie("Quiesce"),
    events.Unmapped: _cookie("Unmap"),
    events.RightFenced: _fenced,
    events.RightReturned: _returned,
    events.KeyInstalled: _installed,
    events.Answered: _answered,
    events.Missed: _missed,
    events.TimerFired: _fired,
    events.QpReported: _reported,
}
