"""Device-dax: memory of the bare device, and no files."""

from __future__ import annotations

import pytest

from emu.core import effects as fx
from emu.core import events as ev
from emu.core import requests as rq

BLOCK = 4096
DEV = "/dev/dax0"


@pytest.fixture
def raw(make_node):
    node = make_node(bare=True)
    node.step(ev.DeviceAdded("pm0", 16))
    node.step(ev.MountAdded(DEV, "pm0", dax=False, protocol="mr-revoke", raw=True))
    for session in (1, 2, 3):
        node.step(ev.SessionOpened(session, f"s{session}", door=True, wants=True))
    return node


def registered(node, session=1, length=4 * BLOCK, offset=0, path=DEV, **more):
    return rq.RegMr(node.pd(session), length, 7, 0, "devdax", path, offset, **more)


def test_the_whole_device_is_owned_and_its_bytes_stay(raw):
    assert raw.of(fx.Claim) == [fx.Claim(1, ((0, 16 * BLOCK),))]
    assert not raw.of(fx.Allocate)
    assert raw.blocks() == {"total": 16, "free": 0, "owned": 16, "quarantined": 0, "orphaned": 0}


def test_a_registration_reaches_the_device_at_its_offset(raw):
    result = raw.ask(registered(raw, offset=12 * BLOCK))
    assert result["map"] == [[12 * BLOCK, 4 * BLOCK]]
    assert (result["device"], result["ino"]) == ("pm0", 0)
    assert raw.of(fx.InstallKey)[0].extents == ((12 * BLOCK, 4 * BLOCK),)
    assert raw.of(fx.Reply)[-1].descriptors == -1  # the device itself


@pytest.mark.parametrize(
    ("asked", "name", "words"),
    [
        ({"offset": 13 * BLOCK}, "EINVAL", "it has 65536 bytes"),
        ({"offset": 512}, "EINVAL", "multiple of 4096"),
        ({"path": "/dev/dax1"}, "ENODEV", "there are /dev/dax0"),
        ({"path": f"{DEV}/a"}, "ENODEV", "no device-dax mount"),
        ({"importer": "non-revocable"}, "EOPNOTSUPP", "non-revocable"),
    ],
)
def test_what_cannot_be_registered(raw, asked, name, words):
    errno, sentence = raw.refused(registered(raw, **asked))
    assert errno == name
    assert words in sentence


@pytest.mark.parametrize(
    "op",
    [
        rq.FsCreate(f"{DEV}/a", BLOCK),
        rq.FsStat(f"{DEV}/a"),
        rq.FsRead(f"{DEV}/a", 0, 1),
        rq.FsWrite(f"{DEV}/a", 0, b"x"),
        rq.FsTruncate(f"{DEV}/a", 0),
        rq.FsPunch(f"{DEV}/a", 0, 1),
        rq.FsUnlink(f"{DEV}/a"),
    ],
)
def test_files_there_are_none(raw, op):
    errno, sentence = raw.refused(op)
    assert errno == "EOPNOTSUPP"
    assert "device-dax, which has no files" in sentence


def test_a_mount_that_is_no_raw_device_has_no_devdax_memory(node):
    errno, sentence = node.refused(registered(node, path="/mnt"))
    assert (errno, "there are none" in sentence) == ("ENODEV", True)


@pytest.mark.parametrize("target", ["pm0", DEV])
def test_an_unplug_takes_it_from_everybody(raw, target):
    key = raw.ask(registered(raw))["handle"]
    assert raw.ask(rq.FsUnplug(target), 3) == {}
    assert raw.books.mrs[key].state == "unmapped"
    assert [e.name for e in raw.of(fx.Notify)] == ["MR_REVOKED"]
    errno, _sentence = raw.refused(registered(raw))
    assert errno == "ENODEV"


def test_nobody_registers_behind_the_gate(raw):
    raw.ask(registered(raw))
    late = registered(raw, 2, offset=8 * BLOCK)
    raw.send(rq.FsUnplug("pm0"), 3)
    answer = raw.answer(raw.send(late, 2))
    assert isinstance(answer, fx.Fail)
    assert "is being taken back by unplug" in answer.sentence


