"""The peer takes whatever its completion queue says: the journal keeps it, and the verdict speaks of it."""

from types import SimpleNamespace

import pytest
from emu.clients import peer as module
from emu.clients.peer import Peer

from emu.history.journal import Journal, Kind, read_journal


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
