"""Unplug and plug, and what the engine refuses behind the commit."""

from __future__ import annotations

import errno

from emu.core import effects as fx
from emu.core import events as ev
from emu.core import requests as rq

BLOCK = 4096


# ---- unplug and plug


def test_an_orderly_unplug_revokes_first(node):
    node.file()
    node.mr()
    node.effects.clear()
    node.ask(rq.FsUnplug("pm0"), 2)
    kinds = [
        type(effect)
        for effect in node.effects
        if isinstance(effect, fx.Quiesce | fx.Unmap | fx.Offline | fx.Reply)
    ]
    assert kinds == [fx.Quiesce, fx.Unmap, fx.Offline, fx.Reply]
    for op in (
        rq.FsStat("/mnt/a"),
        rq.FsRead("/mnt/a", 0, 1),
        rq.FsCreate("/mnt/b"),
        rq.FsUnlink("/mnt/a"),
        rq.FsUnplug("pm0"),
    ):
        assert node.refused(op)[0] == "ENODEV"
    assert node.ask(rq.FsLs())["files"][0]["pins"] == 0


def test_a_surprise_unplug_tells_the_protocol_behind_the_fact(node):
    node.file()
    node.mr()
    node.effects.clear()
    node.ask(rq.FsUnplug("pm0", surprise=True), 2)
    kinds = [type(e) for e in node.effects if isinstance(e, fx.Quiesce | fx.Unmap | fx.Offline | fx.Reply)]
    assert kinds == [fx.Offline, fx.Quiesce, fx.Unmap, fx.Reply]
    assert "applied" not in node.phases()


def test_a_surprise_waits_for_nobody_and_stops_what_runs(node):
    node.file()
    node.mr()
    truncate = node.send(rq.FsTruncate("/mnt/a", 0), 2)
    surprise = node.send(rq.FsUnplug("pm0", surprise=True), 3)
    assert len(node.of(fx.Offline)) == 1
    assert node.refused(rq.FsPlug("pm0"))[0] == "EBUSY"
    node.go()
    assert node.answer(truncate).errno == errno.ENODEV
    assert isinstance(node.answer(surprise), fx.Reply)
    assert node.of(fx.Release) == []
    assert node.quiet()


def test_plug_brings_an_empty_namespace(node):
    node.file()
    assert node.refused(rq.FsPlug("pm0"))[0] == "EBUSY"
    assert node.refused(rq.FsPlug("pm7"))[0] == "ENODEV"
    assert node.refused(rq.FsUnplug("pm7"))[0] == "ENODEV"
    node.ask(rq.FsUnplug("pm0"))
    node.ask(rq.FsPlug("pm0"))
    assert node.of(fx.Online) == [fx.Online(node.of(fx.Online)[0].token, 1, "pm0", 2)]
    assert node.refused(rq.FsStat("/mnt/a"))[0] == "ENOENT"
    assert node.file() == 2


def test_a_file_that_is_taken_away_cannot_be_used_until_it_is_unlinked(node):
    node.file()
    node.mr()
    pd = node.pd()
    node.ask(rq.FsUnplug("/mnt/a"), 2)
    assert len(node.of(fx.Unmap)) == 1
    for op in (rq.FsRead("/mnt/a", 0, 1), rq.FsUnplug("/mnt/a"), rq.RegMr(pd, 1, 7, 0, "dax", "/mnt/a")):
        assert node.refused(op)[0] == "ENODEV"
    assert node.stat()["gone"]
    node.ask(rq.FsUnlink("/mnt/a"))
    node.file()
    assert node.blocks()["owned"] == 4


def test_only_a_device_can_be_surprised(node, host):
    node.file()
    assert node.refused(rq.FsUnplug("/mnt/a", surprise=True))[0] == "EINVAL"
    assert node.refused(rq.FsUnplug("", surprise=True, host=True), host=host())[0] == "EINVAL"
    assert node.of(fx.CloseHandle) == [fx.CloseHandle(50)]


def test_a_device_without_a_mount_can_be_unplugged(node):
    node.step(ev.DeviceAdded("pm2", 8))
    node.ask(rq.FsUnplug("pm2"))


# ---- what fails behind the commit


def refuse_unmaps(node):
    """Answer every Unmap that waits with EIO."""
    for answer in [answer for answer in node.waiting if isinstance(answer, ev.Unmapped)]:
        node.waiting.remove(answer)
        node.step(ev.Unmapped(answer.cookie, errno.EIO))


