"""A node's core with a shell that answers at once, or when told to."""

from __future__ import annotations

import pytest

from emu.core import effects as fx
from emu.core import events as ev
from emu.core import requests as rq
from emu.core.decision import END, EVENTS, START
from emu.core.errors import errno_name
from emu.core.machine import Core
from emu.protocols import registry
from emu.protocols.contract import Protocol, go, reply

BLOCK = 4096
PROTOCOLS = registry.load().protocols


class Node:
    """A Core with a device pm0, a dax mount /mnt, a mount /cold without dax on pm1, and three sessions.

    The shell's answers are kept in `waiting`; `go()` delivers them all, and what they lead to.
    """

    def __init__(
        self, protocol="mr-revoke", blocks=64, policy="freed-first", protocols=PROTOCOLS, bare=False
    ):
        self.core = Core(protocols, policy=policy)
        self.waiting = []
        self.effects = []
        self.numbers = 100
        self.host_errno = 0
        if bare:
            return
        self.step(ev.DeviceAdded("pm0", blocks))
        self.step(ev.MountAdded("/mnt", "pm0", dax=True, protocol=protocol))
        self.step(ev.DeviceAdded("pm1", 16))
        self.step(ev.MountAdded("/cold", "pm1", dax=False, protocol=protocol))
        for session, wants in ((1, True), (2, False), (3, False)):
            self.step(ev.SessionOpened(session, f"s{session}", door=True, wants=wants))
        self.step(ev.SessionOpened(9, "remote", door=False, wants=False))

    @property
    def books(self):
        return self.core.books

    def step(self, event, commit=True):
        made = self.core.step(event)
        if commit:
            self.core.committed()
        self.effects += made
        for effect in made:
            answer = self.answer_to(effect)
            if answer is not None:
                self.waiting.append(answer)
        return made

    def answer_to(self, effect):
        if isinstance(effect, fx.InstallKey):
            return ev.KeyInstalled(effect.key)
        if isinstance(effect, fx.Quiesce | fx.Invalidate):
            return ev.Quiesced(effect.cookie)
        if isinstance(effect, fx.Unmap):
            return ev.Unmapped(effect.cookie)
        if isinstance(effect, fx.FenceRight):
            return ev.RightFenced(effect.fence)
        if isinstance(effect, fx.ReturnRight):
            return ev.RightReturned(effect.right)
        if not hasattr(effect, "token"):
            return None
        value = {}
        if isinstance(effect, fx.MakeCq):
            self.numbers += 1
            value = {"cq": self.numbers}
        if isinstance(effect, fx.MakeQp):
            self.numbers += 1
            value = {"qp_num": self.numbers, "max_send_wr": 16}
        if isinstance(effect, fx.Load):
            value = {"data": b"\0" * sum(n for _at, n in effect.pieces)}
        code = self.host_errno if isinstance(effect, fx.HostTruncate | fx.HostPunch) else 0
        return ev.Answered(effect.token, code, value)

    def go(self, *kinds):
        """Deliver what waits (only these kinds of answers, if given) until nothing does."""
        while True:
            ready = [answer for answer in self.waiting if not kinds or isinstance(answer, kinds)]
            if not ready:
                return self
            self.waiting.remove(ready[0])
            self.step(ready[0])

    def send(self, op, session=1, host=None):
        """A request whose answer may wait. Returns its number."""
        self.numbers += 1
        request = self.numbers
        self.step(ev.Requested(session, request, op, host))
        return request

    def answer(self, request):
        found = [e for e in self.effects if isinstance(e, fx.Reply | fx.Fail) and e.request == request]
        assert len(found) <= 1, f"request {request} was answered {len(found)} times"
        return found[0] if found else None

    def ask(self, op, session=1, host=None):
        """A request that must succeed, with all answers delivered. Returns its result."""
        request = self.send(op, session, host)
        self.go()
        answer = self.answer(request)
        assert isinstance(answer, fx.Reply), answer
        return answer.result

    def refused(self, op, session=1, host=None):
        """A request that must fail. Returns (errno's name, sentence), and checks that the sentence is one."""
        before = self.core.canonical()
        request = self.send(op, session, host)
        answer = self.answer(request)
        if answer is None:
            self.go()
            answer = self.answer(request)
        else:
            assert self.core.canonical() == before, "a refused request changed something"
        assert isinstance(answer, fx.Fail), answer
        assert ":" in answer.sentence
        assert len(answer.sentence) > 20, "a sentence names the thing and the way out"
        return errno_name(answer.errno), answer.sentence

    def lose(self, session):
        return self.step(ev.SessionLost(session))

    # ---- short cuts

    def file(self, path="/mnt/a", blocks=4):
        return self.ask(rq.FsCreate(path, blocks * BLOCK))["ino"]

    def pd(self, session=1):
        return self.ask(rq.AllocPd(), session)["handle"]

    def mr(self, path="/mnt/a", session=1, length=4 * BLOCK, offset=0, access=7, **more):
        op = rq.RegMr(self.pd(session), length, access, 0, "dax", path, offset, **more)
        return self.ask(op, session)["handle"]

    def stat(self, path="/mnt/a"):
        return self.ask(rq.FsStat(path), 3)

    def blocks(self, device="pm0"):
        counts = self.ask(rq.QueryBooks(), 3)["devices"][device]
        assert counts["free"] + counts["owned"] + counts["quarantined"] + counts["bad"] == counts["total"]
        return counts if counts["bad"] else {name: n for name, n in counts.items() if name != "bad"}

    def phases(self):
        return [effect.phase for effect in self.effects if isinstance(effect, fx.Phase)]

    def of(self, kind):
        return [effect for effect in self.effects if isinstance(effect, kind)]

    def quiet(self):
        """Nothing under way: no tokens, cookies, timers, reclaims, teardowns."""
        b = self.books
        return not any(len(book) for book in (b.tokens, b.cookies, b.timers, b.reclaims, b.teardowns))


@pytest.fixture
def make_node():
    return Node


@pytest.fixture
def own_node():
    """A node whose mounts have this table's protocol, named `own`."""

    def make(table, **more):
        table = {(START, "surprise"): go(reply(), to=END), **table}
        protocol = Protocol("own", "a test's", "a test", table, ignored={"*": tuple(EVENTS)}, **more)
        return Node("own", protocols={**PROTOCOLS, "own": protocol})

    return make


@pytest.fixture
def node():
    return Node()


def host_file(handle=50, device=8, inode=77, size=4 * BLOCK, writable=True):
    return ev.HostFile(handle, device, inode, size, writable, "/tmp/host")


@pytest.fixture
def host():
    return host_file
