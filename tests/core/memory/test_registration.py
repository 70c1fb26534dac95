"""Registration in three steps, the way out, and every bad argument."""

from __future__ import annotations

import errno

import pytest

from emu.core import effects as fx
from emu.core import events as ev
from emu.core import requests as rq
from emu.core.memory import keys, registration
from emu.wire import codec
from emu.wire.door import DOOR_LIMIT

BLOCK = 4096


def reg(_node, **change):
    values = {"pd": 1, "length": BLOCK, "access": 7, "iova": 0, "backing": "dax", "path": "/mnt/a", **change}
    return rq.RegMr(**values)


def test_an_mr_over_a_file_translates_to_its_blocks(node):
    node.file("/mnt/x", 1)
    node.file("/mnt/a", 2)
    node.pd()
    result = node.ask(reg(node, length=BLOCK + 10))
    (install,) = node.of(fx.InstallKey)
    assert install.extents == ((BLOCK, BLOCK + 10),)
    assert result["map"] == [[BLOCK, 2 * BLOCK]]
    assert result["handle"] == result["lkey"] == result["rkey"] == install.key
    assert (result["ino"], result["layout"], result["device"]) == (2, 1, "pm0")
    assert node.of(fx.Reply)[-1].descriptors == -install.aperture
    assert node.quiet()


def test_a_range_whose_map_no_answer_carries_is_refused_before_anything_is_done(node, monkeypatch):
    monkeypatch.setattr(registration, "MAX_RUNS", 2)
    node.file("/mnt/a", 1)
    for n in range(1, 4):
        node.file(f"/mnt/between-{n}", 1)
        node.ask(rq.FsTruncate("/mnt/a", (n + 1) * BLOCK))
        node.ask(rq.FsWrite("/mnt/a", n * BLOCK, b"x"))
    node.pd()
    code, sentence = node.refused(reg(node, length=4 * BLOCK))
    assert code == "EMSGSIZE"
    assert "4 extents" in sentence
    assert node.ask(reg(node, length=2 * BLOCK))["length"] == 2 * BLOCK


def test_the_largest_map_goes_through_the_door():
    entry = [1 << 40, 1 << 40]
    raw = codec.encode_reply(1 << 60, {"map": [entry] * registration.MAX_RUNS, "device": "d" * 255})
    assert len(raw) <= DOOR_LIMIT - 1024


def test_anonymous_memory_is_opened_first(node):
    node.pd()
    request = node.send(reg(node, backing="anon", path="", length=100))
    (opened,) = node.of(fx.OpenAnon)
    assert opened.bytes == BLOCK
    assert node.of(fx.InstallKey) == []
    node.go()
    assert node.answer(request).descriptors == opened.token
    handle = node.answer(request).result["handle"]
    node.ask(rq.DeregMr(handle))
    kinds = [type(effect) for effect in node.effects if isinstance(effect, fx.RemoveKey | fx.DropAperture)]
    assert kinds == [fx.RemoveKey, fx.DropAperture]


def test_memory_that_cannot_be_opened_leaves_nothing(node):
    node.pd()
    before = node.core.canonical()
    request = node.send(reg(node, backing="anon", path=""))
    node.step(ev.Answered(node.of(fx.OpenAnon)[0].token, errno.ENOMEM))
    assert node.answer(request).errno == errno.ENOMEM
    assert node.of(fx.DropAperture) == []
    assert node.core.canonical() == before


def test_a_key_that_the_engine_refuses_leaves_nothing(node):
    node.file()
    node.pd()
    before = node.core.canonical()
    request = node.send(reg(node))
    node.step(ev.KeyInstalled(node.of(fx.InstallKey)[0].key, errno.ENOSPC))
    assert node.answer(request).errno == errno.ENOSPC
    assert node.core.canonical() == before


