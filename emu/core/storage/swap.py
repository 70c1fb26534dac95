"""Memory of clients under pressure: a reclaim of kind `memory-pressure` over the memory of MRs of the backing `anon`.

    fs_pressure anon --> the protocol of the pseudo-mount `anon` decides --> apply: what is pinned no more is paged out (PageOut) --> {pinned, taken}

A kernel passes over what is pinned, and so does this: where every MR that the reclaim met pins its memory still when it is applied, nothing can
be taken, and it fails with EBUSY, whatever the protocol meant to answer. Whoever pins is asked by protocols that ask (wait, mr-revoke, odp, ...).

The bytes are the client's: its own mapping sees them before and after, and an MR on demand finds its memory again where it was (faults.py). What
a DMA misses is its translation alone, so nothing of this is foreign to anybody, or lost.

The reclaim is about the MRs that were there when it was asked: who registers later is not in its way.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from emu.core.asking import refuse
from emu.core.effects import PageOut
from emu.core.rows import ANON, Token

if TYPE_CHECKING:
    from emu.core.books import Books
    from emu.core.rows import Reclaim


def held(b: Books, keys: tuple[int, ...]) -> tuple[int, ...]:
    """Those of the keys whose memory is a client's and is pinned."""
    return tuple(key for key in keys if key in b.mrs and _pins(b, key))


def _pins(b: Books, key: int) -> bool:
    row = b.mrs[key]
    return row.backing == ANON and row.state != "unmapped" and bool(row.runs)


def apply(b: Books, number: int, row: Reclaim) -> bool:
    """True: the kernel has yet to be asked. Who was deregistered has left nothing to page out."""
    pinned = held(b, row.keys)
    if pinned == row.keys:
        refuse(errno.EBUSY, f"all {len(pinned)} MRs pin their memory still: nothing of it can be taken")
    loose = tuple(b.mrs[key].aperture for key in row.keys if key in b.mrs and key not in pinned)
    if loose:
        token = b.number("token")
        b.tokens.put(token, Token("paged_out", reclaim=number))
        b.emit(PageOut(token, loose))
    return bool(loose)


def result(b: Books, row: Reclaim) -> dict[str, object]:
    pinned = len(held(b, row.keys))
    return {"pinned": pinned, "taken": len(row.keys) - pinned}
