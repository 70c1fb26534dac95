"""Memory regions: memory that the NIC may touch, and the keys that name it.

    MR(pd, length, access)                           memory of its own (a sealed memfd)
    MR(pd, length, access, file="/mnt/a")            bytes of a file on a mount of the node: the file's very blocks
    MR(pd, length, access, path="host/file")         bytes of an ordinary file of this host
    MR(pd, length, access, device="/dev/dax0")       bytes of a device-dax mount of the node: the bare device
    MR(pd, length, access, dmabuf="name")            bytes of a buffer that an exporter made (ctx.dmabuf)

The memory is mapped here, at `mr.buf`, and registered under that very address unless `iova` says otherwise: address space is
reserved first, its address is the registered one, then what the broker hands back is placed there. Loads and stores of
this process go straight to the memory, past every key: after a truncate `mr.read()` of a host file ends in SIGBUS, as it does on
hardware, and of a dax file it still sees the blocks, whoever owns them now.

A memoryview that the program still holds keeps the mapping (not the registration) alive beyond close().
"""

from __future__ import annotations

import errno
import mmap
import os
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from emu.engine.ring import Memory
from emu.verbs import enums as e
from emu.verbs.base import PyverbsCM, closed, lines, refuse_unacknowledged
from emu.verbs.fs import host_file
from emu.verbs.mapped import buffer_over
from emu.verbs.pyverbs_error import PyverbsRDMAError, PyverbsUserError
from emu.verbs.session import pyverbs_errors
from emu.wire.client import DEFAULT_TIMEOUT
from emu.wire.errors import WireError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.verbs.pd import PD
    from emu.wire.client import Answer, Pending

PAGE = mmap.PAGESIZE
WRITABLE = e.IBV_ACCESS_LOCAL_WRITE | e.IBV_ACCESS_REMOTE_WRITE | e.IBV_ACCESS_REMOTE_ATOMIC


