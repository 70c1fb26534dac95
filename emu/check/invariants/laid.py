"""Whether a broken invariant had been promised there: a promise that is excepted for one kind of reclaim binds all the others.

A breach is laid at the reclaims whose phases tell it; where none does, at the one in whose step its last line stands. Their kinds decide.
Where no reclaim is known, it is spared only if it did not break before the first excepted reclaim had begun.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from emu.check.history import History
    from emu.check.invariants.invariant import Breach

Json = dict[str, Any]
Name = tuple[int, int]  # of a reclaim: the broker's life, its number


class Begun(NamedTuple):
    """Where the step in which a reclaim was requested begins."""

    kind: str
    n: int
    epoch: int


@dataclass(frozen=True)
class Reclaims:
    begun: list[Begun]
    kinds: dict[Name, str]
    of_phase: dict[int, Name]  # line -> whose phase it is
    step_of: dict[int, int]  # line of an effect or a commit -> its step
    in_step: dict[int, list[Name]]  # step -> whose phases it has
    ended: dict[tuple[int, int], int]  # (thread, seq) -> last epoch of the record


@dataclass(frozen=True)
class Promises:
    """Of a protocol, over one history."""

    history: History
    names: Collection[str]
    excepts: Mapping[str, Collection[str]]

    def some(self, name: str) -> bool:
        """Whether some reclaim of this history is bound by it, or it has none."""
        kinds = {begun.kind for begun in self.history.once(_read).begun}
        return name in self.names and (not kinds or any(self._binds(name, kind) for kind in kinds))

    def owed(self, breach: Breach) -> bool:
        if breach.invariant not in self.names:
            return False
        reclaims = self.history.once(_read)
        at = _laid_at(reclaims, breach)
        if at:
            return all(self._binds(breach.invariant, reclaims.kinds.get(name, "")) for name in at)
        spared = [begun for begun in reclaims.begun if not self._binds(breach.invariant, begun.kind)]
        return not spared or _broke_before(reclaims, breach, spared[0])

    def _binds(self, name: str, kind: str) -> bool:
        return name not in self.excepts.get(kind, ())


def _laid_at(reclaims: Reclaims, breach: Breach) -> list[Name]:
    named = [reclaims.of_phase[n] for n in breach.lines if n in reclaims.of_phase]
    if named or breach.records or not breach.lines:
        return named
    there = set(reclaims.in_step.get(reclaims.step_of.get(max(breach.lines), -1), ()))
    return list(there) if len(there) == 1 else []


def _broke_before(reclaims: Reclaims, breach: Breach, begun: Begun) -> bool:
    """By the first quantum that shows it, else by its last line; what only the memory at the end shows has no place."""
    if breach.records:
        return any(reclaims.ended.get(record, begun.epoch) < begun.epoch for record in breach.records)
    return bool(breach.lines) and max(breach.lines) < begun.n


def _read(history: History) -> Reclaims:
    found = Reclaims([], {}, {}, {}, {}, {(t, r.seq): r.epoch_last for t, r in history.records()})
    life = step = 0
    first: Json = {}
    gone: Json = {}  # where memory went absent by itself: a surprise begins there
    for line in history.events:
        if line["kind"] == "gap":
            continue
        life += line["type"] == "Loaded"
        if line["kind"] == "event" or not first:
            step, first = step + 1, line
        elif line["kind"] in {"effect", "commit"}:
            found.step_of[line["n"]] = step
        if line["type"] == "Offline" and not line.get("token"):
            gone = gone or first
        if line["type"] == "Phase":
            _phase(found, line, (life, line["reclaim"]), step, first, gone)
    return found


def _phase(found: Reclaims, line: Json, name: Name, step: int, first: Json, gone: Json) -> None:
    found.of_phase[line["n"]] = name
    found.in_step.setdefault(step, []).append(name)
    if line["phase"] == "requested":
        kind = str(line["detail"].get("kind", ""))
        begin = gone if kind == "surprise" and gone else first
        found.kinds[name] = kind
        found.begun.append(Begun(kind, begin["n"], begin["epoch"]))
