"""Who pins what: the index asked by bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.core.rows import FOREVER, Run

if TYPE_CHECKING:
    from emu.core.books import Books


def pins_over(b: Books, space: int, runs: tuple[Run, ...]) -> tuple[int, ...]:
    """MRs that pin a byte of these runs, in order."""
    hits: dict[int, None] = {}
    for offset, length in runs:
        end = min(offset + length, FOREVER)
        for key in b.pins.over(space, offset, end):
            if any(at < end and offset < at + n for at, n in b.mrs[key].runs):
                hits[key] = None
    return tuple(sorted(hits))
