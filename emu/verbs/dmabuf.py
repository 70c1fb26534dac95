"""Dma-bufs, from the exporter's side: memory that others import by name (`MR(pd, length, access, dmabuf="name")`).

    with ctx.dmabuf.create("frame", 1 << 20) as buffer:
        buffer.write(b"...", 0)
        buffer.move(); buffer.revoke(permanent=False); buffer.restore()

A buffer belongs to the context that made it, and ends with it: whoever has imported it is revoked then, whether the node's protocol would
deny it or not. move and revoke are *reclaims*, under the protocol of the mount `dmabuf`; `begin_move` and `begin_revoke` return at once.

What the exporter sees at `view` is the memory itself, as it lies now: after a move it is mapped anew, at the same address.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any, Self

from emu.engine.ring import Memory
from emu.verbs.base import closed
from emu.verbs.fs import Reclaim
from emu.verbs.mapped import buffer_over
from emu.verbs.pyverbs_error import PyverbsRDMAError

if TYPE_CHECKING:
    from types import TracebackType

    from emu.verbs.session import Session


class Dmabufs:
    """`ctx.dmabuf`: the node's buffers, through one context."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def create(self, name: str, size: int) -> Dmabuf:
        """A buffer of `size` bytes (a multiple of 4096), zeroed, mapped here. EEXIST, ENOSPC; ENODEV: the node has no memory for buffers."""
        answer = self._session.call("dmabuf_create", name=name, size=size)
        return Dmabuf(self._session, answer.result, answer.descriptors[0])

    def stat(self, name: str) -> dict[str, Any]:
        """{name, size, ino, layout, state, pins, extents, map, device, namespace}; state: ready, away or closed."""
        return self._session.call("dmabuf_stat", name=name).result

    def move(self, name: str, timeout: float | None = None) -> dict[str, Any]:
        """To other memory, with its contents; this context's own buffers only."""
        return self.begin_move(name).result(timeout)

    def begin_move(self, name: str) -> Reclaim:
        return Reclaim(self._session.start("dmabuf_move", name=name), f"move {name}")

    def revoke(self, name: str, permanent: bool = True, timeout: float | None = None) -> None:
        """Take it back from everybody: for good, or until restore. A second time changes nothing."""
        self.begin_revoke(name, permanent).result(timeout)

    def begin_revoke(self, name: str, permanent: bool = True) -> Reclaim:
        pending = self._session.start("dmabuf_revoke", name=name, permanent=permanent)
        return Reclaim(pending, f"revoke {name}")

    def restore(self, name: str) -> None:
        """What was revoked for a time can be imported again."""
        self._session.call("dmabuf_restore", name=name)

    def destroy(self, name: str) -> None:
        """Let go of it: nobody is told, and the memory is free when the last importer has unmapped."""
        self._session.call("dmabuf_destroy", name=name)


class Dmabuf:
    """One buffer of this context's, mapped at `view`. A view that the program still holds keeps the mapping beyond close()."""

    _open = False  # until it is mapped

    def __init__(self, session: Session, made: dict[str, Any], fd: int) -> None:
        self.name, self.size, self.ino = str(made["name"]), int(made["size"]), int(made["ino"])
        self.layout = int(made["layout"])
        self._all, self._session, self._fd = Dmabufs(session), session, fd
        self._buffer: Any = None
        self._open = True
        self._memory = Memory(self.size)
        self._place(made["map"])
        self._buffer = buffer_over(self._memory)

    def _place(self, where: list[list[int]]) -> None:
        self._check()
        self._memory.map(self._fd, where, writable=True)

    def _check(self) -> None:
        if not self._open:
            raise closed("Dmabuf")

    @property
    def view(self) -> memoryview:
        self._check()
        return memoryview(self._buffer)

    def write(self, data: bytes, offset: int = 0) -> None:
        self.view[offset : offset + len(data)] = data

    def read(self, length: int, offset: int = 0) -> bytes:
        return bytes(self.view[offset : offset + length])

    def move(self, timeout: float | None = None) -> None:
        self.moved(self.begin_move().result(timeout))

    def begin_move(self) -> Reclaim:
        self._check()
        return self._all.begin_move(self.name)

    def moved(self, result: dict[str, Any]) -> None:
        """Map it where the result of a move says that it is now."""
        self.layout = int(result["layout"])
        self._place(result["map"])

    def revoke(self, permanent: bool = True, timeout: float | None = None) -> None:
        self._check()
        self._all.revoke(self.name, permanent, timeout)

    def begin_revoke(self, permanent: bool = True) -> Reclaim:
        self._check()
        return self._all.begin_revoke(self.name, permanent)

    def restore(self) -> None:
        self._check()
        self._all.restore(self.name)

    def stat(self) -> dict[str, Any]:
        self._check()
        return self._all.stat(self.name)

    def close(self) -> None:
        """Destroy it and unmap it here, if it has not ended before: with its context, or by its name. Idempotent. A forked child's copy
        only lets go of its mapping.
        """
        if not self._open:
            return
        try:
            if not self._session.over:
                self._session.call("dmabuf_destroy", name=self.name, ino=self.ino)
        except PyverbsRDMAError as error:
            if error.errno != errno.ENOENT and not self._session.over:
                raise  # EBUSY, and it can be closed again
        self._let_go()

    def _let_go(self) -> None:
        self._open = False
        self._buffer = None
        os.close(self._fd)

    def __del__(self) -> None:
        if self._open:
            self._let_go()
            if not self._session.over:
                self._session.put_off("dmabuf_destroy", name=self.name, ino=self.ino)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
