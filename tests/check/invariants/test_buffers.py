"""Buffers of exporters in histories: what a move and a revoke must leave, and how it shows when they do not."""

from __future__ import annotations

import pytest
from build import ACCESS, BLOCK, READ, Story
from verdicts import breaches, verdict

from emu.check.invariants import INVARIANTS
from emu.check.invariants.away import away_bytes
from emu.core import effects as fx
from emu.core import events as ev
from emu.core import requests as rq
from emu.core.rows import DMABUF

ALL = [invariant.name for invariant in INVARIANTS]


class BufferStory(Story):
    """An exporter with a buffer `x` of four blocks, and an importer of it."""

    def __init__(self, protocol="mr-revoke", importer="sync-revocable"):
        super().__init__(protocol)
        self.exporter, self.importer = self.session("exporter"), self.session("importer")
        self.ask(self.exporter, rq.DmabufCreate("x", 4 * BLOCK))
        self.key = self.imported(importer)

    def boot(self):
        self.line("commit", "Loaded", changes=0, delta=[])
        self.step(ev.DeviceAdded(DMABUF, self.blocks))

    def _engine(self, effect):
        super()._engine(effect)
        if isinstance(effect, fx.MapBuffer):
            self.owed.append(ev.Answered(effect.token))

    def imported(self, importer="sync-revocable", name="x"):
        self.ask(self.importer, rq.AllocPd())
        pd = self.result(self.importer, self.requests)["handle"]
        bound = 2.0 if importer == "deferred-unmap" else 0.0
        op = rq.RegMr(pd, 4 * BLOCK, ACCESS, 0, DMABUF, name, 0, importer, bound=bound)
        return (self.result(self.importer, self.ask(self.importer, op)) or {}).get("lkey", 0)

    def exports(self, op):
        return self.ask(self.exporter, op)


def broken(story):
    return {name for name in ALL if breaches(story.history(), name)}


def files_in(line):
    return [change for change in line["delta"] if change[0] == "files"]


def everything(protocol="mr-revoke"):
    """Moved, away and back, closed for good, destroyed; a second buffer whose exporter ends."""
    story = BufferStory(protocol)
    for op in (
        rq.DmabufMove("x"),
        rq.DmabufRevoke("x", permanent=False),
        rq.DmabufRevoke("x", permanent=False),
        rq.DmabufRestore("x"),
    ):
        story.exports(op)
        story.key = story.imported()
    story.exports(rq.DmabufRevoke("x"))
    story.exports(rq.DmabufRevoke("x"))
    story.dereg(story.importer, story.key)
    story.exports(rq.DmabufDestroy("x"))
    story.exports(rq.DmabufCreate("x", 2 * BLOCK))
    story.exports(rq.DmabufCreate("y", 2 * BLOCK))
    story.lost(story.exporter)
    story.answer()
    return story


@pytest.mark.parametrize("protocol", ["mr-revoke", "ebusy"])
def test_what_an_exporter_does_breaks_nothing(protocol):
    assert broken(everything(protocol)) == set()


def test_it_shows_what_is_promised():
    history = everything().history()
    assert {
        name for name in ("S2", "S6", "S10", "V1", "V7", "V15") if verdict(history, name) != "kept"
    } == set()


def test_a_move_that_changed_nothing_breaks_s2():
    story = BufferStory()
    story.exports(rq.DmabufMove("x"))
    commits = [line for line in story.lines if line["type"] == "Commit" and files_in(line)]
    book, ino, row = files_in(commits[0])[0]
    commits[-1]["delta"] = [[book, ino, [*row[:4], 2, *row[5:]]]]
    assert "its change is not there" in breaches(story.history(), "S2")[0]


def test_a_buffer_that_changes_without_its_exporter_breaks_s10():
    story = BufferStory()
    row = next(files_in(line)[0] for line in story.lines if line["type"] == "Commit" and files_in(line))
    story.event(ev.TimerFired(99))
    story.commit(["files", row[1], None])
    assert "nobody had asked for that" in breaches(story.history(), "S10")[0]


