"""What is still to come: does a reclaim wait for the engine, for a timer, or for somebody outside?

Owed are: answers to Quiesce and Unmap (cookie), to effects with a token, to InstallKey, to FenceRight and Reset; armed timers; an event
whose step was undone, which comes again; what a deferred-unmap importer has promised, and is late with. With nothing owed to it, only a client
can bring a reclaim further.

Whose a thing is, is told by its keys, and by the step that ordered it: to a reclaim belongs what a step ordered that has a Phase of it, or
whose event, or a key that it removed, is one of its own. Who is woken by a lost session or a request no line tells: that may be anybody's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from emu.check.invariants.reading import read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from emu.check.history import History
    from emu.check.invariants.reclaims import Reclaim
    from emu.check.invariants.timeline import At

Json = dict[str, Any]
Name = tuple[str, Any]
OWES = {
    "Quiesce": "cookie", "Invalidate": "cookie", "Unmap": "cookie", "InstallKey": "key", "Arm": "timer", "FenceRight": "fence", "Reset": "cookie",
}  # fmt: skip
PAYS = {
    "Quiesced": ("Quiesce", "cookie"),
    "Unmapped": ("Unmap", "cookie"),
    "KeyInstalled": ("InstallKey", "key"),
    "TimerFired": ("Arm", "timer"),
    "Disarm": ("Arm", "timer"),
    "Answered": ("token", "token"),
    "RightFenced": ("FenceRight", "fence"),
    "ResetDone": ("Reset", "cookie"),
}
AGAIN = frozenset({"Undone", "PutBack"})
APPLIES = frozenset({"Zero", "Flush", "HostTruncate", "HostPunch", "Offline", "PageOut"})  # a reclaim's own
QUEUES = frozenset({"MakeCq", "MakeQp", "SetQp", "GetQp", "EndQp"})  # no reclaim waits for these
NIC = "rnic-unplug"  # but this one, for the ends of all queue pairs
NOBODY, PERHAPS, CERTAINLY = range(3)


@dataclass
class Whose:
    """Marks of those whom something concerns. exact: who has the mark has it alone, else only if nobody else fits."""

    keys: set[int] = field(default_factory=set)
    reclaims: set[int] = field(default_factory=set)
    anybody: bool = False
    exact: bool = False

    def concerns(self, number: int, under_way: Mapping[int, set[int]]) -> int:
        """NOBODY: not this one; PERHAPS: this one, or another."""
        fit = {
            other
            for other, keys in under_way.items()
            if self.anybody or other in self.reclaims or keys & self.keys
        }
        if number not in fit:
            return NOBODY
        return CERTAINLY if self.exact or fit == {number} else PERHAPS


@dataclass
class Waiting:
    """What is owed, and the keys of the reclaims under way, at one moment."""

    owed: dict[Name, Whose] = field(default_factory=dict)
    keys: dict[int, set[int]] = field(default_factory=dict)
    _nic: set[int] = field(default_factory=set)  # reclaims that unplug the NIC
    _here: Whose = field(default_factory=Whose)  # of what this step orders
    _paid: tuple[Name, Whose] | None = None  # by this step's event

    def owed_to(self, number: int) -> int:
        """To a reclaim under way: NOBODY (nothing), PERHAPS, CERTAINLY."""
        return max((whose.concerns(number, self.keys) for whose in self.owed.values()), default=NOBODY)

    def words(self, *numbers: int) -> list[str]:
        """What is owed, in words; of reclaims: what is, or may be, owed to one of them. A timer goes first."""
        mine = [
            name
            for name, whose in self.owed.items()
            if not numbers or any(whose.concerns(number, self.keys) for number in numbers)
        ]
        return [_words(*name) for name in sorted(mine, key=lambda name: name[0] != "Arm")]

    def line(self, line: Json) -> None:
        name = line.get("type", "")
        if name == "Loaded":
            self.owed, self.keys, self._here, self._paid = {}, {}, Whose(), None
            self._nic = set()
        if line["kind"] == "event":
            self._event(line)
        elif name in AGAIN and self._paid is not None:
            if name == "PutBack" or line["event"] != "Requested":  # a request that is undone is refused
                self.owed[self._paid[0]] = self._paid[1]
        elif name == "Disarm":
            self.owed.pop(("Arm", line["timer"]), None)
        elif name == "Phase":
            self._phase(line)
        elif name == "RemoveKey":
            self._here.keys.add(line["key"])
            self.owed.pop(("importer", line["key"]), None)
        elif name in OWES:
            self._asked(name, line)
        if line["kind"] == "effect" and line.get("token"):
            self.owed["token", line["token"]] = self._of_token(name)

    def _event(self, line: Json) -> None:
        name, self._here, self._paid = line["type"], Whose(), None
        if name in PAYS:
            kind, named = PAYS[name]
            self._paid = (kind, line[named]), self.owed.pop((kind, line[named]), Whose())
            self._here.keys |= self._paid[1].keys
            self._here.reclaims |= self._paid[1].reclaims
            self._here.anybody |= self._paid[1].anybody
        elif name == "SessionLost":
            self.owed.pop((name, line["session"]), None)
            self._paid = (name, line["session"]), Whose(anybody=True)
            self._here.anybody = True
        elif name == "Requested":
            request = name, (line["session"], line["request"])
            self._paid = request, self.owed.pop(request, Whose())
            handle = line["op"].get("handle")
            self._here.keys |= {handle} if line["op"]["type"] in {"DeregMr", "Acknowledge"} else set()
            self._here.anybody = line["op"]["type"] == "Cancel"

    def _phase(self, line: Json) -> None:
        number = line["reclaim"]
        if line["phase"] == "restored":
            return  # it has ended before
        if line["phase"] == "overdue":
            self.owed |= {("importer", key): Whose({key}, exact=True) for key in line["keys"]}
        self._here.reclaims.add(number)
        if line["detail"].get("kind") == NIC:
            self._nic.add(number)
        self.keys.setdefault(number, set()).update(line.get("keys", ()))
        if line["phase"] == "ended":
            del self.keys[number]

    def _asked(self, name: str, line: Json) -> None:
        keys = {line["key"]} if name == "InstallKey" else set(line.get("keys", ()))
        for key in keys if name == "Unmap" else ():
            self.owed.pop(("importer", key), None)
        kind = "Quiesce" if name == "Invalidate" else name
        self.owed[kind, line[OWES[name]]] = Whose(keys, exact=True) if keys else self._here

    def _of_token(self, name: str) -> Whose:
        if name in QUEUES:
            return Whose(reclaims=set(self._nic)) if name == "EndQp" else Whose()
        return self._here if name in APPLIES else Whose(anybody=True)


def _words(kind: str, number: Any) -> str:
    if kind == "Arm":
        return f"timer {number}"
    if kind == "importer":
        return f"the importer of key {number:#x}, which is late with its unmap"
    if kind == "InstallKey":
        return f"key {number:#x} to be installed"
    if kind == "Requested":
        return f"request {number[1]} of session {number[0]}, which was put back"
    if kind == "SessionLost":
        return f"the end of session {number}, which could not be noted yet"
    return f"the answer {number}" if kind == "token" else f"the answer to {kind} {number}"


def at_end(history: History) -> Waiting:
    """What is still to come when the history ends, in the last life. Use as history.once(at_end)."""
    waiting = Waiting()
    for line in history.events:
        waiting.line(line)
    return waiting


def at_rest(history: History) -> Iterator[tuple[Json, Waiting]]:
    """In front of every event's line. Behind the last nothing is said: it may be the middle of a step."""
    waiting = Waiting()
    for line in history.events:
        if line["kind"] == "event":
            yield line, waiting
        waiting.line(line)


def idle_in(history: History) -> Iterator[tuple[Reclaim, At]]:
    """Reclaims of held memory that stood still with nothing owed to them, and where."""
    return _stood_still(history, lambda owed: owed == NOBODY)


def doubtful_in(history: History) -> Iterator[tuple[Reclaim, At]]:
    """Those that stood still while something was owed, and no line tells whether to them."""
    return _stood_still(history, lambda owed: owed == PERHAPS)


def _stood_still(history: History, such: Callable[[int], bool]) -> Iterator[tuple[Reclaim, At]]:
    reading = read(history)
    spans = [row for row in reading.reclaims if "requested" in row.phases and row.held]
    if not spans:
        return
    seen: set[int] = set()
    for line, waiting in at_rest(history):
        at = reading.at(line)
        for number, row in enumerate(spans):
            begun, ended = row.phases["requested"], row.ended
            under_way = row.life == at.life and begun.step < at.step and (ended is None or ended.n > at.n)
            if under_way and number not in seen and such(waiting.owed_to(row.number)):
                seen.add(number)
                yield row, at
