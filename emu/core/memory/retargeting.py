"""Retarget: keys that a reclaim has quiesced go on, and where they led into the range they lead to a scratch page.

    quiesce: Invalidate, MR PARKED -> fenced -> retarget: one Remap a key, pages of the range -> scratch, MR LIVE -> all answered: `retargeted`

Meanwhile the keys are not revoked: what comes under them waits, and goes on behind the switch. A reclaim that ends before it (interrupted,
broken off) lets them go on where they led: a fault of nobody's in the book `faults`, answered by a Remap to the same place. A teardown of a
parked key, or the quiesce of a reclaim that does not switch, refuses who waits.

The scratch page of a device lies behind its last block, in its aperture and outside its allocator: its generation never changes, and whatever
is written there is nobody's. Only blocks that the file loses are switched: one that it keeps in part stays the file's. When the device
itself goes, or the memory is no device's, the whole MR is switched to a page of the node's own. A registration that the reclaim met is
revoked, and fails, as under any other, and an MR on demand stays parked: what it needs is `unmap`.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from emu.core.effects import Invalidate, OpenScratch, Quiesce, Remap
from emu.core.memory import faults, teardown
from emu.core.reclaims import scope
from emu.core.rows import BLOCK, Fault, Token
from emu.core.storage import extents, pages

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.core.books import Books
    from emu.core.rows import Mr, Reclaim, Run

REFUGE: Final = "refuge"


def ask(b: Books, number: int) -> None:
    """For every key of the reclaim that is quiesced and not switched yet."""
    row = b.reclaims[number]
    for key in pending(b, number, row):
        if busy(b, key):
            continue
        aperture, runs = switched(b, row, b.mrs[key])
        token = b.number("token")
        b.tokens.put(token, Token("retargeted", key=key, reclaim=number))
        b.emit(Remap(token, key, aperture, runs))


def pending(b: Books, number: int, row: Reclaim) -> tuple[int, ...]:
    """Who was parked or revoked and is not switched. A registration under way, and an MR on its way out, stay revoked: then their runs tell."""
    mapped = teardown.mapped_of(b, row.keys)
    quiet = (key for key in mapped if b.mrs[key].revoked or _parked(b.mrs[key]))
    return tuple(key for key in quiet if _differs(b, row, b.mrs[key]) or not _others_matter(b, number, key))


def _others_matter(b: Books, number: int, key: int) -> bool:
    """It leads nowhere into this range: a teardown has it, or another reclaim has parked it, and lets it go on."""
    return _leaves(b.mrs[key]) or (_parked(b.mrs[key]) and _has(b, key, besides=number))


def strays(b: Books, row: Reclaim) -> tuple[int, ...]:
    """Who lives again already, by another reclaim that had the same MR, and still leads into this one's range."""
    mapped = (key for key in teardown.mapped_of(b, row.keys) if not b.mrs[key].revoked)
    return tuple(key for key in mapped if b.mrs[key].state == "live" and _differs(b, row, b.mrs[key]))


def parkable(mr: Mr) -> bool:
    """It lives, or it waits for another reclaim, and it is neither being registered nor on its way out."""
    return mr.state in {"live", "parked"} and not (mr.revoked or mr.request or mr.ending)


def _parked(mr: Mr) -> bool:
    return mr.state == "parked" and mr.importer != faults.DYNAMIC


def others(b: Books, keys: tuple[int, ...]) -> bool:
    return any(b.mrs[key].importer != faults.DYNAMIC for key in keys)


def overtake(b: Books, key: int) -> None:
    """It is taken back once more: what is under way for an earlier reclaim does not let it live."""
    for number, token in b.tokens.items():
        if token.kind == "retargeted" and token.key == key:
            b.tokens.put(number, token._replace(overtaken=True))
    if b.mrs[key].importer != faults.DYNAMIC:
        for fault in b.faults_of.of(key):
            b.faults.drop(fault)


def let_go(b: Books, keys: tuple[int, ...]) -> None:
    """A reclaim has ended: those that it has left parked go on where they led, if no other reclaim has them."""
    for key in keys:
        mr = b.mrs.get(key)
        if mr is None or not _parked(mr) or _asked(b, key) or b.faults_of.has(key):
            continue
        if not _has(b, key):
            b.faults.put(b.number("fault"), Fault(key, 0, 0, mr.length, write=False))


def _has(b: Books, key: int, besides: int = 0) -> bool:
    """Whether a reclaim, another than this one, has begun to take it."""
    rows = ((number, row) for number, row in b.reclaims.items() if number != besides)
    return any(row.fencing and key in row.keys for _number, row in rows)


def _asked(b: Books, key: int) -> bool:
    return any(token.kind == "retargeted" and token.key == key for _n, token in b.tokens.items())


def astray(b: Books, keys: tuple[int, ...]) -> None:
    """The engine refused to park them: they live, as far as anybody knows."""
    for key in keys:
        if key in b.mrs and _parked(b.mrs[key]) and not b.mrs[key].ending:
            b.mrs.put(key, b.mrs[key]._replace(state="live"))


def busy(b: Books, key: int) -> bool:
    """A teardown has it, or another reclaim is switching it: both end, and then it is looked at again."""
    return _asked(b, key) or b.mrs[key].ending


def _leaves(mr: Mr) -> bool:
    return bool(mr.request or mr.ending)


def _differs(b: Books, row: Reclaim, mr: Mr) -> bool:
    return switched(b, row, mr) != (mr.aperture, mr.runs)


def awaited(b: Books, number: int) -> bool:
    """Whether an answer is still to come."""
    return any(token.kind == "retargeted" and token.reclaim == number for _n, token in b.tokens.items())


def answered(b: Books, token: Token, refusal: int) -> None:
    """Switched, and live; where the reclaim was broken off meanwhile, it goes back to where it led."""
    mr, row = b.mrs.get(token.key), b.reclaims.get(token.reclaim)
    if mr is None:
        return
    if refusal == errno.ENOENT:  # the engine has no translation of it any more
        teardown.unpin(b, (token.key,))
        return
    if row is None:
        _back(b, token, refusal)
        return
    if refusal:
        return
    aperture, runs = switched(b, row, mr)
    space = mr.space if aperture == mr.aperture else aperture
    new = mr._replace(aperture=aperture, space=space, runs=runs)
    if not token.overtaken:
        new = new._replace(revoked=bool(mr.request), state="live" if mr.state == "parked" else mr.state)
    pages.pinned_to_write(b, mr)
    b.mrs.put(token.key, new)
    b.went.append((token.key, mr))


def _back(b: Books, token: Token, refusal: int) -> None:
    """Its reclaim has ended in the midst of it: a parked key goes on where it led, another stays revoked."""
    if not refusal and not token.overtaken:
        cookie, keys = b.number("cookie"), (token.key,)
        b.emit(Invalidate(cookie, keys, True) if _parked(b.mrs[token.key]) else Quiesce(cookie, keys))
    let_go(b, (token.key,))


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
