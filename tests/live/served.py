"""A broker as `emu broker` starts it, for tests of the broker itself: its process, its words, its end."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Self

from emu.wire.client import Connection, connect

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PATIENCE = 60
COMMAND = (sys.executable, "-m", "emu")


class Served:
    """One `emu broker --dir directory`. `options` replace the default device and mount."""

    def __init__(self, directory: Path, *options: str, scale: float = 0.1, **popen) -> None:
        self.directory = directory
        self.options = options or ("--pmem", "pm0=8M", "--mount", "/mnt=pm0,dax,protocol=mr-revoke")
        self.environment = {**os.environ, "EMU_TIME_SCALE": str(scale)}
        self.popen = popen
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Returns when it serves."""
        ready, ready_end = os.pipe()
        command = [*COMMAND, "broker", "--dir", str(self.directory), *self.options, "--ready", str(ready_end)]
        self.process = subprocess.Popen(
            command, pass_fds=(ready_end,), env=self.environment, stderr=subprocess.PIPE, **self.popen
        )
        os.close(ready_end)
        said = os.read(ready, 64) if select.select([ready], [], [], PATIENCE)[0] else b"(nothing)"
        os.close(ready)
        if said != b"ready\n":
            self.process.kill()
            raise AssertionError(f"no broker: {said!r} {self.process.stderr.read().decode()}")

    @property
    def dir(self) -> str:
        return str(self.directory)

    def connect(self, **options) -> Connection:
        return connect(self.directory, **options)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send the signal and return how the process ended."""
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE)
        self.words = self.process.stderr.read().decode()
        self.process.stderr.close()
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE)
        self.process.stderr.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def await_true(what: str, seen: Callable[[], object], patience: float = PATIENCE) -> None:
    """Ask until it is so; each asking is a round trip to the broker. Fails with `what`."""
    deadline = time.monotonic() + patience
    while not seen():
        assert time.monotonic() < deadline, f"not within {patience:g} s: {what}"


def emu(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    """`emu ARGUMENTS`, to its end."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        **options,
    )
