"""Who owns a block: free, owned by a file, in quarantine, or in limbo until the commit. Each block is in exactly one place.

    free --allocate--> owned --retire--> quarantine --release--> limbo --committed--> free

Policy: `freed-first` (default) hands out what was freed last, since that makes a stale DMA visible; `fifo` hands it out last,
the control. A run that is freed is joined with a neighbour only where that leaves its own blocks first (freed-first: the run
behind it) or last (fifo: the run before it, if that is the one that was freed last).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from emu.core.effects import Allocate, Release
from emu.core.errors import Refused
from emu.core.rows import BLOCK, Blocks, Run
from emu.core.storage import orphans

if TYPE_CHECKING:
    from emu.core.books import Books

POLICIES: Final = ("freed-first", "fifo")


def _next(b: Books, aperture: int) -> int | None:
    return b.free_on.last(aperture) if b.policy == "freed-first" else b.free_on.first(aperture)


def free_blocks(b: Books, aperture: int) -> int:
    return sum(b.free[key].blocks for key in b.free_on.of(aperture))


def bad_of(b: Books, device: str) -> list[int]:
    """Blocks whose memory has failed: they are given to nobody any more."""
    return [row.block for _number, row in b.bad.items() if row.device == device]


def add_free(b: Books, aperture: int, start: int, count: int) -> None:
    if b.policy == "freed-first":
        behind = b.free_from.first((aperture, start + count))
        if behind is not None:
            count += b.free[behind].blocks
            b.free.drop(behind)
    else:
        last = b.free_on.last(aperture)
        if last is not None and b.free[last].start + b.free[last].blocks == start:
            start, count = b.free[last].start, count + b.free[last].blocks
            b.free.drop(last)
    b.free.put(b.number("free"), Blocks(aperture, start, count))


def take(b: Books, device: str, aperture: int, count: int) -> tuple[tuple[int, int], ...]:
    """`count` > 0 blocks as (block, blocks); ENOSPC with nothing changed. Emits Allocate."""
    found: list[tuple[int, int]] = []
    wanted = count
    while wanted:
        key = _next(b, aperture)
        if key is None:
            raise Refused(
                errno.ENOSPC,
                f"device {device}: {count} blocks wanted, {count - wanted} free{_kept(b, device)}: truncate or unlink something",
            )
        run = b.free[key]
        part = min(run.blocks, wanted)
        if part == run.blocks:
            b.free.drop(key)
        else:
            b.free.put(key, run._replace(start=run.start + part, blocks=run.blocks - part))
        found.append((run.start, part))
        wanted -= part
    b.emit(Allocate(aperture, tuple((start * BLOCK, n * BLOCK) for start, n in found)))
    return tuple(found)


def _kept(b: Books, device: str) -> str:
    held = orphans.count(b, device)
    return f" ({held} more are kept for DMA under pins)" if held else ""


def retire(b: Books, aperture: int, extents: tuple[tuple[int, int, int, int], ...], reclaim: int) -> None:
    """A file's blocks are no file's any more."""
    for _file, start, count, _since in extents:
        b.quarantine.put(b.number("blocks"), Blocks(aperture, start, count, reclaim))


def release(b: Books, keys: tuple[int, ...]) -> None:
    """Blocks leave the quarantine: free once the commit has succeeded. Emits Release."""
    runs: dict[int, list[Run]] = {}
    for key in keys:
        run = b.quarantine[key]
        b.quarantine.drop(key)
        b.limbo.put(b.number("blocks"), run._replace(reclaim=0))
        orphans.freed(b, run)
        runs.setdefault(run.aperture, []).append((run.start * BLOCK, run.blocks * BLOCK))
    for aperture, freed in runs.items():
        b.emit(Release(aperture, tuple(freed)))


def drain_limbo(b: Books) -> None:
    """The commit has succeeded."""
    for key, run in b.limbo.items():
        add_free(b, run.aperture, run.start, run.blocks)
        b.limbo.drop(key)


def forget(b: Books, device: str, aperture: int, blocks: int) -> None:
    """A new namespace: all of it is free."""
    orphans.forget(b, device)
    for book in (b.limbo, b.quarantine):
        for key, run in book.items():
            if run.aperture == aperture:
                book.drop(key)
    for key in b.free_on.of(aperture):
        b.free.drop(key)
    add_free(b, aperture, 0, blocks)


def restore(b: Books, aperture: int, blocks: int, owned: list[tuple[int, int]]) -> None:
    """After a restart: free is what no file owns. The lowest run is handed out first."""
    gaps, at = [], 0
    for start, count in sorted(owned):
        if start > at:
            gaps.append((at, start - at))
        at = max(at, start + count)
    if at < blocks:
        gaps.append((at, blocks - at))
    for start, count in reversed(gaps) if b.policy == "freed-first" else gaps:
        b.free.put(b.number("free"), Blocks(aperture, start, count))
