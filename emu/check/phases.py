"""The history, read line by line: does the order of a reclaim's steps keep what the revoke contract asks for?

Looked at are Phase lines, the life of each key (InstallKey .. Quiesced .. Unmapped .. RemoveKey), registrations, and when blocks go to
others (Release, Online). A key is *mapped* from InstallKey until the answer to an Unmap that names it. What a protocol thinks of itself
plays no part.

    V1   nothing registers the range between a reclaim's gate and its end
    V4   blocks go on only when every key over them is unmapped; freed only behind `fenced` and `unmapped` where a pin was there
    V11  a key is not installed again before it was removed
    V12  a registration that a reclaim met on its way is not answered with success
    V13  a holder is told of a revoke once
    V18  the two waits show apart: `fenced`, then `unmapped`
    V20  behind `unmapped` no key of the reclaim is mapped
    V22  a reclaim that was denied or interrupted applied and freed nothing
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Json = dict[str, Any]
Broken = tuple[str, str]

CHECKED = ("V1", "V4", "V11", "V12", "V13", "V18", "V20", "V22")
NEVER = 1 << 62


@dataclass
class Mapped:
    """A key in the engine. `at`: the line that installed it."""

    at: int
    aperture: int
    runs: list[list[int]]
    mapped: bool = True


@dataclass
class Reclaim:
    """One reclaim as its Phase lines tell it. `gated`, `ended`: line numbers."""

    target: Json = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)
    gated: int = NEVER
    ended: int = NEVER
    errno: int = 0


@dataclass
class Registration:
    """A reg_mr over a file that was answered with success. `host`: a host file's label."""

    at: int
    path: str
    host: str
    device: str
    lo: int
    hi: int


