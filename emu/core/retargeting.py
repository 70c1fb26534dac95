"""Retarget: keys that a reclaim has quiesced live again, and where they led into the range they lead to a scratch page.

    quiesce -> fenced -> retarget: one Remap a key, pages of the range -> scratch -> all answered: `retargeted`

The scratch page of a device lies behind its last block, in its aperture and outside its allocator: its generation never changes, and whatever
is written there is nobody's. Only blocks that the file loses are switched: one that it keeps in part stays the file's. When the device
itself goes, or the memory is no device's, the whole MR is switched to a page of the node's own. A registration that the reclaim met fails, as
under any other, and an MR on demand stays parked: what it needs is `unmap`.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from emu.core import extents, pages, scope, teardown
from emu.core.effects import OpenScratch, Quiesce, Remap
from emu.core.rows import BLOCK, Token

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.core.books import Books
    from emu.core.rows import Mr, Reclaim, Run

REFUGE: Final = "refuge"


def ask(b: Books, number: int) -> None:
    """For every key of the reclaim that is quiesced and not switched yet."""
    row = b.reclaims[number]
    for key in pending(b, row):
        if busy(b, key):
            continue
        aperture, runs = switched(b, row, b.mrs[key])
        token = b.number("token")
        b.tokens.put(token, Token("retargeted", key=key, reclaim=number))
        b.emit(Remap(token, key, aperture, runs))


def pending(b: Books, row: Reclaim) -> tuple[int, ...]:
    """Who was revoked and is not switched. A registration under way, and an MR on its way out, stay revoked: then their runs tell."""
    quiet = (key for key in teardown.mapped_of(b, row.keys) if b.mrs[key].revoked)
    return tuple(key for key in quiet if not _leaves(b.mrs[key]) or _differs(b, row, b.mrs[key]))


def strays(b: Books, row: Reclaim) -> tuple[int, ...]:
    """Who lives again already, by another reclaim that had the same MR, and still leads into this one's range."""
    mapped = (key for key in teardown.mapped_of(b, row.keys) if not b.mrs[key].revoked)
    return tuple(key for key in mapped if b.mrs[key].state == "live" and _differs(b, row, b.mrs[key]))


def busy(b: Books, key: int) -> bool:
    """A teardown has it, or another reclaim is switching it: both end, and then it is looked at again."""
    asked = any(token.kind == "retargeted" and token.key == key for _n, token in b.tokens.items())
    return asked or b.mrs[key].ending


def _leaves(mr: Mr) -> bool:
    return bool(mr.request or mr.ending)


def _differs(b: Books, row: Reclaim, mr: Mr) -> bool:
    return switched(b, row, mr) != (mr.aperture, mr.runs)


def awaited(b: Books, number: int) -> bool:
    """Whether an answer is still to come."""
    return any(token.kind == "retargeted" and token.reclaim == number for _n, token in b.tokens.items())


def answered(b: Books, token: Token, refusal: int) -> None:
    """Switched, and live; where the reclaim was interrupted meanwhile, what it had revoked by then stays so."""
    mr, row = b.mrs.get(token.key), b.reclaims.get(token.reclaim)
    if mr is None or (refusal and refusal != errno.ENOENT):
        return
    if refusal:  # the engine has no translation of it any more
        teardown.unpin(b, (token.key,))
        return
    if row is None:
        b.emit(Quiesce(b.number("cookie"), (token.key,)))
        return
    aperture, runs = switched(b, row, mr)
    space = mr.space if aperture == mr.aperture else aperture
    new = mr._replace(revoked=bool(mr.request), aperture=aperture, space=space, runs=runs)
    pages.pinned_to_write(b, mr)
    b.mrs.put(token.key, new)
    b.went.append((token.key, mr))


def switched(b: Books, row: Reclaim, mr: Mr) -> tuple[int, tuple[Run, ...]]:
    """Aperture and runs that this MR has when the range is switched."""
    blocks = next((n for at, n in (pages.space_of(b, name) for name in b.devices) if at == mr.aperture), 0)
    if not blocks or row.device:
        return _refuge(b), tuple(_pages(mr.length))
    _space, range_ = scope.space_of(b, row)
    file = b.files.get(row.ino)
    whole = file is not None and row.hi >= file.size  # of the file's last block nothing stays behind it
    taken = tuple(
        (extents.blocks_up(at), extents.blocks_up(at + size) if whole else (at + size) // BLOCK)
        for at, size in range_
    )
    return mr.aperture, tuple(_cut(mr.runs, taken, blocks * BLOCK))


def _cut(runs: tuple[Run, ...], blocks: tuple[Run, ...], scratch: int) -> Iterator[Run]:
    """The runs, with the scratch page in place of each block of the range. blocks: first and last + 1."""
    for at, size in runs:
        end, kept = at + size, at
        for block in range(at // BLOCK, extents.blocks_up(end)):
            if any(first <= block < last for first, last in blocks):
                low, high = max(at, block * BLOCK), min(end, (block + 1) * BLOCK)
                if kept < low:
                    yield (kept, low - kept)
                yield (scratch + low % BLOCK, high - low)
                kept = high
        if kept < end:
            yield (kept, end - kept)


def _pages(length: int) -> Iterator[Run]:
    for at in range(0, length, BLOCK):
        yield (0, min(BLOCK, length - at))


def _refuge(b: Books) -> int:
    """The page of the node's own, opened when it is first needed."""
    known = b.counters.get(REFUGE)
    if known is None:
        known = b.number("aperture")
        b.counters.put(REFUGE, known)
        b.emit(OpenScratch(known, BLOCK))
    return known
