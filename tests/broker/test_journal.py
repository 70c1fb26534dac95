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


FULL = """
import errno, os, sys
from pathlib import Path
from emu.broker import reserve
from emu.broker.journal import Journal
home = Path(sys.argv[1])
journal = Journal(home / "b")
journal.commit([("files", 1, ("/mnt/a", 0))])
assert journal.reserve.bytes == reserve.SIZE == (home / "reserve").stat().st_size
with (home / "filler").open("wb", buffering=0) as filler:
    try:
        while True:
            filler.write(bytes(4096))
    except OSError as error:
        assert error.errno == errno.ENOSPC
def commits(count, **kind):
    for n in range(count):
        journal.commit([("files", 1, ("/mnt/a", n))], **kind)
try:
    commits(1000)
except OSError as error:
    assert error.errno == errno.ENOSPC, error
    print("refused")
assert journal.reserve.bytes == reserve.SIZE, "requests leave it alone"
commits(3000, fact=True)
assert [row for _, _, row in journal.load()] == [("/mnt/a", 2999)]
assert 0 < journal.reserve.bytes < reserve.SIZE, journal.reserve.bytes
(home / "filler").unlink()
commits(1)
assert journal.reserve.bytes == reserve.SIZE == (home / "reserve").stat().st_size
print("noted")
"""


def test_on_a_full_disk_requests_are_refused_and_facts_noted(tmp_path):
    mount = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    script = 'mount -t tmpfs -o size=1m none "$1" && exec "$2" -c "$3" "$1"'
    if subprocess.run([*mount, "mount -t tmpfs none /mnt"], check=False, capture_output=True).returncode:
        pytest.skip("no tmpfs of one's own here: unshare and user namespaces are needed")
    ended = subprocess.run(
        [*mount, script, "sh", str(tmp_path), sys.executable, FULL],
        check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (ended.stdout, ended.stderr) == ("refused\nnoted\n", "")


def test_a_disk_that_is_full_at_the_start_leaves_no_reserve_and_is_no_error(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as disk:
        disk.setattr(os, "posix_fallocate", full)
        journal = Journal(tmp_path / "b")
        assert journal.reserve.bytes == 0
        journal.commit([FILE], fact=True)
    journal.commit([FILE])
    assert journal.reserve.bytes == (tmp_path / "reserve").stat().st_size > 0
    journal.close()
