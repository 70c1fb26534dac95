"""What the lab's processes ask a node for, by name: one table for whoever wants memory back, the holder itself included.

    {"op": "truncate", "path": "/mnt/victim", "size": 0}

A request is asked, timed, and, where it is refused, asked again, a moment later each time: as often as was told, and, where somebody is still to let the
memory go, until the lab has said that nobody is, and LAST times after that.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

from emu.engine import ring
from emu.verbs.pyverbs_error import PyverbsRDMAError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from emu.clients.talk import Command

    from emu.verbs.device import Context

PIECE = 64 << 10
RECLAIMERS = 2
LOOK = 0.001  # seconds between two looks at whether a buffer is there
BETWEEN = 0.05  # seconds between two tries
LAST = 3  # tries, once nobody is expected to let go any more
WAITED = 5_000_000_000  # ns: who was let wait for as long, and refused then, asks no more


def stamped(length: int, writer: int, ino: int, layout: int, offset: int) -> bytes:
    """Cells that say: written by `writer`, meant for bytes `offset`.. of file `ino`."""
    piece = bytearray(length)
    ring.stamp_fill(piece, writer=writer, ino=ino, work_request=0, layout=layout, namespace=1, offset=offset)
    return bytes(piece)


def write_stamped(ctx: Context, path: str, offset: int, length: int, writer: int) -> None:
    """The CPU's way: through the node's file operations, piece by piece."""
    made = ctx.fs.stat(path)
    for at in range(offset, offset + length, PIECE):
        size = min(PIECE, offset + length - at)
        ctx.fs.write(path, at, stamped(size, writer, made["ino"], made.get("layout", 0), at))


def _storm(ctx: Context, name: str, times: int) -> None:
    """Two reclaimers, round after round: each asks for the same buffer twice without waiting in between, so that a second revoke meets the first one
    under way; then both give it back. They are threads of the exporter: nobody else may revoke its buffer.
    """
    with ThreadPoolExecutor(RECLAIMERS) as reclaimers:
        for _ in range(times):
            _all(reclaimers, lambda: _revoke_twice(ctx, name))
            _all(reclaimers, lambda: ctx.dmabuf.restore(name))


def _all(reclaimers: Executor, deed: Callable[[], None]) -> None:
    """By each of them at once. The first refusal is raised when all have been answered."""
    done = [reclaimers.submit(deed) for _ in range(RECLAIMERS)]
    wait(done)
    for each in done:
        each.result()


def _revoke_twice(ctx: Context, name: str) -> None:
    first, second = (ctx.dmabuf.begin_revoke(name, permanent=False) for _ in range(2))
    try:
        first.result()
    finally:
        second.result()


def _gone(ctx: Context, name: str) -> None:
    """Until the buffer is nobody's any more: whoever needs the memory of an exporter that has ended waits for its importers."""
    while True:
        try:
            ctx.dmabuf.stat(name)
        except PyverbsRDMAError as error:
            if error.errno != errno.ENOENT:
                raise
            return
        time.sleep(LOOK)


def _interrupted(number: int, _frame: object) -> None:
    raise InterruptedError(errno.EINTR, f"signal {number}")


def _open_truncated(_ctx: Context, path: str) -> None:
    """As any program does that knows nothing of emu. The kernel makes it wait for whoever has a lease; SIGUSR1 interrupts it."""
    signal.signal(signal.SIGUSR1, _interrupted)
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC))
    except OSError as error:
        raise PyverbsRDMAError(
            f"open {path} with O_TRUNC: {error.strerror}", error.errno or errno.EIO
        ) from None
    finally:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)


CALLS: Mapping[str, Callable[..., Any]] = {
    "truncate": lambda ctx, path, size: ctx.fs.truncate(path, size),
    "punch": lambda ctx, path, offset, length: ctx.fs.punch(path, offset, length),
    "fallocate": lambda ctx, path, mode, offset, length: ctx.fs.fallocate(path, mode, offset, length),
    "unlink": lambda ctx, path: ctx.fs.unlink(path),
    "unplug": lambda ctx, target, surprise: ctx.fs.unplug(target, surprise),
    "reflink": lambda ctx, path, to: ctx.fs.reflink(path, to),
    "stamp": write_stamped,
    "migrate": lambda ctx, path: ctx.fs.migrate(path),
    "poison": lambda ctx, path, offset: ctx.fs.poison(path, offset),
    "umount": lambda ctx, mount: ctx.fs.umount(mount),
    "writeback": lambda ctx, path: ctx.fs.writeback(path),
    "pressure": lambda ctx, target, mr=0: ctx.fs.pressure(target, mr=int(mr)),
    "buf_move": lambda ctx, name: ctx.dmabuf.move(name),
    "buf_revoke": lambda ctx, name, permanent: ctx.dmabuf.revoke(name, permanent=permanent),
    "buf_storm": _storm,
    "buf_gone": _gone,
    "open_trunc": _open_truncated,
}


def timed(call: Callable[[], Any]) -> Command:
    """One request: its answer, and the monotonic clock before and after, in ns."""
    refusal: PyverbsRDMAError | None = None
    began = time.monotonic_ns()
    try:
        call()
    except PyverbsRDMAError as error:
        refusal = error
    ended = time.monotonic_ns()
    return {
        "errno": errno.errorcode.get(refusal.errno, str(refusal.errno)) if refusal else None,
        "error": str(refusal) if refusal else None,
        "began": began,
        "ended": ended,
    }


def _at_once(tried: Command) -> bool:
    return bool(tried["ended"] - tried["began"] < WAITED)


def insist(
    call: Callable[[], Any],
    retries: int,
    before: Callable[[], None] = lambda: None,
    enough: Callable[[], bool] | None = None,
) -> Command:
    """Ask, and ask again while it is refused. `before`: called once, right before the first request. enough: whether nobody is to let go any more."""
    before()
    tries = [timed(call)]
    left = LAST if enough else 0
    while tries[-1]["errno"] and _at_once(tries[-1]) and (len(tries) <= retries or left):
        left -= bool(left and enough and enough())
        time.sleep(BETWEEN)
        tries.append(timed(call))
    return {"tries": tries}


def asked(
    ctx: Context,
    ask: Command,
    retries: int,
    before: Callable[[], None] = lambda: None,
    enough: Callable[[], bool] | None = None,
) -> Command:
    """What the lab told to ask for."""
    arguments = {name: value for name, value in ask.items() if name != "op"}
    return insist(lambda: CALLS[ask["op"]](ctx, **arguments), retries, before, enough)
