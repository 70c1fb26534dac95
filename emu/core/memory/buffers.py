"""Dma-bufs: memory of an exporter that others import by name, and that it moves, takes away, gives back.

    dmabuf_create --> ready --revoke for a time--> away --restore--> ready
                        |                            |
                        +--revoke for good-----------+--> closed: ENODEV for whoever comes
                        +--move--> other memory, the same buffer

A buffer is a file on the hidden device `dmabuf`, so that what holds for files (extents, pins, gates, quarantine, layout numbers, generations)
holds for it. The book `buffers` says the rest. Moves and revokes are reclaims over the whole buffer under the protocol of the mount `dmabuf`.
What is revoked for good gives its blocks back to the exporter's pool; what is destroyed, or loses its exporter, when the last importer has
unmapped. The end of the exporter's context closes its buffers whether anybody agrees or not: its reclaims are told, not asked (kind
`surprise`). Buffers do not outlive the broker.

An import is a registration in three steps: pin, MapBuffer (the exporter's side answers), InstallKey. A reclaim may fall between any two.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from emu.core import asking
from emu.core.asking import refuse
from emu.core.errors import shown
from emu.core.rows import DMABUF, File, Reclaim
from emu.core.storage import allocator, extents, sharing

if TYPE_CHECKING:
    from emu.core.books import Books
    from emu.core.events import BuffersLost
    from emu.core.rows import Device

NAME_MAX: Final = 64


# ---- names


def path_of(name: str) -> str:
    """The file that a buffer is. No client's path is like it: theirs begin with a slash."""
    return f"{DMABUF}/{name}"


def name_of(row: File) -> str:
    """The buffer that a file is, "" for others."""
    return row.path.removeprefix(f"{DMABUF}/") if row.device == DMABUF else ""


def check_name(name: str) -> None:
    plain = name.isprintable() and "/" not in name and name.isascii()
    if not (plain and 0 < len(name) <= NAME_MAX):
        refuse(
            errno.EINVAL,
            f"{shown(name)} cannot name a buffer: use 1 to {NAME_MAX} printable characters, no slash",
        )


def pool(b: Books) -> Device:
    """The device that buffers lie on."""
    if DMABUF not in b.devices:
        refuse(errno.ENODEV, "this node has no memory for buffers: start its broker with --dmabuf SIZE")
    return asking.online(b, DMABUF)


def buffer_at(b: Books, name: str) -> tuple[int, File]:
    check_name(name)
    ino = b.file_at.first(path_of(name))
    if ino is None:
        pool(b)
        refuse(errno.ENOENT, f"buffer {name} does not exist: its exporter makes it first (dmabuf_create)")
    return ino, b.files[ino]


def places(row: File) -> list[list[int]]:
    """Where it lies: [[offset, bytes], ...] in the device."""
    return [list(run) for run in extents.runs(row.extents, 0, row.size)]


def told(ino: int, row: File) -> dict[str, object]:
    return {"name": name_of(row), "size": row.size, "ino": ino, "layout": row.layout, "device": row.device}


# ---- what a reclaim applies


def apply_move(b: Books, number: int, row: Reclaim) -> bool:
    """Other blocks, the same bytes, and the layout numbers at which they were first written."""
    sharing.relocate(b, row.ino, b.files[row.ino].extents, number)
    return False


def apply_revoke(b: Books, number: int, row: Reclaim) -> bool:
    """For good: the memory is the exporter's again. For a time: it stays the buffer's, out of everybody's reach."""
    file = b.files[row.ino]
    if file.gone:
        return False  # an earlier one was for good
    if row.permanent:
        allocator.retire(b, b.devices[DMABUF].aperture, file.extents, number)
        b.buffers.put(row.ino, b.buffers[row.ino]._replace(away=False, reclaim=0, keys=()))
        b.files.put(row.ino, file._replace(extents=(), gone=True, layout=file.layout + 1))
    else:
        b.buffers.put(row.ino, b.buffers[row.ino]._replace(away=True, reclaim=number, keys=row.keys))
        b.files.put(row.ino, file._replace(layout=file.layout + 1))
    return False


# ---- the end


def let_go(b: Books, ino: int) -> None:
    """Name and buffer go; the blocks are free when nothing pins them."""
    row = b.files[ino]
    allocator.retire(b, b.devices[DMABUF].aperture, row.extents, 0)
    b.files.drop(ino)
    b.buffers.drop(ino)
    b.idle = True


def sweep(b: Books) -> None:
    """Buffers without an exporter go when no reclaim is about them any more. Called at the end of every step."""
    lone = b.buffers_of.of(0)
    if lone:
        busy = {row.ino for _number, row in b.reclaims.items()}
        for ino in lone:
            if ino not in busy:
                let_go(b, ino)


def lost(b: Books, _event: BuffersLost) -> None:
    """At a restart: exporters died with the broker, and buffers with them."""
    for ino in b.files_on.of(DMABUF):
        b.files.drop(ino)
    if DMABUF in b.devices:
        b.devices.drop(DMABUF)
