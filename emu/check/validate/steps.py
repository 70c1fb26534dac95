"""The history stepped again: the core's own events go into a fresh core, and what comes out must be what the lines say.

    event   effects before the commit   Commit (if durable rows changed)   the other effects      a step of the loop (emu/broker/steps.py)
    event   effects   Commit                                              a step of the start (devices and mounts)
    event   effects before the commit   Undone or PutBack   what takes them back                  a commit that failed, memory that is not ready

`shell` lines may stand anywhere and are the shell's own words; a line whose type is none of its kind is refused. Lines are numbered without a gap, times do not go back, and the epoch
advances by one at each of ADVANCING and at nothing else. A life that was cut off in a step (kill -9) ends there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emu.check.opening import TYPES
from emu.check.validate.answers import Outstanding
from emu.check.validate.decode import event_of, own_fields, written
from emu.check.validate.refusal import Refusal, Refused, Unusable
from emu.core import effects as do
from emu.core import events
from emu.core.errors import CoreError
from emu.core.machine import Core
from emu.core.rows import PSEUDO
from emu.history.events import plain
from emu.protocols import registry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from emu.check.history import History
    from emu.core.decision import Deciding

Json = dict[str, Any]

ADVANCING = ("Phase", "Allocate", "Share", "Release", "Poison", "Offline", "Online", "Remap")
STRICT = (events.DeviceAdded, events.MountAdded, events.BuffersLost)
DEFAULT = "mr-revoke"  # of host files, where a broker was told nothing
FAILED = ("Undone", "PutBack", "Defect")


def steps(history: History, protocols: Mapping[str, Deciding]) -> list[Refusal]:
    """At most one refusal: behind it core and history are not the same any more."""
    reading = _Reading(history, protocols)
    try:
        reading.all()
    except Refused as refused:
        return [refused.refusal]
    return []


class _Reading:
    """The place in the lines, and the core of the running life."""

    def __init__(self, history: History, protocols: Mapping[str, Deciding]) -> None:
        options = history.meta.get("options") or {}
        self.lines, self.protocols = history.events, registry.paced(protocols, options.get("lease_break"))
        self.policy = options.get("allocator", "freed-first")
        declared = (history.meta.get("declared") or {}).get("protocol")
        self.live = history.meta.get("source") == "live"
        self.to_the_end = self.live and bool(history.row or history.meta.get("made_by"))
        host = str(options.get("host_protocol") or (DEFAULT if self.live else declared))
        self.pseudo: dict[str, Any] = {
            f"{name}_protocol": str(options.get(f"{name}_protocol") or host) for name in PSEUDO
        }
        self.scale = float(options.get("time_scale") or 1.0)
        self.at = 0
        self.epoch = 0
        self.time = 0
        self.core: Core | None = None
        self.asked = Outstanding()
        if not self.lines or self.lines[0].get("type") != "Loaded":
            raise Unusable("its first line is not the Loaded line of a broker's life")
        for protocol in {*self.pseudo.values(), *(line["protocol"] for line in history.of("MountAdded"))}:
            if protocol not in protocols:
                raise Unusable(f"protocol {protocol!r} is not here to run it again")

    # ---- lines

    def peek(self) -> Json | None:
        """The next line that is not the shell's own word."""
        while self.at < len(self.lines):
            line = self.lines[self.at]
            if line["kind"] != "shell" or line["type"] in FAILED:
                return line
            self.take()
        return None

    def take(self) -> Json:
        """The next line; its number, time and epoch are looked at."""
        line = self.lines[self.at]
        where = self.where(line)
        if line["type"] not in TYPES.get(line["kind"], ()):
            raise Refused(where, f"no {line['kind']} is called so")
        if line["n"] != self.at:
            raise Refused(where, f"it should be line {self.at}")
        if line["t"] < self.time:
            raise Refused(where, f"its time is {self.time - line['t']} ns before the line in front of it")
        new_life = line["type"] == "Loaded"
        wanted = self.epoch + (line["kind"] == "effect" and line["type"] in ADVANCING)
        if line["epoch"] != wanted and not (new_life and line["epoch"] == 0):
            raise Refused(where, f"its epoch is {line['epoch']}: it should be {wanted}")
        self.at, self.time, self.epoch = self.at + 1, line["t"], line["epoch"]
        return line

    @staticmethod
    def where(line: Json) -> str:
        return f"line {line['n']} ({line['type']})"

    # ---- lives and steps

    def all(self) -> None:
        while (line := self.peek()) is not None:
            if line["type"] == "Loaded":
                self.life(self.take())
            elif line["kind"] == "event":
                self.step(self.take())
            else:
                raise Refused(self.where(line), "no step of the core left this here")
        self.end()

    def end(self) -> None:
        """A broker's last word at a clean end: nothing comes behind it, and a lab's run has one."""
        ends = [at for at, line in enumerate(self.lines) if line["type"] == "Ended"]
        for at in ends:
            if at + 1 < len(self.lines) and self.lines[at + 1]["type"] != "Loaded":
                raise Refused(self.where(self.lines[at]), "the broker's last word is not the last")
        if not self.to_the_end:
            return
        if not ends or ends[-1] != len(self.lines) - 1:
            raise Refused("the end", "it is missing: a broker that came to its end says Ended")
        told = sum(line["kind"] == "event" for line in self.lines)
        if self.lines[-1]["events"] != told:
            raise Refused(
                self.where(self.lines[-1]), f"it counts {self.lines[-1]['events']} events: there are {told}"
            )

    def life(self, line: Json) -> None:
        """The broker starts with the rows that were durable; in the same history they are the last life's."""
        rows = plain(line["delta"])
        if self.core is not None and plain(self.core.durable()) != rows:
            raise Refused(self.where(line), "these are not the rows that the life before had made durable")
        self.core = Core(self.protocols, policy=self.policy, **self.pseudo)
        try:
            self.core.load([tuple(row) for row in rows])
        except (CoreError, TypeError, ValueError, KeyError, IndexError) as error:
            raise Refused(self.where(line), f"the core cannot load this: {error}") from None
        self.asked = Outstanding()

    def step(self, line: Json) -> None:
        where = self.where(line)
        try:
            event = event_of(line)
        except (ValueError, KeyError, TypeError) as error:
            raise Refused(where, f"it cannot be read: {error}") from None
        if why := self.asked.happened(event, line["t"]):
            raise Refused(where, why)
        if self.core is None:
            raise Refused(where, "it stands before the life of the broker began")
        try:
            made = self.core.step(event)
        except Exception as error:  # noqa: BLE001 - whatever the core says to a forged event is told
            following = self.peek()
            if following is None or following["type"] != "Defect":
                raise Refused(where, f"the core cannot take it: {type(error).__name__}: {error}") from None
            self.take()
            return
        first = made if self.live and isinstance(event, STRICT) else tuple(e for e in made if e.before_commit)
        for at, effect in enumerate(first):
            if self.failed(event, first[:at]) or self.over():
                return
            self.effect(effect)
        if self.failed(event, first) or self.over() or self.commit():
            return
        for effect in made:
            if effect not in first:
                if self.over():
                    return
                self.effect(effect)

    def over(self) -> bool:
        """The life was cut off here: kill -9 of the broker."""
        line = self.peek()
        return line is None or line["type"] == "Loaded"

    def failed(self, event: events.Event, begun: tuple[do.Effect, ...]) -> bool:
        """The commit failed, or memory was not ready: the step is undone, and what had been prepared is taken back."""
        line = self.peek()
        if line is None or line["type"] not in FAILED:
            return False
        assert self.core is not None
        self.take()
        self.core.undo()
        for effect in reversed(begun):
            if isinstance(effect, do.Allocate):
                self.effect(do.Release(effect.aperture, effect.runs))
        if isinstance(event, events.Requested):
            self.asked.requests.discard((event.session, event.request))
            if line["type"] == "Undone" and event.host is not None:
                self.effect(do.CloseHandle(event.host.handle))
        elif line["type"] in {"Undone", "PutBack"}:
            self.again(event)
        return True

    def again(self, event: events.Event) -> None:
        """A fact that could not be noted comes again: what it answered is open again."""
        if isinstance(event, events.Quiesced | events.Unmapped):
            self.asked.cookies["Quiesce" if isinstance(event, events.Quiesced) else "Unmap", event.cookie] = 1
        elif isinstance(event, events.RightFenced):
            self.asked.cookies["FenceRight", event.fence] = 1
        elif isinstance(event, events.RightReturned):
            self.asked.cookies["ReturnRight", event.right] = 1
        elif isinstance(event, events.KeyInstalled):
            self.asked.installing.add(event.key)
        elif isinstance(event, events.Answered):
            self.asked.tokens.add(event.token)
        elif isinstance(event, events.TimerFired):
            self.asked.timers[event.timer] = 0
        elif isinstance(event, events.SessionLost):
            self.asked.sessions.add(event.session)
        elif isinstance(event, events.SessionOpened):
            self.asked.ever.discard(event.session)

    def commit(self) -> bool:
        """The durable rows that this step changed. True: the life ended in front of the commit."""
        assert self.core is not None
        delta = plain(self.core.delta())
        if delta:
            line = self.peek()
            if line is None or line["type"] == "Loaded":
                self.core.undo()
                return True
            if line["type"] != "Commit":
                raise Refused(self.where(line), f"a Commit of {len(delta)} rows should stand here")
            wanted = {"changes": len(delta), "delta": delta}
            if (found := own_fields(self.take())) != wanted:
                raise Refused(self.where(line), difference(found, wanted))
        self.core.committed()
        return False

    def effect(self, effect: do.Effect) -> None:
        line = self.peek()
        name = type(effect).__name__
        if line is None:
            raise Refused("the end", f"{name} should stand here")
        where = self.where(line)
        if line["kind"] != "effect" or line["type"] != name:
            raise Refused(where, f"the core ordered {name}")
        self.take()
        wanted, found = written(effect), own_fields(line)
        found.pop("inflight", None)
        if found != wanted and not _same_but_installed(found, wanted):
            raise Refused(where, difference(found, wanted))
        if why := self.asked.ordered(effect, line["t"], self.scale):
            raise Refused(where, why)


def _same_but_installed(found: Json, wanted: Json) -> bool:
    """The list of protocols that a node knows (`protocol`) is of the machine where it ran, not of the one that looks."""
    one, other = found.get("result"), wanted.get("result")
    if not (isinstance(one, dict) and isinstance(other, dict) and "known" in one and "known" in other):
        return False
    return {**found, "result": {**one, "known": []}} == {**wanted, "result": {**other, "known": []}}


def difference(found: Any, wanted: Any, path: str = "it") -> str:
    """The first place where they differ, and what stands there."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in {**wanted, **found}:
            if found.get(key) != wanted.get(key) or (key in found) != (key in wanted):
                return difference(
                    found.get(key), wanted.get(key), f"{path}.{key}" if path != "it" else str(key)
                )
    if isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        for at, (one, other) in enumerate(zip(found, wanted, strict=True)):
            if one != other:
                return difference(one, other, f"{path}[{at}]")
    return f"{path} is {_short(found)}: the core says {_short(wanted)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
