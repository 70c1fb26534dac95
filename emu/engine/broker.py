"""The broker's face of the C engine: `Engine`, typed, raising OSError with an errno and a sentence that names the thing.

One control thread calls it (the broker's loop). No call waits for an engine thread: what takes time is answered by an
event (`Engine.events`, when `fileno()` is readable). Descriptors that are returned belong to the caller, those passed in
stay the caller's. Offsets and lengths are bytes.

Only this module touches the extension `emu.engine._engine`; csrc/include/emu/engine.h says more about each call.
"""

from __future__ import annotations

import errno
import os
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from emu.engine._engine import ffi, lib

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType

Run = tuple[int, int]

GONE, VACANT = -1, -2  # in place of an extent's offset: EMU_GONE, EMU_VACANT

QP_ATTRIBUTES = (
    "state", "cur_state", "access", "pkey_index", "port", "path_mtu", "dest_qpn", "rq_psn", "sq_psn", "timeout",
    "retry_cnt", "rnr_retry", "min_rnr_timer", "max_rd_atomic", "max_dest_rd_atomic", "dlid",
)  # fmt: skip


class EventKind(IntEnum):
    """What an engine event says; the fields of `EngineEvent` that count are named."""

    QUIESCED = 1  # cookie
    UNMAPPED = 2  # cookie
    QP_GONE = 3  # cookie
    ASYNC = 4  # id = qp or cq number, code = IBV_EVENT_*
    SIGBUS = 5  # id = aperture, offset
    HELD = 6  # id = thread, code = hold point, cookie = key, offset = wr_id
    FAULT = 7  # id = key, code = 1: a write, cookie = sequence, offset and bytes in the MR


class MrState(IntEnum):
    FREE = 0
    LIVE = 1
    FENCED = 2
    UNMAPPED = 3
    PARKED = 4
    ABSENT = 5


class EngineEvent(NamedTuple):
    kind: EventKind
    id: int
    code: int
    cookie: int
    offset: int
    bytes: int = 0


class NewContext(NamedTuple):
    """The context's slot, and the descriptors of its context page and of its engine thread's bell page."""

    slot: int
    ctx_fd: int
    bell_fd: int


class NewCq(NamedTuple):
    number: int
    fd: int
    depth: int


class NewQp(NamedTuple):
    """The queue pair's number, its segment, and the sizes it really has."""

    qp_num: int
    fd: int
    max_send_wr: int
    max_recv_wr: int
    max_send_sge: int
    max_recv_sge: int


def _checked(result: int, what: str) -> int:
    if result >= 0:
        return result
    number = -result
    raise OSError(number, f"{what}: {os.strerror(number)}")


def hold_points() -> list[str]:
    """Names of the points where an engine thread can be held; the index is the point's number, 0 is "none"."""
    names: list[str] = []
    while (name := lib.emu_hold_name(len(names))) != ffi.NULL:
        names.append(ffi.string(name).decode())
    return names


def memfd(name: str, size: int) -> int:
    """An anonymous memory file of `size` bytes, sealed against resizing. Returns the descriptor."""
    return _checked(lib.emu_memfd(name.encode(), size), f"memory of {size} bytes")


