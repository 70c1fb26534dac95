"""The broker of one run: fresh, in a short directory of its own, with the devices and the protocol of the row.

`pm0` carries the victim, `pm1` what must not be concerned when a whole device goes. The directory is temporary since paths of
ipc:// addresses end at 107 bytes, and the broker removes it at its end, also when the lab has been killed; its history is written
to the evidence folder.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from emu.host.times import patience
from emu.lab.process import LabError, deliver

if TYPE_CHECKING:
    from collections.abc import Sequence

VICTIM_DEVICE, VICTIM_MOUNT = "pm0", "/mnt"
OTHER_DEVICE, OTHER_MOUNT = "pm1", "/other"
DEVICE_BYTES = "4M"
HISTORY_BYTES = "32M"  # tens of thousands of log records; should they not do, the verdict says unknown
START, STOP = 30.0, 10.0


class Broker:
    """A running `emu broker`."""

    def __init__(self, directory: Path, child: asyncio.subprocess.Process, lifeline: int) -> None:
        self.directory, self._child, self._lifeline = directory, child, lifeline

    @classmethod
    async def start(
        cls, protocol: str, folder: Path, options: Sequence[str] = (), device_bytes: int | str = DEVICE_BYTES,
        properties: str = "dax",
    ) -> Broker:  # fmt: skip
        """properties: of both mounts. Returns when it serves; its history goes to folder/history, its words to folder/logs. LabError: it did not come up."""
        directory = Path(f"/tmp/emu-lab-{secrets.token_hex(5)}")  # noqa: S108 - short; the broker makes it, for us alone
        life_end, lifeline = os.pipe()
        ready, ready_end = os.pipe()
        try:
            command = [
                *_command(directory, protocol, folder, ready_end, life_end, device_bytes, properties),
                *options,
            ]
            child = await _spawn(command, folder / "logs" / "broker.log", (ready_end, life_end))
        except BaseException:
            os.close(lifeline)
            os.close(ready)
            raise
        finally:
            os.close(ready_end)
            os.close(life_end)
        broker = cls(directory, child, lifeline)
        try:
            await broker._await_ready(ready, folder / "logs")
        except BaseException:
            await broker.stop()
            raise
        return broker

    async def _await_ready(self, ready: int, logs: Path) -> None:
        """A line tells that it serves; end of file that it ended instead."""
        loop = asyncio.get_running_loop()
        said: asyncio.Future[bytes] = loop.create_future()

        def hear() -> None:
            loop.remove_reader(ready)
            if not said.done():
                said.set_result(os.read(ready, 64))

        loop.add_reader(ready, hear)
        try:
            line = await asyncio.wait_for(said, patience(START))
        except TimeoutError:
            line = b""
        finally:
            loop.remove_reader(ready)
            os.close(ready)
        if not line:
            words = (logs / "broker.log").read_text(errors="replace").strip().rpartition("\n")[2]
            raise LabError(f"no broker came up: {words or 'it said nothing'}")

    @property
    def image(self) -> Path:
        """The victim's device: its memory itself."""
        return self.directory / f"{VICTIM_DEVICE}.img"

    async def stop(self) -> bool:
        """End it cleanly, so that the logs are whole; whether that is how it ended. Idempotent; leaves no directory."""
        asked = self.alive
        deliver(self._child, signal.SIGTERM)
        try:
            await asyncio.wait_for(self._child.wait(), patience(STOP))
        except TimeoutError:
            deliver(self._child, signal.SIGKILL)
            await self._child.wait()
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)
            if self._lifeline >= 0:
                os.close(self._lifeline)
                self._lifeline = -1
        return asked and self._child.returncode == 0

    @property
    def alive(self) -> bool:
        return self._child.returncode is None


async def _spawn(command: list[str], log: Path, descriptors: tuple[int, ...]) -> asyncio.subprocess.Process:
    with log.open("wb") as words:
        return await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=words, stderr=words, pass_fds=descriptors, start_new_session=True
        )  # fmt: skip


def _command(
    directory: Path, protocol: str, folder: Path, ready: int, lifeline: int, size: int | str, properties: str
) -> list[str]:
    words = f",{properties}" if properties else ""
    mounts = [f"{VICTIM_MOUNT}={VICTIM_DEVICE}{words}", f"{OTHER_MOUNT}={OTHER_DEVICE}{words}"]
    return [
        sys.executable, "-P", "-m", "emu", "broker", "--dir", str(directory),
        *(f"--pmem={device}={size}" for device in (VICTIM_DEVICE, OTHER_DEVICE)),
        *(f"--mount={mount},protocol={protocol}" for mount in mounts),
        f"--history={folder}/history", f"--history-bytes={HISTORY_BYTES}", f"--ready={ready}", f"--lifeline={lifeline}", "--ephemeral",
    ]  # fmt: skip
