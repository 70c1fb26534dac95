"""A random script of events, from a seed: every request (asks.py), answers in any order and bad ones, lost sessions, faults, failed commits.

    Script(seed, policy, names)     names: of the protocols that it may use; all that are installed, unless given
    script.next()                   the next event;  script.feed(event): what the core makes of it, its answers are kept in `waiting`
    script.rest()                   everybody hangs up, all answers are given
    run(seed, steps)                lines: each event and its effects

Used for determinism, step by step for properties (test_properties.py), and for as long as one likes (fuzz.py).
"""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path

from emu.core import effects as fx
from emu.core import events as ev
from emu.core import requests as rq
from emu.core.machine import Core
from emu.protocols import registry

_spec = importlib.util.spec_from_file_location("asks", Path(__file__).with_name("asks.py"))
asks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(asks)

BLOCK = asks.BLOCK
PROTOCOLS = registry.load().protocols
NAMES = tuple(dict.fromkeys(protocol.name for protocol in PROTOCOLS.values()))
ENOUGH = 5000  # answers until all must be at rest


class Script:
    """Chooses events for a core. `rng` is all it draws from. `given`, `closed`: descriptors that the core got, and gave back.
    `unplugged`: a device was asked to go; in a `calm` script none is. `broken`: the rule that a protocol broke last.
    """

    def __init__(self, seed, policy="freed-first", names=NAMES):
        self.rng = random.Random(seed)
        self.names, self.calm = names, self.rng.random() < 0.6
        self.core = Core(
            PROTOCOLS, policy=policy, host_protocol=self.name("host"), anon_protocol=self.name("anon")
        )
        self.waiting, self.sessions, self.open, self.numbers = [], [], {}, 0
        self.given, self.closed = [], []
        self.unplugged, self.broken = False, None
        for device, blocks in asks.DEVICES.items():
            self.feed(ev.DeviceAdded(device, blocks))
        for path, (device, dax, raw, tmpfs) in asks.MOUNTS.items():
            name = self.name("dax" if dax else "devdax" if raw else "page-cache")
            self.feed(ev.MountAdded(path, device, dax, name, raw, tmpfs))

    def name(self, backing):
        """A protocol that can be had for this backing."""
        fit = [name for name in self.names if backing in PROTOCOLS[name].backings]
        return self.rng.choice(fit or ["mr-revoke"])

    def number(self):
        self.numbers += 1
        return self.numbers

    def feed(self, event):
        effects = self.core.step(event)
        if isinstance(event, ev.Requested) and event.host is not None:
            self.given.append(event.host.handle)
        self.unplugged |= (
            isinstance(event, ev.Requested)
            and isinstance(event.op, rq.FsUnplug)
            and event.op.target not in asks.FILES
        )
        for effect in effects:
            self.waiting += self.answers(effect)
            if isinstance(effect, fx.Reply | fx.Fail):
                assert (effect.session, effect.request) in self.open, "answered twice, or never asked"
                del self.open[effect.session, effect.request]
            if isinstance(effect, fx.EndSession):
                self.open = {name: op for name, op in self.open.items() if name[0] != effect.session}
            if isinstance(effect, fx.Phase) and effect.phase == "broken":
                self.broken = str(effect.detail)
            if isinstance(effect, fx.CloseHandle):
                self.closed.append(effect.handle)
        return effects

    def answers(self, effect):
        bad = self.rng.random() < 0.05
        if isinstance(effect, fx.InstallKey):
            return [ev.KeyInstalled(effect.key, 12 if bad else 0)]
        if isinstance(effect, fx.Quiesce | fx.Invalidate):
            return [ev.Quiesced(effect.cookie, 5 if bad else 0)]
        if isinstance(effect, fx.Unmap):
            return [ev.Unmapped(effect.cookie, 5 if bad else 0)]
        if isinstance(effect, fx.FenceRight):
            return [ev.RightFenced(effect.fence, 5 if bad else 0)]
        if isinstance(effect, fx.ReturnRight):
            return [ev.RightReturned(effect.right)]
        if isinstance(effect, fx.Arm):
            return [ev.TimerFired(effect.timer)]
        if not getattr(effect, "token", 0):
            return []
        value = {}
        if isinstance(effect, fx.MakeCq):
            value = {"cq": self.number()}
        if isinstance(effect, fx.MakeQp):
            value = {"qp_num": self.number()}
        if isinstance(effect, fx.EndQp):
            bad = False
        return [ev.Answered(effect.token, 12 if bad else 0, {} if bad else value)]

    def next(self):
        """The next event."""
        rng = self.rng
        if self.waiting and rng.random() < 0.55:
            return self.waiting.pop(rng.randrange(len(self.waiting)))
        if len(self.sessions) < 3 or rng.random() < 0.01:
            session = self.number()
            self.sessions.append(session)
            door = rng.random() < 0.9
            return ev.SessionOpened(
                session, f"s{session}", door, rng.random() < 0.5, signalable=rng.random() < 0.8
            )
        if rng.random() < 0.015:
            return ev.SessionLost(self.sessions.pop(rng.randrange(len(self.sessions))))
        if rng.random() < 0.1:
            unasked = self.unasked()
            if unasked is not None:
                return unasked
        return self.request()

    def unasked(self):
        """What the shell and the engine tell of themselves; None where there is nothing to tell of."""
        rng, b = self.rng, self.core.books
        absent = [
            key
            for key, row in b.mrs.items()
            if row.state in {"absent", "parked"} and row.importer == "dynamic"
        ]
        hosts = [row.aperture for _host, row in b.hosts.items() if row.opened]
        drawn = rng.randrange(8)
        if drawn < 5 and absent:
            return ev.Missed(rng.choice(absent), self.number(), 0, BLOCK, write=rng.random() < 0.5)
        if drawn == 3 and hosts:
            return ev.MemoryFaulted(rng.choice(hosts), 0)
        if drawn == 4 and hosts:
            return ev.LeaseBroken(rng.choice(hosts), taken=rng.random() < 0.5)
        if drawn == 5:
            return ev.OwnerEnded(rng.choice(self.sessions))
        if drawn == 6:
            of = rng.choice((ev.QpReported, ev.CqReported))
            return of(rng.randrange(self.numbers + 1), 1)
        return ev.WritebackDue() if drawn == 7 else None

    def request(self):
        rng, session, request, host = self.rng, self.rng.choice(self.sessions), self.number(), None
        has = self.core.books.pds_of.has(session)
        op = asks.draw(self, session) if has else rq.AllocPd()
        if getattr(op, "host", False) or getattr(op, "backing", "") == "host" or rng.random() < 0.01:
            blocks = rng.choice((0, 3, 8))
            host = ev.HostFile(self.number(), 1, rng.randrange(2), blocks * BLOCK, rng.random() < 0.9)
        self.open[session, request] = op
        return ev.Requested(session, request, op, host)

    def rest(self):
        """Everybody hangs up, and every answer comes. Whether that comes to an end."""
        self.rng.random = lambda: 0.5  # no answer is bad any more
        for session in [None, *self.core.books.sessions]:
            if session is not None:
                self.feed(ev.SessionLost(session))
                self.core.committed()
            for _answer in range(ENOUGH):
                if not self.waiting:
                    break
                self.feed(self.waiting.pop(0))
                self.core.committed()
        return not self.waiting


def run(seed, steps):
    """Lines: each event, each of its effects, and now and then the canonical form."""
    script = Script(seed)
    for at in range(steps):
        event = script.next()
        yield f"> {event!r}"
        for effect in script.feed(event):
            yield f"  {effect!r}"
        for change in script.core.delta():
            yield f"  {change!r}"
        script.core.committed()
        if at % 50 == 0:
            yield script.core.canonical().decode()
