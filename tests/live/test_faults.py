"""Memory on demand, and memory that is led elsewhere: real processes, real bytes."""

from __future__ import annotations

import errno

import pytest
from judged import wrong
from party import ALL, until

from emu.verbs import enums as e
from emu.verbs.node import Node
from emu.verbs.pyverbs_error import PyverbsRDMAError

BLOCK = 4096
SIZE = 64 * BLOCK
FILL = "a5" * BLOCK


def joined(node, party, size=SIZE, access=ALL, path="/mnt/a"):
    """A holder of a file and a peer that can write there."""
    holder, peer = party(node, "holder", emu_events=True), party(node, "peer")
    holder.fs("create", path, size)
    target = holder.memory("m", size, access, file=path)
    peer.memory("src", size)
    peer.put("src", "a5" * size)
    numbers = holder.pair("q"), peer.pair("q")
    holder.connect("q", numbers[1])
    peer.connect("q", numbers[0])
    return holder, peer, {"rkey": target["rkey"], "addr": target["addr"]}


def again(holder, peer):
    """New queue pairs, the old ones are in error."""
    numbers = holder.pair("r"), peer.pair("r")
    holder.connect("r", numbers[1])
    peer.connect("r", numbers[0])


def at(target, offset):
    return {**target, "addr": target["addr"] + offset}


def stats(here):
    return here.ctx.call("stats").result["engine"]


def test_a_truncated_file_fails_behind_its_end_and_works_again_when_it_is_extended(fresh, party):
    node = fresh("odp")
    holder, peer, target = joined(node, party)
    assert peer.do("q", "write", "src", **target) == "SUCCESS"
    holder.fs("truncate", "/mnt/a", BLOCK)
    assert peer.do("q", "write", "src", length=BLOCK, **target) == "SUCCESS"
    assert peer.do("q", "write", "src", length=64, **at(target, 2 * BLOCK)) == "REM_ACCESS_ERR"
    assert until(lambda: holder.state("q"), "ERR") == "ERR"
    again(holder, peer)
    holder.fs("truncate", "/mnt/a", SIZE)
    assert peer.do("r", "write", "src", length=64, **at(target, 2 * BLOCK)) == "SUCCESS"
    assert holder.fs("read", "/mnt/a", 2 * BLOCK, 64) == "a5" * 64
    assert holder.fs("read", "/mnt/a", 3 * BLOCK, 64) == "00" * 64
    assert holder.event()["event"] == "QP_ACCESS_ERR"
    assert holder.event(0) is None, "nobody is told of the reclaims"


def test_a_hole_is_filled_with_fresh_zero_blocks_when_somebody_writes_there(fresh, party):
    node = fresh("odp")
    holder, peer, target = joined(node, party)
    assert peer.do("q", "write", "src", **target) == "SUCCESS"
    holder.fs("punch", "/mnt/a", 4 * BLOCK, 8 * BLOCK)
    holder.fs("create", "/mnt/b", 8 * BLOCK)
    assert peer.do("q", "write", "src", length=64, **at(target, 5 * BLOCK + 128)) == "SUCCESS"
    found = bytes.fromhex(holder.fs("read", "/mnt/a", 4 * BLOCK, 8 * BLOCK))
    assert found == bytes(BLOCK + 128) + b"\xa5" * 64 + bytes(8 * BLOCK - BLOCK - 192)
    assert holder.fs("read", "/mnt/b", 0, 8 * BLOCK) == "00" * 8 * BLOCK
    assert holder.fs("stat", "/mnt/a")["blocks"] == SIZE // BLOCK - 7


def test_a_read_of_what_was_taken_brings_nothing_of_others(fresh, party):
    node = fresh("odp")
    holder, peer, target = joined(node, party)
    assert peer.do("q", "write", "src", **target) == "SUCCESS"
    holder.fs("punch", "/mnt/a", 0, SIZE)
    holder.fs("create", "/mnt/b", SIZE)
    holder.fs("write", "/mnt/b", 0, b"\x77" * SIZE)
    assert peer.do("q", "read", "src", **target) == "SUCCESS"
    assert peer.get("src", SIZE) == "00" * SIZE


@pytest.mark.parametrize("surprise", [False, True])
def test_behind_an_unplug_every_access_fails_also_when_another_namespace_comes(fresh, party, surprise):
    node = fresh("odp")
    holder, peer, target = joined(node, party)
    holder.fs("unplug", "pm0", surprise)
    assert peer.do("q", "write", "src", length=64, **target) == "REM_ACCESS_ERR"
    again(holder, peer)
    holder.fs("plug", "pm0")
    assert peer.do("r", "write", "src", length=64, **target) == "REM_ACCESS_ERR"
    holder.forget("m")


