"""A story as labels: what a run was, told so that it can be had again. Written by the simulator, the explorer and by people.

    {"schema": 1, "protocol": NAME or {"file": PATH}, "setup": {...}, "mutant": NAME or null, "steps": [label, ...],
     "breaks": {"invariant", "sentence"} or null, "times": [ns, ...], "stops": {who: [from, until or null]}}

`times` (when each step happened, virtual ns) and `stops` (who took no receipts when) are there in scripts of the simulator; without them
a step takes a microsecond. A label says what happens next; docs/simulator.md lists them all.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final

from emu.check.model.setup import Setup
from emu.check.simulator.draws import NEVER

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SCHEMA: Final = 1
STEP: Final = 1_000  # ns, where a script says nothing
MOST: Final = 1_000_000  # steps


class BadScript(ValueError):
    """Not a script, or one that cannot be had again; the sentence says what is wrong and what to do."""


@dataclass(frozen=True)
class Script:
    """`protocol`: a name, or {"file": path}. `stops`: who -> (from, until), until NEVER for ever."""

    protocol: str | dict[str, str]
    setup: Setup
    steps: tuple[str, ...]
    times: tuple[int, ...] = ()
    stops: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    mutant: str | None = None
    breaks: Mapping[str, str] | None = None

    def time(self, at: int) -> int:
        """When step number `at` happened."""
        return (
            self.times[at]
            if at < len(self.times)
            else (self.times[-1] if self.times else 0) + STEP * (at + 1 - len(self.times))
        )

    def as_json(self) -> dict[str, Any]:
        stops = {who: [start, None if end >= NEVER else end] for who, (start, end) in self.stops.items()}
        return {
            "schema": SCHEMA, "protocol": self.protocol, "setup": self.setup.as_json(), "mutant": self.mutant,
            "steps": list(self.steps), "breaks": self.breaks and dict(self.breaks), "times": list(self.times), "stops": stops,
        }  # fmt: skip

    def write(self, path: Path) -> None:
        """Raises OSError."""
        path.write_text(json.dumps(self.as_json(), indent=1) + "\n", encoding="utf-8")


def read_script(path: Path) -> Script:
    """Raises BadScript, which names the file; OSError."""
    raw = path.read_bytes()
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BadScript(f"{path} is no JSON ({error}): name a script.json") from error
    try:
        return script_of(found)
    except BadScript as error:
        raise BadScript(f"{path}: {error}") from None


def script_of(found: Any) -> Script:
    """The script in this JSON. Raises BadScript."""
    if not isinstance(found, dict) or "steps" not in found:
        raise BadScript("this is no script: it should be an object with schema, protocol, setup and steps")
    if found.get("schema") != SCHEMA:
        raise BadScript(f"it is of schema {found.get('schema')!r}, known is {SCHEMA}")
    steps = found["steps"]
    if not _are(steps, str) or len(steps) > MOST:
        raise BadScript(f"steps is a list of labels, at most {MOST}")
    times = found.get("times") or []
    if not _are(times, int) or any(a > b for a, b in zip([0, *times], times, strict=False)):
        raise BadScript("times is a list of nanoseconds that do not go back, one for each step")
    mutant, breaks = found.get("mutant"), found.get("breaks")
    if not isinstance(mutant, str | None) or not isinstance(breaks, dict | None):
        raise BadScript("mutant is a name or null, breaks is an object or null")
    return Script(
        _protocol(found.get("protocol")), _setup(found.get("setup", {})), tuple(steps), tuple(times), _stops(found), mutant, breaks
    )  # fmt: skip


def _are(found: Any, kind: type) -> bool:
    return isinstance(found, list) and all(type(item) is kind for item in found)


def _protocol(found: Any) -> str | dict[str, str]:
    if isinstance(found, str) and found:
        return found
    if isinstance(found, dict) and list(found) == ["file"] and isinstance(found["file"], str):
        return found
    raise BadScript('protocol is a name, or {"file": PATH}')


def _setup(found: Any) -> Setup:
    if not isinstance(found, dict):
        raise BadScript("setup is an object")
    kinds = {field.name: str(field.type) for field in fields(Setup)}
    for name, value in found.items():
        if name not in kinds:
            raise BadScript(f"setup has no field {name!r}: its fields are {', '.join(kinds)}")
        good = _are(value, str) if "tuple" in kinds[name] else type(value).__name__ == kinds[name]
        if not good:
            raise BadScript(f"setup: {name} is {kinds[name]}, not {value!r:.60}")
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in found.items()
    }
    try:
        return Setup(**given)
    except ValueError as error:
        raise BadScript(str(error)) from error


def _stops(found: dict[str, Any]) -> dict[str, tuple[int, int]]:
    stops = found.get("stops") or {}
    if not isinstance(stops, dict) or not all(_is_span(span) for span in stops.values()):
        raise BadScript(
            "stops is an object: who was stopped -> [from, until], in nanoseconds, until null for ever"
        )
    return {who: (start, NEVER if end is None else end) for who, (start, end) in stops.items()}


def _is_span(span: Any) -> bool:
    good = isinstance(span, list) and len(span) == 2 and type(span[0]) is int
    return good and (span[1] is None or (type(span[1]) is int and span[1] >= span[0]))
