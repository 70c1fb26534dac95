"""The durable books: SQLite, one row a row of the core's durable books, in JSON so that sqlite3(1) shows them.

    DIR/books.sqlite   table rows(book, key, row): devices, files, zeroing, and the counter of inode numbers

Each step of the core that changed something durable is one transaction, committed before any of the step's effects is carried out
or its answer sent. Promise: kill -9 of the broker at any point loses nothing that was acknowledged. That needs the writes to have
reached the kernel, not the disk, hence WAL with synchronous=OFF: a commit is two write(2) calls, some 30 us, and what
a power cut leaves is not promised (device images are not synced either). A transaction a step rather than a turn costs those
30 us only where files change, and a failed commit concerns exactly one request.

On a full disk a request is refused. What is a fact has to be noted, so its commit takes what it lacks from the reserve (reserve.py),
and lets the log begin anew, in the space that it has.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from emu.broker.reserve import Reserve

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

VERSION = 1
Change = tuple[str, Any, tuple[Any, ...] | None]

_ERRNO = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_BUSY: errno.EBUSY,
    sqlite3.SQLITE_LOCKED: errno.EBUSY,
    sqlite3.SQLITE_NOMEM: errno.ENOMEM,
    sqlite3.SQLITE_CANTOPEN: errno.EIO,
    sqlite3.SQLITE_CORRUPT: errno.EUCLEAN,
    sqlite3.SQLITE_NOTADB: errno.EUCLEAN,
}
_PUT = "INSERT INTO rows(book, key, row) VALUES (?, ?, ?) ON CONFLICT(book, key) DO UPDATE SET row = excluded.row"
_DROP = "DELETE FROM rows WHERE book = ? AND key = ?"
_encode = msgspec.json.encode
_decode = msgspec.json.decode


class Journal:
    """One broker's; the directory's lock keeps others out. Errors are OSError with an errno and the file's name."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.commits = 0
        try:
            self._db = sqlite3.connect(path, isolation_level=None, cached_statements=16)
        except sqlite3.Error as error:
            raise self._failed(error) from None
        try:
            self._prepare()
        except sqlite3.Error as error:
            self._db.close()
            raise self._failed(error) from None
        except BaseException:
            self._db.close()
            raise
        self.reserve = Reserve(path.with_name("reserve"))

    def _prepare(self) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=OFF")
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version not in {0, VERSION}:
            raise OSError(
                errno.EPROTO,
                f"{self._path} is of version {version}, this emu reads {VERSION}: use another --dir",
            )
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS rows(book TEXT, key TEXT, row TEXT NOT NULL, PRIMARY KEY(book, key)) WITHOUT ROWID"
        )
        self._db.execute(f"PRAGMA user_version={VERSION}")

    def load(self) -> list[Change]:
        """All rows, as `Core.load` takes them."""
        try:
            found = self._db.execute("SELECT book, key, row FROM rows ORDER BY book, key").fetchall()
            return [(book, _decode(key), tuple(_decode(row))) for book, key, row in found]
        except sqlite3.Error as error:
            raise self._failed(error) from None
        except (msgspec.DecodeError, TypeError):
            raise OSError(errno.EUCLEAN, f"{self._path} holds rows that are not emu's") from None

    def commit(self, delta: Sequence[Change], *, fact: bool = False) -> None:
        """All or nothing. Raises OSError; then nothing has changed. `fact`: on a full disk what is reserved is used."""
        try:
            self._write(delta)
        except OSError as error:
            if not fact or error.errno != errno.ENOSPC:
                raise
            self._make_fit(delta)
        self.commits += 1
        self.reserve.restore()

    def _make_fit(self, delta: Sequence[Change]) -> None:
        """The log's own space first, then the reserve's, a piece at a time."""
        while True:
            self._begin_log_anew()
            try:
                return self._write(delta)
            except OSError as error:
                if error.errno != errno.ENOSPC or not self.reserve.give():
                    raise

    def _begin_log_anew(self) -> None:
        """The next commit is written over what the database has by now. That may lack space too: then the log goes on as it is."""
        with suppress(sqlite3.Error):
            self._db.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()

    def _write(self, delta: Sequence[Change]) -> None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for book, key, row in delta:
                text = _encode(key).decode()
                if row is None:
                    self._db.execute(_DROP, (book, text))
                else:
                    self._db.execute(_PUT, (book, text, _encode(row).decode()))
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise self._failed(error) from None

    def close(self) -> None:
        """Raises nothing: what was committed is in the log already."""
        self._db.close()

    def _failed(self, error: sqlite3.Error) -> OSError:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_IOERR) & 0xFF
        number = _ERRNO.get(code, errno.EIO)
        return OSError(number, f"{self._path} cannot be written ({error}): {os.strerror(number)}")
