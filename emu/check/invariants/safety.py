"""S1 to S10 of CONTRACT, each one function over a history; what they look at is in the modules safety_*, by subject."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.check.invariants import away
from emu.check.invariants import safety_blocks as of_blocks
from emu.check.invariants import safety_bytes as of_bytes
from emu.check.invariants import safety_layout as of_layout
from emu.check.invariants import safety_order as of_order
from emu.check.invariants import safety_people as of_people
from emu.check.invariants import safety_zeros as of_zeros
from emu.check.invariants.invariant import Invariant

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.check.history import History
    from emu.check.invariants.invariant import Breach


def s2(history: History) -> Iterator[Breach]:
    """S2: a reclaim that reported success: the file has its new layout, and nothing live reaches what was freed."""
    yield from of_layout.applied(history)
    yield from of_bytes.expected_file(history)
    yield from of_bytes.reached_afterwards(history)
    yield from away.reached_while_away(history)


INVARIANTS = (
    Invariant("S1", "no DMA in memory that has changed hands", of_bytes.foreign, of_bytes.nobody_moved),
    Invariant(
        "S2",
        "success means the new layout, and nothing reaches what was freed",
        s2,
        of_layout.nothing_succeeded,
    ),
    Invariant("S3", "an error means that nothing has changed", of_layout.unchanged, of_layout.nothing_failed),
    Invariant("S4", "what was acknowledged is there", of_bytes.lost, of_bytes.nothing_acknowledged),
    Invariant(
        "S5", "a request completes once, and in order", of_people.completions, of_people.nothing_posted
    ),
    Invariant("S6", "each block is in exactly one place", of_blocks.owners, of_blocks.no_device),
    Invariant("S7", "every reclaim ends", of_people.ends, of_people.no_end_in_sight),
    Invariant("S8", "nobody outside the range is hurt", of_people.bystanders, of_people.nobody_beside),
    Invariant("S9", "what nobody wrote reads as zero", of_zeros.zeros, of_zeros.nothing_grew),
    Invariant("S10", "file operations take effect one by one", of_order.one_order, of_order.nothing_in_order),
)
