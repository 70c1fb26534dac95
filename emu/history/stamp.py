"""Stamps: what a writer stores so that its bytes can be recognised wherever they end up.

Every 64 bytes are a *cell*, little endian (csrc/include/emu/stamp.h has the same layout):

    0  magic 8 bytes "EMUSTAMP"   8  writer u32      12  ino u32        16  work request u64
    24 layout u32                 28 namespace u32   32  offset u64     40  crc32 of bytes 0..40, six times u32

`ino`, `offset`: the file and the place in it that the writer *meant*; `layout`: the file's count of layout changes when the writer's
MR was registered; `namespace`: of the device. A cell found in a block of file F is *foreign* iff it is intact and
(cell.ino != F.ino or cell.layout < extent.since): it was written under a translation that was taken when the block was not F's.
In the free blocks of a namespace that was plugged in later (they hold the canary) every cell is foreign.

Only intact cells count, so every figure made from them is a lower bound. If you change the layout, change stamp.h with it.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    Buffer = bytes | bytearray | memoryview

CELL = 64
MAGIC = b"EMUSTAMP"
CANARY = b"CANARY\x00\x01"

_HEAD = struct.Struct("<8sIIQIIQ")
_CHECKS = struct.Struct("<6I")


class Cell(NamedTuple):
    writer: int
    ino: int
    wr: int
    layout: int
    namespace: int
    offset: int


class Foreign(NamedTuple):
    """One foreign cell: in which file (empty: a free block), at which byte of the image, and what it says."""

    path: str
    position: int
    cell: Cell


def encode(cell: Cell) -> bytes:
    """The 64 bytes of a cell."""
    head = _HEAD.pack(MAGIC, *cell)
    return head + _CHECKS.pack(*[zlib.crc32(head)] * 6)


def decode(raw: Buffer) -> Cell | None:
    """The cell in these 64 bytes, or None if there is none or it is not intact."""
    if len(raw) != CELL:
        return None
    magic, *fields = _HEAD.unpack_from(raw)
    if magic != MAGIC or _CHECKS.unpack_from(raw, _HEAD.size) != (zlib.crc32(bytes(raw[: _HEAD.size])),) * 6:
        return None
    return Cell(*fields)


def fill(buffer: bytearray | memoryview, cell: Cell) -> None:
    """Stamp the buffer (a multiple of 64 bytes); `cell.offset` is the intended place of its first byte."""
    if len(buffer) % CELL:
        raise ValueError(f"a stamped buffer is a multiple of {CELL} bytes, this one has {len(buffer)}")
    for at in range(0, len(buffer), CELL):
        buffer[at : at + CELL] = encode(cell._replace(offset=cell.offset + at))


def scan(memory: Any, start: int = 0, end: int | None = None) -> Iterator[tuple[int, Cell]]:
    """Intact cells at multiples of 64 in memory[start:end] (bytes or an mmap), as (position, cell), in order."""
    end = len(memory) if end is None else end
    at = memory.find(MAGIC, start, end)
    while at >= 0:
        if at % CELL == 0 and at + CELL <= end and (cell := decode(memory[at : at + CELL])):
            yield at, cell
        at = memory.find(MAGIC, at + 1, end)


def is_foreign(cell: Cell, ino: int, since: int, kin: frozenset[int] = frozenset()) -> bool:
    """Whether the cell was written under a translation from before the block became file `ino`'s.

    kin: other files of its family (clones, and what they were cloned from), which may have written it before it was shared: of their cells
    memory cannot tell, the engine's log can.
    """
    return cell.ino not in kin and (cell.ino != ino or cell.layout < since)


def kin_of(file: dict[str, Any], filemap: dict[str, Any]) -> frozenset[int]:
    """Numbers of the other files of this one's family; a family is called by the number of its first file (`origin`)."""
    origin = file.get("origin", 0)
    if not origin:
        return frozenset()
    family = {other["ino"] for other in filemap["files"] if other.get("origin", 0) == origin}
    return frozenset((family | {origin}) - {file["ino"]})


def foreign_cells(image: Any, filemap: dict[str, Any]) -> Iterator[Foreign]:
    """Foreign cells in the files of a device image, by its filemap.json (docs/results.md)."""
    for file in filemap["files"]:
        kin = kin_of(file, filemap)
        for _, device_offset, size, since in file["extents"]:
            for at, cell in scan(image, device_offset, device_offset + size):
                if is_foreign(cell, file["ino"], since, kin):
                    yield Foreign(file["path"], at, cell)


def free_runs(image_bytes: int, filemap: dict[str, Any]) -> Iterator[tuple[int, int]]:
    """What no file of the map owns, as (offset, bytes), in order."""
    at = 0
    owned = sorted((e[1], e[2]) for file in filemap["files"] for e in file.get("beneath", file["extents"]))
    for offset, size in [*owned, (image_bytes, 0)]:
        if offset > at:
            yield at, offset - at
        at = offset + size


def cells_in_free(image: Any, filemap: dict[str, Any]) -> Iterator[Foreign]:
    """Cells in blocks that no file owns. In a namespace that was plugged in later each of them is foreign."""
    for offset, size in free_runs(filemap.get("device_bytes", len(image)), filemap):
        for at, cell in scan(image, offset, offset + size):
            yield Foreign("", at, cell)
