"""Dma-bufs: exporters make, move, revoke, restore and destroy them; importers of every class have them mapped meanwhile."""

from __future__ import annotations

import pytest

from emu.core import effects as fx
from emu.core import events as ev
from emu.core import requests as rq

BLOCK = 4096
POOL = 16
EXPORTER, IMPORTER, OTHER = 4, 1, 2


@pytest.fixture
def exported(make_node):
    """A node with buffers under a protocol, and a buffer `x` of four blocks."""

    def make(protocol="mr-revoke", name="x", blocks=4):
        node = make_node()
        node.step(ev.SessionOpened(EXPORTER, "exporter", door=True, wants=False))
        node.step(ev.DeviceAdded("dmabuf", POOL))
        node.ask(rq.SetProtocol("dmabuf", protocol))
        if name:
            node.ask(rq.DmabufCreate(name, blocks * BLOCK), EXPORTER)
        return node

    return make


def imported(node, session=IMPORTER, name="x", length=4 * BLOCK, offset=0, **more):
    return rq.RegMr(node.pd(session), length, 7, 0, "dmabuf", name, offset, **more)


def stat(node, name="x"):
    return node.ask(rq.DmabufStat(name), OTHER)


def counts(node):
    found = node.blocks("dmabuf")
    return found["free"], found["owned"], found["quarantined"]


def said(node, name):
    return [e for e in node.of(fx.Notify) if e.name == name]


# ---- making


def test_a_buffer_is_zeroed_memory_with_a_name(exported):
    node = exported(name="")
    made = node.ask(rq.DmabufCreate("x", 2 * BLOCK), EXPORTER)
    assert (made["name"], made["size"], made["device"]) == ("x", 2 * BLOCK, "dmabuf")
    assert sum(n for _at, n in made["map"]) == 2 * BLOCK
    aperture = node.books.devices["dmabuf"].aperture
    assert [e.aperture for e in node.of(fx.Allocate)] == [aperture]
    assert [e.descriptors for e in node.of(fx.Reply) if e.result.get("name") == "x"] == [-aperture]
    assert counts(node) == (POOL - 2, 2, 0)


@pytest.mark.parametrize(
    ("op", "name", "words"),
    [
        (rq.DmabufCreate("", BLOCK), "EINVAL", "cannot name a buffer"),
        (rq.DmabufCreate("a/b", BLOCK), "EINVAL", "no slash"),
        (rq.DmabufCreate("y" * 65, BLOCK), "EINVAL", "1 to 64"),
        (rq.DmabufCreate("y", 0), "EINVAL", "size 0"),
        (rq.DmabufCreate("y", 100), "EINVAL", "multiple of 4096"),
        (rq.DmabufCreate("x", BLOCK), "EEXIST", "another name"),
        (rq.DmabufCreate("y", 13 * BLOCK), "ENOSPC", "12 blocks left, not 13"),
        (rq.DmabufMove("y"), "ENOENT", "its exporter makes it first"),
        (rq.DmabufStat("a/b"), "EINVAL", "no slash"),
    ],
)
def test_what_an_exporter_cannot_have(exported, op, name, words):
    errno, sentence = exported().refused(op, EXPORTER)
    assert errno == name
    assert words in sentence


@pytest.mark.parametrize(
    "op", [rq.DmabufMove("x"), rq.DmabufRevoke("x"), rq.DmabufRestore("x"), rq.DmabufDestroy("x")]
)
def test_a_buffer_is_its_exporters_alone(exported, op):
    errno, sentence = exported().refused(op, IMPORTER)
    assert errno == "EPERM"
    assert "only whoever made it" in sentence


def test_a_node_without_memory_for_buffers_says_how_to_get_some(node):
    errno, sentence = node.refused(rq.DmabufCreate("x", BLOCK))
    assert errno == "ENODEV"
    assert "--dmabuf SIZE" in sentence


def test_a_remote_session_exports_nothing(exported):
    errno, _sentence = exported().refused(rq.DmabufCreate("y", BLOCK), 9)
    assert errno == "EPERM"


