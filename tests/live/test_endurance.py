"""kill -9 of anybody at any point, again and again: who is killed is gone at once, nothing is left over, nothing acknowledged is lost.

What the tests count on is the broker's own history and its books: when it learned of a death, when all that the dead one held was
gone, whether work was under way, and how the blocks add up.
"""

from __future__ import annotations

import json
import os
import random
import signal
from pathlib import Path

import pytest
from party import Remote, RemoteError, until

from emu.history.oplog import read_oplogs
from emu.history.runs import latest_run

MIB = 1 << 20
SIZE = 8 * MIB
ROUNDS = 50
DEVICE_BYTES = 32 * MIB


def lines(run: Path, kind: str) -> list[dict]:
    """The history's lines of one type, in order."""
    files = sorted(run.glob("events*.jsonl"), key=lambda path: path.stat().st_mtime)
    every = (json.loads(line) for path in files for line in path.read_text().splitlines())
    return [line for line in every if line["type"] == kind]


def blocks_add_up(node) -> None:
    """S6: every block is free or has one owner, and the owners are the files."""
    books = node.books["devices"][node.device]
    assert books["free"] + books["owned"] + books["quarantined"] == books["total"]
    taken: set[int] = set()
    for file in node.fs.ls()["files"]:
        for _, device, length, _ in node.fs.stat(file["path"])["extents"]:
            mine = set(range(device // 4096, (device + length) // 4096))
            assert not mine & taken, f"{file['path']} shares blocks {sorted(mine & taken)[:4]}"
            taken |= mine
    assert len(taken) == books["owned"]


def shared_memory(pid: int) -> list[str]:
    """The memfds that the broker has open or mapped."""
    links = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()]
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return sorted(link for link in links if "/memfd:" in link) + sorted(
        line.split(maxsplit=5)[5] for line in maps if "/memfd:" in line
    )


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


class Troupe:
    """Holder, peer and reclaimer, each replaced when it was killed; the next ones are started ahead."""

    def __init__(self, node) -> None:
        self.node = node
        self.cast: dict[str, Remote] = {}
        self.spare: dict[str, Remote] = {}
        self.turn = 0

    def ready(self, role: str) -> Remote:
        if role not in self.cast:
            self.cast[role] = self.spare.pop(role, None) or Remote(self.node.dir, role)
            self.cast[role].opened()
        return self.cast[role]

    def understudy(self, role: str) -> None:
        self.spare[role] = Remote(self.node.dir, role)

    def scene(self) -> dict:
        """A registered file, two connected queue pairs, and the peer writing: always many times what the engine moves in a ms."""
        self.turn += 1
        holder, peer = self.ready("holder"), self.ready("peer")
        path = f"/mnt/v{self.turn}"
        holder.call("fs", "create", path, SIZE)
        target = holder.call("memory", f"v{self.turn}", SIZE, file=path)
        if self.turn == 1 or not hasattr(peer, "furnished"):
            peer.furnished = peer.call("memory", "m", SIZE)
        b, a = holder.call("pair", f"b{self.turn}"), peer.call("pair", f"a{self.turn}", depth=64)
        holder.call("connect", f"b{self.turn}", a)
        peer.call("connect", f"a{self.turn}", b)
        peer.begin("flood", f"a{self.turn}", "write", "m", target["rkey"], target["addr"], SIZE, SIZE, 60)
        return {"path": path, "key": target["rkey"], "qps": (a, b)}

    def clear(self, scene: dict, killed: str) -> None:
        """End the peer's flood, forget this round's objects."""
        if killed != "peer":
            peer = self.cast["peer"]
            peer.begin("destroy", f"a{self.turn}")
            peer.end()
            peer.end()
        if killed != "holder":
            self.cast["holder"].call("forget", f"v{self.turn}")
            self.cast["holder"].call("destroy", f"b{self.turn}")
        if scene["path"] in {file["path"] for file in self.node.fs.ls()["files"]}:
            self.node.fs.unlink(scene["path"], timeout=60)

    def close(self) -> None:
        for party in (*self.cast.values(), *self.spare.values()):
            party.kill()
        self.cast.clear()
        self.spare.clear()


@pytest.fixture
def troupe(fresh):
    node = fresh(size="32M")
    actors = Troupe(node)
    yield actors
    actors.close()


def objects(node) -> dict[str, int]:
    books = node.books
    return {
        name: books[name]
        for name in ("sessions", "pds", "mrs", "cqs", "qps", "reclaims", "teardowns", "tokens")
    }


@pytest.mark.timeout(300)
def test_fifty_kills_of_holder_peer_and_reclaimer(troupe):
    node = troupe.node
    node.fs.ls()
    nobody, memory, descriptors = objects(node), shared_memory(node.pid), open_files(node.pid)
    sessions: dict[int, tuple[str, dict]] = {}
    for turn in range(ROUNDS):
        victim = ("holder", "peer", "reclaimer")[turn % 3]
        scene = troupe.scene()
        actor = troupe.ready(victim)
        if victim == "reclaimer":
            stop_in_mid_reclaim(node, actor, scene)
        else:
            traffic_of(node, 64)
        rest = {role for role in troupe.cast if role != victim}
        actor.kill()
        del troupe.cast[victim]
        until(lambda: node.books["sessions"], nobody["sessions"] + len(rest))
        if victim == "reclaimer":
            node.clerk.call("hold_release", point="quantum-half")
        sessions[actor.session] = (victim, scene)
        troupe.clear(scene, victim)
        blocks_add_up(node)
        if turn + 3 < ROUNDS:
            troupe.understudy(victim)
    troupe.close()
    until(lambda: objects(node), nobody)
    until(lambda: shared_memory(node.pid), memory)
    until(lambda: open_files(node.pid), descriptors)
    judge(latest_run(node.path / "runs"), sessions)


def stop_in_mid_reclaim(node, reclaimer: Remote, scene: dict) -> None:
    """The peer's work is held in the middle of a copy, so the truncate cannot end: then its reclaimer dies."""
    call = node.clerk.call
    call("hold_arm", point="quantum-half", key=scene["key"])
    call("hold_wait", point="quantum-half")
    reclaimer.begin("fs", "truncate", scene["path"], 0)
    until(lambda: node.books["reclaims"], 1)


def traffic_of(node, megabytes: int) -> None:
    """Until the engine has moved this much more."""
    stats = lambda: node.clerk.call("stats").result["engine"]["bytes"]  # noqa: E731
    goal = stats() + megabytes * MIB
    until(lambda: stats() >= goal, timeout=60)


def judge(run: Path, sessions: dict[int, tuple[str, dict]]) -> None:
    """Each was gone within a second of its death; at least 40 had work under way when the broker learned of it."""
    lost = {line["session"]: line["t"] for line in lines(run, "SessionLost")}
    ended = {line["session"]: line["t"] for line in lines(run, "EndSession")}
    phases = lines(run, "Phase")
    records = [record for log in read_oplogs(run) for record in log.records]
    working = 0
    for session, (victim, scene) in sessions.items():
        assert ended[session] - lost[session] < 1e9, f"{victim} {session} took too long to take back"
        if victim == "reclaimer":
            mine = [line for line in phases if scene["key"] in line.get("keys", ())]
            working += any(line["inflight"] > 0 and line["t"] <= lost[session] for line in mine)
        else:
            mine = [r for r in records if r.qp_num == scene["qps"][0]]
            working += any(r.time_first <= lost[session] <= r.time_last for r in mine) or unfinished(mine)
    assert working >= 40, f"only {working} of {len(sessions)} had work under way"


def unfinished(records: list) -> bool:
    """An operation of this queue pair had begun, and its last byte never came."""
    return sum(r.bytes for r in records) != SIZE * sum(r.op_done for r in records)


def test_a_stopped_holder_is_not_taken_for_dead(fresh, party, remote):
    """Timers at a hundredth: a hundred times the silence that would end a remote control session."""
    node = fresh(time_scale=0.001)
    holder, peer = remote(node, "holder"), party(node, "peer")
    holder.call("fs", "create", "/mnt/a", MIB)
    target = holder.call("memory", "file", MIB, file="/mnt/a")
    peer.memory("m", MIB)
    b, a = holder.call("pair", "b"), peer.pair("a")
    holder.call("connect", "b", a)
    peer.connect("a", b)
    sessions = node.books["sessions"]
    os.kill(holder.pid, signal.SIGSTOP)
    try:
        for _ in range(50):
            assert peer.do("a", "write", "m", rkey=target["rkey"], addr=target["addr"]) == "SUCCESS"
            assert peer.event(timeout=0.06) is None
        assert node.books["sessions"] == sessions
        assert node.books["mrs"] == 2
        node.fs.truncate("/mnt/a", 0, timeout=60)  # V17: no action of the holder is needed
        assert peer.do("a", "write", "m", rkey=target["rkey"], addr=target["addr"]) == "REM_ACCESS_ERR"
    finally:
        os.kill(holder.pid, signal.SIGCONT)
    assert holder.call("event")["event"] == "QP_ACCESS_ERR"
    holder.call("forget", "file")


@pytest.mark.timeout(300)
def test_fifty_kills_of_the_broker_under_load(fresh):
    node = fresh(size="32M")
    clerk, holder, peer = (Remote(node.dir, name) for name in ("clerk", "holder", "peer"))
    dice = random.Random(7)
    try:
        for party in (clerk, holder, peer):
            party.opened()
        acknowledged = 0
        for turn in range(ROUNDS):
            flood(holder, peer)
            clerk.begin("churn", "c", 11)
            for _ in range(dice.randrange(1, 60)):
                node.fs.ls()
            node.kill()
            acknowledged += clerk.end()
            with pytest.raises(RemoteError) as error:
                peer.end()
            assert error.value.errno == 5
            node.start()
            for party in (clerk, holder, peer):
                party.call("reopen")
            assert clerk.call("verify", "c") == [], f"after kill {turn}"
            blocks_add_up(node)
        assert acknowledged > ROUNDS
    finally:
        for party in (clerk, holder, peer):
            party.kill()


def flood(holder: Remote, peer: Remote) -> None:
    """DMA into a file, without pause."""
    if "/mnt/dma" not in {file["path"] for file in holder.call("fs", "ls")["files"]}:
        holder.call("fs", "create", "/mnt/dma", SIZE)
    target = holder.call("memory", "file", SIZE, file="/mnt/dma")
    peer.call("memory", "m", MIB)
    b, a = holder.call("pair", "b"), peer.call("pair", "a", depth=64)
    holder.call("connect", "b", a)
    peer.call("connect", "a", b)
    peer.begin("flood", "a", "write", "m", target["rkey"], target["addr"], SIZE, MIB // 4, 48)
