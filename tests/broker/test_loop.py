"""The loop's bookkeeping of doors: a number that the host hands out again belongs to who has it now, and a visitor who cannot be
watched is not kept."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace

import pytest

from emu.broker.loop import Loop
from emu.broker.sessions import Sessions
from emu.broker.timers import Timers
from emu.wire import door


class Around:
    """All that a loop works with, as far as doors go: who came, what they sent, who hung up, what was noted."""

    def __init__(self, path):
        self.came, self.hung, self.lines = [], [], []
        self.fds = [os.eventfd(0), os.eventfd(0)]
        router = SimpleNamespace(
            fd=self.fds[0], receive=lambda: None, flush=lambda: None, pending=False, keeping=0,
            kept=lambda identity: 0, forget=lambda identity: None,
        )  # fmt: skip
        self.sessions = Sessions(router)
        self.path, self.listening = path, door.listen(path)
        self.loop = Loop(
            door=self.listening, router=router, engine=SimpleNamespace(fileno=lambda: self.fds[1]),
            memory=SimpleNamespace(), sessions=self.sessions,
            reception=SimpleNamespace(packet=lambda visitor, packet: self.came.append((visitor, packet.data)), hung_up=self.hung.append),
            flushes=SimpleNamespace(waiting=False, turn=lambda: None),
            steps=SimpleNamespace(waiting=1, run=lambda limit: self.loop.stop()), effects=SimpleNamespace(), timers=Timers(),
            admin=SimpleNamespace(visit=lambda point: None),
            record=SimpleNamespace(
                flush=lambda: None, ended=lambda: None, shell=lambda name, **values: self.lines.append((name, values))
            ),
            uid=os.getuid(),
            invalidations=SimpleNamespace(),
        )  # fmt: skip

    def turn(self):
        self.loop._stopping = False
        self.loop.run()

    def visit(self, word):
        """Somebody at the door, who has said a word; and what the loop knows as its visitor."""
        peer = door.connect(self.path)
        door.send(peer, word)
        while not any(data == word for _visitor, data in self.came):
            self.turn()
        return peer, next(visitor for visitor, data in self.came if data == word)

    def close(self):
        self.loop.farewell()
        self.listening.close()
        for fd in self.fds:
            os.close(fd)


@pytest.fixture
def around(tmp_path):
    made = Around(str(tmp_path / "door"))
    yield made
    made.close()


def test_what_was_noted_of_a_dead_door_does_not_hit_who_has_its_number_now(around):
    dead, visitor = around.visit(b"dead")
    dead.close()
    around.sessions.say(visitor.door, 1, b"answer")  # nobody is there: noted
    around.sessions.writers.add(visitor.door)
    assert around.sessions.broken == [visitor.door]
    alive = door.connect(around.path)
    around.turn()  # hangs up, lets the next one in, and looks at what was noted
    door.send(alive, b"alive")
    around.turn()
    newcomer, word = around.came[-1]
    assert (word, newcomer.door.fd) == (b"alive", visitor.door.fd), "the host gave the number to the next one"
    assert around.hung == [visitor]
    alive.close()


def test_a_session_that_is_cut_off_late_takes_nobody_with_it(around):
    dead, visitor = around.visit(b"dead")
    session = around.sessions.open("dead", wants=False, door=visitor.door)
    dead.close()
    around.sessions.overrun.append(session)
    alive = door.connect(around.path)
    around.turn()
    door.send(alive, b"alive")
    around.turn()
    assert around.came[-1][1] == b"alive"
    assert around.hung == [visitor]
    alive.close()


class Full:
    """An epoll that takes no more descriptors."""

    def __init__(self, epoll):
        self.epoll = epoll

    def register(self, _fd, _mask):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def __getattr__(self, name):
        return getattr(self.epoll, name)


def test_a_visitor_who_cannot_be_watched_is_turned_away_and_the_door_stays_open(around):
    around.loop._epoll = Full(around.loop._epoll)
    with door.connect(around.path) as turned_away:
        around.turn()
        turned_away.settimeout(10)
        assert door.receive(turned_away) is None
    assert [(name, values["errno"]) for name, values in around.lines] == [("TurnedAway", errno.ENOSPC)]
    assert not around.loop._visitors
    around.loop._epoll = around.loop._epoll.epoll
    served, _visitor = around.visit(b"served")
    served.close()
