"""Device-dax on a real node: DMA to the bare device, taken back as a device."""

from __future__ import annotations

import errno

import pytest
from judged import wrong

from emu.verbs.node import Node
from emu.verbs.pyverbs_error import PyverbsRDMAError

BLOCK = 4096
DEV = "/dev/dax0"
RAW = ("--pmem", "raw0=1M", "--mount")


@pytest.fixture
def raw(fresh):
    return lambda protocol="mr-revoke": fresh(
        protocol, options=(*RAW, f"{DEV}=raw0,devdax,protocol={protocol}")
    )


def joined(node, party, offset=0, length=4 * BLOCK):
    """A holder of the device and a peer that can write there."""
    holder, peer = party(node, "holder", emu_events=True), party(node, "peer")
    target = holder.memory("m", length, device=DEV, offset=offset)
    peer.memory("src", length)
    numbers = holder.pair("q"), peer.pair("q")
    holder.connect("q", numbers[1])
    peer.connect("q", numbers[0])
    return holder, peer, {"rkey": target["rkey"], "addr": target["addr"]}


def test_a_peer_writes_the_bare_device(raw, party):
    node = raw()
    holder, peer, target = joined(node, party, offset=8 * BLOCK)
    peer.put("src", (b"\x5a" * BLOCK).hex())
    assert peer.do("q", "write", "src", length=BLOCK, **target) == "SUCCESS"
    assert holder.get("m", BLOCK) == (b"\x5a" * BLOCK).hex()
    image = (node.path / "raw0.img").read_bytes()
    assert image[8 * BLOCK : 9 * BLOCK] == b"\x5a" * BLOCK


def test_its_bytes_outlive_the_broker(tmp_path, party):
    options = (*RAW, f"{DEV}=raw0,devdax")
    for byte in (b"\0", b"\x77"):
        with Node("mr-revoke", "1M", directory=tmp_path, options=options) as node:
            holder = party(node, "holder")
            holder.memory("m", BLOCK, device=DEV)
            assert holder.get("m", BLOCK) == (byte * BLOCK).hex()
            holder.put("m", (b"\x77" * BLOCK).hex())
            holder.close()


def test_files_there_are_none(raw, party):
    here = party(raw())
    with pytest.raises(PyverbsRDMAError, match="device-dax, which has no files") as caught:
        here.fs("create", f"{DEV}/a", BLOCK)
    assert caught.value.errno == errno.EOPNOTSUPP


@pytest.mark.parametrize("surprise", [False, True])
def test_an_unplug_revokes_it(raw, party, surprise):
    node = raw()
    holder, peer, target = joined(node, party)
    assert peer.do("q", "write", "src", **target) == "SUCCESS"
    holder.fs("unplug", DEV if not surprise else "raw0", surprise)
    assert holder.event()["event"] == "MR_REVOKED"
    assert peer.do("q", "write", "src", **target) == "REM_ACCESS_ERR"


def test_a_surprise_under_ebusy_leaves_dma_to_absent_memory_and_then_to_the_next_namespace(raw, party):
    node = raw("ebusy")
    holder, peer, target = joined(node, party)
    with pytest.raises(PyverbsRDMAError) as caught:
        holder.fs("unplug", "raw0")
    assert caught.value.errno == errno.EBUSY
    holder.fs("unplug", "raw0", True)
    assert peer.do("q", "write", "src", length=BLOCK, **target) == "SUCCESS"  # a posted write vanishes
    holder.fs("plug", "raw0")
    peer.put("src", (b"\x5a" * BLOCK).hex())
    assert peer.do("q", "write", "src", length=BLOCK, **target) == "SUCCESS"
    image = (node.path / "raw0.img").read_bytes()
    assert image[:BLOCK] == b"\x5a" * BLOCK, "a stale translation reaches the new namespace"
    assert image[BLOCK : 2 * BLOCK] == b"CANARY\0\1" * 512


def test_the_history_is_one_that_the_model_would_have_made(tmp_path, party):
    options = (*RAW, f"{DEV}=raw0,devdax,protocol=mr-revoke")
    with Node("mr-revoke", "1M", directory=tmp_path, options=options) as node:
        holder, peer, target = joined(node, party)
        assert peer.do("q", "write", "src", **target) == "SUCCESS"
        holder.fs("poison", DEV, 2 * BLOCK)
        holder.forget("m")
        holder.memory("m", 2 * BLOCK, device=DEV)
        holder.fs("unplug", "raw0")
        holder.fs("plug", "raw0")
        holder.forget("m")
        holder.memory("again", BLOCK, device=DEV)
        holder.close(), peer.close()
    assert wrong(tmp_path, "mr-revoke") == []