def test_a_new_namespace_is_owned_from_the_start(raw):
    raw.ask(rq.FsUnplug(DEV, surprise=True), 3)
    raw.ask(rq.FsPlug("pm0"), 3)
    kinds = [type(e) for e in raw.effects if isinstance(e, fx.Online | fx.Claim)]
    assert kinds == [fx.Claim, fx.Online, fx.Claim]
    assert raw.blocks()["owned"] == 16
    assert raw.ask(registered(raw))["map"] == [[0, 4 * BLOCK]]


def test_the_end_of_an_mr_leaves_the_device(raw):
    key = raw.ask(registered(raw))["handle"]
    raw.ask(rq.DeregMr(key))
    assert not raw.of(fx.DropAperture)
    assert raw.blocks()["owned"] == 16


def test_a_failed_block_is_taken_from_whoever_has_it_mapped(raw):
    near = raw.ask(registered(raw))["handle"]
    far = raw.ask(registered(raw, offset=8 * BLOCK))["handle"]
    raw.ask(rq.FsPoison(DEV, 2 * BLOCK + 7), 3)
    assert raw.of(fx.Poison) == [fx.Poison(1, ((2 * BLOCK, BLOCK),))]
    assert [raw.books.mrs[key].state for key in (near, far)] == ["unmapped", "live"]
    detail = next(e.detail for e in raw.of(fx.Phase) if e.phase == "requested")
    assert detail == {"kind": "poison", "path": DEV, "lo": 2 * BLOCK, "hi": 3 * BLOCK, "block": 3}
    raw.ask(rq.FsPoison(DEV, 2 * BLOCK), 3)
    assert len(raw.of(fx.Poison)) == 1, "it is known already"
    errno, sentence = raw.refused(rq.FsPoison(DEV, 16 * BLOCK), 3)
    assert (errno, "65536 bytes" in sentence) == ("EINVAL", True)
    assert raw.ask(rq.QueryBooks(), 3)["devices"]["pm0"]["owned"] == 15


def test_a_device_with_pinned_blocks_is_no_raw_device_yet(node):
    node.ask(rq.SetProtocol("/mnt", "deferred-free"))
    node.file()
    key = node.mr()
    node.ask(rq.FsUnlink("/mnt/a"), 3)
    node.ask(rq.FsUmount("/mnt"), 3)
    back = rq.FsMount(DEV, "pm0", dax=False, protocol="none", raw=True)
    errno, _sentence = node.refused(back, 3)
    assert errno == "EBUSY"
    node.ask(rq.DeregMr(key))
    node.ask(back, 3)
    assert node.blocks() | {"total": 64, "owned": 64, "free": 0} == node.blocks()


def test_a_device_with_files_is_no_raw_device(make_node, node):
    node.file()
    other = make_node(bare=True)
    other.core.load(node.core.durable())
    other.step(ev.DeviceAdded("pm0", 64))
    with pytest.raises(Exception, match="has files"):
        other.step(ev.MountAdded(DEV, "pm0", dax=False, protocol="none", raw=True))


def test_what_is_on_demand_is_never_mapped_into_the_next_namespace(make_node):
    node = make_node(bare=True)
    node.step(ev.DeviceAdded("pm0", 16))
    node.step(ev.MountAdded(DEV, "pm0", dax=False, protocol="odp", raw=True))
    for session in (1, 2, 3):
        node.step(ev.SessionOpened(session, f"s{session}", door=True, wants=True))
    key = node.ask(registered(node))["handle"]
    node.ask(rq.FsUnplug("pm0", True), 2)
    node.ask(rq.FsPlug("pm0"), 2)
    made = node.step(ev.Missed(key, 1, 0, BLOCK, write=True))
    assert [e.extents for e in made if isinstance(e, fx.Remap)] == [((-1, 4 * BLOCK),)]
    node.go()
    assert node.books.mrs[key].runs == ()
    newer = node.ask(registered(node))["handle"]
    assert node.books.mrs[newer].runs == ((0, 4 * BLOCK),)