# ---- importing, in three steps


def test_an_import_reaches_the_buffer_and_names_it(exported):
    node = exported()
    result = node.ask(imported(node, offset=BLOCK, length=2 * BLOCK))
    assert result["ino"] == stat(node)["ino"]
    assert result["device"] == "dmabuf"
    assert result["map"] == [[stat(node)["map"][0][0] + BLOCK, 2 * BLOCK]]
    assert stat(node)["pins"] == 1


def test_the_exporters_side_answers_before_the_key_is_installed(exported):
    node = exported()
    op = imported(node)
    node.send(op)
    assert node.of(fx.MapBuffer)
    assert not node.of(fx.InstallKey)
    node.go(ev.Answered)
    assert node.of(fx.InstallKey)
    node.go()


def test_an_import_of_memory_that_is_absent_fails(exported):
    node = exported()
    request = node.send(imported(node))
    effect = node.of(fx.MapBuffer)[0]
    node.waiting.clear()
    node.step(ev.Answered(effect.token, 19))
    answer = node.answer(request)
    assert isinstance(answer, fx.Fail)
    assert answer.errno == 19
    assert node.quiet()


@pytest.mark.parametrize("kind", [ev.Answered, ev.KeyInstalled])
@pytest.mark.parametrize(
    "op", [rq.DmabufRevoke("x"), rq.DmabufRevoke("x", permanent=False), rq.DmabufMove("x")]
)
def test_a_reclaim_between_any_two_steps_of_an_import_is_not_lost(exported, kind, op):
    """Pinned, or pinned and installed, and not yet answered: the registration fails, and no key of it is left."""
    node = exported()
    request = node.send(imported(node))
    if kind is ev.KeyInstalled:
        node.go(ev.Answered)
    node.ask(op, EXPORTER)
    answer = node.answer(request)
    assert isinstance(answer, fx.Fail)
    assert "taken back while it was registered" in answer.sentence
    assert not len(node.books.mrs)
    assert node.quiet()


@pytest.mark.parametrize(
    ("asked", "name", "words"),
    [
        ({"name": "y"}, "ENOENT", "does not exist"),
        ({"offset": 100}, "EINVAL", "multiple of 4096"),
        ({"length": 5 * BLOCK}, "EINVAL", "past the end of x"),
        ({"importer": "non-revocable"}, "EOPNOTSUPP", "non-revocable"),
        ({"importer": "deferred-unmap"}, "EOPNOTSUPP", "name one"),
        ({"importer": "deferred-unmap", "bound": 1e9}, "EINVAL", "up to 3600"),
        ({"bound": 1.0}, "EINVAL", "leave it out"),
        (
            {"importer": "deferred-unmap", "bound": 1.0, "session": OTHER},
            "EOPNOTSUPP",
            "open the context with its events",
        ),
    ],
)
def test_who_cannot_import(exported, asked, name, words):
    node = exported()
    session = asked.get("session", IMPORTER)
    errno, sentence = node.refused(imported(node, **asked), session)
    assert errno == name
    assert words in sentence


# ---- revoke and restore


def test_a_permanent_revoke_gives_the_memory_back_and_closes_the_buffer(exported):
    node = exported()
    key = node.ask(imported(node))["handle"]
    assert node.ask(rq.DmabufRevoke("x"), EXPORTER) == {}
    assert [e.fields["mr"] for e in said(node, "MR_REVOKED")] == [key]
    assert node.phases()[:8] == [
        "requested",
        "gated",
        "notified",
        "fencing",
        "fenced",
        "unmapping",
        "unmapped",
        "applied",
    ]
    assert stat(node)["state"] == "closed"
    assert node.blocks("dmabuf")["free"] == POOL
    errno, sentence = node.refused(imported(node))
    assert errno == "ENODEV"
    assert "closed for good" in sentence


