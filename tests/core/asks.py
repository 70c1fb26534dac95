"""What a client of the random script may ask: each request that the core has, over every backing, good and bad.

`draw(script, session)` -> a request. Rooms are drawn with equal weight, and so is each line of a room: what is to be frequent stands there
more than once. `script` gives the generator (`rng`), the core, the open requests, and the names of protocols.
"""

from __future__ import annotations

from emu.core import requests as rq
from emu.core.decision import IMPORTERS

BLOCK = 4096
ON_DEMAND = 1 << 6
DAX = ("/mnt/a", "/mnt/b", "/mnt/c")
CACHED = ("/cold/a", "/cold/b", "/tmp/a")
FILES = (*DAX, *DAX, *CACHED)
NOWHERE = ("/mnt/../x", "/nowhere")
ACCESS = (7, 7, 7, 1, 4, 4, 2, 15, -1, 7 | ON_DEMAND, 4 | ON_DEMAND)
BUFFERS = ("x", "x", "y", "a/b")
MOUNTS = {
    "/mnt": ("pm0", True, False, False),
    "/cold": ("pm1", False, False, False),
    "/tmp": ("pm2", False, False, True),
    "/raw": ("pm3", False, True, False),
}
DEVICES = {"pm0": 24, "pm1": 8, "pm2": 8, "pm3": 4, "dmabuf": 9}
WILD = (0, 1, 100, BLOCK, 2 * BLOCK, 3 * BLOCK + 7, 5 * BLOCK, 9 * BLOCK, -1, 1 << 63)


def draw(script, session):
    return Asks(script, session).draw()


