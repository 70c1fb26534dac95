"""The client's face of the shared-memory rings: post, poll, sleep, map. No thread, no signal handler, no engine.

What the door hands over as descriptors becomes a `ContextPage`, `QueuePair` or `CompletionQueue` here; `Memory` is the
address range that a memory region covers. Any thread may use any object at any time, and close it while others are inside:
the calls release the GIL, so each ring has a lock, and its pages go when the last thread has left. Nobody sleeps with a lock held.

Only this module and emu.engine.rules touch the extension `emu.engine._ring`.
"""

from __future__ import annotations

import errno
import os
import threading
import time
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from emu.engine._ring import ffi, lib

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_SGE: int = lib.EMU_MAX_SGE
CELL: int = lib.EMU_STAMP_CELL
_SLICE = (
    0.05  # seconds: a signal, or a close, that came just before the sleep is seen after this at the latest
)


class Sge(NamedTuple):
    """A piece of registered memory: address in the region's iova space, bytes, key."""

    addr: int
    length: int
    lkey: int


class WorkRequest(NamedTuple):
    """A send or receive work request; a receive uses wr_id and sges only. opcode: IBV_WR_*, flags: IBV_SEND_*."""

    wr_id: int
    sges: Sequence[Sge] = ()
    opcode: int = 0
    flags: int = 0
    imm_data: int = 0
    remote_addr: int = 0
    rkey: int = 0
    compare_add: int = 0
    swap: int = 0


class Completion(NamedTuple):
    """status, opcode: IBV_WC_*. Unless status is 0 only wr_id, status, qp_num and vendor_err hold.

    `wq_head` and `is_recv` go to `QueuePair.release`.
    """

    wr_id: int
    status: int
    opcode: int
    byte_len: int
    imm_data: int
    qp_num: int
    src_qp: int
    wc_flags: int
    vendor_err: int
    wq_head: int
    is_recv: int


class PostError(OSError):
    """Posting stopped: requests before index `bad` are posted, `bad` and those behind it are not."""

    def __init__(self, number: int, sentence: str, bad: int) -> None:
        super().__init__(number, sentence)
        self.bad = bad

    def __reduce__(self) -> tuple[type[PostError], tuple[int, str, int]]:
        return (type(self), (int(self.errno or 0), str(self.strerror), self.bad))


class Closed(OSError):
    """The object has been closed, perhaps by another thread just now."""

    def __init__(self, what: str) -> None:
        super().__init__(errno.EBADF, f"the {what} has been closed")

    def __reduce__(self) -> tuple[type[OSError], tuple[int, str]]:
        return (OSError, (errno.EBADF, str(self.strerror)))


def _checked(result: int, what: str) -> int:
    if result >= 0:
        return result
    raise OSError(-result, f"{what}: {os.strerror(-result)}")


def _alive(ring: Any, close: weakref.finalize[Any, Any], what: str) -> Any:
    if not close.alive:
        raise Closed(what)
    return ring


class _Ring:
    """A mapped ring that may be closed while other threads are inside.

    `held`: alone with it, for calls that return at once. `lent`: beside others, for the sleep; a close meanwhile leaves the
    pages to the last borrower. An object that is let go without close() is unmapped by the collector: nobody is inside then.
    """

    def __init__(self, pointer: Any, free: Any, what: str, *rest: Any) -> None:
        self._ring, self._what = pointer, what
        self._lock, self._borrowers, self._dead = threading.Lock(), 0, False
        self._free = weakref.finalize(self, _unmap, free, pointer, *rest)
        self._free.atexit = False  # the kernel unmaps a process that ends; threads may still be inside

    def _alive(self) -> Any:
        if self._dead:
            raise Closed(self._what)
        return self._ring

    @contextmanager
    def _lent(self) -> Iterator[Any]:
        with self._lock:
            pointer = self._alive()
            self._borrowers += 1
        try:
            yield pointer
        finally:
            with self._lock:
                self._borrowers -= 1
                if self._dead and not self._borrowers:
                    self._free()

    def close(self) -> None:
        """Every later call raises Closed, and so do those that sleep. Idempotent."""
        with self._lock:
            self._dead = True
            if not self._borrowers:
                self._free()


def _unmap(free: Any, pointer: Any, context: ContextPage | None = None, token: object = None) -> None:
    free(pointer)
    if context is not None:
        context.leave(token)


