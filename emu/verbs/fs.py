"""Files and devices of a node: what `emu fs` does, as methods. `ctx.fs.truncate("/mnt/a", 0)`.

A path below one of the node's mounts names a file there; any other path is a file of this host, which is opened here and sent
along. Errors are PyverbsRDMAError with the errno of the operation. truncate, punch, unlink and unplug are *reclaims*: they
take as long as the mount's protocol takes, perhaps for ever. `begin_truncate` and its sisters return at once a Reclaim, which can be waited
for or cancelled.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from emu.verbs.pyverbs_error import PyverbsRDMAError
from emu.verbs.session import pyverbs_errors
from emu.wire.codec import DATA_LIMIT
from emu.wire.listing import listing, mount_paths

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.verbs.session import Session
    from emu.wire.client import Pending


class Reclaim:
    """A truncate, punch, unlink or unplug under way."""

    def __init__(self, pending: Pending, what: str) -> None:
        self._pending, self._what = pending, what

    @property
    def done(self) -> bool:
        return self._pending.done

    def result(self, timeout: float | None = None) -> dict[str, Any]:
        """Wait for the end. PyverbsRDMAError: the protocol's refusal (EBUSY, ...), or ETIMEDOUT: it still goes on."""
        try:
            with pyverbs_errors(self._what):
                return self._pending.result(timeout).result
        except KeyboardInterrupt:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Interrupt it: its result is EINTR and nothing has changed, unless it has gone too far already."""
        with pyverbs_errors(f"cancel {self._what}"):
            self._pending.cancel()


class Fs:
    """The node's file operations, through one context's session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    # ---- files

    def create(self, path: str, size: int = 0) -> dict[str, Any]:
        """A new file of `size` bytes, allocated and zeroed."""
        return self._call(f"create {path}", "fs_create", path=path, size=size)

    def ls(self, path: str = "") -> dict[str, Any]:
        """{files: [...], devices: [...], mounts: [...]}, all of the node's or those below `path`."""
        return listing(self._page, path)

    def stat(self, path: str) -> dict[str, Any]:
        """{path, ino, size, blocks, extents: [[file offset, device offset, bytes, since]], pins, device}."""
        return self._call(f"stat {path}", "fs_stat", path=path)

    def read(self, path: str, offset: int, length: int) -> bytes:
        """Up to `length` bytes; short at the end of the file, holes read as zeros."""
        data = bytearray()
        while True:
            ask = min(DATA_LIMIT, length - len(data))
            piece = self._call(f"read {path}", "fs_read", path=path, offset=offset + len(data), length=ask)[
                "data"
            ]
            data += piece
            if len(piece) < ask or len(data) >= length:
                return bytes(data)

    def write(self, path: str, offset: int, data: bytes) -> int:
        """Bytes written: all of them. The file grows as needed."""
        written = 0
        for start in range(0, len(data), DATA_LIMIT) or [0]:
            piece = data[start : start + DATA_LIMIT]
            written += self._call(f"write {path}", "fs_write", path=path, offset=offset + start, data=piece)[
                "written"
            ]
        return written

    # ---- reclaims

    def truncate(self, path: str, size: int, timeout: float | None = None) -> dict[str, Any]:
        return self.begin_truncate(path, size).result(timeout)

    def begin_truncate(self, path: str, size: int) -> Reclaim:
        return self._begin(f"truncate {path}", "fs_truncate", path, size=size)

    def punch(self, path: str, offset: int, length: int, timeout: float | None = None) -> dict[str, Any]:
        return self.begin_punch(path, offset, length).result(timeout)

    def begin_punch(self, path: str, offset: int, length: int) -> Reclaim:
        return self._begin(f"punch {path}", "fs_punch", path, offset=offset, length=length)

    def fallocate(
        self, path: str, mode: str, offset: int, length: int, timeout: float | None = None
    ) -> dict[str, Any]:
        """mode: collapse (cut the range out), insert (a hole; both in whole blocks of 4096 bytes), zero."""
        return self.begin_fallocate(path, mode, offset, length).result(timeout)

    def begin_fallocate(self, path: str, mode: str, offset: int, length: int) -> Reclaim:
        return self._start(
            f"{mode} {path}", "fs_fallocate", path=path, mode=mode, offset=offset, length=length
        )

    def reflink(self, path: str, to: str, timeout: float | None = None) -> dict[str, Any]:
        """A clone `to` on the same mount, which shares the file's blocks. {ino, size, layout} of the clone."""
        return self.begin_reflink(path, to).result(timeout)

    def begin_reflink(self, path: str, to: str) -> Reclaim:
        return self._start(f"reflink {path}", "fs_reflink", path=path, to=to)

    def begin_write(self, path: str, offset: int, data: bytes) -> Reclaim:
        """One write of at most DATA_LIMIT bytes: where it meets what a clone shares, it takes as long as a reclaim does."""
        return self._start(f"write {path}", "fs_write", path=path, offset=offset, data=data)

    def migrate(self, path: str, timeout: float | None = None) -> dict[str, Any]:
        """The file's data moves to other blocks."""
        return self.begin_migrate(path).result(timeout)

    def begin_migrate(self, path: str) -> Reclaim:
        return self._start(f"migrate {path}", "fs_migrate", path=path)

    def poison(self, path: str, offset: int, timeout: float | None = None) -> dict[str, Any]:
        """The memory under this byte has failed: a fact, whatever the protocol answers to those who have it mapped."""
        return self.begin_poison(path, offset).result(timeout)

    def begin_poison(self, path: str, offset: int) -> Reclaim:
        return self._start(f"poison {path}", "fs_poison", path=path, offset=offset)

    def writeback(self, path: str, timeout: float | None = None) -> dict[str, Any]:
        """The file's dirty pages go to its device (mounts without dax). What the NIC writes on is not known to be dirty."""
        return self.begin_writeback(path).result(timeout)

    def begin_writeback(self, path: str) -> Reclaim:
        return self._start(f"writeback {path}", "fs_writeback", path=path)

    def pressure(self, target: str, timeout: float | None = None, *, mr: int = 0) -> dict[str, Any]:
        """Memory is short: the file's pages are dropped, dirty ones written back first. "anon": clients' memory, of all MRs or of one, is paged out:
        {pinned, taken} MRs.
        """
        return self.begin_pressure(target, mr).result(timeout)

    def begin_pressure(self, target: str, mr: int = 0) -> Reclaim:
        return self._start(f"pressure {target}", "fs_pressure", target=target, **({"mr": mr} if mr else {}))

    def umount(self, mount: str, timeout: float | None = None) -> dict[str, Any]:
        """The mount goes, its files stay on the device. {device, protocol}."""
        return self.begin_umount(mount).result(timeout)

    def begin_umount(self, mount: str) -> Reclaim:
        return self._start(f"umount {mount}", "fs_umount", mount=mount)

    def mount(self, mount: str, device: str, protocol: str, dax: bool = True) -> dict[str, Any]:
        return self._call(
            f"mount {mount}", "fs_mount", mount=mount, device=device, dax=dax, protocol=protocol
        )

    def unlink(self, path: str, timeout: float | None = None) -> dict[str, Any]:
        return self.begin_unlink(path).result(timeout)

    def begin_unlink(self, path: str) -> Reclaim:
        with pyverbs_errors(f"unlink {path}"):
            return Reclaim(self._session.start("fs_unlink", path=path), f"unlink {path}")

    def unplug(self, target: str, surprise: bool = False, timeout: float | None = None) -> dict[str, Any]:
        """Take a device (its name), or one file (its path) away from its users. surprise: it is gone already."""
        return self.begin_unplug(target, surprise).result(timeout)

    def begin_unplug(self, target: str, surprise: bool = False) -> Reclaim:
        what = f"unplug {target}"
        if "/" not in target or self._on_mount(target):
            return Reclaim(self._session.start("fs_unplug", target=target, surprise=surprise), what)
        with host_file(target) as fd:
            pending = self._session.start("fs_unplug", [fd], target=target, surprise=surprise, host=True)
        return Reclaim(pending, what)

    def plug(self, device: str) -> dict[str, Any]:
        """A new, empty namespace on an unplugged device."""
        return self._call(f"plug {device}", "fs_plug", device=device)

    # ---- what a registration may need first

    def lease(self, path: str, kind: str) -> dict[str, Any]:
        """A layout lease for the process that opened this context: "exclusive", "shared"; "none" gives it back. EAGAIN: somebody else has one."""
        return self._call(f"lease {path}", "fs_lease", path=path, kind=kind)

    def mark(self, path: str, immutable: bool = True) -> dict[str, Any]:
        """The file's layout is to stay as it is; False clears the mark. It is durable, and outlives this context."""
        return self._call(f"mark {path}", "fs_mark", path=path, immutable=immutable)

    def needs(self, mount: str) -> str:
        """What a registration on this mount needs first: "mark", "lease", "signal", or "" for nothing."""
        return str(self._call(f"protocol {mount}", "protocol", mount=mount)["needs"])

    def protocol(self, mount: str, name: str = "") -> str:
        """The mount's protocol; with a name: change it, for reclaims that begin from now on. Mount `host`: of host files."""
        return str(self._call(f"protocol {mount}", "protocol", mount=mount, name=name)["protocol"])

    # ---- how

    def _call(self, what: str, op: str, **values: Any) -> dict[str, Any]:
        return Reclaim(self._session.start(op, **values), what).result(timeout=60)

    def _start(self, what: str, op: str, **values: Any) -> Reclaim:
        with pyverbs_errors(what):
            return Reclaim(self._session.start(op, **values), what)

    def _page(self, path: str = "", **fields: Any) -> dict[str, Any]:
        return self._call(f"ls {path}", "fs_ls", path=path, **fields)

    def _begin(self, what: str, op: str, path: str, **values: Any) -> Reclaim:
        if self._on_mount(path):
            return Reclaim(self._session.start(op, path=path, **values), what)
        with host_file(path) as fd:
            return Reclaim(self._session.start(op, [fd], path=path, host=True, **values), what)

    def _on_mount(self, path: str) -> bool:
        mounts = [mount.rstrip("/") for mount in mount_paths(self._page)]
        return any(path == mount or path.startswith(mount + "/") for mount in mounts if mount.startswith("/"))


@contextmanager
def host_file(path: str | os.PathLike[str], *, readable: bool = False) -> Iterator[int]:
    """A descriptor of a file on this host, for as long as it takes to send it. readable: reading is enough."""
    try:
        fd = _open(path, readable)
    except OSError as error:
        number = error.errno or errno.EIO
        raise PyverbsRDMAError(
            f"{os.fspath(path)} is on no mount of the node and cannot be opened here", number
        ) from None
    try:
        yield fd
    finally:
        os.close(fd)


def _open(path: str | os.PathLike[str], readable: bool) -> int:
    flags = os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO must not keep us waiting
    try:
        return os.open(path, os.O_RDWR | flags)
    except PermissionError:
        if not readable:
            raise
        return os.open(path, os.O_RDONLY | flags)