def test_truncates_under_a_flood_cost_no_error_and_no_foreign_byte(fresh, remote, party):
    """Punched again and again while a peer writes: nobody but the file ever sees the bytes, and every write succeeds."""
    node = fresh("odp", options=("--threads", "2"))
    holder, _peer, target = joined(node, party)
    there = remote(node, "flooder")
    there.call("memory", "src", BLOCK)
    there.call("put", "src", "5a" * BLOCK)
    numbers = holder.pair("f"), there.call("pair", "f")
    holder.connect("f", numbers[1])
    there.call("connect", "f", numbers[0])
    there.begin("flood", "f", "write", "src", span=SIZE, piece=BLOCK, depth=8, **target)
    for round_ in range(12):
        before = stats(holder)["faults"]
        holder.fs("punch", "/mnt/a", 0, SIZE // 2)
        holder.fs("create", f"/mnt/victim{round_}", SIZE // 2)
        until(lambda before=before: stats(holder)["faults"] > before, True)
    there.begin("state", "f")
    flooded, _state = there.end(), there.end()
    assert set(flooded["statuses"]) == {"SUCCESS"}
    for round_ in range(12):
        assert holder.fs("read", f"/mnt/victim{round_}", 0, SIZE // 2) == "00" * (SIZE // 2)
    assert stats(holder)["parked"] == 0


def test_whoever_waits_under_a_reclaim_is_let_go_when_its_owner_ends(fresh, party):
    """A key is invalidated and its holder goes: the peer is refused, and nothing stays behind."""
    node = fresh("odp")
    holder, peer, target = joined(node, party)
    holder.fs("truncate", "/mnt/a", BLOCK)
    other = party(node, "other")
    holder.close()
    until(lambda: other.books()["mrs"], 1)  # the peer's own
    assert peer.do("q", "write", "src", length=64, **target) == "RETRY_EXC_ERR"
    assert until(lambda: other.books()["faults"], 0) == 0


def test_on_demand_is_asked_for_by_its_flag(fresh, party):
    access = ALL | int(e.IBV_ACCESS_ON_DEMAND)
    node = fresh("none")
    _holder, peer, target = joined(node, party, access=access)
    assert peer.do("q", "write", "src", length=64, **target) == "SUCCESS"
    strict = fresh("recall-fence")
    other = party(strict, "other")
    other.fs("create", "/mnt/a", BLOCK)
    with pytest.raises(PyverbsRDMAError, match="dynamic importer") as caught:
        other.memory("m", BLOCK, access, file="/mnt/a")
    assert caught.value.errno == errno.EOPNOTSUPP


def test_retarget_answers_success_and_the_bytes_are_nowhere(fresh, party):
    node = fresh("retarget")
    holder, peer, target = joined(node, party)
    holder.fs("truncate", "/mnt/a", BLOCK)
    holder.fs("create", "/mnt/b", SIZE - BLOCK)
    assert peer.do("q", "write", "src", **target) == "SUCCESS"
    assert holder.fs("read", "/mnt/b", 0, SIZE - BLOCK) == "00" * (SIZE - BLOCK)
    assert holder.fs("read", "/mnt/a", 0, BLOCK) == FILL, "what the file keeps is written as before"
    image = (node.path / "pm0.img").read_bytes()
    assert image.count(b"\xa5") == BLOCK
    assert holder.event(0) is None


def test_no_write_fails_while_a_file_is_retargeted_again_and_again(fresh, remote, party):
    """What comes between quiesce and switch waits; what behind the switch goes to the scratch page. None of it reaches another file."""
    node = fresh("retarget", options=("--threads", "2"))
    holder, _peer, target = joined(node, party)
    there = remote(node, "flooder")
    there.call("memory", "src", BLOCK)
    there.call("put", "src", "5a" * BLOCK)
    numbers = holder.pair("f"), there.call("pair", "f")
    holder.connect("f", numbers[1])
    there.call("connect", "f", numbers[0])
    there.begin("flood", "f", "write", "src", span=SIZE, piece=BLOCK, depth=8, **target)
    for round_ in range(16):
        before = stats(holder)["ops"]
        holder.fs("punch", "/mnt/a", round_ * 2 * BLOCK, 2 * BLOCK)
        holder.fs("create", f"/mnt/victim{round_}", 2 * BLOCK)
        until(lambda before=before: stats(holder)["ops"] > before, True)
    holder.fs("unlink", "/mnt/a")
    before = stats(holder)["ops"]
    until(lambda: stats(holder)["ops"] > before, True)
    there.begin("state", "f")
    flooded, state = there.end(), there.end()
    assert set(flooded["statuses"]) == {"SUCCESS"}
    assert state == "RTS"
    for round_ in range(16):
        assert holder.fs("read", f"/mnt/victim{round_}", 0, 2 * BLOCK) == "00" * (2 * BLOCK)
    assert stats(holder)["parked"] == 0
    assert stats(holder)["faults"] == 0, "nobody is asked for memory"


@pytest.mark.parametrize("surprise", [False, True])
def test_retarget_survives_the_device(fresh, party, surprise):
    node = fresh("retarget")
    holder, peer, target = joined(node, party)
    holder.fs("unplug", "pm0", surprise)
    assert peer.do("q", "write", "src", **target) == "SUCCESS"
    holder.fs("plug", "pm0")
    assert peer.do("q", "write", "src", **target) == "SUCCESS"
    assert b"\xa5" * 64 not in (node.path / "pm0.img").read_bytes()


@pytest.mark.parametrize("protocol", ["odp", "retarget"])
def test_the_history_is_one_that_the_model_would_have_made(tmp_path, party, protocol):
    with Node(protocol, "1M", directory=tmp_path) as node:
        holder, peer, target = joined(node, party)
        for step in (
            ("punch", "/mnt/a", BLOCK, 3 * BLOCK),
            ("truncate", "/mnt/a", 16 * BLOCK),
            ("truncate", "/mnt/a", SIZE),
        ):
            assert peer.do("q", "write", "src", length=16 * BLOCK, **target) == "SUCCESS"
            holder.fs(*step)
        assert peer.do("q", "write", "src", **target) == "SUCCESS"
        holder.fs("unlink", "/mnt/a")
        peer.do("q", "write", "src", length=64, **target)
        holder.forget("m")
        holder.close(), peer.close()
    assert wrong(tmp_path, protocol) == []