class ContextPage:
    """The context page and the bell page, mapped. The descriptors may be closed afterwards."""

    def __init__(self, ctx_fd: int, bell_fd: int) -> None:
        out = ffi.new("struct emu_ring_ctx **")
        _checked(lib.emu_ring_ctx_open(ctx_fd, bell_fd, out), "map the context page")
        self.ring: Any = out[0]
        self._open: set[object] = (
            set()
        )  # queue pairs that ring its bells; set operations are atomic, and finalizers leave
        self._dead = False
        self._free = weakref.finalize(self, lib.emu_ring_ctx_close, out[0])
        self._free.atexit = False

    def pointer(self) -> Any:
        if self._dead:
            raise Closed("context")
        return self.ring

    def enter(self, token: object) -> Any:
        """A queue pair rings its bells until it leaves: the pages stay until then."""
        self._open.add(token)
        try:
            return self.pointer()
        except Closed:
            self.leave(token)
            raise

    def leave(self, token: object) -> None:
        self._open.discard(token)
        if self._dead and not self._open:
            self._free()

    def close(self) -> None:
        """Nothing can be posted any more; unmapped with the last queue pair. Idempotent."""
        self._dead = True
        if not self._open:
            self._free()


class QueuePair(_Ring):
    """A queue pair's send and receive ring."""

    def __init__(self, context: ContextPage, fd: int) -> None:
        out, token = ffi.new("struct emu_ring_qp **"), object()
        page = context.enter(token)
        try:
            _checked(lib.emu_ring_qp_open(page, fd, out), "map a queue pair")
        except OSError:
            context.leave(token)
            raise
        super().__init__(out[0], lib.emu_ring_qp_close, "queue pair", context, token)
        self._context = context
        self._bad = ffi.new("unsigned *")

    def pointer(self) -> Any:
        self._context.pointer()
        return self._alive()

    def post_send(self, requests: Sequence[WorkRequest]) -> None:
        """Post a batch and ring once. PostError: ENOMEM ring full, EINVAL too many pieces or a state that cannot post."""
        self._post(lib.emu_ring_post_send, requests, "post_send")

    def post_recv(self, requests: Sequence[WorkRequest]) -> None:
        self._post(lib.emu_ring_post_recv, requests, "post_recv")

    def post_one(self, request: WorkRequest) -> None:
        """post_send of one request."""
        self._post(lib.emu_ring_post_send, (request,), "post_send")

    def _post(self, post: Any, requests: Sequence[WorkRequest], what: str) -> None:
        wqes = ffi.new("struct emu_wqe[]", len(requests))
        extra: list[tuple[int, int, int]] = []
        for wqe, request in zip(wqes, requests, strict=True):
            _fill(wqe, request)
            extra.extend((sge[0], sge[1], sge[2]) for sge in request.sges[1:])
        table = ffi.new("struct emu_sge[]", extra) if extra else ffi.NULL
        with self._lock:
            result = post(self.pointer(), wqes, len(requests), table, self._bad)
            bad = int(self._bad[0])
        if result < 0:
            raise PostError(-result, f"{what}, request {bad}: {os.strerror(-result)}", bad)

    def release(self, is_recv: int, head: int) -> None:
        """A completion was polled: entries below `head` (its wq_head) are free again. Of a closed one nothing is left to free."""
        with self._lock:
            if not self._dead:
                lib.emu_ring_qp_release(self._ring, is_recv, head)

    def reset(self) -> None:
        """The broker moved this queue pair to RESET: both rings are empty again."""
        with self._lock:
            lib.emu_ring_qp_reset(self.pointer())


def _fill(wqe: Any, request: WorkRequest) -> None:
    count = len(request.sges)
    if count > MAX_SGE:
        raise OSError(errno.EINVAL, f"a work request has at most {MAX_SGE} pieces, this one has {count}")
    wqe.wr_id, wqe.opcode, wqe.flags, wqe.num_sge = request.wr_id, request.opcode, request.flags, count
    wqe.imm_data, wqe.remote_addr, wqe.rkey = request.imm_data, request.remote_addr, request.rkey
    wqe.compare_add, wqe.swap = request.compare_add, request.swap
    if count:
        wqe.addr, wqe.length, wqe.lkey = request.sges[0]


