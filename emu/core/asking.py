"""What the handlers of requests share: refusing with a sentence, looking handles up, checking numbers and paths.

A handle that does not exist and a handle of another session are refused alike (EINVAL): nobody learns what others have.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Final, NoReturn

from emu.core.effects import Fail, Reply
from emu.core.errors import Refused
from emu.core.rows import FOREVER, PSEUDO, File

if TYPE_CHECKING:
    from emu.core.books import Book, Books
    from emu.core.events import HostFile, Requested
    from emu.core.rows import Device, Mount

PATH_MAX: Final = 4096
NAME_MAX: Final = 255
IO_MAX: Final = 16 << 20  # bytes that one fs_read or fs_write may carry


def refuse(number: int, sentence: str) -> NoReturn:
    raise Refused(number, sentence)


def reply(b: Books, event: Requested, result: dict[str, Any] | None = None, descriptors: int = 0) -> None:
    answer(b, event.session, event.request, result, descriptors)


def answer(
    b: Books, session: int, request: int, result: dict[str, Any] | None = None, descriptors: int = 0
) -> None:
    """Reply, unless the session is gone or was never there."""
    if request and alive(b, session):
        b.emit(Reply(session, request, result or {}, descriptors))


def fail(b: Books, session: int, request: int, number: int, sentence: str, definite: bool = True) -> None:
    if request and alive(b, session):
        b.emit(Fail(session, request, number, sentence, definite))


def alive(b: Books, session: int) -> bool:
    row = b.sessions.get(session)
    return row is not None and not row.dying


def owned(book: Book[int, Any], event: Requested, handle: int, what: str) -> Any:
    """The row of a handle of this session."""
    row = book.get(handle)
    if row is None or row.session != event.session:
        refuse(errno.EINVAL, f"{what} {handle} is not a handle of this context: use one that it was given")
    return row


def check_range(name: str, value: int, low: int = 0, high: int = FOREVER - 1) -> None:
    if not low <= value <= high:
        refuse(errno.EINVAL, f"{name} {value} is out of range: use {low} to {high}")


def check_span(offset: int, length: int, least: int = 0) -> None:
    check_range("offset", offset)
    check_range("length", length, least)
    check_range("offset + length", offset + length)


def check_path(path: str) -> None:
    """An absolute path in its shortest form, or ENOENT, EINVAL, ENAMETOOLONG."""
    if not path:
        refuse(errno.ENOENT, "an empty path names nothing: use /MOUNT/NAME")
    if any(_unspeakable(char) for char in path):
        refuse(errno.EINVAL, f"path {path!r} holds control characters or is not UTF-8: use printable names")
    if not path.startswith("/"):
        refuse(errno.EINVAL, f"path {path!r} is not absolute: use /MOUNT/NAME")
    if len(path.encode("utf-8", "surrogateescape")) > PATH_MAX:
        refuse(
            errno.ENAMETOOLONG, f"a path of {len(path)} characters is too long: use at most {PATH_MAX} bytes"
        )
    for part in path[1:].split("/"):
        if part in {"", ".", ".."}:
            refuse(
                errno.EINVAL, f"path {path!r} holds an empty, '.' or '..' component: name the file directly"
            )
        if len(part.encode("utf-8", "surrogateescape")) > NAME_MAX:
            refuse(
                errno.ENAMETOOLONG,
                f"a name of {len(part)} characters is too long: use at most {NAME_MAX} bytes",
            )


def _unspeakable(char: str) -> bool:
    return char < " " or "\x7f" <= char < "\xa0" or "\ud800" <= char <= "\udfff"


def mount_of(b: Books, path: str) -> tuple[str, Mount]:
    """The mount that a file's path lies under: the longest that fits."""
    check_path(path)
    best = ""
    for mount in b.mounts:
        if path.startswith(mount.rstrip("/") + "/") and len(mount) > len(best):
            best = mount
    if not best:
        refuse(
            errno.ENOENT,
            f"path {path!r} is under no mount: the mounts are {', '.join(m for m in b.mounts if m[0] == '/') or 'none'}",
        )
    if b.mounts[best].raw:
        refuse(
            errno.EOPNOTSUPP,
            f"{best} is device-dax, which has no files: register the device itself (backing devdax), or mount another one with dax",
        )
    return best, b.mounts[best]


def online(b: Books, device: str) -> Device:
    row = b.devices[device]
    if not row.online:
        refuse(errno.ENODEV, f"device {device} is unplugged: plug it first (emu fs plug {device})")
    return row


def file_at(b: Books, path: str, gone: bool = False) -> tuple[int, File]:
    """A file that can be used now. gone: one that was taken away will do too."""
    mount_of(b, path)
    ino = b.file_at.first(path)
    if ino is None:
        refuse(errno.ENOENT, f"file {path} does not exist: create it first (emu fs create)")
    row = b.files[ino]
    online(b, row.device)
    if row.gone and not gone:
        refuse(errno.ENODEV, f"file {path} was taken away by unplug: unlink it, or plug its device anew")
    return ino, row


def host_file(event: Requested, what: str) -> HostFile:
    if event.host is None:
        refuse(errno.EBADF, f"{what} of a host file needs its descriptor: send it along with the message")
    return event.host


def mount_on(b: Books, device: str) -> str:
    """The mount whose protocol speaks for a device, "" without one."""
    return next((path for path, row in b.mounts.items() if row.device == device), "")


def backing_of(b: Books, mount: str) -> str:
    """What registrations on this mount are made of: one of contract.BACKINGS."""
    row = b.mounts[mount]
    if mount in PSEUDO:
        return mount
    return "devdax" if row.raw else "dax" if row.dax else "page-cache"