@dataclass
class _Reading:
    """What is known so far; one method for each type of line."""

    keys: dict[int, Mapped] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)  # unmapped or removed, and not installed again
    met: set[int] = field(default_factory=set)  # keys of a reclaim that has begun to fence
    unmaps: dict[int, list[int]] = field(default_factory=dict)
    told: Counter[tuple[int, int]] = field(default_factory=Counter)
    asked: dict[tuple[int, int], Json] = field(default_factory=dict)
    installed: dict[int, int] = field(default_factory=dict)
    reclaims: dict[int, Reclaim] = field(default_factory=dict)
    registered: list[Registration] = field(default_factory=list)

    def line(self, line: Json) -> Iterator[Broken]:
        step = _STEPS.get(line.get("type", ""))
        if step:
            yield from step(self, line)

    # ---- keys

    def install(self, line: Json) -> Iterator[Broken]:
        key = line["key"]
        if key in self.keys:
            yield "V11", f"key {key:#x} was issued again before it was removed"
        self.keys[key] = Mapped(line["n"], line["aperture"], line["extents"])
        self.installed[key] = line["n"]
        self.gone.discard(key)

    def unmap(self, line: Json) -> Iterator[Broken]:
        self.unmaps[line["cookie"]] = line["keys"]
        yield from ()

    def unmapped(self, line: Json) -> Iterator[Broken]:
        for key in self.unmaps.pop(line["cookie"], []):
            self.gone.add(key)
            if key in self.keys:
                self.keys[key].mapped = False
        yield from ()

    def remove(self, line: Json) -> Iterator[Broken]:
        key = line["key"]
        self.keys.pop(key, None)
        self.met.discard(key)
        self.gone.add(key)
        for pair in [pair for pair in self.told if pair[1] == key]:
            del self.told[pair]
        yield from ()

    # ---- registrations

    def requested(self, line: Json) -> Iterator[Broken]:
        if line["op"].get("type") == "RegMr":
            self.asked[line["session"], line["request"]] = line
        yield from ()

    def reply(self, line: Json) -> Iterator[Broken]:
        asked = self.asked.pop((line["session"], line["request"]), None)
        key = line["result"].get("lkey")
        if asked is None or key is None:
            return
        if key in self.met:
            yield "V12", f"key {key:#x} was handed out although a reclaim had taken it back on its way"
        op, lo = asked["op"], asked["op"]["offset"]
        at: int = line["n"]
        host = (asked.get("host") or {}).get("label", "")
        device = line["result"].get("device", "")
        place = (op["path"], host, device, lo, lo + op["length"])
        self.registered.append(Registration(self.installed.get(key, at), *place))

    def notify(self, line: Json) -> Iterator[Broken]:
        if line["name"] == "MR_REVOKED":
            pair = (line["session"], line["fields"]["mr"])
            self.told[pair] += 1
            if self.told[pair] == 2:
                yield "V13", f"the revoke of key {pair[1]:#x} was told twice"

    # ---- blocks that go to others

    def release(self, line: Json) -> Iterator[Broken]:
        for key, mapped in self.keys.items():
            if mapped.mapped and mapped.aperture == line["aperture"] and _meet(mapped.runs, line["runs"]):
                yield "V4", f"blocks were freed while key {key:#x} was mapped over them"

    def online(self, line: Json) -> Iterator[Broken]:
        for key, mapped in self.keys.items():
            if mapped.mapped and mapped.aperture == line["aperture"]:
                yield "V4", f"a new namespace came while key {key:#x} was mapped over its place"

    # ---- reclaims

    def phase(self, line: Json) -> Iterator[Broken]:
        row = self.reclaims.setdefault(line["reclaim"], Reclaim())
        name, keys, detail = line["phase"], line.get("keys", []), line.get("detail", {})
        if name == "requested":
            row.target = detail
        elif name == "gated":
            row.gated = line["n"]
        elif name == "fencing":
            self.met |= set(keys)
        elif name == "unmapped":
            for key in keys:
                if key in self.keys and self.keys[key].mapped:
                    yield "V20", f"key {key:#x} was mapped when the unmap was said to be over"
        elif name == "returned":
            row.errno = detail.get("errno", 0)
        elif name == "ended":
            row.ended = line["n"]
        if name == "freed" or (name == "applied" and row.target.get("kind") == "unplug"):
            yield from self._parted(row, name, [key for key in keys if key not in self.gone])
        row.seen.append(name)
        if row.errno and {"applied", "freed"} & set(row.seen):
            yield "V22", f"a reclaim that was answered with errno {row.errno} took its {row.seen[-1]} step"

    def _parted(self, row: Reclaim, name: str, pinned: list[int]) -> Iterator[Broken]:
        """The memory leaves its owner. pinned: keys of the reclaim that the history has not seen go."""
        waits = [phase for phase in row.seen if phase in {"fenced", "unmapped"}]
        lacking = [phase for phase in ("fenced", "unmapped") if phase not in waits]
        if pinned and lacking:
            yield "V4", f"{name} with {len(pinned)} keys in the range, before {' and '.join(lacking)}"
        if "unmapped" in waits and waits[0] != "fenced":
            yield "V18", "the unmap was over before the fence"
        elif pinned and lacking:
            yield "V18", f"the history does not show {' and '.join(lacking)} before {name}"

    def gates(self) -> Iterator[Broken]:
        """At the end: what was registered behind a gate."""
        for row in self.reclaims.values():
            for made in self.registered:
                if row.gated < made.at < row.ended and _covers(row.target, made):
                    where = made.path or made.host
                    yield "V1", f"bytes {made.lo} to {made.hi} of {where} were registered behind the gate"


_STEPS = {
    "InstallKey": _Reading.install,
    "Unmap": _Reading.unmap,
    "Unmapped": _Reading.unmapped,
    "RemoveKey": _Reading.remove,
    "Requested": _Reading.requested,
    "Reply": _Reading.reply,
    "Notify": _Reading.notify,
    "Release": _Reading.release,
    "Online": _Reading.online,
    "Phase": _Reading.phase,
}


def broken(lines: Iterable[Json]) -> list[Broken]:
    """Each rule of CHECKED that the history breaks, once, with the first occasion."""
    reading = _Reading()
    found: dict[str, str] = {}
    for line in lines:
        for rule, sentence in reading.line(line):
            found.setdefault(rule, sentence)
    for rule, sentence in reading.gates():
        found.setdefault(rule, sentence)
    return list(found.items())


def _meet(one: list[list[int]], other: list[list[int]]) -> bool:
    return any(a < c + d and c < a + b for a, b in one for c, d in other)


def _covers(target: Json, made: Registration) -> bool:
    """Does the reclaim take from this registration?"""
    if "device" in target:
        return bool(target["device"] == made.device)
    same = target.get("path") == made.path if made.path else target.get("host") == made.host
    return same and target["lo"] < made.hi and made.lo < target["hi"]