class Engine:
    """Engine threads, apertures, keys, queues. Ends with `close` (or as a context manager)."""

    def __init__(
        self, *, threads: int = 1, quantum: int = 65536, spin: int = 0, time_scale: float = 1.0
    ) -> None:
        config = ffi.new(
            "struct emu_engine_config *",
            {"threads": threads, "quantum": quantum, "spin": spin, "time_scale": time_scale},
        )
        out = ffi.new("struct emu_engine **")
        what = f"engine of {threads} threads, quantum {quantum}, time scale {time_scale}"
        _checked(lib.emu_engine_new(config, out), what)
        self._engine: Any = out[0]

    def start(self) -> None:
        """Start the threads; operation logs are opened before."""
        _checked(lib.emu_engine_start(self._live()), "start the engine")

    def close(self) -> None:
        """End the threads (held ones are released) and unmap everything. Idempotent."""
        engine, self._engine = self._engine, None
        if engine is not None:
            lib.emu_engine_free(engine)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _live(self) -> Any:
        if self._engine is None:
            raise OSError(errno.ESHUTDOWN, "the engine has been closed")
        return self._engine

    # ---- events, epoch, log, figures

    def fileno(self) -> int:
        """Readable when `events` has something."""
        return int(lib.emu_engine_eventfd(self._live()))

    def events(self, limit: int = 256) -> list[EngineEvent]:
        """Take up to `limit` events, oldest first."""
        out = ffi.new("struct emu_engine_event[]", limit)
        count = _checked(lib.emu_events_take(self._live(), out, limit), "take engine events")
        return [
            EngineEvent(EventKind(o.kind), o.id, o.code, o.cookie, o.offset, o.bytes) for o in out[0:count]
        ]

    def epoch_advance(self) -> int:
        """A phase changes: the next epoch begins. Returns its number."""
        return int(lib.emu_epoch_advance(self._live()))

    @property
    def epoch(self) -> int:
        return int(lib.emu_epoch(self._live()))

    def oplog_open(self, thread: int, path: str | os.PathLike[str], capacity: int) -> None:
        """Log what thread number `thread` does; `capacity` in records. Before `start`."""
        what = f"operation log {os.fspath(path)} of {capacity} records"
        _checked(lib.emu_oplog_open(self._live(), thread, os.fsencode(path), capacity), what)

    def oplog_flush(self) -> None:
        """Ends open sums; done when the next quiesce is answered."""
        _checked(lib.emu_oplog_flush(self._live()), "flush the operation log")

    def stats(self) -> dict[str, int]:
        """Figures by name (struct emu_engine_stats)."""
        out = ffi.new("struct emu_engine_stats *")
        lib.emu_engine_stats(self._live(), out)
        return {name: int(getattr(out, name)) for name, _ in ffi.typeof(out[0]).fields}

    # ---- apertures and the CPU's side

    def aperture_add(
        self,
        fd: int,
        size: int,
        *,
        block: int = 4096,
        gens_fd: int = -1,
        host: bool = False,
        scratch: bool = False,
    ) -> int:
        """Map `size` bytes of `fd`; `gens_fd` is the table of generations, a u32 a block. Returns the number.

        scratch: one block more behind them, in no file, where translations may lead to.
        """
        flags = (lib.EMU_AP_HOST if host else 0) | (lib.EMU_AP_SCRATCH if scratch else 0)
        what = f"aperture of {size} bytes over descriptor {fd}"
        return _checked(lib.emu_aperture_add(self._live(), fd, size, block, gens_fd, flags), what)

    def aperture_swap(self, aperture: int, fd: int = -1, gens_fd: int = -1) -> None:
        """The memory is gone (`fd` -1), or a new namespace appears at the same addresses."""
        _checked(lib.emu_aperture_swap(self._live(), aperture, fd, gens_fd), f"swap aperture {aperture}")

    def aperture_drop(self, aperture: int) -> None:
        """EBUSY while a memory region refers to it."""
        _checked(lib.emu_aperture_drop(self._live(), aperture), f"drop aperture {aperture}")

    def aperture_page_out(self, aperture: int) -> None:
        """Advice to the kernel: this memory may go to swap. Its bytes stay what they are."""
        _checked(lib.emu_aperture_page_out(self._live(), aperture), f"page out aperture {aperture}")

    def cpu_read(self, aperture: int, offset: int, length: int) -> bytes:
        to = bytearray(length)
        what = f"read {length} bytes at {offset} of aperture {aperture}"
        _checked(lib.emu_cpu_read(self._live(), aperture, offset, ffi.from_buffer(to), length), what)
        return bytes(to)

    def cpu_write(self, aperture: int, offset: int, data: bytes | bytearray | memoryview) -> None:
        source = ffi.from_buffer(data)
        what = f"write {len(source)} bytes at {offset} of aperture {aperture}"
        _checked(lib.emu_cpu_write(self._live(), aperture, offset, source, len(source)), what)

    def cpu_zero(self, aperture: int, offset: int, length: int) -> None:
        what = f"zero {length} bytes at {offset} of aperture {aperture}"
        _checked(lib.emu_cpu_zero(self._live(), aperture, offset, length), what)

    def cpu_copy(self, source: int, start: int, target: int, to: int, length: int) -> None:
        """From `start` of one aperture to `to` of another, or of the same; the ranges do not overlap."""
        what = f"copy {length} bytes at {start} of aperture {source} to {to} of aperture {target}"
        _checked(lib.emu_cpu_copy(self._live(), source, start, target, to, length), what)

    def blocks_share(self, aperture: int, offset: int, length: int) -> None:
        """Whole blocks that other files have from now on: the next even generation, two further."""
        what = f"share {length} bytes at {offset} of aperture {aperture}"
        _checked(lib.emu_blocks_share(self._live(), aperture, offset, length), what)

    def blocks_fail(self, aperture: int, offset: int, length: int) -> None:
        """The memory of whole blocks has failed, for good: DMA finds it absent."""
        what = f"fail {length} bytes at {offset} of aperture {aperture}"
        _checked(lib.emu_blocks_fail(self._live(), aperture, offset, length), what)

    def blocks_allocate(self, aperture: int, offset: int, length: int, *, recover: bool = False) -> None:
        """Whole blocks: next even generation, then zeros. `recover`: an even generation stays, nothing is zeroed."""
        what = f"allocate {length} bytes at {offset} of aperture {aperture}"
        _checked(lib.emu_blocks_allocate(self._live(), aperture, offset, length, recover), what)

    def blocks_release(self, aperture: int, offset: int, length: int, *, recover: bool = False) -> None:
        """Whole blocks: next odd generation. `recover`: an odd generation stays."""
        what = f"release {length} bytes at {offset} of aperture {aperture}"
        _checked(lib.emu_blocks_release(self._live(), aperture, offset, length, recover), what)

    # ---- keys

    def mr_install(
        self, *, key: int, pd: int, access: int, importer: int, aperture: int, iova: int, length: int,
        extents: Sequence[Run],
    ) -> None:  # fmt: skip
        """A key begins to work. Extents are (offset, bytes) in the aperture and add up to `length`."""
        runs = _extents(extents)
        desc = ffi.new(
            "struct emu_mr_desc *",
            {"key": key, "pd": pd, "access": access, "importer": importer, "aperture": aperture,
             "n_extents": len(extents), "iova": iova, "length": length, "extents": runs},
        )  # fmt: skip
        _checked(lib.emu_mr_install(self._live(), desc), f"install key {key:#x} of {length} bytes")

    def mr_state(self, key: int) -> MrState:
        return MrState(_checked(lib.emu_mr_state(self._live(), key), f"key {key:#x}"))

    def mr_inflight(self, keys: Iterable[int]) -> int:
        """Operations begun and not completed under these keys, now."""
        numbers = ffi.new("uint32_t[]", list(keys))
        return _checked(lib.emu_mr_inflight(self._live(), numbers, len(numbers)), "operations in flight")

    def quiesce(self, keys: Iterable[int], cookie: int) -> None:
        """No new work under the keys; QUIESCED(cookie) when no byte will be moved again. No keys: a grace period."""
        numbers = ffi.new("uint32_t[]", list(keys))
        _checked(lib.emu_quiesce(self._live(), numbers, len(numbers), cookie), f"quiesce {len(numbers)} keys")

    def unmap(self, keys: Iterable[int], cookie: int) -> None:
        """Forget the translations of quiesced keys; UNMAPPED(cookie). EBUSY, and no change, unless all are quiesced."""
        numbers = ffi.new("uint32_t[]", list(keys))
        _checked(lib.emu_unmap(self._live(), numbers, len(numbers), cookie), f"unmap {len(numbers)} keys")

    def invalidate(self, keys: Iterable[int], cookie: int, *, others: bool = False) -> None:
        """As `quiesce`, of keys of dynamic importers (else EINVAL): work that comes afterwards waits, and FAULT tells of it.

        others: of other importers too. Of those no FAULT tells: whoever parks them gives them a translation again.
        """
        numbers = ffi.new("uint32_t[]", list(keys))
        what = f"invalidate {len(numbers)} keys"
        _checked(lib.emu_invalidate(self._live(), numbers, len(numbers), cookie, others), what)

    def remap(self, key: int, sequence: int, aperture: int, extents: Sequence[Run]) -> None:
        """A new translation: of a dynamic importer's key, in answer to the fault with this sequence (ESTALE: it was invalidated since, and
        the fault is told again), GONE and VACANT among the offsets; or of another key that is quiesced or parked, which lives again.
        """
        runs = _extents(extents)
        result = lib.emu_remap(self._live(), key, sequence, aperture, runs, len(extents))
        _checked(result, f"remap key {key:#x} to {len(extents)} extents")

    def mr_sequence(self, key: int) -> int:
        """How often the key was invalidated."""
        return _checked(lib.emu_mr_sequence(self._live(), key), f"key {key:#x}")

    def mr_remove(self, key: int) -> None:
        """The slot is free again. EBUSY unless the key is unmapped."""
        _checked(lib.emu_mr_remove(self._live(), key), f"remove key {key:#x}")

    # ---- contexts, completion queues, queue pairs

    def ctx_add(self) -> NewContext:
        fds = ffi.new("int[2]")
        slot = _checked(lib.emu_ctx_add(self._live(), fds, fds + 1), "open a context")
        return NewContext(slot, fds[0], fds[1])

    def ctx_remove(self, ctx: int) -> None:
        """EBUSY while it has queues."""
        _checked(lib.emu_ctx_remove(self._live(), ctx), f"remove context {ctx}")

    def cq_add(self, ctx: int, depth: int) -> NewCq:
        fd = ffi.new("int *")
        number = _checked(
            lib.emu_cq_add(self._live(), ctx, depth, fd), f"completion queue of {depth} entries"
        )
        seg = _segment("struct emu_cq_seg", fd[0])
        return NewCq(number, fd[0], seg.depth)

    def cq_remove(self, cq: int) -> None:
        """EBUSY while a queue pair uses it."""
        _checked(lib.emu_cq_remove(self._live(), cq), f"remove completion queue {cq}")

    def qp_add(
        self, *, ctx: int, pd: int, send_cq: int, recv_cq: int, max_send_wr: int, max_recv_wr: int,
        max_send_sge: int = 1, max_recv_sge: int = 1, sq_sig_all: bool = False, type: int = 2,  # noqa: A002 - verbs' name
    ) -> NewQp:  # fmt: skip
        """A queue pair in RESET; type 2 = RC. Sizes are rounded up."""
        desc = ffi.new(
            "struct emu_qp_desc *",
            {"ctx": ctx, "pd": pd, "send_cq": send_cq, "recv_cq": recv_cq, "max_send_wr": max_send_wr,
             "max_recv_wr": max_recv_wr, "max_send_sge": max_send_sge, "max_recv_sge": max_recv_sge,
             "sq_sig_all": sq_sig_all, "type": type},
        )  # fmt: skip
        fd = ffi.new("int *")
        number = _checked(lib.emu_qp_add(self._live(), desc, fd), f"queue pair in context {ctx}")
        seg = _segment("struct emu_qp_seg", fd[0])
        return NewQp(number, fd[0], seg.sq_depth, seg.rq_depth, seg.sq_max_sge, seg.rq_max_sge)

    def qp_modify(self, qp_num: int, mask: int, attrs: Mapping[str, int]) -> None:
        """modify_qp; `mask` is IBV_QP_* bits, `attrs` are named as QP_ATTRIBUTES. EINVAL changes nothing.

        After a step to RESET or ERR a grace period (`quiesce((), cookie)`) tells when the last copy has ended.
        """
        attr = ffi.new("struct emu_qp_attr *", {"mask": mask})
        for name, value in attrs.items():
            if name not in QP_ATTRIBUTES:
                raise OSError(errno.EINVAL, f"queue pair {qp_num}: no attribute {name!r}")
            setattr(attr, name, value)
        what = f"modify queue pair {qp_num} with mask {mask:#x}: illegal step or missing attribute"
        _checked(lib.emu_qp_modify(self._live(), qp_num, attr), what)

    def qp_query(self, qp_num: int) -> dict[str, int]:
        """The attributes as they are now, `state` among them."""
        out = ffi.new("struct emu_qp_rules *")
        _checked(lib.emu_qp_query(self._live(), qp_num, out), f"query queue pair {qp_num}")
        values = {name: int(getattr(out.attr, name)) for name in QP_ATTRIBUTES}
        return values | {"state": out.state, "cur_state": out.state}

    def qp_remove(self, qp_num: int, cookie: int) -> None:
        """Nothing of it starts any more; QP_GONE(cookie) when nothing of it runs."""
        _checked(lib.emu_qp_remove(self._live(), qp_num, cookie), f"remove queue pair {qp_num}")

    # ---- hold points

    def hold_arm(self, point: str | int, key: int = 0, skip: int = 0) -> None:
        """Hold the next thread that comes to `point` (a name of `hold_points`) with this key (0: any). HELD tells."""
        _checked(lib.emu_hold_arm(self._live(), _point(point), key, skip), f"hold at {point}")

    def hold_release(self, point: str | int) -> None:
        """Disarm, and let go whoever is held there."""
        _checked(lib.emu_hold_release(self._live(), _point(point)), f"release {point}")


def _extents(extents: Sequence[Run]) -> Any:
    return ffi.new(
        "struct emu_extent[]", [{"offset": o if o >= 0 else (1 << 64) + o, "bytes": n} for o, n in extents]
    )


def _point(point: str | int) -> int:
    if isinstance(point, int):
        return point
    names = hold_points()
    if point not in names:
        raise OSError(errno.EINVAL, f"no hold point {point!r}; the points are {', '.join(names[1:])}")
    return names.index(point)


def _segment(kind: str, fd: int) -> Any:
    """The header of a fresh segment, as the engine wrote it."""
    out = ffi.new(f"{kind} *")
    ffi.buffer(out)[:] = os.pread(fd, ffi.sizeof(kind), 0)
    return out
