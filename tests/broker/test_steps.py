"""The order of a step: before-commit effects, commit, the others; and what happens when the commit fails."""

from __future__ import annotations

import errno

import pytest

from emu.broker.effects import TABLE
from emu.broker.spares import Later
from emu.broker.steps import RETRY_TIMER, Steps
from emu.core import effects as fx
from emu.core.events import HostFile, Missed, Requested, SessionLost, TimerFired
from emu.core.requests import FsTruncate, FsUnplug

ASKED = Requested(1, 7, FsTruncate("/mnt/a", 0))
SURPRISE = Requested(1, 8, FsUnplug("pm0", surprise=True))
FAULT = Missed(256, 0, 0, 64, True)
ALLOCATE = fx.Allocate(1, ((0, 4096),))
REPLY = fx.Reply(1, 7)


class World:
    """Core, journal, effects, timers and record at once; `log` is what was done, in order."""

    def __init__(self, effects=(ALLOCATE, REPLY), delta=(("files", 1, None),)):
        self.effects, self.changes, self.log = tuple(effects), list(delta), []
        self.full = self.broken = self.defect = self.later = False
        self.resumes, self.facts = [], []
        self.time, self.cost = 0.0, 0.0
        self.steps = Steps(self, self, self, self, lambda *_point: None, self.refuse, lambda: self.time)
        self.steps.effects = self

    def step(self, event):
        self.time += self.cost
        if self.defect:
            raise RuntimeError("a defect")
        self.log.append(("step", event))
        return self.effects

    def delta(self):
        return self.changes

    def committed(self):
        self.log.append("committed")

    def undo(self):
        self.log.append("undo")

    def commit(self, changes, *, fact):
        self.facts.append(fact)
        if self.full:
            raise OSError(errno.ENOSPC, "/n/books.sqlite cannot be written")
        self.log.append(("commit", *changes)[0])

    def durable(self, changes):
        assert (self.log[-1], changes) == ("commit", self.changes)

    def behind_commit(self, effects):
        pass

    def carry_out(self, effect):
        if self.broken and effect is ALLOCATE:
            raise OSError(errno.EFAULT, "broken")
        self.log.append(effect)

    def perform(self, effect):
        self.log.append(("perform", effect))

    def prepare(self, effect):
        if self.later:
            raise Later(self.resumes.append)
        self.log.append(("prepare", effect))

    def take_back(self, effect):
        self.log.append(("take back", effect))

    def refuse(self, event, number, sentence):
        assert sentence
        self.log.append(("refuse", event.request, number))

    def arm(self, name, seconds):
        assert seconds > 0
        self.log.append(("arm", name))

    def event(self, event):
        pass

    def shell(self, name, **values):
        pass


def test_a_step_prepares_commits_and_only_then_acts():
    world = World()
    assert world.steps.step(ASKED)
    assert world.log == [("step", ASKED), ALLOCATE, ("prepare", REPLY), "commit", "committed", REPLY]


def test_without_a_durable_change_nothing_is_written():
    world = World(delta=())
    world.steps.step(ASKED)
    assert "commit" not in world.log
    assert "committed" in world.log


def test_a_request_whose_commit_fails_is_undone_given_back_and_refused():
    world = World()
    world.full = True
    assert not world.steps.step(ASKED)
    assert world.log[-3:] == ["undo", ("take back", ALLOCATE), ("refuse", 7, errno.ENOSPC)]
    assert REPLY not in world.log
    assert world.steps.undone == 1


def test_a_host_files_descriptor_goes_with_a_refused_request():
    world = World()
    world.full = True
    world.steps.step(Requested(1, 7, FsTruncate("x", 0, host=True), HostFile(5, 1, 2, 3, writable=True)))
    assert fx.CloseHandle(5) in world.log


def test_a_fact_whose_commit_fails_comes_again_before_what_came_later():
    world = World()
    world.full = True
    world.steps.submit(TimerFired(1))
    world.steps.submit(TimerFired(2))
    world.steps.run(10)
    assert ("arm", RETRY_TIMER) in world.log
    assert world.steps.waiting == 0
    world.full = False
    world.steps.submit(TimerFired(3))
    world.steps.retry()
    del world.log[:]
    world.steps.run(10)
    assert [entry[1] for entry in world.log if isinstance(entry, tuple) and entry[0] == "step"] == [
        TimerFired(1),
        TimerFired(2),
        TimerFired(3),
    ]


