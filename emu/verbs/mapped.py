"""A mapping as a Python buffer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cffi

if TYPE_CHECKING:
    from emu.engine.ring import Memory

_FFI = cffi.FFI()


def buffer_over(memory: Memory) -> Any:
    """A buffer that keeps the mapping: it goes when the last view of it goes."""
    guard = _FFI.gc(_FFI.cast("char *", memory.addr), lambda _: memory.close())
    return _FFI.buffer(guard, memory.length)