def test_the_line_of_a_revoke_names_the_buffer(exported):
    node = exported()
    node.ask(rq.DmabufRevoke("x", permanent=False), EXPORTER)
    detail = next(e.detail for e in node.of(fx.Phase) if e.phase == "requested")
    assert (detail["kind"], detail["buffer"], detail["permanent"]) == ("revoke", "x", False)


def test_what_is_revoked_for_a_time_comes_back(exported):
    node = exported()
    key = node.ask(imported(node))["handle"]
    before = stat(node)
    node.ask(rq.DmabufRevoke("x", permanent=False), EXPORTER)
    assert stat(node)["state"] == "away"
    errno, sentence = node.refused(imported(node))
    assert (errno, "when its exporter has restored it" in sentence) == ("EBUSY", True)
    node.ask(rq.DmabufRestore("x"), EXPORTER)
    assert stat(node) == {**before, "layout": stat(node)["layout"], "pins": 0}
    assert node.of(fx.Restore) == [fx.Restore(1, (key,))]
    assert [e.fields["mr"] for e in said(node, "MR_RESTORED")] == [key]
    assert node.phases()[-2:] == ["ended", "restored"]
    assert node.books.mrs[key].revoked, "a pinned importer's revoke was final"
    assert node.ask(imported(node))["lkey"] != key


def test_revoking_twice_changes_nothing(exported):
    node = exported()
    node.ask(imported(node))
    for permanent in (False, False, True, True, False):
        node.ask(rq.DmabufRevoke("x", permanent=permanent), EXPORTER)
    assert len(said(node, "MR_REVOKED")) == 1
    assert len(node.of(fx.Unmap)) == 1
    assert stat(node)["state"] == "closed"
    assert node.phases().count("requested") == 2, "for a time, then for good: two reclaims, one wait"
    errno, _sentence = node.refused(rq.DmabufRestore("x"), EXPORTER)
    assert errno == "ENODEV"


def test_two_revokes_at_once_both_succeed(exported):
    node = exported()
    node.ask(imported(node))
    requests = [
        node.send(rq.DmabufRevoke("x", permanent=permanent), EXPORTER) for permanent in (True, True, False)
    ]
    node.go()
    assert [type(node.answer(request)) for request in requests] == [fx.Reply] * 3
    assert stat(node)["state"] == "closed"
    assert node.quiet()


def test_a_restore_of_what_is_there_changes_nothing(exported):
    node = exported()
    assert node.ask(rq.DmabufRestore("x"), EXPORTER) == {}
    assert not node.of(fx.Restore)


def test_a_revoke_that_was_cancelled_has_taken_nothing(exported):
    node = exported()
    node.ask(imported(node))
    request = node.send(rq.DmabufRevoke("x"), EXPORTER)
    errno, _sentence = node.refused(rq.DmabufRestore("x"), EXPORTER)
    assert errno == "EBUSY"
    node.ask(rq.Cancel(request), EXPORTER)
    assert stat(node)["state"] == "ready"
    assert node.blocks("dmabuf")["owned"] == 4


def test_ebusy_denies_a_revoke_while_somebody_imports(exported):
    node = exported("ebusy")
    key = node.ask(imported(node, importer="non-revocable"))["handle"]
    errno, _sentence = node.refused(rq.DmabufRevoke("x"), EXPORTER)
    assert errno == "EBUSY"
    node.ask(rq.DeregMr(key))
    node.ask(rq.DmabufRevoke("x"), EXPORTER)
    assert stat(node)["state"] == "closed"


def test_none_gives_the_memory_to_the_next_buffer_under_the_pin(exported):
    node = exported("none")
    key = node.ask(imported(node))["handle"]
    node.ask(rq.DmabufRevoke("x"), EXPORTER)
    node.ask(rq.DmabufCreate("y", 4 * BLOCK), EXPORTER)
    assert tuple(map(tuple, stat(node, "y")["map"])) == node.books.mrs[key].runs
    assert node.books.mrs[key].state == "live"


# ---- moves


