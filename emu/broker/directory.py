"""Which directories are a broker's: a new one, an empty one, or one that a broker had before; ours, and closed to others' writing.

A broker removes sockets, overwrites its lock and, with --ephemeral, removes the whole directory: whatever else is there must not
be somebody else's. What tells is books.sqlite, or, of a start that came to nothing before there were any, a lock in our format and
no stranger beside it.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from typing import TYPE_CHECKING

from emu.host.files import private_directory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LOCK, BOOKS, DOOR, ZMQ, RUNS = "lock", "books.sqlite", "door", "zmq", "runs"
_BEFORE_BOOKS = {LOCK, RUNS}
_LOCK_BYTES = 32
_PID = re.compile(rb"(\d+\n)?")


def take(path: Path) -> Path:
    """The directory, absolute, made if it is missing. Raises OSError: EPERM, ENOTEMPTY; nothing has changed then."""
    directory = private_directory(path).resolve()
    names = {entry.name: entry for entry in os.scandir(directory)}
    strange = [name for name in (DOOR, ZMQ) if name in names and not _is(names[name], stat.S_ISSOCK)]
    if strange or not (_has_books(names) or _began(directory, names)):
        stranger = (strange or sorted(set(names) - _BEFORE_BOOKS) or [LOCK])[0]
        raise OSError(
            errno.ENOTEMPTY,
            f"it holds something else ({stranger} is no broker's): use a new or empty directory",
        )
    return directory


def _is(entry: os.DirEntry[str], kind: Callable[[int], bool]) -> bool:
    return kind(entry.stat(follow_symlinks=False).st_mode)


def _has_books(names: dict[str, os.DirEntry[str]]) -> bool:
    return BOOKS in names and _is(names[BOOKS], stat.S_ISREG)


def _began(directory: Path, names: dict[str, os.DirEntry[str]]) -> bool:
    """Nothing but what a start makes before the books. A lock is empty until its owner has written its pid."""
    if not names:
        return True
    if not set(names) <= _BEFORE_BOOKS or LOCK not in names or not _is(names[LOCK], stat.S_ISREG):
        return False
    with (directory / LOCK).open("rb") as lock:
        return bool(_PID.fullmatch(lock.read(_LOCK_BYTES)))