def test_a_hole_in_the_range_is_filled_first(node):
    node.file(blocks=1)
    node.ask(rq.FsTruncate("/mnt/a", 2 * BLOCK))
    node.pd()
    made = node.step(ev.Requested(1, 7, reg(node, length=2 * BLOCK), None))
    assert [type(effect) for effect in made] == [fx.Allocate, fx.InstallKey]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"pd": 99}, "EINVAL"),
        ({"length": 0}, "EINVAL"),
        ({"length": -1}, "EINVAL"),
        ({"length": 1 << 63}, "EINVAL"),
        ({"offset": -BLOCK}, "EINVAL"),
        ({"offset": 1 << 63}, "EINVAL"),
        ({"offset": 1}, "EINVAL"),
        ({"offset": 2 * BLOCK}, "EINVAL"),
        ({"length": 2 * BLOCK + 1}, "EINVAL"),
        ({"offset": (1 << 63) - BLOCK, "length": BLOCK + 1}, "EINVAL"),
        ({"iova": -1}, "EINVAL"),
        ({"iova": (1 << 64) - 1}, "EINVAL"),
        ({"access": -1}, "EINVAL"),
        ({"access": 2}, "EINVAL"),
        ({"access": 8}, "EINVAL"),
        ({"access": 128}, "EOPNOTSUPP"),
        ({"access": 1 << 12}, "EINVAL"),
        ({"importer": "friendly"}, "EINVAL"),
        ({"importer": "non-revocable"}, "EOPNOTSUPP"),
        ({"backing": "tape"}, "EOPNOTSUPP"),
        ({"backing": "host"}, "EBADF"),
        ({"backing": "anon", "offset": BLOCK}, "EINVAL"),
        ({"path": "/mnt/b"}, "ENOENT"),
        ({"path": "/mnt/../a"}, "EINVAL"),
    ],
)
def test_bad_arguments(node, change, name):
    node.file(blocks=2)
    node.pd()
    assert node.refused(reg(node, **change))[0] == name


def test_optional_access_flags_are_ignored(node):
    node.file()
    node.pd()
    node.ask(reg(node, access=7 | 1 << 20))
    assert node.of(fx.InstallKey)[0].access == 7


def test_another_sessions_handles_are_refused_alike(node):
    node.file()
    handle = node.mr()
    unknown = node.refused(rq.DeregMr(12345), session=2)
    foreign = node.refused(rq.DeregMr(handle), session=2)
    assert unknown[0] == foreign[0] == "EINVAL"
    assert unknown[1].replace("12345", str(handle)) == foreign[1]
    assert node.refused(reg(node, pd=1), session=2)[0] == "EINVAL"
    assert node.refused(rq.Acknowledge(handle), session=2)[0] == "EINVAL"


def test_a_control_only_session_owns_no_memory(node):
    node.file()
    pd = node.pd(9)
    assert node.refused(reg(node, pd=pd), session=9)[0] == "EPERM"
    assert node.refused(rq.CreateCq(1), session=9)[0] == "EPERM"
    assert node.refused(rq.CreateQp(pd, 1, 1), session=9)[0] == "EPERM"


def test_an_unplugged_device_takes_no_registration(node):
    node.file()
    node.pd()
    node.ask(rq.FsUnplug("pm0"))
    assert node.refused(reg(node))[0] == "ENODEV"


def test_a_full_device_takes_no_hole(node):
    node.file(blocks=64)
    node.pd()
    node.ask(rq.FsTruncate("/mnt/a", 65 * BLOCK))
    assert node.refused(reg(node, length=65 * BLOCK))[0] == "ENOSPC"


def test_limits(node, monkeypatch):
    monkeypatch.setattr(registration, "MAX_MR", 1)
    node.file()
    node.mr()
    assert node.refused(reg(node))[0] == "ENOMEM"


def test_dereg_is_a_revoke_of_its_own(node):
    node.file()
    handle = node.mr()
    node.effects.clear()
    request = node.send(rq.DeregMr(handle))
    assert node.refused(rq.DeregMr(handle))[0] == "EBUSY"
    node.go()
    kinds = [type(effect) for effect in node.effects if not isinstance(effect, fx.Fail)]
    assert kinds == [fx.Quiesce, fx.Unmap, fx.RemoveKey, fx.Reply]
    assert node.answer(request).result == {}
    assert node.refused(rq.DeregMr(handle))[0] == "EINVAL"
    assert node.quiet()


def test_dereg_while_it_is_registered_is_refused(node):
    node.file()
    node.pd()
    node.send(reg(node))
    assert node.refused(rq.DeregMr(node.of(fx.InstallKey)[0].key))[0] == "EINVAL"


def test_dereg_that_the_hardware_refuses_leaves_the_mr(node):
    node.file()
    handle = node.mr()
    request = node.send(rq.DeregMr(handle))
    node.step(ev.Quiesced(node.of(fx.Quiesce)[-1].cookie, errno.EIO))
    assert node.answer(request).errno == errno.EIO
    node.waiting.clear()
    node.ask(rq.DeregMr(handle))


def test_a_pd_with_mrs_stays(node):
    node.file()
    handle = node.mr()
    assert node.refused(rq.DeallocPd(1))[0] == "EBUSY"
    node.ask(rq.DeregMr(handle))
    node.ask(rq.DeallocPd(1))
    assert node.refused(rq.DeallocPd(1))[0] == "EINVAL"