def test_a_move_copies_and_frees_the_old_place(exported):
    node = exported()
    before = stat(node)
    moved = node.ask(rq.DmabufMove("x"), EXPORTER)
    after = stat(node)
    assert moved["map"] == after["map"] != before["map"]
    copy = node.of(fx.Copy)[0]
    assert copy.pieces == ((before["map"][0][0], after["map"][0][0], 4 * BLOCK),)
    assert [e.runs for e in node.of(fx.Release)] == [(tuple(before["map"][0]),)]
    assert after["extents"][0][3] == before["extents"][0][3], "what was stamped before is still the buffer's"
    assert after["layout"] == before["layout"] + 1
    assert node.blocks("dmabuf")["owned"] == 4


def test_a_move_revokes_pinned_importers_and_the_buffer_stays_open(exported):
    node = exported()
    key = node.ask(imported(node))["handle"]
    node.ask(rq.DmabufMove("x"), EXPORTER)
    assert node.books.mrs[key].revoked
    again = node.ask(imported(node))
    assert again["map"] == stat(node)["map"]


def test_a_move_needs_as_much_memory_again(exported):
    node = exported(blocks=9)
    errno, _sentence = node.refused(rq.DmabufMove("x"), EXPORTER)
    assert errno == "ENOSPC"
    assert stat(node)["state"] == "ready"
    assert node.quiet()


@pytest.mark.parametrize("permanent", [True, False])
def test_what_is_revoked_is_not_moved(exported, permanent):
    node = exported()
    node.ask(rq.DmabufRevoke("x", permanent=permanent), EXPORTER)
    errno, _sentence = node.refused(rq.DmabufMove("x"), EXPORTER)
    assert errno == "ENODEV"


# ---- the end


def test_a_destroyed_buffer_is_free_when_its_last_importer_has_gone(exported):
    node = exported()
    key = node.ask(imported(node))["handle"]
    node.ask(rq.DmabufDestroy("x"), EXPORTER)
    assert counts(node) == (POOL - 4, 0, 4)
    assert node.books.mrs[key].state == "live", "nobody is told"
    errno, _sentence = node.refused(imported(node))
    assert errno == "ENOENT"
    node.ask(rq.DeregMr(key))
    assert node.blocks("dmabuf")["free"] == POOL


def test_nothing_is_destroyed_under_a_reclaim(exported):
    node = exported()
    node.ask(imported(node))
    node.send(rq.DmabufRevoke("x"), EXPORTER)
    errno, _sentence = node.refused(rq.DmabufDestroy("x"), EXPORTER)
    assert errno == "EBUSY"


def test_the_exporters_end_is_a_revoke_that_nobody_can_refuse(exported):
    node = exported("ebusy")
    key = node.ask(imported(node))["handle"]
    node.lose(EXPORTER)
    node.go()
    assert node.books.mrs[key].state == "live"
    assert node.blocks("dmabuf")["quarantined"] == 4, "kept until the last importer has unmapped"
    assert not len(node.books.buffers)
    errno, _sentence = node.refused(imported(node))
    assert errno == "ENOENT"
    node.ask(rq.DeregMr(key))
    assert node.blocks("dmabuf")["free"] == POOL


def test_the_exporters_end_under_mr_revoke_takes_the_keys(exported):
    node = exported()
    key = node.ask(imported(node))["handle"]
    op = imported(node, OTHER)
    node.lose(EXPORTER)
    late = node.send(op, OTHER)
    node.go()
    answer = node.answer(late)
    assert isinstance(answer, fx.Fail)
    assert "closed for good" in answer.sentence
    assert node.books.mrs[key].revoked
    assert node.blocks("dmabuf")["free"] == POOL
    detail = next(e.detail for e in node.of(fx.Phase) if e.phase == "requested")
    assert (detail["kind"], detail["buffer"], detail["permanent"]) == ("surprise", "x", True)
    assert node.quiet()


def test_the_end_of_an_exporter_in_the_middle_of_its_own_move(exported):
    node = exported()
    node.ask(imported(node))
    node.send(rq.DmabufMove("x"), EXPORTER)
    node.lose(EXPORTER)
    node.go()
    assert node.quiet()
    assert node.blocks("dmabuf")["free"] == POOL


