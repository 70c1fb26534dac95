"""The lab's side of the nursery: processes that it asks for, speaks to and waits for.

A child is held by a pidfd: a signal reaches this process or nobody, whoever gets its number later.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from emu.lab.process import LINE_LIMIT, LabError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Json = dict[str, Any]

MODULES = (
    "emu.cli.broker", "emu.clients.holder", "emu.clients.peer", "emu.clients.taker", "emu.clients.reclaimer", "emu.clients.unplugger",
    "emu.clients.defragmenter", "emu.clients.heir", "emu.clients.exporter",
)  # fmt: skip
MESSAGE = 1 << 16


class Child:
    """One process. `returncode`: as subprocess has it; None while it lives."""

    def __init__(self, pid: int, stdin: int, stdout: asyncio.StreamReader | None) -> None:
        self.pid, self._stdin, self.stdout = pid, stdin, stdout
        self._pidfd = os.pidfd_open(pid)
        self.returncode: int | None = None
        self._ended = asyncio.Event()

    def write(self, line: bytes) -> None:
        """A line of its stdin; nobody may be there to read it."""
        if self.returncode is None:
            with suppress(BrokenPipeError):
                os.write(self._stdin, line)

    def send_signal(self, number: signal.Signals) -> None:
        if self.returncode is None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    async def wait(self) -> int | None:
        await self._ended.wait()
        return self.returncode

    def ended(self, code: int) -> None:
        """Called once, by the nursery's words."""
        self.returncode = code
        self._ended.set()
        for descriptor in (self._pidfd, self._stdin):
            if descriptor >= 0:
                os.close(descriptor)


class Nursery:
    """One nursery process, started with the first child."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._asked: deque[asyncio.Future[int]] = deque()
        self._children: dict[int, Child] = {}
        self._early: dict[int, int] = {}  # ends that were told before their child was known here
        self._starting = asyncio.Lock()
        self._lost = False
        self._pipes: set[asyncio.ReadTransport] = set()

    async def _start(self) -> socket.socket:
        async with self._starting:
            if self._socket is None:
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                ours.setblocking(False)
                with theirs:
                    self._process = await asyncio.create_subprocess_exec(
                        sys.executable, "-P", "-m", "emu.lab.nursery", str(theirs.fileno()), *MODULES, stdin=asyncio.subprocess.DEVNULL,
                        pass_fds=(theirs.fileno(),), start_new_session=True,
                    )  # fmt: skip
                self._socket = ours
                asyncio.get_running_loop().add_reader(ours, self._hear)
        return self._socket

    def _hear(self) -> None:
        assert self._socket
        with suppress(BlockingIOError):
            while raw := self._socket.recv(MESSAGE):
                self._told(json.loads(raw))
            self._gone()

    def _told(self, message: Json) -> None:
        if "pid" in message:
            future = self._asked.popleft()
            if not future.done():
                future.set_result(message["pid"])
            return
        child = self._children.pop(message["ended"], None)
        if child is None:
            self._early[message["ended"]] = message["code"]
        else:
            child.ended(message["code"])

    def _gone(self) -> None:
        assert self._socket
        self._lost = True
        asyncio.get_running_loop().remove_reader(self._socket)
        for future in self._asked:
            if not future.done():
                future.set_exception(LabError("the nursery of processes has ended"))
        for child in self._children.values():
            child.ended(-signal.SIGKILL)
        self._children.clear()

    async def spawn(
        self, module: str, argv: Sequence[str], log: Path, further: Sequence[int] = (), *, talks: bool = True
    ) -> Child:
        """Start `python -m module argv`; its words go to `log`. further: descriptors that "{0}", ... in argv stand for. talks: by its stdin and stdout."""
        nursery = await self._start()
        if self._lost:
            raise LabError("the nursery of processes has ended")
        with log.open("wb") as words:
            theirs_in, ours_in = os.pipe() if talks else (os.open(os.devnull, os.O_RDONLY), -1)
            ours_out, theirs_out = os.pipe() if talks else (-1, os.dup(words.fileno()))
            given = (theirs_in, theirs_out, words.fileno())
            try:
                future = asyncio.get_running_loop().create_future()
                self._asked.append(future)
                socket.send_fds(
                    nursery, [json.dumps({"run": module, "argv": list(argv)}).encode()], [*given, *further]
                )
            finally:
                os.close(theirs_in)
                os.close(theirs_out)
        pid = await future
        reader, transport = await _reader(ours_out) if talks else (None, None)
        self._pipes = {
            pipe for pipe in (*self._pipes, transport) if pipe is not None and not pipe.is_closing()
        }
        child = Child(pid, ours_in, reader)
        if pid in self._early:
            child.ended(self._early.pop(pid))
        else:
            self._children[pid] = child
        return child

    async def close(self) -> None:
        """Its own end; children that are left notice the lab's."""
        for pipe in self._pipes:
            pipe.close()
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        if self._process is not None:
            await self._process.wait()


async def _reader(descriptor: int) -> tuple[asyncio.StreamReader, asyncio.ReadTransport]:
    """What a child says; the pipe is closed at its end of file."""
    reader = asyncio.StreamReader(limit=LINE_LIMIT)
    pipe = os.fdopen(descriptor, "rb", buffering=0)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    return reader, transport
