"""Devices, mounts, their protocols, and the counts."""

from __future__ import annotations

import errno

import pytest

from emu.core import effects as fx
from emu.core import events as ev
from emu.core import requests as rq
from emu.core.errors import Refused
from emu.core.machine import Core
from emu.protocols import registry

BLOCK = 4096


@pytest.mark.parametrize(
    ("name", "blocks"),
    [("", 1), ("a/b", 1), ("pm9", 0), ("pm9", -1), ("pm9", 1 << 40), ("pm0", 65), ("pm0", 64)],
)
def test_bad_devices(node, name, blocks):
    with pytest.raises(Refused, match=":"):
        node.step(ev.DeviceAdded(name, blocks))


@pytest.mark.parametrize(
    ("path", "device", "protocol"),
    [
        ("relative", "pm2", "none"),
        ("/a/../b", "pm2", "none"),
        ("/new", "pm7", "none"),
        ("/new", "pm0", "none"),
        ("/mnt", "pm2", "none"),
        ("/new", "pm2", "prayer"),
    ],
)
def test_bad_mounts(node, path, device, protocol):
    node.step(ev.DeviceAdded("pm2", 8))
    before = node.core.canonical()
    with pytest.raises(Refused, match=":"):
        node.step(ev.MountAdded(path, device, dax=True, protocol=protocol))
    assert node.core.canonical() == before


def test_a_protocol_that_cannot_be_loaded_says_why():
    core = Core(registry.load().protocols, broken={"ask": "ask:PROTOCOL: ImportError: no module"})
    core.step(ev.SessionOpened(1, "s", door=True, wants=False))
    (failed,) = core.step(ev.Requested(1, 1, rq.SetProtocol("host", "ask")))
    assert (failed.errno, failed.sentence) == (
        errno.EINVAL, "protocol: protocol 'ask' cannot be loaded: ask:PROTOCOL: ImportError: no module"
    )  # fmt: skip


def test_a_mount_within_a_mount_gets_its_own_files(node):
    node.step(ev.DeviceAdded("pm2", 8))
    node.step(ev.MountAdded("/mnt/deep", "pm2", dax=True, protocol="none"))
    node.ask(rq.FsCreate("/mnt/deep/a", BLOCK))
    assert node.stat("/mnt/deep/a")["device"] == "pm2"


def test_a_protocol_is_changed_for_reclaims_that_begin_afterwards(node):
    node.file()
    node.mr()
    first = node.send(rq.FsPunch("/mnt/a", 0, BLOCK), 2)
    assert node.ask(rq.SetProtocol("/mnt"), 9)["protocol"] == "mr-revoke"
    assert node.send(rq.SetProtocol("/mnt", "ebusy"), 3)
    node.go()
    assert isinstance(node.answer(first), fx.Reply)
    node.mr(length=BLOCK, offset=BLOCK)
    assert node.refused(rq.FsTruncate("/mnt/a", 0), 2)[0] == "EBUSY"


def test_an_alias_is_resolved(node):
    assert node.ask(rq.SetProtocol("/mnt", "revoke"))["protocol"] == "mr-revoke"


def test_bad_protocols(node):
    assert node.refused(rq.SetProtocol("/nowhere"))[0] == "ENOENT"
    code, sentence = node.refused(rq.SetProtocol("/mnt", "prayer"))
    assert code == "EINVAL"
    assert ", ".join(sorted(registry.load().protocols)) in sentence
    assert node.refused(rq.SetProtocol("host", "none"))[0] == "EOPNOTSUPP"


def test_limits_can_be_asked_for(node):
    result = node.ask(rq.QueryDevice(), 9)
    assert result["max_qp"] == 4096
    assert result["max_mr"] == 65536
    assert result["policy"] == "freed-first"


def test_the_core_refuses_unknown_names_at_its_making():
    protocols = registry.load().protocols
    with pytest.raises(Refused, match="policy"):
        Core(protocols, policy="random")
    with pytest.raises(Refused, match="unknown"):
        Core(protocols, host_protocol="prayer")


@pytest.mark.parametrize(("policy", "expected"), [("freed-first", 0), ("fifo", 4)])
def test_what_was_freed_comes_first_or_last(make_node, policy, expected):
    node = make_node(policy=policy)
    node.file("/mnt/a", 4)
    node.ask(rq.FsTruncate("/mnt/a", 0))
    node.file("/mnt/b", 4)
    assert node.stat("/mnt/b")["extents"][0][1] == expected * BLOCK


def test_freed_blocks_wait_for_the_commit(node):
    node.file("/mnt/a", 64)
    node.step(ev.Requested(1, 1, rq.FsTruncate("/mnt/a", 0)), commit=False)
    node.step(ev.Requested(1, 2, rq.FsCreate("/mnt/b", BLOCK)), commit=False)
    assert node.answer(2).errno == 28
    assert node.core.books.limbo
    node.core.committed()
    node.file("/mnt/b", 64)


@pytest.mark.parametrize(
    "op",
    [
        rq.SetProtocol("/mnt", "x" * 5000),
        rq.SetProtocol("x" * 5000),
        rq.FsPlug("x" * 5000),
        rq.FsUnplug("x" * 5000),
    ],
)
def test_a_name_that_is_too_long_to_be_read_is_cut_in_the_refusal(node, op):
    _code, sentence = node.refused(op)
    assert f"'{'x' * 64}...'" in sentence