def test_buffers_do_not_outlive_the_broker(exported, make_node):
    node = exported()
    number = stat(node)["ino"]
    again = make_node(bare=True)
    again.core.load(node.core.durable())
    again.step(ev.BuffersLost())
    assert "dmabuf" not in again.books.devices
    again.step(ev.DeviceAdded("dmabuf", 8))
    again.step(ev.SessionOpened(EXPORTER, "e", door=True, wants=False))
    assert again.ask(rq.DmabufCreate("x", 8 * BLOCK), EXPORTER)["ino"] > number


def test_a_device_of_buffers_can_be_unplugged(exported):
    node = exported()
    key = node.ask(imported(node))["handle"]
    node.ask(rq.FsUnplug("dmabuf"), OTHER)
    assert node.books.mrs[key].revoked
    errno, _sentence = node.refused(rq.DmabufCreate("y", BLOCK), EXPORTER)
    assert errno == "ENODEV"
    node.ask(rq.FsPlug("dmabuf"), OTHER)
    assert not len(node.books.buffers)
    assert node.ask(rq.DmabufCreate("x", BLOCK), EXPORTER)["name"] == "x"


# ---- dynamic importers: whatever is taken from them is a translation


@pytest.fixture
def dynamic(exported):
    node = exported()
    node.key = node.ask(imported(node, importer="dynamic"))["handle"]
    return node


def miss(node, sequence=1):
    node.step(ev.Missed(node.key, sequence, 0, BLOCK, True))
    node.go()


def ring(node):
    """Whoever waited for a reclaim is answered a moment behind it."""
    for effect in node.of(fx.Arm):
        node.step(ev.TimerFired(effect.timer))
    node.go()


def test_a_moved_buffer_is_mapped_again_where_it_is_now(dynamic):
    dynamic.ask(rq.DmabufMove("x"), EXPORTER)
    assert not said(dynamic, "MR_REVOKED")
    assert dynamic.books.mrs[dynamic.key].state == "absent"
    miss(dynamic)
    assert dynamic.of(fx.Remap)[-1].extents == tuple(map(tuple, stat(dynamic)["map"]))
    assert dynamic.books.mrs[dynamic.key].state == "live"
    dynamic.ask(rq.DmabufMove("x"), EXPORTER)
    miss(dynamic, 2)
    assert dynamic.of(fx.Remap)[-1].extents == tuple(map(tuple, stat(dynamic)["map"]))


def test_an_access_to_what_is_away_waits_until_it_is_restored(dynamic):
    dynamic.ask(rq.DmabufRevoke("x", permanent=False), EXPORTER)
    miss(dynamic)
    assert not dynamic.of(fx.Remap)
    dynamic.ask(rq.DmabufRestore("x"), EXPORTER)
    ring(dynamic)
    assert dynamic.of(fx.Remap)[-1].extents == tuple(map(tuple, stat(dynamic)["map"]))


@pytest.mark.parametrize("end", ["revoke", "away and then for good", "destroy", "exporter"])
def test_an_access_to_what_is_gone_for_good_fails(dynamic, end):
    if end == "away and then for good":
        dynamic.ask(rq.DmabufRevoke("x", permanent=False), EXPORTER)
        miss(dynamic)
        dynamic.ask(rq.DmabufRevoke("x"), EXPORTER)
    elif end == "revoke":
        dynamic.ask(rq.DmabufRevoke("x"), EXPORTER)
    elif end == "destroy":
        dynamic.ask(rq.DmabufMove("x"), EXPORTER)
        dynamic.ask(rq.DmabufDestroy("x"), EXPORTER)
    else:
        dynamic.lose(EXPORTER)
        dynamic.go()
    miss(dynamic)
    ring(dynamic)
    assert dynamic.of(fx.Remap)[-1].extents == ((-1, 4 * BLOCK),)
    assert dynamic.blocks("dmabuf")["free"] == POOL


