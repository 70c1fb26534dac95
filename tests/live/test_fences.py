"""Recalls and fences of real clients, storage that will not confirm, and what is kept under pins through a kill of the broker."""

from __future__ import annotations

import json
import signal

import pytest
from party import Party, Remote
from served import PATIENCE, Served, await_true, emu

from emu.check.history import History
from emu.check.invariants import judge
from emu.check.validate import validate
from emu.protocols import registry
from emu.wire.errors import RequestRefused

BLOCK = 4096
SIZE = 1 << 20
PROTOCOLS = registry.load().protocols


@pytest.fixture
def serve(tmp_path):
    """Starts a broker whose mount has this protocol."""
    started = []

    def start(protocol, size="8M", scale=0.1):
        options = ("--pmem", f"pm0={size}", "--mount", f"/mnt=pm0,dax,protocol={protocol}")
        started.append(Served(tmp_path / "node", *options, scale=scale))
        return started[0]

    yield start
    for served in started:
        served.close()


@pytest.fixture
def scene(serve):
    """A holder that may be deaf, a peer that asked for events, another process that floods the holder's memory."""
    parts = []

    def make(protocol, scale=0.1):
        served = serve(protocol, scale=scale)
        holder, peer = (Party(served.dir, name, emu_events=True) for name in ("holder", "peer"))
        holder.fs("create", "/mnt/a", SIZE)
        target = holder.memory("file", SIZE, file="/mnt/a")
        flooder = Remote(served.dir, "flooder").opened()
        flooder.call("memory", "m", 64 << 10)
        theirs = flooder.call("pair", "a", depth=16)
        mine = holder.pair("a")
        holder.connect("a", theirs)
        flooder.call("connect", "a", mine)
        holder.connect("b", peer.pair("b")) if holder.pair("b") else None
        peer.connect("b", holder.qps["b"].qp_num)
        flooder.begin("flood", "a", "write", "m", target["rkey"], target["addr"], SIZE, 64 << 10, 8)
        parts.extend((holder, peer, flooder))
        return served, holder, peer, flooder, target

    yield make
    for part in parts:
        part.close()


def stopped(flooder):
    """What the flood met; it ends with the next command."""
    flooder.begin("state", "a")
    answer = flooder.end()
    flooder.end()
    return answer["statuses"].keys()


def orphaned(node):
    return node.call("query_books").result["devices"]["pm0"]["orphaned"]


def ended(served):
    """The broker's clean end, and the history that it leaves."""
    assert served.end() == 0, served.words
    history = History.read(served.directory / "runs" / "1")
    assert [str(refusal) for refusal in validate(history, PROTOCOLS)] == []
    return history


def verdicts(history):
    return {one.name: one for one in judge(history)}


def test_a_fence_that_fails_keeps_the_right_until_it_is_confirmed(scene):
    """Three times the storage does not listen, and the DMA goes on; nothing is freed before the fourth."""
    served, holder, peer, flooder, target = scene("recall-fence")
    with served.connect() as admin:
        admin.call("fault", effect="FenceRight", count=3, errno="EIO")
        pending = admin.start("fs_truncate", path="/mnt/a", size=0)
        told = holder.event()
        assert (told["event"], told["fields"]["mr"]) == ("MR_REVOKING", target["handle"])
        heard = peer.event()
        assert (heard["event"], heard["fields"]) == (
            "MR_REVOKING",
            {"rkey": target["rkey"], "event": "truncate", "seconds": 2.0},
        )
        assert pending.result(PATIENCE).result == {}
        assert holder.event()["event"] == "MR_REVOKED"
        books = admin.call("query_books").result["devices"]["pm0"]
        assert books["free"] == books["total"]
    statuses = flooder.end()["statuses"]
    assert set(statuses) - {"SUCCESS", "WR_FLUSH_ERR"} == {"REM_ACCESS_ERR"}
    for part in (holder, peer, flooder):
        part.close()
    history = ended(served)
    answers = [line["errno"] for line in history.of("RightFenced")]
    assert answers == [5, 5, 5, 0]
    dropped, confirmed = history.of("DropRight")[0], history.of("RightFenced")[-1]
    released = history.of("Release")[0]
    assert confirmed["n"] < dropped["n"] < released["n"]
    found = verdicts(history)
    broken = {name for name in PROTOCOLS["recall-fence"].promises if found[name].breaches}
    assert not broken
    assert not found["V21"].untested
    assert not found["V14"].untested


def test_a_holder_who_gives_back_in_time_is_not_fenced(scene):
    served, holder, peer, flooder, _target = scene("recall-fence", 10.0)  # 20 s, however slow this machine is
    with served.connect() as admin:
        pending = admin.start("fs_truncate", path="/mnt/a", size=0)
        assert holder.event()["event"] == "MR_REVOKING"
        holder.forget("file")
        assert pending.result(PATIENCE).result == {}
    flooder.end()
    for part in (holder, peer, flooder):
        part.close()
    history = ended(served)
    assert not history.of("FenceRight")
    right = history.of("GrantRight")[0]["right"]
    for kind in ("RightReturned", "DropRight"):
        assert [line["right"] for line in history.of(kind)].count(right) == 1, kind
    assert not verdicts(history)["V21"].breaches