class CompletionQueue(_Ring):
    """A completion queue's ring."""

    def __init__(self, fd: int, batch: int = 64) -> None:
        out = ffi.new("struct emu_ring_cq **")
        _checked(lib.emu_ring_cq_open(fd, out), "map a completion queue")
        super().__init__(out[0], lib.emu_ring_cq_close, "completion queue")
        self._batch = ffi.new("struct emu_cqe[]", batch)
        self._size = batch

    def poll(self, count: int = 1) -> list[Completion]:
        """Take up to `count` completions, at most the batch size at once. Returns at once."""
        with self._lock:
            taken = lib.emu_ring_poll(self._alive(), self._batch, min(count, self._size))
            if taken == 0:
                return []
            return [_completion(cqe) for cqe in self._batch[0 : _checked(taken, "poll")]]

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until there is a completion or `timeout` seconds have passed (None: for ever). Returns whether there is one.

        A signal whose handler raises ends the wait with that exception; one whose handler does not is waited through.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = _SLICE if deadline is None else min(_SLICE, max(0.0, deadline - time.monotonic()))
            with self._lent() as pointer:
                result = lib.emu_ring_wait(pointer, int(left * 1e9))
            if result == 1:
                return True
            if result != -errno.EINTR:
                _checked(result, "wait for a completion")
            if deadline is not None and time.monotonic() >= deadline:
                return False

    def purge(self, qp_num: int) -> int:
        """Drop what was not polled of a queue pair that went to RESET or is gone. Returns how many."""
        with self._lock:
            return _checked(lib.emu_ring_cq_purge(self._alive(), qp_num), "purge completions")


def _completion(cqe: Any) -> Completion:
    return Completion(
        cqe.wr_id, cqe.status, cqe.opcode, cqe.byte_len, cqe.imm_data, cqe.qp_num, cqe.src_qp, cqe.wc_flags,
        cqe.vendor_err, cqe.wq_head, cqe.is_recv,
    )  # fmt: skip


class Memory:
    """Address space for a memory region: reserved first, so that its address can be named when it is registered, then mapped.

    `view` is the writable (or readonly) memoryview once `map` has been called. `close` gives the range back: views of it
    must not be used afterwards.
    """

    def __init__(self, length: int) -> None:
        """Reserve `length` bytes, rounded up to pages."""
        page = os.sysconf("SC_PAGESIZE")
        self.bytes = max(page, -(-length // page) * page)
        out = ffi.new("void **")
        _checked(lib.emu_ring_reserve(self.bytes, out), f"reserve {self.bytes} bytes of address space")
        self._pointer: Any = out[0]
        self.addr = int(ffi.cast("uintptr_t", out[0]))
        self.length = length
        self.close = weakref.finalize(self, lib.emu_ring_unreserve, out[0], self.bytes)

    def pointer(self) -> Any:
        return _alive(self._pointer, self.close, "memory")

    def map(self, fd: int, pieces: Sequence[Sequence[int]], *, writable: bool = True) -> None:
        """Place [file offset, bytes] pieces of `fd` (page multiples) over the range, one behind the other."""
        flat = ffi.new("uint64_t[]", [number for piece in pieces for number in piece])
        what = f"map {len(pieces)} pieces of descriptor {fd}"
        result = lib.emu_ring_map(self.pointer(), self.bytes, fd, flat, len(pieces), writable)
        _checked(result, what)

    @property
    def view(self) -> memoryview:
        """The memory, `length` bytes, writable as far as it was mapped so."""
        return memoryview(ffi.buffer(self.pointer(), self.length))


def stamp_fill(
    view: memoryview | bytearray,
    *,
    writer: int,
    ino: int,
    work_request: int,
    layout: int,
    namespace: int,
    offset: int,
) -> None:
    """Fill `view` with stamp cells (csrc/include/emu/stamp.h); `offset` is the intended one of its first byte."""
    stamp = ffi.new("struct emu_stamp *", (work_request, offset, writer, ino, layout, namespace))
    target = ffi.from_buffer(view, require_writable=True)
    lib.emu_stamp_fill(target, len(target), stamp)


def stamp_foreign(
    memory: Any, start: int, end: int, ino: int, since: int, kin: Sequence[int] = ()
) -> list[int]:
    """Positions in memory[start:end], at multiples of a cell, of whole cells that were written under a translation from before the memory was
    file `ino`'s, in its layout `since`, and by none of its kin.
    """
    start = -(-start // CELL) * CELL
    cells = max(0, min(end, len(memory)) - start) // CELL
    if not cells:
        return []
    source, found = ffi.from_buffer(memory), ffi.new("uint64_t[]", cells)
    count = lib.emu_stamp_foreign(source + start, cells, ino, since, list(kin), len(kin), found)
    return [start + CELL * number for number in ffi.unpack(found, count)]


def stamp_in_place(memory: Any, start: int, cells: int, ino: int, offset: int) -> int:
    """How many of the cells that lie in memory[start:], one behind the other, are what was meant for `offset` of file `ino` and on."""
    cells = min(cells, max(0, len(memory) - start) // CELL)
    if not cells:
        return 0
    count: int = lib.emu_stamp_in_place(ffi.from_buffer(memory) + start, cells, ino, offset)
    return count
