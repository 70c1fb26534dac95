"""emu: a multi-process RDMA emulator with shared-memory DMA, and the ways to take memory back from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emu.verbs.node import Node, node

__version__ = "0.1.0"
__all__ = ["Node", "__version__", "node"]


def __getattr__(name: str) -> Any:
    """`emu.node` is the embedded node of emu.verbs; it is loaded when asked for, so that the core stays light."""
    if name in {"node", "Node"}:
        from emu.verbs import node as module  # noqa: PLC0415 - the point of it

        return getattr(module, name)
    raise AttributeError(f"module 'emu' has no attribute {name!r}")
