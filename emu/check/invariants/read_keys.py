"""The second part of the reader: registrations, keys and their translations, what the engine is asked about them and answers."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from emu.check.invariants.read_files import Files
from emu.check.invariants.timeline import DYNAMIC, SYNC, Asked, Mapped, Registration

if TYPE_CHECKING:
    from emu.check.invariants.reclaims import Reclaim
    from emu.check.invariants.rows import Json
    from emu.check.invariants.timeline import At


@dataclass
class Keys(Files):
    """live: by the line that made it, translations that lack an answer. remaps: by token, what a Remap is to bring; replaced: what it takes the place of."""

    keys: dict[int, Mapped] = field(default_factory=dict)
    live: dict[int, Mapped] = field(default_factory=dict)
    remaps: dict[int, Mapped] = field(default_factory=dict)
    replaced: dict[int, Mapped] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)
    revoked: dict[int, At] = field(default_factory=dict)
    pending: dict[tuple[int, int], Registration] = field(default_factory=dict)
    stepping: Registration | None = None
    cookies: dict[tuple[str, int], Asked] = field(default_factory=dict)
    asking: Reclaim | None = None  # whose Quiesce or Unmap comes next
    fencing: Reclaim | None = None  # who tells the engine to stop
    request: tuple[int, int] | None = None  # that this step is about

    # ---- registrations

    def requested(self, line: Json) -> None:
        person = self.person(line["session"])
        op, self.request = line["op"], (line["session"], line["request"])
        if op.get("type") != "RegMr" or person.lost is not None:
            return
        path = str(op.get("path", ""))
        mount = max((mount for mount in self.mounts if f"{path}/".startswith(mount)), key=len, default="")
        device = self.mounts.get(mount, "")
        host = _label(line.get("host"))
        made = Registration(
            self.here, line["session"], op, host, self.inos.get(path, 0), "" if host else device
        )
        self.pending[line["session"], line["request"]] = self.stepping = made
        self.found.registrations.append(made)

    def undone(self, _line: Json) -> None:
        if self.stepping is not None:
            self.stepping.pinned = False

    def registered(self, line: Json) -> None:
        """A Reply."""
        made = self.pending.pop((line["session"], line["request"]), None)
        if made is None:
            return
        result = line.get("result", {})
        made.answered, made.key = self.here, int(result.get("lkey", 0))
        made.ino = int(result.get("ino", 0)) or made.ino
        made.device = result.get("device") or made.device
        mapped = self.keys.get(made.key)
        if mapped is not None:
            made.made, mapped.registration = mapped, made

    def refused(self, line: Json) -> None:
        """A Fail."""
        made = self.pending.pop((line["session"], line["request"]), None)
        if made is not None:
            made.answered, made.errno = self.here, line["errno"]
            made.pinned = self.here.step != made.asked.step

    # ---- translations

    def install(self, line: Json) -> None:
        mapped = Mapped(
            line["key"],
            self.here,
            int(line.get("importer", SYNC)),
            line["aperture"],
            line["extents"],
            self.stepping,
        )
        if self.stepping is not None:
            self.stepping.key, self.stepping.made = mapped.key, mapped
        mapped.lost = self.revoked.get(mapped.key)
        self._map(mapped)

    def remap(self, line: Json) -> None:
        old = self.keys.get(line["key"])
        importer, made = (old.importer, old.registration) if old else (DYNAMIC, None)
        there = [run for run in line["extents"] if run[0] >= 0]
        new = Mapped(line["key"], self.here, importer, line["aperture"], there, made, again=True)
        if old is not None and old.at.n in self.live:
            self.replaced[line.get("token", 0)] = old
            old.replaced = True
            del self.live[old.at.n]
        self._map(new)
        self.remaps[line.get("token", 0)] = new

    def done(self, line: Json) -> None:
        """A Remap that was refused has changed nothing; for want of the key, it tells that an unmap which was refused has taken it out."""
        new = self.remaps.pop(line["token"], None)
        old = self.replaced.pop(line["token"], None)
        if new is None or not line.get("errno"):
            return
        known = self.found.by_number[new.key]
        known.remove(new)
        self.found.maps.remove(new)
        self.live.pop(new.at.n, None)
        if known:
            known[-1].next = None
            self.keys[new.key] = known[-1]
        if old is not None:
            old.replaced = False
            self.live[old.at.n] = old
            if line["errno"] == errno.ENOENT:
                self._unmapped(old)
                self.gone.add(old.key)

    def _map(self, mapped: Mapped) -> None:
        known = self.found.by_number.setdefault(mapped.key, [])
        if known:
            known[-1].next = self.here
        known.append(mapped)
        self.found.maps.append(mapped)
        self.keys[mapped.key] = self.live[self.here.n] = mapped
        self.gone.discard(mapped.key)

    def installed(self, line: Json) -> None:
        mapped = self.keys.get(line["key"])
        if line.get("errno") and mapped is not None:  # the engine never had it
            del self.keys[mapped.key]
            self.live.pop(mapped.at.n, None)
            self.found.maps.remove(mapped)
            self.found.by_number[mapped.key].remove(mapped)

    def remove(self, line: Json) -> None:
        self.keys.pop(line["key"], None)
        for mapped in reversed(self.found.by_number.get(line["key"], ())):
            if mapped.removed is not None or mapped.died is not None:
                break  # an earlier issue of the number
            mapped.removed = self.here
        self.gone.add(line["key"])
        self.revoked.pop(line["key"], None)

    # ---- questions and answers

    def ask(self, line: Json) -> None:
        keys, of = tuple(line["keys"]), self.asking
        fence = line["type"] == "FenceRight"  # a quiesce too, of which a reclaim may ask for several
        maps = [self.keys[key] for key in keys if key in self.keys]
        asked = Asked("Unmap" if line["type"] == "Unmap" else "Quiesce", self.here, keys, maps, of)
        if asked.kind == "Quiesce" and self.fencing is not None:
            self.fencing.stopped += maps
        if not fence:
            self.asking = None
            self.fencing = self.fencing if asked.kind == "Unmap" else None
        self.cookies[asked.kind, line["fence" if fence else "cookie"]] = asked
        self.found.asked.append(asked)

    def answered(self, line: Json) -> None:
        quiesce = line["type"] in {"Quiesced", "RightFenced"}
        number = line["fence" if line["type"] == "RightFenced" else "cookie"]
        asked = self.cookies.get(("Quiesce" if quiesce else "Unmap", number))
        if asked is None:
            return
        asked.answers.append((self.here, line.get("errno", 0)))
        if line.get("errno"):
            return
        if not quiesce:
            self.gone.update(asked.keys)
        for mapped in asked.maps:
            if not quiesce:
                self._unmapped(mapped)
                continue
            mapped.quiesced = mapped.quiesced or self.here
            if mapped.unmapped:
                self.live.pop(mapped.at.n, None)

    def _unmapped(self, mapped: Mapped) -> None:
        mapped.unmapped = mapped.unmapped or self.here
        if mapped.quiesced:
            self.live.pop(mapped.at.n, None)


def _label(host: Json | None) -> str:
    if not host:
        return ""
    return str(host.get("label") or f"host file {host.get('device')}:{host.get('inode')}")
