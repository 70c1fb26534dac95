"""The durable books: what was committed is there after any end; what failed left nothing."""

import errno
import os
import signal
import sqlite3
import subprocess
import sys

import pytest

from emu.broker.journal import Journal

FILE = ("files", 3, ("/mnt/a", "pm0", 4096, ((0, 7, 1, 1),), 1, 1, False))

KILLED = """
import os, signal, sys
from pathlib import Path
from emu.broker.journal import Journal
journal = Journal(Path(sys.argv[1]))
for n in range(1000):
    journal.commit([("files", n, ("/mnt/a", n)), ("counters", "ino", (n,))])
    os.write(1, b"%d\\n" % n)
    if n == 500:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_rows_come_back_as_they_were(tmp_path):
    journal = Journal(tmp_path / "b")
    journal.commit([FILE, ("devices", "pm0", (1, 2048, True, 1)), ("counters", "ino", (3,))])
    journal.commit([("files", 3, None), ("counters", "ino", (4,))])
    journal.commit([])
    journal.close()
    again = Journal(tmp_path / "b")
    assert again.load() == [("counters", "ino", (4,)), ("devices", "pm0", (1, 2048, True, 1))]
    again.close()


def test_acknowledged_rows_survive_kill_9(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "b")], check=False, capture_output=True
    )
    assert ended.returncode == -signal.SIGKILL
    acknowledged = [int(line) for line in ended.stdout.split()]
    journal = Journal(tmp_path / "b")
    rows = {(book, key): row for book, key, row in journal.load()}
    journal.close()
    assert acknowledged[-1] == 500
    assert all(rows["files", n] == ("/mnt/a", n) for n in acknowledged)
    assert rows["counters", "ino"] == (500,)


def test_a_failed_commit_leaves_nothing_and_has_an_errno(tmp_path):
    journal = Journal(tmp_path / "b")
    journal.commit([FILE])
    pages = journal._db.execute("PRAGMA page_count").fetchone()[0]
    journal._db.execute(f"PRAGMA max_page_count={pages}")
    big = [("files", n, ("/mnt/" + "x" * 2000,)) for n in range(10, 200)]
    with pytest.raises(OSError, match=str(tmp_path)) as caught:
        journal.commit(big)
    assert caught.value.errno == errno.ENOSPC
    assert [key for _, key, _ in journal.load()] == [3]
    journal._db.execute("PRAGMA max_page_count=1000000")
    journal.commit(big)
    assert len(journal.load()) == 191
    journal.close()


def test_another_version_is_refused(tmp_path):
    Journal(tmp_path / "b").close()
    with sqlite3.connect(tmp_path / "b") as db:
        db.execute("PRAGMA user_version=9")
    db.close()
    with pytest.raises(OSError, match="version 9") as caught:
        Journal(tmp_path / "b")
    assert caught.value.errno == errno.EPROTO


def test_what_is_no_journal_is_refused(tmp_path):
    (tmp_path / "b").write_bytes(os.urandom(8192))
    with pytest.raises(OSError, match="cannot be") as caught:
        Journal(tmp_path / "b")
    assert caught.value.errno == errno.EUCLEAN


def test_rows_of_another_kind_are_refused(tmp_path):
    journal = Journal(tmp_path / "b")
    journal._db.execute("INSERT INTO rows VALUES ('files', 'no json', '[]')")
    with pytest.raises(OSError, match="not emu's"):
        journal.load()
    journal.close()
