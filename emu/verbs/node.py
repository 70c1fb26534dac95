"""A private node: a broker of one's own with a pmem device and a mount, in a temporary directory.

`with emu.node() as node:` is how tests, examples and programs without a system-wide broker begin. The broker is a child process. It ends
with the `with` block, and with the parent however that ends: it holds the reading end of a pipe whose writing end only the
parent has (`emu broker --lifeline`), and it removes its directory itself (`--ephemeral`).

`default()` is the node that `Context()` without an address uses: one a process, started by the first context that needs it,
ended with the last.
"""

from __future__ import annotations

import errno
import os
import select
import shutil
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from emu.verbs.pyverbs_error import PyverbsRDMAError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from emu.verbs.device import Context
    from emu.verbs.fs import Fs

DEVICE, MOUNT = "pm0", "/mnt"
PATIENCE = 60.0  # seconds for a start or a stop; beyond, something is broken
LONGEST = 80  # bytes of a directory's path: ipc:// addresses end at 107


def short_directory() -> Path:
    """A new directory whose sockets' paths fit."""
    home = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix="emu-", dir=home if len(home) < LONGEST - 16 else "/tmp"))  # noqa: S108 - a fallback


class Node:
    """One broker process. `dir`: where its door is. `device`, `mount`: names of its pmem device and where it is mounted.

    protocol: how it takes memory back (`emu protocol`), of host files too if it can serve them. size: of the device, with suffix K, M or G. time_scale: of all
    protocol and transport timers. directory: one that stays, in place of a temporary one. options: more for `emu broker`.
    """

    def __init__(
        self,
        protocol: str = "mr-revoke",
        size: str = "64M",
        time_scale: float | None = None,
        *,
        dax: bool = True,
        directory: str | os.PathLike[str] | None = None,
        options: Sequence[str] = (),
    ) -> None:
        self._temporary = directory is None
        self.path = short_directory() if directory is None else Path(directory)
        self.device, self.mount = DEVICE, MOUNT
        properties = ",dax" if dax else ""
        self._command = [
            sys.executable,
            "-m",
            "emu",
            "broker",
            "--dir",
            str(self.path),
            "--pmem",
            f"{DEVICE}={size}",
        ]
        self._command += ["--mount", f"{MOUNT}={DEVICE}{properties},protocol={protocol}", *options]
        self._environment = dict(os.environ)
        if time_scale is not None:
            self._environment["EMU_TIME_SCALE"] = repr(time_scale)
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()  # who may end it: forked children share the object, not the broker
        self._lifeline = -1
        self._clerk: Context | None = None
        self._log: IO[bytes] | None = None  # without a name: nothing to be left over

    @property
    def dir(self) -> str:
        return str(self.path)

    @property
    def pid(self) -> int:
        """Of the broker."""
        if self._process is None:
            raise PyverbsRDMAError(f"the node in {self.path} is not running; call start()", errno.ESRCH)
        return self._process.pid

    @property
    def log(self) -> str:
        """What the brokers of this node wrote to their standard error."""
        if self._log is None:
            return ""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def start(self) -> Self:
        """Start the broker (again, after kill()) and return when it serves."""
        self._owner = os.getpid()
        self.path.mkdir(
            mode=0o700, parents=True, exist_ok=True
        )  # the broker refuses one that others may write
        if self._log is None:
            self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop
        ready, ready_end = os.pipe()
        life_end, self._lifeline = os.pipe()
        try:
            command = [*self._command, "--ready", str(ready_end), "--lifeline", str(life_end)]
            command += ["--ephemeral"] if self._temporary else []
            self._process = subprocess.Popen(
                command,
                pass_fds=(ready_end, life_end),
                stdin=subprocess.DEVNULL,
                stderr=self._log,
                env=self._environment,
            )
        finally:
            os.close(ready_end)
            os.close(life_end)
        try:
            self._await_ready(ready)
        finally:
            os.close(ready)
        return self

    def _await_ready(self, ready: int) -> None:
        """The descriptor tells: a line when the broker serves, end of file when it ended instead."""
        said = os.read(ready, 64) if select.select([ready], [], [], PATIENCE)[0] else b""
        if said:
            return
        self.kill()
        why = self.log.strip().rpartition("\n")[2] or "it said nothing"
        self._clean()
        raise PyverbsRDMAError(f"no broker came up in {self.path}: {why}", errno.ENODEV)

    def context(self, **options: Any) -> Context:
        """A device context on this node; options as of Context."""
        from emu.verbs.device import Context  # noqa: PLC0415 - a context may start a node, so one of the two imports late

        return Context(dir=self.dir, **options)

    @property
    def clerk(self) -> Context:
        """A context of the node's own, for what belongs to no client."""
        if self._clerk is None or self._clerk.dead:
            self._dismiss()
            self._clerk = self.context(label="node")
        return self._clerk

    def _dismiss(self) -> None:
        if self._clerk is not None:
            self._clerk.close()
            self._clerk = None

    @property
    def fs(self) -> Fs:
        """Files and devices of the node."""
        return self.clerk.fs

    @property
    def books(self) -> dict[str, Any]:
        """The broker's counts (`query_books`): sessions, pds, mrs, ..., blocks by device. The clerk's session counts too."""
        return self.clerk.books()

    @property
    def foreign(self) -> bool:
        """A forked child's copy of the parent's node."""
        return os.getpid() != self._owner

    def kill(self) -> None:
        """Kill -9. Contexts see DEVICE_FATAL; start() brings the node's files back. In a forked child: nothing."""
        if self.foreign:
            return
        if self._process is not None:
            self._process.kill()
        self._reap()

    def stop(self) -> None:
        """End the broker cleanly and remove what it left, if its directory was temporary. Idempotent. In a forked child: nothing."""
        if self.foreign:
            return
        self._dismiss()
        if self._process is not None:
            self._process.terminate()
        self._reap()
        self._clean()

    def _reap(self) -> None:
        if self._process is not None:
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1

    def _clean(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None
        if self._temporary:
            shutil.rmtree(self.path, ignore_errors=True)  # the broker did, unless it was killed

    def __enter__(self) -> Self:
        return self if self._process is not None else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def node(
    protocol: str = "mr-revoke", size: str = "64M", time_scale: float | None = None, **options: Any
) -> Node:
    """A started node; use it in a `with`."""
    return Node(protocol, size, time_scale, **options).start()


class _Default:
    """The process's own node, counted by its contexts."""

    def __init__(self) -> None:
        self.lock, self.users, self.owner = threading.Lock(), 0, 0
        self.node: Node | None = None

    def take(self) -> str:
        with self.lock:
            if self.node is None or self.owner != os.getpid():
                self.node, self.users, self.owner = node(), 0, os.getpid()
            self.users += 1
            return self.node.dir

    def give(self) -> None:
        with self.lock, ExitStack() as after:
            if self.owner != os.getpid() or self.node is None:
                return
            self.users -= 1
            if self.users == 0:
                after.callback(self.node.stop)
                self.node = None


default = _Default()