def test_a_fault_is_checked_and_ends_with_its_session(serve):
    served = serve("recall-fence")
    with served.connect() as node:
        for bad in (
            {"effect": "Reply"},
            {"effect": "Quiesce", "errno": "OOPS"},
            {"effect": "Unmap", "count": -1},
        ):
            with pytest.raises(RequestRefused, match=r"use|number"):
                node.call("fault", **bad)
        node.call("fault", effect="InstallKey", count=1000)
    later = Party(served.dir, "later")
    later.memory("anon", BLOCK)
    later.close()


def test_a_quiesce_is_refused_as_often_as_was_asked(serve):
    served = serve("mr-revoke")
    holder = Party(served.dir, "holder")
    with served.connect() as node:
        node.call("fs_create", path="/mnt/a", size=SIZE)
        holder.memory("file", SIZE, file="/mnt/a")
        node.call("fault", effect="Quiesce", count=2)
        node.call("fs_truncate", path="/mnt/a", size=0, timeout=PATIENCE)
    holder.close()
    history = ended(served)
    assert [line["errno"] for line in history.of("Quiesced")][:3] == [5, 5, 0]


# ---- deferred-free


def test_space_that_is_kept_is_not_free_until_the_last_unpin(scene):
    served, holder, peer, flooder, _target = scene("deferred-free")
    with served.connect() as node:
        total = node.call("query_books").result["devices"]["pm0"]["total"]
        node.call("fs_truncate", path="/mnt/a", size=0)
        assert orphaned(node) == SIZE // BLOCK
        listed = json.loads(emu("fs", "--dir", served.dir, "--json", "ls").stdout)
        assert listed["devices"][0]["orphaned"] == SIZE // BLOCK
        with pytest.raises(RequestRefused, match="kept for DMA under pins"):
            node.call("fs_create", path="/mnt/b", size=(total - 1) * BLOCK)
        assert stopped(flooder) == {"SUCCESS"}
        holder.forget("file")
        assert orphaned(node) == 0
        node.call("fs_create", path="/mnt/b", size=total * BLOCK)
    for part in (holder, peer, flooder):
        part.close()
    history = ended(served)
    found = verdicts(history)
    assert not {name for name in PROTOCOLS["deferred-free"].promises if found[name].breaches}


@pytest.mark.parametrize("skip", range(2))
@pytest.mark.parametrize("point", ["before-commit", "after-commit", "before-effect", "after-effect"])
@pytest.mark.parametrize("step", ["truncate", "dereg"])
def test_a_kill_leaks_nothing(serve, step, point, skip):
    """Killed at each point of the step that keeps blocks under a pin, and of those that give them up."""
    served = serve("deferred-free")
    holder = Remote(served.dir, "holder").opened()
    with served.connect() as node:
        node.call("fs_create", path="/mnt/a", size=SIZE)
        node.call("fs_create", path="/mnt/b", size=SIZE)
        node.call("fs_write", path="/mnt/b", offset=0, data=b"stays")
        holder.call("memory", "file", SIZE // 2, file="/mnt/a")
        if step == "dereg":
            node.call("fs_truncate", path="/mnt/a", size=BLOCK)
            assert orphaned(node) == SIZE // 2 // BLOCK - 1
        node.call("hold_arm", point=point, skip=skip)
        if step == "truncate":
            node.start("fs_truncate", path="/mnt/a", size=BLOCK)
        else:
            holder.begin("forget", "file")
        held = node.start("hold_wait", point=point)
        await_true(
            "it is held, or was over before",
            lambda: held.done or _over(node, step),
        )
        served.end(signal.SIGKILL)
    holder.kill()
    served.start()
    with served.connect() as node:
        books = node.call("query_books").result["devices"]["pm0"]
        assert books["free"] + books["owned"] == books["total"], books
        assert (books["quarantined"], books["orphaned"]) == (0, 0)
        assert books["owned"] in {SIZE // BLOCK + 1, 2 * SIZE // BLOCK}
        assert node.call("fs_read", path="/mnt/b", offset=0, length=5).result["data"] == b"stays"
        generations = (served.directory / "pm0.gen").read_bytes()
        odd = sum(generations[at] & 1 for at in range(0, len(generations), 4))
        assert odd == books["free"]
        node.call("fs_create", path="/mnt/c", size=books["free"] * BLOCK)


def _over(node, step):
    """Everything that the step leads to has happened."""
    books = node.call("stats").result["books"]  # answered while the loop is held, too
    kept = books["devices"]["pm0"]["orphaned"]
    return not books["tokens"] and not books["teardowns"] and bool(kept) == (step == "truncate")


# ---- virtual-truncate


def test_a_pinned_file_is_as_long_as_it_was_and_has_what_was_written(scene):
    served, holder, peer, flooder, _target = scene("virtual-truncate")
    with served.connect() as node:
        node.call("fs_truncate", path="/mnt/a", size=0)
        found = node.call("fs_stat", path="/mnt/a").result
        assert (found["size"], found["blocks"]) == (SIZE, SIZE // BLOCK)
        assert stopped(flooder) == {"SUCCESS"}
        holder.put("file", b"here".hex())
        assert node.call("fs_read", path="/mnt/a", offset=0, length=4).result["data"] == b"here"
        holder.forget("file")
        node.call("fs_truncate", path="/mnt/a", size=0)
        assert node.call("fs_stat", path="/mnt/a").result["size"] == 0
    for part in (holder, peer, flooder):
        part.close()
    history = ended(served)
    found = verdicts(history)
    assert not {name for name in PROTOCOLS["virtual-truncate"].promises if found[name].breaches}
    assert found["S2"].breaches