def test_a_fact_that_waits_for_the_disk_is_said_aloud_once_and_when_it_goes_on(capfd):
    world = World()
    world.full = True
    for number in (1, 2):
        world.steps.step(TimerFired(number))
    world.steps.retry()
    world.steps.run(10)
    (said,) = capfd.readouterr().err.splitlines()
    assert said.startswith("emu: broker: ENOSPC: /n/books.sqlite")
    assert "make space" in said
    assert world.steps.postponed == 2
    world.full = False
    world.steps.retry()
    world.steps.run(10)
    (said,) = capfd.readouterr().err.splitlines()
    assert "goes on" in said
    assert world.steps.postponed == 0


def test_facts_may_use_what_is_reserved_and_requests_may_not():
    world = World()
    for event in (ASKED, TimerFired(1), SURPRISE):
        world.steps.step(event)
    assert world.facts == [False, True, True]


def test_an_unplug_by_surprise_takes_the_memory_away_whatever_the_disk_says():
    offline = fx.Offline(1, "pm0")
    world = World(effects=(offline, REPLY))
    world.full = True
    world.steps.step(SURPRISE)
    world.steps.retry()
    world.steps.run(10)
    assert world.log.count(("perform", offline)) == 1
    assert not [entry for entry in world.log if isinstance(entry, tuple) and entry[0] == "refuse"]
    assert world.steps.postponed == 1
    world.full = False
    world.steps.retry()
    world.steps.run(10)
    assert world.log[-2:] == [offline, REPLY]
    assert world.steps.postponed == 0


def test_who_unplugged_by_surprise_is_lost_only_behind_it():
    world = World()
    world.full = True
    world.steps.submit(SURPRISE)
    world.steps.submit(SessionLost(1))
    world.steps.run(10)
    world.full = False
    world.steps.retry()
    del world.log[:]
    world.steps.run(10)
    assert [entry[1] for entry in world.log if isinstance(entry, tuple) and entry[0] == "step"] == [
        SURPRISE,
        SessionLost(1),
    ]


def test_a_step_whose_preparation_takes_long_comes_again_and_others_go_on_meanwhile():
    world = World()
    world.later = True
    world.steps.submit(ASKED)
    world.steps.run(10)
    assert world.log == [("step", ASKED), ALLOCATE, "undo", ("take back", ALLOCATE)]
    world.later = False
    world.steps.step(TimerFired(1))
    assert world.log[-1] == REPLY
    del world.log[:]
    world.steps.submit(TimerFired(2))
    (resume,) = world.resumes
    resume()
    world.steps.run(10)
    assert [entry[1] for entry in world.log if isinstance(entry, tuple) and entry[0] == "step"] == [
        ASKED,
        TimerFired(2),
    ]


def test_preparation_that_fails_is_undone_too():
    world = World()
    world.broken = True
    world.steps.step(ASKED)
    assert ("refuse", 7, errno.EFAULT) in world.log
    assert "commit" not in world.log


def test_a_defect_concerns_its_request_alone():
    world = World()
    world.defect = True
    world.steps.submit(ASKED)
    world.steps.submit(TimerFired(1))
    world.steps.run(10)
    assert world.log == [("refuse", 7, errno.EIO)]
    assert world.steps.defects == 2


def test_a_page_fault_that_meets_a_defect_is_stepped_again():
    world = World()
    world.defect = True
    world.steps.step(FAULT)
    assert world.log == [("arm", RETRY_TIMER)]
    world.defect = False
    world.steps.retry()
    world.steps.run(10)
    assert ("step", FAULT) in world.log


def test_a_turn_takes_a_bounded_number():
    world = World()
    for n in range(10):
        world.steps.submit(TimerFired(n))
    world.steps.run(4)
    assert world.steps.waiting == 6


@pytest.mark.parametrize(("cost", "taken"), [(0.001, 20), (0.006, 4), (0.5, 1)])
def test_a_turn_takes_a_bounded_time_and_at_least_one(cost, taken):
    world = World()
    for n in range(100):
        world.steps.submit(TimerFired(n))
    world.cost = cost
    world.steps.run(256)
    assert world.steps.waiting in {100 - taken, 100 - taken - 1}, "sums of times are not exact"
    world.steps.run(256)
    assert world.steps.waiting >= 100 - 2 * taken - 2


@pytest.mark.parametrize(
    "kind", [kind for kind in vars(fx).values() if isinstance(kind, type) and issubclass(kind, fx.Effect)]
)
def test_every_effect_of_the_core_is_carried_out_by_somebody(kind):
    assert kind is fx.Effect or kind in TABLE