class Asks:
    """Requests of one session."""

    def __init__(self, script, session):
        self.script, self.rng, self.books = script, script.rng, script.core.books
        self.session = session

    def draw(self):
        rooms = (
            self.regions,
            self.regions,
            self.files,
            self.files,
            self.layout,
            self.verbs,
            self.buffers,
            self.node,
        )
        return self.one(self.one(rooms)())()

    # ---- draws

    def one(self, of):
        return self.rng.choice(of)

    def chance(self, p):
        return self.rng.random() < p

    def handle(self, book):
        """A handle of this session, mostly."""
        mine = [key for key in book if book[key].session == self.session]
        return self.one(mine) if mine and self.chance(0.95) else self.rng.randrange(600)

    def path(self):
        return self.one(NOWHERE if self.chance(0.04) else FILES)

    def at(self):
        return self.one((0, 0, BLOCK, 100, 2 * BLOCK))

    def size(self):
        return self.one(WILD) if self.chance(0.2) else self.one((100, BLOCK, 2 * BLOCK, 3 * BLOCK))

    def protocol(self):
        return self.one((*self.script.names, *self.script.names, "", "prayer"))

    def importer(self):
        """Its class, and the bound that one of them needs."""
        importer = "sync-revocable" if self.chance(0.5) else self.one(tuple(IMPORTERS))
        return {"importer": importer, "bound": 1.0 if importer == "deferred-unmap" else 0.0}

    # ---- rooms

    def regions(self):
        pd = self.handle(self.books.pds)
        access = self.one(ACCESS)

        def over(backing, path="", length=None, at=None):
            at = self.one((0, 0, BLOCK)) if at is None else at
            return rq.RegMr(pd, length or self.size(), access, 0, backing, path, at, **self.importer())

        return (
            lambda: over("dax", self.one(DAX)),
            lambda: over("dax", self.one(DAX), 2 * BLOCK, 0),
            lambda: over("dax", "/mnt/a", BLOCK),
            lambda: over("page-cache", self.one(CACHED)),
            lambda: over("page-cache", "/cold/a", BLOCK, 0),
            lambda: over("anon", at=0),
            lambda: over("host", length=BLOCK),
            lambda: rq.RegMr(pd, BLOCK, access, 0, "host", "", 0, guard=True),
            lambda: over("devdax", "/raw", BLOCK),
            lambda: over("dmabuf", self.one(BUFFERS), BLOCK),
            lambda: over(self.one(("dax", "page-cache", "devdax", "prayer")), self.path()),
            lambda: rq.DeregMr(self.handle(self.books.mrs)),
            lambda: rq.DeregMr(self.handle(self.books.mrs)),
            lambda: rq.DeregMr(self.handle(self.books.mrs)),
        )

    def files(self):
        host = self.chance(0.15)
        return (
            lambda: rq.FsCreate(self.path(), self.size()),
            lambda: rq.FsCreate(self.one(FILES), 3 * BLOCK),
            lambda: rq.FsCreate(self.one(FILES), 3 * BLOCK),
            lambda: rq.FsTruncate(self.path(), self.size(), host),
            lambda: rq.FsTruncate(self.one(FILES), self.one((0, 100, BLOCK))),
            lambda: rq.FsPunch(self.path(), self.at(), self.size(), host),
            lambda: rq.FsPunch(self.one(FILES), self.at(), self.one((BLOCK, 2 * BLOCK))),
            lambda: rq.FsUnlink(self.path()),
            lambda: rq.FsRead(self.path(), self.at(), self.size()),
            lambda: rq.FsWrite(self.path(), self.at(), b"x" * self.one((0, 1, 10, BLOCK, 3 * BLOCK))),
            lambda: rq.FsStat(self.path()),
            lambda: rq.FsLs(limit=self.one((1, 100)), after=self.one((0, 0, 3))),
            lambda: rq.FsWriteback(self.path()),
            lambda: rq.FsPressure(self.one(("anon", self.path(), "/cold/a"))),
            lambda: rq.FsLease(self.path(), self.one(("exclusive", "shared", "none", "prayer"))),
            lambda: rq.FsMark(self.path(), self.chance(0.5)),
        )

    def layout(self):
        return (
            lambda: rq.FsReflink(self.path(), self.path()),
            lambda: rq.FsReflink(self.one(DAX), self.one(DAX)),
            lambda: rq.FsMigrate(self.path()),
            lambda: rq.FsFallocate(
                self.path(), self.one(("collapse", "insert", "zero", "prayer")), self.at(), self.size()
            ),
            lambda: rq.FsFallocate(
                self.one(FILES), self.one(("collapse", "insert", "zero")), self.one((0, BLOCK)), BLOCK
            ),
            lambda: rq.FsPoison(self.path(), self.at()) if self.chance(0.3) else rq.FsMigrate(self.one(DAX)),
            lambda: (
                rq.FsPoison("/raw", self.at()) if self.chance(0.3) else rq.FsReflink("/cold/a", "/cold/b")
            ),
        )

    def verbs(self):
        cq, qp = self.handle(self.books.cqs), self.handle(self.books.qps)
        number = self.rng.randrange(self.script.numbers + 1)
        return (
            rq.QueryDevice,
            rq.AllocPd,
            lambda: rq.DeallocPd(self.handle(self.books.pds)) if self.chance(0.3) else rq.AllocPd(),
            lambda: rq.CreateCq(self.one((0, 1, 64))),
            lambda: rq.DestroyCq(cq) if self.chance(0.3) else rq.CreateCq(1),
            lambda: rq.CreateQp(self.handle(self.books.pds), cq, self.handle(self.books.cqs)),
            lambda: rq.CreateQp(self.handle(self.books.pds), cq, cq),
            lambda: rq.CreateQp(self.handle(self.books.pds), cq, cq),
            lambda: rq.ModifyQp(qp, 1, {"state": self.one((0, 1))}),
            lambda: rq.ModifyQp(qp, 1 << 20, {"dest_qpn": number}),
            lambda: rq.QueryQp(qp),
            lambda: rq.DestroyQp(qp) if self.chance(0.3) else rq.QueryQp(qp),
        )

    def buffers(self):
        name = self.one(BUFFERS)
        return (
            lambda: rq.DmabufCreate(name, self.one((2, 3, 5)) * BLOCK),
            lambda: rq.DmabufCreate("x", 2 * BLOCK),
            lambda: rq.DmabufMove(name),
            lambda: rq.DmabufRevoke(name, self.chance(0.3)),
            lambda: rq.DmabufRestore(name),
            lambda: rq.DmabufDestroy(name, self.one((0, 0, 1))),
            lambda: rq.DmabufStat(name),
        )

    def node(self):
        mine = [number for session, number in self.script.open if session == self.session]
        return (
            lambda: rq.Cancel(self.one(mine or [0])),
            lambda: rq.Cancel(self.one(mine or [0])),
            lambda: rq.Acknowledge(self.handle(self.books.mrs)),
            rq.QueryBooks,
            lambda: rq.SetProtocol(
                self.one((*MOUNTS, "host", "anon", "dmabuf", "/nowhere")), self.protocol()
            ),
            self.mount,
            lambda: self.mount() if self.chance(0.6) else rq.FsUmount(self.one((*MOUNTS, "host"))),
            lambda: rq.FsPlug(self.one(tuple(DEVICES))),
            lambda: rq.FsPlug(self.one(("pm0", "pm1", "emu0"))),
            self.unplug,
        )

    def mount(self):
        """One of its own, mostly as it was."""
        path = self.one(tuple(MOUNTS))
        device, dax, raw, tmpfs = MOUNTS[path]
        if self.chance(0.1):
            dax = not dax
        return rq.FsMount(path, device, dax, self.protocol(), raw, tmpfs)

    def unplug(self):
        """Devices seldom, and in a calm script never: much ends with them."""
        if not self.script.calm and self.chance(0.25):
            return rq.FsUnplug(self.one((*DEVICES, "/raw", "emu0", "emu0", "pm9")), self.chance(0.5))
        return rq.FsUnplug(self.one(FILES), self.chance(0.05), self.chance(0.3))
