"""The peer takes whatever its completion queue says: the journal keeps it, and the verdict speaks of it."""

import os
from types import SimpleNamespace

import pytest
from emu.clients import peer as module
from emu.clients.links import Target
from emu.clients.peer import Peer, Stream

from emu.history.journal import Journal, Kind, read_journal
from emu.history.stamp import Cell, encode
from emu.verbs import enums as e


class Silent:
    """A completion queue from which nothing comes any more."""

    def __init__(self):
        self.waits = 0

    def poll(self, _count):
        return 0, []

    def wait(self, _seconds):
        self.waits += 1


@pytest.fixture
def peer(tmp_path):
    made = Peer.__new__(Peer)
    made.journal = Journal(tmp_path / "peer.jrnl", "peer", 16)
    stream = SimpleNamespace(outstanding=2, good=0, bad=0, alive=True, opcode=0)
    made.by_number, made.streams = {11: stream}, {"write": stream}
    made.inflight = {1: 0, 2: 1}
    made.cq = Silent()
    made.path = tmp_path / "peer.jrnl"
    return made


def completion(number):
    return SimpleNamespace(qp_num=11, wr_id=number, status=0)


@pytest.mark.parametrize("number", [1, 77])
def test_a_completion_too_many_is_kept_and_counts_for_nothing(peer, number):
    peer._completed(completion(1))
    peer._completed(completion(number))
    stream = peer.streams["write"]
    assert (stream.outstanding, stream.good) == (1, 1)
    assert [record.wr_id for record in read_journal(peer.path).of(Kind.POLLED)] == [1, number]


def test_a_completion_that_never_comes_is_not_awaited_for_ever(peer, monkeypatch):
    monkeypatch.setattr(module, "SILENCE", 0.05)
    peer._drain(*peer.streams.values())
    assert peer.cq.waits > 0
    assert peer.streams["write"].outstanding == 2


def test_a_run_that_never_ends_does_not_lose_the_beginning_of_its_journal(tmp_path, monkeypatch):
    peer = Peer.__new__(Peer)
    peer.journal, peer.going = Journal(tmp_path / "peer.jrnl", "peer", 1 << 10), True
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    fast = [peer._allowance() for _ in range(3)]
    assert min(fast) >= 1 << 9, "as many as there is room for"
    posted = 0
    for _millisecond in range(600_000):
        clock[0] += 0.001
        if peer._allowance():
            posted += 1
            for _ in range(module.RECORDS):
                peer.journal.mark(1)
    assert posted > peer.journal.capacity // 2 // module.RECORDS, "it goes on, more slowly"
    assert read_journal(tmp_path / "peer.jrnl").missing == 0
    assert peer._allowance() == 0
    peer.going = False
    assert peer._allowance() == 1, "for the last words there is room"


# ---- a peer that hears

MINE, ANOTHERS = 0x101, 0x202


class Told:
    """A context with one event to tell."""

    def __init__(self, name, **fields):
        kind = e.ibv_event_type[f"EMU_EVENT_{name}"]
        self.events = [SimpleNamespace(event_type=kind, fields=fields, ack=lambda: None)]
        self.heard, ear = os.pipe()
        os.write(ear, b"!")
        os.close(ear)
        self.session = SimpleNamespace(event_fd=self.heard, fatal=False)

    def get_async_event(self, timeout):
        assert timeout == 0
        return self.events.pop() if self.events else None


@pytest.fixture
def hearing(peer):
    """A peer with two streams towards a key, and another on its own."""
    peer.streams = {
        name: Stream(name, None, 0, SimpleNamespace(length=4096, buf=0, lkey=1), 4096, 8)
        for name in ("write", "read", "spare")
    }
    for name in ("write", "read"):
        peer.streams[name].aim(Target(MINE, 0, 4096, 7, 1, 0))
    peer.hears = True
    yield peer
    os.close(peer.ctx.heard)


@pytest.mark.parametrize(("notice", "code"), [("MR_REVOKING", 1000), ("MR_REVOKED", 1001)])
def test_a_peer_that_is_told_posts_no_more_under_that_key(hearing, notice, code):
    hearing.ctx = Told(notice, rkey=MINE)
    hearing._hear()
    assert [stream.room for stream in hearing.streams.values()] == [0, 0, 0]
    assert not hearing._alive
    (record,) = read_journal(hearing.path).of(Kind.EVENT)
    assert (record.code, record.key, record.value) == (code, 0, MINE), "the journal has whose key it was"


def test_what_it_had_posted_is_awaited_before_it_says_so(hearing):
    hearing.ctx = Told("MR_REVOKING", rkey=MINE)
    hearing.streams["read"].outstanding = 1
    hearing._hear()
    assert not hearing._drained()
    hearing.streams["read"].outstanding = 0
    assert hearing._drained()


def test_another_key_is_none_of_its_business(hearing):
    hearing.ctx = Told("MR_REVOKING", rkey=ANOTHERS)
    hearing._hear()
    assert hearing._alive
    assert hearing.streams["write"].room == 8


def test_it_goes_on_with_the_key_that_it_is_given_next(hearing):
    hearing.ctx = Told("MR_REVOKING", rkey=MINE)
    hearing._hear()
    hearing.streams["write"].aim(Target(ANOTHERS, 0, 4096, 8, 1, 0))
    assert hearing.streams["write"].room == 8


@pytest.mark.parametrize(
    ("ino", "layout", "on_demand", "foreign"),
    [(7, 1, 0, False), (7, 2, 0, True), (7, 2, 1, False), (8, 1, 0, True), (8, 2, 1, True)],
)
def test_what_was_read_is_foreign_where_its_region_could_not_have_seen_it(
    peer, ino, layout, on_demand, foreign
):
    """A newer layout of the same file is what a region on demand is for; another file's bytes are nobody's to read."""
    peer.leaked = {}
    cell = encode(Cell(writer=9, ino=ino, wr=1, layout=layout, namespace=1, offset=0))
    peer._judge(cell, Target(MINE, 0, 4096, 7, 1, 0, on_demand), 0)
    assert bool(peer.leaked) is foreign