class MR(PyverbsCM):
    """A registered region of `length` bytes.

    access: IBV_ACCESS_*. file, path, device, dmabuf: what is registered (none: memory of its own). offset: in that; on a mount a multiple
    of 4096. iova: the address by which work requests name its first byte. importer: what it promises when its memory is taken back
    (docs/protocols.md); bound: of a deferred-unmap one, seconds within which it says `acknowledge()` behind its fence. implicit and user addresses need memory that the NIC cannot reach here: EOPNOTSUPP.

    guarded, unguarded: whether the guard holds, or why not, as far as this program was told: at registration, and by the UNGUARDED events
    that it has taken (get_async_event).

    buf, lkey, rkey, length, handle: as in pyverbs. ino, layout: of the file, at registration. importer: the class it got, which a
    mount whose protocol is on demand makes "dynamic".
    """

    def __init__(
        self,
        pd: PD,
        length: int = 0,
        access: int = 0,
        address: int | None = None,
        implicit: bool = False,
        *,
        file: str | None = None,
        path: str | os.PathLike[str] | None = None,
        offset: int = 0,
        iova: int | None = None,
        importer: str = "sync-revocable",
        bound: float = 0.0,
        guard: bool = False,
        device: str | None = None,
        dmabuf: str | None = None,
    ) -> None:
        self._handle: int | None = None
        self._buffer: Any = None
        self.pd = pd
        if implicit or address is not None:
            raise PyverbsRDMAError(
                "memory of the program's own, and implicit regions, cannot be registered", errno.EOPNOTSUPP
            )
        where = {"dax": file, "host": path, "devdax": device, "dmabuf": dmabuf}
        named = [(backing, os.fspath(name)) for backing, name in where.items() if name is not None]
        if len(named) > 1:
            raise PyverbsUserError(
                "give one of file= (on a mount of the node), path= (of this host), device= (of the node) and dmabuf="
            )
        self.length, self.access = length, int(access)
        self._skew = offset % PAGE
        with _no_room(length):
            memory = Memory(_span(length, offset))
        self.iova = memory.addr + self._skew if iova is None else iova
        asked = {
            "pd": pd.handle,
            "length": length,
            "access": self.access,
            "offset": offset,
            "importer": importer,
            **({"bound": float(bound)} if bound else {}),
            **({"guard": True} if guard else {}),
        }
        backing, name = named[0] if named else ("anon", "")
        self._register(memory, {**asked, "iova": self.iova, "backing": backing, "path": name})
        self._address, self._buffer = memory.addr, buffer_over(memory)
        pd.mrs.add(self)
        pd.ctx.register("mr", self.handle, self)

    def _register(self, memory: Memory, asked: dict[str, Any]) -> None:
        with ExitStack() as given:
            fds: tuple[int, ...] = ()
            if asked["backing"] == "host":
                fds = (given.enter_context(host_file(asked["path"], readable=not self.access & WRITABLE)),)
            answer = self._ask(fds, asked)
            for fd in answer.descriptors:
                given.callback(os.close, fd)
            self._handle = int(answer.result["handle"])
            self._keep(answer.result)
            writable = not fds or bool(self.access & WRITABLE)
            try:
                with _no_room(self.length):
                    memory.map((*answer.descriptors, *fds)[0], answer.result["map"], writable=writable)
            except PyverbsRDMAError:
                self.close()
                raise

    def _ask(self, fds: tuple[int, ...], asked: dict[str, Any]) -> Answer:
        """A registration may wait behind a reclaim, as long as that takes (wait-fair). Ctrl-C takes it back."""
        pending = self.pd.ctx.session.start("reg_mr", fds, **asked)
        try:
            with pyverbs_errors("reg_mr"):
                return pending.result()
        except KeyboardInterrupt:
            self._take_back(pending)
            raise

    def _take_back(self, pending: Pending) -> None:
        with suppress(WireError):  # interrupted, or refused: there is nothing to end
            pending.cancel()
            answer = pending.result(DEFAULT_TIMEOUT)
            for fd in answer.descriptors:
                os.close(fd)
            self.pd.ctx.put_off("dereg_mr", int(answer.result["handle"]))

    def _keep(self, result: dict[str, Any]) -> None:
        self.lkey, self.rkey = int(result["lkey"]), int(result["rkey"])
        self.ino, self.layout = int(result.get("ino", 0)), int(result.get("layout", 0))
        self.device, self.importer = str(result.get("device", "")), str(result["importer"])
        self.guarded, self.unguarded = bool(result.get("guarded", False)), str(result.get("unguarded", ""))

    @property
    def handle(self) -> int:
        if self._handle is None:
            raise closed("MR")
        return self._handle

    @property
    def buf(self) -> int:
        """Address of the first byte in this process."""
        self.handle  # noqa: B018 - refuses a closed one
        return self._address + self._skew

    @property
    def view(self) -> memoryview:
        """The region's bytes, in place (emu's own)."""
        self.handle  # noqa: B018 - refuses a closed one
        return memoryview(self._buffer)[self._skew : self._skew + self.length]

    def write(self, data: bytes | bytearray | memoryview | str, length: int, offset: int = 0) -> None:
        """Store the first `length` bytes of data."""
        raw = data.encode() if isinstance(data, str) else data
        self._check(length, offset)
        if len(raw) < length:
            raise PyverbsUserError(f"write of {length} bytes, but data has {len(raw)}")
        self.view[offset : offset + length] = raw[:length]

    def read(self, length: int, offset: int) -> bytes:
        self._check(length, offset)
        return bytes(self.view[offset : offset + length])

    def _check(self, length: int, offset: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.length:
            raise PyverbsUserError(
                f"bytes {offset}..{offset + length} are not within the {self.length} bytes of this MR"
            )

    def guard_ended(self, *, taken: bool) -> None:
        """By the event that was taken: another program wants to change the file (taken), or has opened it for reading."""
        what = "wants to truncate it, or to write it" if taken else "has opened it for reading"
        self.guarded, self.unguarded = False, f"another program {what}: the kernel ended the lease"

    def acknowledge(self) -> None:
        """Emu's own: the holder's answer to MR_REVOKING; the region may be taken now."""
        self.pd.ctx.call("ack", handle=self.handle)

    def close(self) -> None:
        """Deregister: when it returns, the NIC touches nothing of it."""
        if self._handle is None:
            return
        if self.pd.ctx.foreign:
            self._handle = self._buffer = None
            return
        refuse_unacknowledged(self)
        handle, self._handle = self._handle, None
        try:
            self.pd.ctx.destroy("dereg_mr", handle)
        except PyverbsRDMAError:
            self._handle = self.pd.ctx.kept(handle)
            raise
        finally:
            if self._handle is None:
                self._buffer = None

    def __del__(self) -> None:
        handle = getattr(self, "_handle", None)
        if handle is not None:
            self.pd.ctx.put_off("dereg_mr", handle)

    def __str__(self) -> str:
        rows = [("lkey", self.lkey), ("rkey", self.rkey), ("length", self.length), ("buf", self.buf)]
        return lines("MR", [*rows, ("handle", self.handle)])


@contextmanager
def _no_room(length: int) -> Iterator[None]:
    """What this process lacks for it, as pyverbs says it."""
    try:
        yield
    except OSError as error:
        number = error.errno or errno.ENOMEM
        raise PyverbsRDMAError(
            f"an MR of {length} bytes cannot be mapped here: {error.strerror}", number
        ) from None


def _span(length: int, offset: int) -> int:
    """Bytes of address space for the pages that hold the range. Lengths that no mapping can have are the broker's to refuse."""
    if not 0 < length < 1 << 46 or not 0 <= offset < 1 << 62:
        return PAGE
    return -(-(offset % PAGE + length) // PAGE) * PAGE