def test_keys_rest_first_in_first_out_and_come_back_with_the_next_generation(node, monkeypatch):
    monkeypatch.setattr(keys, "KEY_REST", 2)
    node.file()
    issued = []
    for _round in range(6):
        issued.append(node.mr())
        node.ask(rq.DeregMr(issued[-1]))
    assert issued == [1 << 8, 2 << 8, 1 << 8 | 1, 2 << 8 | 1, 1 << 8 | 2, 2 << 8 | 2]


def test_the_generation_of_a_key_wraps_within_its_eight_bits(node, monkeypatch):
    monkeypatch.setattr(keys, "KEY_REST", 1)
    node.file()
    pd = node.pd()
    issued = []
    for _round in range(257):
        issued.append(node.ask(reg(node, pd=pd))["handle"])
        node.ask(rq.DeregMr(issued[-1]))
    assert len(set(issued)) == 256
    assert issued[256] == issued[0]


def test_a_fault_is_told_to_every_holder_asked_or_not(node, host):
    node.pd(2)
    handle = node.ask(rq.RegMr(1, BLOCK, 7, 0, "host"), 2, host())["handle"]
    node.step(ev.MemoryFaulted(node.of(fx.InstallKey)[0].aperture, 123))
    (told,) = node.of(fx.Notify)
    assert (told.session, told.name, told.fields) == (
        2,
        "MEMORY_FAULT",
        {"mr": handle, "rkey": handle, "offset": 123},
    )


# ---- a reclaim between the steps


def test_a_reclaim_between_pin_and_installed_key_is_not_lost(node):
    node.file()
    node.pd()
    registration_request = node.send(reg(node, length=4 * BLOCK))
    truncate = node.send(rq.FsTruncate("/mnt/a", 0), 2)
    assert node.of(fx.Quiesce)[0].keys == (node.of(fx.InstallKey)[0].key,)
    node.go()
    assert node.answer(registration_request).errno == errno.EBUSY
    assert "taken back" in node.answer(registration_request).sentence
    assert isinstance(node.answer(truncate), fx.Reply)
    assert [effect.key for effect in node.of(fx.RemoveKey)] == [node.of(fx.InstallKey)[0].key]
    assert node.quiet()
    assert len(node.books.mrs) == 0


def test_the_key_is_cleaned_up_when_the_installed_answer_comes_last(node):
    node.file()
    node.pd()
    request = node.send(reg(node))
    node.send(rq.FsTruncate("/mnt/a", 0), 2)
    node.go(ev.Quiesced, ev.Unmapped)
    assert node.blocks()["free"] == 64
    node.go()
    assert node.answer(request).errno == errno.EBUSY
    assert len(node.of(fx.RemoveKey)) == 1
    assert node.quiet()


def test_an_install_that_fails_while_it_is_revoked_leaves_nothing(node):
    node.file()
    node.pd()
    request = node.send(reg(node))
    node.send(rq.FsTruncate("/mnt/a", 0), 2)
    key = node.of(fx.InstallKey)[0].key
    node.waiting = [answer for answer in node.waiting if not isinstance(answer, ev.KeyInstalled)]
    node.step(ev.KeyInstalled(key, errno.ENOMEM))
    node.go()
    assert node.answer(request).errno == errno.ENOMEM
    assert node.of(fx.RemoveKey) == []
    assert node.quiet()


def test_a_reclaim_before_the_memory_is_open_takes_the_registration_back(node, host):
    node.pd()
    request = node.send(rq.RegMr(1, BLOCK, 7, 0, "host"), 1, host())
    truncate = node.send(rq.FsTruncate("", 0, host=True), 2, host(51))
    assert node.of(fx.Quiesce) == []
    assert len(node.of(fx.HostTruncate)) == 1
    node.go()
    assert node.answer(request).errno == errno.EBUSY
    assert isinstance(node.answer(truncate), fx.Reply)
    assert node.of(fx.InstallKey) == []
    assert len(node.of(fx.DropAperture)) == 1
    assert sorted(effect.handle for effect in node.of(fx.CloseHandle)) == [50, 51]
    assert len(node.books.hosts) == 0


def test_the_gate_refuses_registrations_of_the_range_and_no_others(node):
    node.file(blocks=4)
    node.mr()
    pd = node.pd(2)
    node.send(rq.FsPunch("/mnt/a", 2 * BLOCK, BLOCK), 3)
    assert node.refused(reg(node, pd=pd, offset=2 * BLOCK), session=2)[0] == "EBUSY"
    assert node.refused(reg(node, pd=pd, length=3 * BLOCK), session=2)[0] == "EBUSY"
    node.send(reg(node, pd=pd, length=2 * BLOCK), 2)
    node.send(reg(node, pd=pd, offset=3 * BLOCK), 2)
    node.go()
    assert len(node.of(fx.InstallKey)) == 3
    node.ask(reg(node, pd=pd, offset=2 * BLOCK), 2)
    assert node.quiet()
