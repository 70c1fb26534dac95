"""Protection domains: memory regions and queue pairs work together only within one."""

from __future__ import annotations

from weakref import WeakSet

from emu.verbs.base import PyverbsCM, close_weakrefs, closed
from emu.verbs.device import Context
from emu.verbs.pyverbs_error import PyverbsRDMAError, PyverbsUserError


class PD(PyverbsCM):
    """A protection domain of a context."""

    def __init__(self, creator: Context) -> None:
        self._handle: int | None = None
        if not isinstance(creator, Context):
            raise PyverbsUserError(f"a PD is made from a Context, not from a {type(creator).__name__}")
        self.ctx = creator
        self.mrs: WeakSet[PyverbsCM] = WeakSet()
        self.qps: WeakSet[PyverbsCM] = WeakSet()
        self._handle = int(creator.call("alloc_pd").result["handle"])
        creator.pds.add(self)

    @property
    def handle(self) -> int:
        if self._handle is None:
            raise closed("PD")
        return self._handle

    def close(self) -> None:
        """Close its queue pairs and memory regions, then itself."""
        if self._handle is None:
            return
        close_weakrefs([self.qps, self.mrs])
        handle, self._handle = self._handle, None
        try:
            self.ctx.destroy("dealloc_pd", handle)
        except PyverbsRDMAError:
            self._handle = self.ctx.kept(handle)
            raise

    def __del__(self) -> None:
        handle = getattr(self, "_handle", None)
        if handle is not None:
            self.ctx.put_off("dealloc_pd", handle)