def test_an_unmap_that_fails_is_asked_again_and_nothing_is_freed_before(node):
    node.file()
    node.mr()
    request = node.send(rq.FsTruncate("/mnt/a", 0), 2)
    node.go(ev.Quiesced)
    for _ in range(3):
        refuse_unmaps(node)
        assert node.answer(request) is None
        assert node.blocks()["owned"] == 4
        node.step(ev.TimerFired(node.of(fx.Arm)[-1].timer))
    assert len(node.of(fx.Unmap)) == 4
    node.go()
    assert isinstance(node.answer(request), fx.Reply)
    assert node.blocks()["owned"] == 0
    assert node.quiet()


def test_a_reclaim_whose_unmap_fails_can_be_interrupted(node):
    node.file()
    node.mr()
    request = node.send(rq.FsTruncate("/mnt/a", 0), 2)
    node.go(ev.Quiesced)
    refuse_unmaps(node)
    node.ask(rq.Cancel(request), 2)
    assert node.answer(request).errno == errno.EINTR
    assert node.quiet()
    node.step(ev.TimerFired(node.of(fx.Arm)[-1].timer))
    assert len(node.of(fx.Unmap)) == 1


def test_an_mr_that_is_deregistered_while_its_unmap_is_asked_again_ends_the_wait(node):
    node.file()
    handle = node.mr()
    request = node.send(rq.FsTruncate("/mnt/a", 0), 2)
    node.go(ev.Quiesced)
    refuse_unmaps(node)
    node.ask(rq.DeregMr(handle))
    assert node.answer(request) is None
    node.step(ev.TimerFired(node.of(fx.Arm)[-1].timer))
    node.go()
    assert isinstance(node.answer(request), fx.Reply)


def test_a_dereg_whose_unmap_fails_leaves_the_mr_there(node):
    node.file()
    handle = node.mr()
    request = node.send(rq.DeregMr(handle))
    node.go(ev.Quiesced)
    refuse_unmaps(node)
    assert node.answer(request).errno == errno.EIO
    assert node.of(fx.RemoveKey) == []
    node.ask(rq.DeregMr(handle))
    assert node.of(fx.RemoveKey) == [fx.RemoveKey(handle)]


def test_a_lost_session_whose_unmap_fails_ends_when_it_succeeds(node):
    node.file()
    node.mr()
    node.lose(1)
    node.go(ev.Quiesced)
    refuse_unmaps(node)
    assert len(node.of(fx.Unmap)) == 1, "it is not asked again at once"
    node.step(ev.TimerFired(node.of(fx.Arm)[-1].timer))
    assert fx.EndSession(1) not in node.effects
    node.go()
    assert fx.EndSession(1) in node.effects


def test_a_plug_is_answered_when_the_namespace_is_there(node):
    node.ask(rq.FsUnplug("pm0", surprise=True), 2)
    request = node.send(rq.FsPlug("pm0"), 2)
    assert node.answer(request) is None
    assert node.refused(rq.FsUnplug("pm0", surprise=True), 3)[0] == "EBUSY"
    node.go()
    assert node.answer(request).result == {"namespace": 2}


def test_a_namespace_that_cannot_be_shown_leaves_the_device_unplugged(node):
    node.ask(rq.FsUnplug("pm0", surprise=True), 2)
    request = node.send(rq.FsPlug("pm0"), 2)
    node.waiting.clear()
    node.step(ev.Answered(node.of(fx.Online)[-1].token, errno.ENOMEM))
    assert (node.answer(request).errno, node.answer(request).definite) == (errno.ENOMEM, False)
    assert node.refused(rq.FsCreate("/mnt/x", 1))[0] == "ENODEV"
    assert node.ask(rq.FsPlug("pm0"), 2) == {"namespace": 3}
    node.file("/mnt/x")


def test_an_unplug_that_the_engine_refuses_changes_nothing(node):
    node.file()
    request = node.send(rq.FsUnplug("pm0"), 2)
    node.waiting.clear()
    node.step(ev.Answered(node.of(fx.Offline)[-1].token, errno.ENOMEM))
    assert node.answer(request).errno == errno.ENOMEM
    assert node.stat()["blocks"] == 4
    assert node.quiet()
