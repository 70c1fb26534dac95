"""The broker of one run: fresh, in a short directory of its own, with the devices and the protocol of the row.

`pm0` carries the victim, `pm1` what must not be concerned when a whole device goes. The directory is temporary since paths of
ipc:// addresses end at 107 bytes, and the broker removes it at its end, also when the lab has been killed; its history is written
to the evidence folder.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from emu.host.times import patience
from emu.lab.process import LabError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.lab.children import Child, Nursery

VICTIM_DEVICE, VICTIM_MOUNT = "pm0", "/mnt"
OTHER_DEVICE, OTHER_MOUNT = "pm1", "/other"
DEVICE_BYTES = "4M"
HISTORY_BYTES = "96M"  # a quarter holds 130,000 log records: DMA that faults for seconds leaves one each; should they not do, the verdict says unknown
START, STOP = 30.0, 10.0


class Broker:
    """A running `emu broker`."""

    def __init__(self, directory: Path, child: Child | asyncio.subprocess.Process, lifeline: int) -> None:
        self.directory, self._child, self._lifeline = directory, child, lifeline

    @classmethod
    async def start(
        cls, protocol: str, folder: Path, options: Sequence[str] = (), device_bytes: int | str = DEVICE_BYTES,
        properties: str = "dax", nursery: Nursery | None = None,
    ) -> Broker:  # fmt: skip
        """Returns when it serves; its history goes to folder/history, its words to folder/logs. LabError: it did not come up.

        properties: of both mounts. nursery: who starts it; none: we do.
        """
        directory = Path(f"/tmp/emu-lab-{secrets.token_hex(5)}")  # noqa: S108 - short; the broker makes it, for us alone
        life_end, lifeline = os.pipe()
        ready, ready_end = os.pipe()
        try:
            words = [*_command(directory, protocol, folder, device_bytes, properties), *options]
            child = await _spawn(words, folder / "logs", (ready_end, life_end), nursery)
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
            async with asyncio.timeout(patience(START)):
                line = await said
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
        self._deliver(signal.SIGTERM)
        try:
            async with asyncio.timeout(patience(STOP)):
                await self._child.wait()
        except TimeoutError:
            self._deliver(signal.SIGKILL)
            await self._child.wait()
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)
            if self._lifeline >= 0:
                os.close(self._lifeline)
                self._lifeline = -1
        return asked and self._child.returncode == 0

    def _deliver(self, number: signal.Signals) -> None:
        """A signal, unless it has ended. Not through asyncio: Popen's own methods reap the child behind its watcher's back."""
        if self._child.returncode is None:
            with suppress(ProcessLookupError):
                if isinstance(self._child, asyncio.subprocess.Process):
                    os.kill(self._child.pid, number)
                else:
                    self._child.send_signal(number)

    @property
    def alive(self) -> bool:
        return self._child.returncode is None


async def _spawn(
    words: list[str], logs: Path, ends: tuple[int, int], nursery: Nursery | None
) -> Child | asyncio.subprocess.Process:
    """ends: descriptors of its ready pipe and its lifeline. Who it is stands beside its log."""
    log = logs / "broker.log"
    child: Child | asyncio.subprocess.Process
    if nursery is not None:
        argv = ["broker", *words, "--ready={0}", "--lifeline={1}"]
        child = await nursery.spawn("emu", argv, log, ends, talks=False)
    else:
        command = [
            sys.executable,
            "-P",
            "-m",
            "emu",
            "broker",
            *words,
            f"--ready={ends[0]}",
            f"--lifeline={ends[1]}",
        ]
        with log.open("wb") as said:
            child = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, stdout=said, stderr=said, pass_fds=ends, start_new_session=True
            )  # fmt: skip
    (logs / "broker.json").write_text(json.dumps({"pid": child.pid, "dir": words[1]}) + "\n")
    return child


def _command(directory: Path, protocol: str, folder: Path, size: int | str, properties: str) -> list[str]:
    words = f",{properties}" if properties else ""
    mounts = [f"{VICTIM_MOUNT}={VICTIM_DEVICE}{words}", f"{OTHER_MOUNT}={OTHER_DEVICE}{words}"]
    return [
        "--dir", str(directory), *(f"--pmem={device}={size}" for device in (VICTIM_DEVICE, OTHER_DEVICE)),
        *(f"--mount={mount},protocol={protocol}" for mount in mounts), f"--history={folder}/history", f"--history-bytes={HISTORY_BYTES}",
        "--ephemeral",
    ]  # fmt: skip
