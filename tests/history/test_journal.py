"""A client's journal survives its kill -9, and says what its ring has lost."""

import os
import signal
import subprocess
import sys

import pytest

from emu.history.journal import (
    HEADER,
    RECORD,
    Journal,
    JournalError,
    JournalFile,
    Kind,
    Record,
    read_journal,
    write_journal,
)

VICTIM = """
import os, signal, sys
from emu.history.journal import Journal
journal = Journal(sys.argv[1], "victim", 1000)
for n in range(500):
    journal.posted(17, n, 0, key=0x101, length=64, address=4096 + n, offset=n, ino=2, layout=1)
    journal.polled(17, n, 10, length=64)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_every_record_noted_before_a_kill_is_there(tmp_path):
    path = tmp_path / "victim.jrnl"
    ended = subprocess.run([sys.executable, "-c", VICTIM, str(path)], check=False, env=os.environ)
    assert ended.returncode == -signal.SIGKILL
    journal = read_journal(path)
    assert (journal.name, journal.written, journal.missing) == ("victim", 1000, 0)
    posted, polled = list(journal.of(Kind.POSTED)), list(journal.of(Kind.POLLED))
    assert [r.wr_id for r in posted] == [r.wr_id for r in polled] == list(range(500))
    assert (posted[3].key, posted[3].address, posted[3].offset, posted[3].ino, posted[3].layout) == (
        0x101,
        4099,
        3,
        2,
        1,
    )
    assert polled[3].code == 10
    assert all(a.time <= b.time for a, b in zip(journal.records, journal.records[1:], strict=False))


def test_a_full_ring_says_how_many_are_gone(tmp_path):
    with Journal(tmp_path / "j", "n", capacity=8) as journal:
        for n in range(20):
            journal.mark(n, n * n)
    found = read_journal(tmp_path / "j")
    assert (found.written, found.missing) == (20, 12)
    assert [(r.code, r.value) for r in found.records] == [(n, n * n) for n in range(12, 20)]


def test_calls_and_events_are_noted(tmp_path):
    with Journal(tmp_path / "j", "n", capacity=8) as journal:
        journal.called(1, 5)
        journal.event(1001, key=9)
        journal.returned(1, 16)
    kinds = [(r.kind, r.code, r.key, r.value) for r in read_journal(tmp_path / "j").records]
    assert kinds == [(Kind.CALLED, 1, 0, 5), (Kind.EVENT, 1001, 9, 0), (Kind.RETURNED, 1, 0, 16)]


def test_a_journal_is_never_overwritten(tmp_path):
    Journal(tmp_path / "j", "n", capacity=8).close()
    with pytest.raises(FileExistsError):
        Journal(tmp_path / "j", "n", capacity=8)


@pytest.mark.parametrize("raw", [b"", b"x" * 5000, b"EMUJRNL\0" + b"\xff" * (HEADER + RECORD)])
def test_something_else_is_refused(tmp_path, raw):
    (tmp_path / "j").write_bytes(raw)
    with pytest.raises(JournalError):
        read_journal(tmp_path / "j")


def test_a_journal_that_is_written_whole_comes_back_equal(tmp_path):
    records = tuple(Record(Kind.MARK, code=n, time=n + 1) for n in range(3))
    journal = JournalFile("peer", 3, 0, records)
    write_journal(tmp_path / "peer.jrnl", journal)
    assert read_journal(tmp_path / "peer.jrnl") == journal
