"""What Python's os lacks of the kernel's file calls, and the few steps that must be done in one order."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_KEEP_SIZE = 0x01
_PUNCH_HOLE = 0x02
_ZERO_RANGE = 0x10
_ZEROS = 1 << 20  # at a time
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def punch(fd: int, offset: int, length: int) -> None:
    """fallocate(PUNCH_HOLE | KEEP_SIZE). Raises OSError."""
    while _libc.fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length):
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, f"punch {length} bytes at {offset}: {os.strerror(number)}")


def zero_range(fd: int, offset: int, length: int) -> bool:
    """fallocate(ZERO_RANGE | KEEP_SIZE): zeros, with their space kept, at the price of extents and not of bytes; mappings see them.

    False: not to be had here (tmpfs has none; the range is not all inside the file); whoever asks writes the zeros. Raises nothing.
    """
    if os.fstat(fd).st_size < offset + length:
        return False
    return not _libc.fallocate(fd, _ZERO_RANGE | _KEEP_SIZE, offset, length)


def write_zeros(fd: int, offset: int, length: int) -> bool:
    """The same by write(2), which costs bytes, but no page fault each. False: the range is not all inside the file. Raises OSError."""
    end, zeros = offset + length, bytes(min(length, _ZEROS))
    if os.fstat(fd).st_size < end:
        return False
    while offset < end:
        offset += os.pwrite(fd, zeros[: end - offset], offset)
    return True


def open_sized(path: Path, size: int) -> int:
    """Open a file of exactly `size` bytes whose space is really there (no SIGBUS later); made if it is missing.

    Raises OSError: EEXIST when a file of another size is there, ENOSPC when the space cannot be had.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    found = os.fstat(fd).st_size
    if found not in {0, size}:
        os.close(fd)
        raise OSError(errno.EEXIST, f"{path} has {found} bytes, not {size}")
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if not found:
            os.ftruncate(
                fd, 0
            )  # part of it may be there: the next start would take it for a file of another size
        os.close(fd)
        raise OSError(error.errno, f"{size} bytes cannot be had: {error.strerror}", str(path)) from None
    return fd


@contextmanager
def named(path: Path) -> Iterator[None]:
    """An OSError that tells no file is about this one."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def lock(path: Path) -> int | None:
    """An exclusive flock, held as long as the returned descriptor lives, by kill -9 too. None: somebody else has it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def private_directory(path: Path) -> Path:
    """Make the directory, mode 0700, or check that the one that is there is ours and nobody else may write into it. Raises OSError.

    A directory that we did not make keeps its mode: somebody chose it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        _check_private(path)
    return path


def _check_private(path: Path) -> None:
    found = path.stat()
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, f"{path} is no directory: use another")
    if found.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, f"{path} belongs to uid {found.st_uid}, not to {os.geteuid()}")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        mode = stat.S_IMODE(found.st_mode)
        raise PermissionError(
            errno.EPERM, f"{path} has mode {mode:04o}, others may write there: chmod go-w it, or use another"
        )


def identity(path: Path) -> tuple[int, int]:
    """What tells this file from another of its name. Raises OSError."""
    found = path.lstat()
    return found.st_dev, found.st_ino


def unlink_socket(path: Path, own: tuple[int, int] | None = None) -> None:
    """Remove a socket, if there is one; anything else of that name stays. `own`: only the one of this identity."""
    try:
        if stat.S_ISSOCK(path.lstat().st_mode) and own in {None, identity(path)}:
            path.unlink()
    except FileNotFoundError:
        return


def is_regular(fd: int) -> bool:
    return stat.S_ISREG(os.fstat(fd).st_mode)


def is_writable(fd: int) -> bool:
    """Opened for reading and writing, as a shared writable mapping needs."""
    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