def test_importers_of_every_class_on_one_buffer(exported):
    """A move: the dynamic one loses its translation, the sync-revocable one its key, the deferred one its key when it says so."""
    node = exported()
    sync = node.ask(imported(node))["handle"]
    slow = node.ask(imported(node, importer="deferred-unmap", bound=1.0))["handle"]
    node.key = node.ask(imported(node, OTHER, importer="dynamic"), OTHER)["handle"]
    request = node.send(rq.DmabufMove("x"), EXPORTER)
    node.go()
    assert node.answer(request) is None
    node.ask(rq.Acknowledge(slow))
    assert isinstance(node.answer(request), fx.Reply)
    assert [node.books.mrs[key].state for key in (sync, slow, node.key)] == ["unmapped", "unmapped", "absent"]
    assert [e.fields["mr"] for e in said(node, "MR_REVOKED")] == [sync, slow]
    miss(node)
    assert node.books.mrs[node.key].state == "live"
    assert node.quiet()


def test_none_asks_nobody_and_admits_everybody(exported):
    node = exported("none")
    for importer, more in (
        ("non-revocable", {}),
        ("dynamic", {}),
        ("deferred-unmap", {"bound": 1.0}),
        ("sync-revocable", {}),
    ):
        node.ask(imported(node, importer=importer, **more))
    node.ask(rq.DmabufMove("x"), EXPORTER)
    assert not node.of(fx.Quiesce)


@pytest.mark.parametrize("pinned", [True, False])
@pytest.mark.parametrize("op", [rq.DmabufMove("frame"), rq.DmabufRevoke("frame")], ids=["move", "revoke"])
def test_on_linux_6_18_who_asked_to_be_told_of_moves_denies_none(make_node, op, pinned):
    node = make_node("none")
    node.step(ev.DeviceAdded("dmabuf", 16))
    node.ask(rq.SetProtocol("dmabuf", "linux-6.18"))
    node.ask(rq.DmabufCreate("frame", 2 * BLOCK))
    keys = [
        node.ask(rq.RegMr(node.pd(2), BLOCK, 7, 0, "dmabuf", "frame", 0, importer), 2)["handle"]
        for importer in ("dynamic", "sync-revocable")[: 1 + pinned]
    ]
    if pinned:
        assert node.refused(op)[0] == "EBUSY"
        assert node.books.mrs[keys[1]].state == "live"
    else:
        node.ask(op)
    assert node.books.mrs[keys[0]].state == "absent"


@pytest.mark.parametrize("protocol", ["kill-context", "recall-fence", "mr-revoke"])
def test_an_import_under_way_that_is_taken_back_is_no_pin_that_anybody_waits_for(exported, protocol):
    """Its exporter ends before the import has a key: the reclaim ends, and the buffer goes."""
    node = exported(protocol)
    request = node.send(imported(node), IMPORTER)
    node.lose(EXPORTER)
    node.go()
    while timers := list(node.books.timers):
        node.step(ev.TimerFired(timers[0]))
        node.go()
    assert isinstance(node.answer(request), fx.Fail)
    assert not len(node.books.reclaims)
    assert not len(node.books.buffers)
    assert counts(node) == (POOL, 0, 0)


def test_a_quiesce_of_a_class_waits_for_nobody_else(exported):
    """Its phases do not say of a pinned importer's key that it was fenced, or unmapped."""
    node = exported("linux-6.18")
    kept = node.ask(imported(node))["handle"]
    parked = node.ask(imported(node, importer="dynamic"))["handle"]
    assert node.refused(rq.DmabufMove("x"), EXPORTER)[0] == "EBUSY"
    named = {effect.phase: effect.keys for effect in node.of(fx.Phase)}
    assert named["requested"] == named["returned"] == (kept, parked)
    assert {named[wait] for wait in ("fencing", "fenced", "unmapping", "unmapped")} == {(parked,)}
    assert not node.of(fx.Quiesce)
