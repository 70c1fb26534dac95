"""A random script of events, from a seed: requests good and bad, answers in any order, lost sessions, failed commits.

`run(seed, steps)` yields a line an event: the event and its effects. Used for determinism, and step by step for properties.
"""

from __future__ import annotations

import random

from emu.core import effects as fx
from emu.core import events as ev
from emu.core import requests as rq
from emu.core.machine import Core
from emu.protocols import registry

BLOCK = 4096
PATHS = ("/mnt/a", "/mnt/b", "/mnt/c", "/cold/a", "/mnt/../x", "/nowhere")
ACCESS = (7, 7, 7, 1, 4, 2, 15, -1)
BUFFERS = ("x", "x", "y", "a/b")
PROTOCOLS = ("none", "ebusy", "mr-revoke")


class Script:
    """Chooses events for a core. `rng` is all it draws from."""

    def __init__(self, seed, policy="freed-first", protocols=None):
        self.rng = random.Random(seed)
        self.core = Core(protocols or registry.load().protocols, policy=policy)
        self.waiting = []
        self.sessions = []
        self.numbers = 0
        self.open = {}
        for event in (
            ev.DeviceAdded("pm0", 24),
            ev.DeviceAdded("pm1", 8),
            ev.DeviceAdded("dmabuf", 9),
            ev.MountAdded("/mnt", "pm0", dax=True, protocol=self.rng.choice(PROTOCOLS)),
            ev.MountAdded("/cold", "pm1", dax=False, protocol=self.rng.choice(PROTOCOLS)),
        ):
            self.feed(event)

    def number(self):
        self.numbers += 1
        return self.numbers

    def feed(self, event):
        effects = self.core.step(event)
        for effect in effects:
            self.waiting += self.answers(effect)
            if isinstance(effect, fx.Reply | fx.Fail):
                assert (effect.session, effect.request) in self.open, "answered twice, or never asked"
                del self.open[effect.session, effect.request]
            if isinstance(effect, fx.EndSession):
                self.open = {name: op for name, op in self.open.items() if name[0] != effect.session}
        return effects

    def answers(self, effect):
        bad = self.rng.random() < 0.05
        if isinstance(effect, fx.InstallKey):
            return [ev.KeyInstalled(effect.key, 12 if bad else 0)]
        if isinstance(effect, fx.Quiesce | fx.Invalidate):
            return [ev.Quiesced(effect.cookie, 5 if bad else 0)]
        if isinstance(effect, fx.Unmap):
            return [ev.Unmapped(effect.cookie)]
        if isinstance(effect, fx.FenceRight):
            return [ev.RightFenced(effect.fence, 5 if bad else 0)]
        if isinstance(effect, fx.ReturnRight):
            return [ev.RightReturned(effect.right)]
        if isinstance(effect, fx.Arm):
            return [ev.TimerFired(effect.timer)]
        if not hasattr(effect, "token"):
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
        if len(self.sessions) < 3 or rng.random() < 0.02:
            session = self.number()
            self.sessions.append(session)
            return ev.SessionOpened(session, f"s{session}", door=rng.random() < 0.9, wants=rng.random() < 0.5)
        if rng.random() < 0.04:
            return ev.SessionLost(self.sessions.pop(rng.randrange(len(self.sessions))))
        if rng.random() < 0.02:
            return ev.WritebackDue()
        absent = [key for key, row in self.core.books.mrs.items() if row.state == "absent"]
        if absent and rng.random() < 0.1:
            return ev.Missed(rng.choice(absent), 1, 0, BLOCK, write=rng.random() < 0.5)
        session, request = rng.choice(self.sessions), self.number()
        if not self.core.books.pds_of.has(session):
            self.open[session, request] = rq.AllocPd()
            return ev.Requested(session, request, rq.AllocPd())
        op, host = self.op(session), None
        if getattr(op, "host", False) or getattr(op, "backing", "") == "host" or rng.random() < 0.01:
            host = ev.HostFile(
                self.number(), 1, rng.randrange(2), rng.choice((0, 3, 8)) * BLOCK, rng.random() < 0.9
            )
        self.open[session, request] = op
        return ev.Requested(session, request, op, host)

    def handle(self, book, session):
        """A handle of this session, mostly."""
        mine = [key for key in book if book[key].session == session]
        return self.rng.choice(mine) if mine and self.rng.random() < 0.9 else self.rng.randrange(600)

    def size(self):
        return self.rng.choice(
            (0, 1, 100, BLOCK, 2 * BLOCK, 3 * BLOCK + 7, 5 * BLOCK, 9 * BLOCK, -1, 1 << 63)
        )

    def imported(self, pd):
        """A buffer, by an importer of any class."""
        importer = self.rng.choice(("sync-revocable", "deferred-unmap", "dynamic", "non-revocable"))
        bound = 1.0 if importer == "deferred-unmap" else 0.0
        at = self.rng.choice((0, 0, BLOCK))
        return rq.RegMr(pd, BLOCK, 7, 0, "dmabuf", self.rng.choice(BUFFERS), at, importer, bound=bound)

    def op(self, session):
        rng, b = self.rng, self.core.books
        path, at, size = rng.choice(PATHS), rng.choice((0, 0, BLOCK, 100, 2 * BLOCK)), self.size()
        pd, host = self.handle(b.pds, session), rng.random() < 0.15
        backing = rng.choice(("dax", "dax", "dax", "anon", "host"))
        makers = [
            rq.AllocPd,
            lambda: rq.DeallocPd(pd),
            lambda: rq.RegMr(pd, size, rng.choice(ACCESS), 0, backing, path, at if backing != "anon" else 0),
            lambda: rq.RegMr(pd, size, 7, 0, "dax", "/mnt/a"),
            lambda: rq.RegMr(pd, 2 * BLOCK, 7, 0, "dax", "/mnt/b"),
            lambda: rq.RegMr(pd, 100, 7, 0, "dax", rng.choice(PATHS[:2])),
            lambda: rq.RegMr(pd, BLOCK, 7, 0, "dax", rng.choice(PATHS[:2]), at),
            lambda: rq.RegMr(pd, BLOCK, 7, 0, "anon"),
            lambda: rq.DeregMr(self.handle(b.mrs, session)),
            lambda: rq.CreateCq(rng.choice((0, 1, 64))),
            lambda: rq.DestroyCq(self.handle(b.cqs, session)),
            lambda: rq.CreateQp(pd, self.handle(b.cqs, session), self.handle(b.cqs, session)),
            lambda: rq.ModifyQp(self.handle(b.qps, session), 1, {"state": 1}),
            lambda: rq.DestroyQp(self.handle(b.qps, session)),
            lambda: rq.FsCreate(path, size),
            lambda: rq.FsCreate(path, 3 * BLOCK),
            lambda: rq.FsCreate("/mnt/a", 3 * BLOCK),
            lambda: rq.FsCreate("/mnt/b", 5 * BLOCK),
            lambda: rq.FsStat(path),
            rq.FsLs,
            lambda: rq.FsRead(path, at, size),
            lambda: rq.FsWrite(path, at, b"x" * rng.choice((0, 1, BLOCK, 3 * BLOCK))),
            lambda: rq.FsTruncate(path, size, host),
            lambda: rq.FsTruncate("/mnt/a", rng.choice((0, 100, BLOCK))),
            lambda: rq.FsPunch(path, at, size, host),
            lambda: rq.FsUnlink(path),
            lambda: rq.FsCreate("/cold/a", 3 * BLOCK),
            lambda: rq.RegMr(pd, BLOCK, 7, 0, "page-cache", "/cold/a", at),
            lambda: rq.FsTruncate("/cold/a", rng.choice((100, BLOCK, 3 * BLOCK))),
            lambda: rq.FsWriteback(rng.choice(("/cold/a", path))),
            lambda: rq.FsPressure(rng.choice(("/cold/a", path))),
            lambda: rq.FsUnplug(
                rng.choice(("pm0", "pm1", "/mnt/b", "/mnt/b", "pm9")), rng.random() < 0.5, host
            ),
            lambda: rq.FsPlug(rng.choice(("pm0", "pm1"))),
            lambda: rq.FsPlug("pm0"),
            lambda: rq.Cancel(rng.choice([n for s, n in self.open if s == session] or [0])),
            lambda: rq.Acknowledge(self.handle(b.mrs, session)),
            lambda: rq.SetProtocol(
                rng.choice(("/mnt", "/cold", "host")), rng.choice((*PROTOCOLS, "", "prayer"))
            ),
            rq.QueryBooks,
            lambda: rq.DmabufCreate(rng.choice(BUFFERS), rng.choice((2, 3, 5)) * BLOCK),
            lambda: rq.DmabufCreate("x", 2 * BLOCK),
            lambda: self.imported(pd),
            lambda: self.imported(pd),
            lambda: rq.DmabufMove(rng.choice(BUFFERS)),
            lambda: rq.DmabufRevoke(rng.choice(BUFFERS), rng.random() < 0.3),
            lambda: rq.DmabufRestore(rng.choice(BUFFERS)),
            lambda: rq.DmabufDestroy(rng.choice(BUFFERS)),
            lambda: rq.DmabufStat(rng.choice(BUFFERS)),
            lambda: rq.SetProtocol("dmabuf", rng.choice(PROTOCOLS)),
        ]
        return rng.choice(makers)()


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