@pytest.mark.parametrize("permanent", [True, False])
def test_who_registers_what_is_revoked_breaks_v1(permanent):
    """Behind the end of the reclaim, too: for good, or until it is restored."""
    story = BufferStory()
    story.exports(rq.DmabufRevoke("x", permanent=permanent))
    story.imported()
    assert story.lines.pop()["type"] == "Fail"
    story.effect(fx.InstallKey(768, 2, ACCESS, 0, 1, 0, 4 * BLOCK, ((0, 4 * BLOCK),)))
    story.event(ev.KeyInstalled(768))
    story.effect(fx.Reply(story.importer, story.requests, {"lkey": 768, "ino": 1, "device": DMABUF}))
    assert "registered behind the gate" in breaches(story.history(), "V1")[0]


def test_what_is_restored_or_moved_is_open_again():
    story = BufferStory()
    story.exports(rq.DmabufRevoke("x", permanent=False))
    story.exports(rq.DmabufRestore("x"))
    assert story.imported()
    story.exports(rq.DmabufMove("x"))
    assert story.imported()
    assert breaches(story.history(), "V1") == []


def test_another_buffer_of_that_name_is_another_buffer():
    story = BufferStory()
    story.exports(rq.DmabufRevoke("x"))
    story.exports(rq.DmabufDestroy("x"))
    story.exports(rq.DmabufCreate("x", 4 * BLOCK))
    assert story.imported()
    assert breaches(story.history(), "V1") == []


def test_what_was_revoked_for_good_and_is_given_back_breaks_v15():
    story = BufferStory()
    story.exports(rq.DmabufRevoke("x"))
    story.line("effect", "Restore", reclaim=1, keys=[story.key])
    assert "after reclaim 1 (revoke) had revoked it for good" in breaches(story.history(), "V15")[0]


def test_a_late_importer_is_owed_and_an_owner_that_waits_for_nobody_is_not_excused():
    story = BufferStory(importer="deferred-unmap")
    story.exports(rq.DmabufRevoke("x"))
    timer = next(line["timer"] for line in story.lines if line["type"] == "Arm")
    story.step(ev.TimerFired(timer))
    assert [line["keys"] for line in story.lines if line.get("phase") == "overdue"] == [[story.key]]
    story.step(ev.TimerFired(7777))
    assert breaches(story.history(), "S7") == []
    assert breaches(story.history(), "V17") == []
    mute = BufferStory(importer="deferred-unmap")
    mute.exports(rq.DmabufRevoke("x"))
    armed = next(line for line in mute.lines if line["type"] == "Arm")
    mute.step(ev.TimerFired(armed["timer"]))
    mute.lines = [line for line in mute.lines if line.get("phase") != "overdue"]
    for n, line in enumerate(mute.lines):
        line["n"] = n
    mute.step(ev.TimerFired(7777))
    assert "nothing is left that could advance it" in breaches(mute.history(), "S7")[0]


@pytest.mark.parametrize(("protocol", "counted"), [("none", 2 * BLOCK), ("mr-revoke", 0)])
def test_what_moves_while_a_buffer_is_away_breaks_s2(protocol, counted):
    """By operations that started behind the answer, and before it was given back: neither sooner nor later."""
    story = BufferStory(protocol)
    story.ground = story.find("InstallKey")["aperture"]
    story.moved(story.key)
    started = story.epoch
    story.exports(rq.DmabufRevoke("x", permanent=False))
    if counted:
        story.moved(story.key, op_epoch=started)
        story.moved(story.key)
        story.moved(story.key, opcode=READ)
    story.exports(rq.DmabufRestore("x"))
    if counted:
        story.moved(story.key)
    history = story.history()
    assert away_bytes(history) == counted
    told = [words for words in breaches(history, "S2") if "before it was restored" in words]
    assert len(told) == bool(counted)
    assert all(words.startswith(f"{counted} bytes moved") for words in told)


@pytest.mark.parametrize("over", [rq.DmabufDestroy("x"), rq.DmabufRevoke("x")])
def test_a_buffer_that_is_no_more_is_not_away(over):
    story = BufferStory("none")
    story.ground = story.find("InstallKey")["aperture"]
    story.exports(rq.DmabufRevoke("x", permanent=False))
    story.exports(over)
    story.effect(fx.Phase(99, "ended"))
    story.moved(story.key)
    assert away_bytes(story.history()) == 0


def test_a_buffer_that_is_not_given_back_is_away_to_the_end():
    story = BufferStory("none")
    story.ground = story.find("InstallKey")["aperture"]
    story.exports(rq.DmabufRevoke("x", permanent=False))
    story.moved(story.key)
    assert away_bytes(story.history()) == BLOCK
