"""Blocks that are no file's and that MRs still pin: kept out of use until the last pin is gone, and noted in a durable book.

    retired by a reclaim --keep--> quarantine, and a row of `orphans` --the last pin goes--> released, the row dropped

The row is committed together with the file that lost the blocks, and its end together with their release, so at whatever moment the broker is
killed the books say where every block is. A restart finds nobody who pins anything: what the rows name is free then (allocator.restore
takes what no file owns), and they are dropped.

Runs are cut where pins begin and end, so that a pin keeps its own blocks and no others.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from emu.core.memory.pins import pins_over
from emu.core.rows import BLOCK, Orphan

if TYPE_CHECKING:
    from emu.core.books import Books
    from emu.core.rows import Blocks


def pieces(b: Books, aperture: int, start: int, blocks: int) -> tuple[tuple[int, int, bool], ...]:
    """(block, blocks, pinned) of a run, in order: each piece is pinned by the same MRs all over."""
    cuts = {start, start + blocks}
    pinning = pins_over(b, aperture, ((start * BLOCK, blocks * BLOCK),))
    for key in pinning:
        for at, length in b.mrs[key].runs:
            cuts.update((at // BLOCK, -(-(at + length) // BLOCK)))
    edges = sorted(cut for cut in cuts if start <= cut <= start + blocks)
    return tuple(
        (at, end - at, bool(pins_over(b, aperture, ((at * BLOCK, (end - at) * BLOCK),))))
        for at, end in pairwise(edges)
    )


def cut(b: Books, key: int) -> tuple[int, ...]:
    """A run in quarantine in pieces: the keys of those that are pinned."""
    run = b.quarantine[key]
    parts = pieces(b, run.aperture, run.start, run.blocks)
    if len(parts) == 1:
        return (key,) if parts[0][2] else ()
    b.quarantine.drop(key)
    pinned = []
    for start, blocks, held in parts:
        number = b.number("blocks")
        b.quarantine.put(number, run._replace(start=start, blocks=blocks))
        if held:
            pinned.append(number)
    return tuple(pinned)


def keep(b: Books, key: int) -> None:
    """Nobody's until its last pin is gone: no reclaim will free it."""
    run = b.quarantine[key]
    b.quarantine.put(key, run._replace(reclaim=0))
    if device := _device_of(b, run.aperture):
        b.orphans.put(_name(device, run.start), Orphan(device, run.start, run.blocks))


def freed(b: Books, run: Blocks) -> None:
    """It leaves the quarantine."""
    name = _name(_device_of(b, run.aperture), run.start)
    if name in b.orphans:
        b.orphans.drop(name)


def forget(b: Books, device: str) -> None:
    """Of a device that starts anew: nobody pins anything there."""
    for name, row in b.orphans.items():
        if row.device == device:
            b.orphans.drop(name)


def count(b: Books, device: str) -> int:
    return sum(row.blocks for _name, row in b.orphans.items() if row.device == device)


def _name(device: str, start: int) -> str:
    return f"{device} {start}"


def _device_of(b: Books, aperture: int) -> str:
    """Empty for a page cache, which goes with the broker."""
    return next((name for name, row in b.devices.items() if row.aperture == aperture), "")
