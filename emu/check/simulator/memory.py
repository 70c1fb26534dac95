"""The bytes of a simulated device, kept as who stored what in which cell, and rendered only when somebody looks.

A cell (64 bytes) holds None (zeros), CANARY, a Stamp (who wrote, and for which file), or Bytes (what the CPU stored). Whole runs of cells
share one such object: a stamp says where the run *meant* to lie, so that the same object is right for each of its cells.

Positions and lengths are bytes of the device. What ends inside of a cell (the tail of an odd truncate) is rendered byte by byte.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Final, NamedTuple

from emu.engine.ring import stamp_fill
from emu.history.stamp import CANARY as CANARY_WORD
from emu.history.stamp import CELL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.core.effects import Piece, Run

BLOCK: Final = 4096
CANARY: Final = "canary"


class Stamp(NamedTuple):
    """A writer's cells. shift: what the intended offset in the file is ahead of the position in the device."""

    writer: int
    ino: int
    wr: int
    layout: int
    namespace: int
    shift: int


class Bytes(NamedTuple):
    """What a CPU stored: `raw`, of which the byte for position p is raw[p - at]."""

    raw: bytes
    at: int


class Torn(NamedTuple):
    """A cell whose bytes first..last (of the 64) were stored later than the others."""

    below: Content
    above: Content
    first: int
    last: int


Content = Stamp | Bytes | Torn | str | None


class Memory:
    """One device of `blocks` blocks, all zero."""

    def __init__(self, blocks: int) -> None:
        self.bytes = blocks * BLOCK
        self.cells: list[Content] = [None] * (self.bytes // CELL)

    def store(self, at: int, length: int, content: Content) -> None:
        """These bytes are this now."""
        end = at + length
        first, last = -(-at // CELL), end // CELL
        if first <= last:
            self.cells[first:last] = [content] * (last - first)
            self._part(first - 1, at, first * CELL, content)
            self._part(last, last * CELL, end, content)
        else:
            self._part(last, at, end, content)

    def _part(self, cell: int, start: int, end: int, content: Content) -> None:
        """Bytes start..end, which lie within one cell."""
        if start < end:
            base = cell * CELL
            self.cells[cell] = Torn(self.cells[cell], content, start - base, end - base)

    def zero(self, runs: Sequence[Run]) -> None:
        for at, length in runs:
            self.store(at, length, None)

    def write(self, runs: Sequence[Run], data: bytes) -> None:
        """The CPU stores `data` over the runs, in order."""
        done = 0
        for at, length in runs:
            self.store(at, length, Bytes(data, at - done))
            done += length

    def copy(self, pieces: Sequence[Piece]) -> None:
        """Whole cells from one place to another: what was stored there is what lies here now, meant for where it was meant."""
        for start, to, length in pieces:
            by = to - start
            cells = self.cells[start // CELL : (start + length) // CELL]
            self.cells[to // CELL : (to + length) // CELL] = [_moved(content, by) for content in cells]

    def replace(self) -> None:
        """A new namespace: the canary everywhere."""
        self.cells = [CANARY] * len(self.cells)

    def render(self) -> bytes:
        """The image."""
        image = bytearray(self.bytes)
        at = 0
        for content, run in groupby(self.cells):
            end = at + CELL * sum(1 for _ in run)
            if content is not None:
                _render(memoryview(image)[at:end], content, at)
            at = end
        return bytes(image)


def _moved(content: Content, by: int) -> Content:
    """The same bytes `by` further."""
    if isinstance(content, Stamp):
        return content._replace(shift=content.shift - by)
    if isinstance(content, Bytes):
        return content._replace(at=content.at + by)
    if isinstance(content, Torn):
        return content._replace(below=_moved(content.below, by), above=_moved(content.above, by))
    return content


def _render(view: memoryview, content: Content, at: int) -> None:
    """The cells from position `at` on, all of one content. `view` holds zeros."""
    if isinstance(content, Stamp):
        stamp_fill(
            view, writer=content.writer, ino=content.ino, work_request=content.wr, layout=content.layout,
            namespace=content.namespace, offset=at + content.shift,
        )  # fmt: skip
    elif isinstance(content, Bytes):
        skip = max(0, content.at - at)  # a cell may begin before what was stored in it
        piece = content.raw[at + skip - content.at : at - content.at + len(view)]
        view[skip : skip + len(piece)] = piece
    elif isinstance(content, Torn):
        for cell in range(0, len(view), CELL):
            below, above = bytearray(CELL), bytearray(CELL)
            _render(memoryview(below), content.below, at + cell)
            _render(memoryview(above), content.above, at + cell)
            below[content.first : content.last] = above[content.first : content.last]
            view[cell : cell + CELL] = below
    elif content == CANARY:
        view[:] = CANARY_WORD * (len(view) // len(CANARY_WORD))
