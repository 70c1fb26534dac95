"""What the books of one moment say of the small world's file, blocks and keys. It depends on nothing else, so it is made once for each state of the core."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from emu.core.rows import BLOCK

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

Books = dict[str, dict[Any, Any]]

FILE: Final = "/mnt/a"


class Facts(NamedTuple):
    """What the books of one moment say, in the state's names. owner: block -> path. layout: of /mnt/a, (file block, block) in order."""

    owner: dict[int, str]
    size: int  # of /mnt/a, -1: there is no such file
    layout: tuple[tuple[int, int], ...]
    online: bool
    owned: tuple[int, ...]
    adds_up: str  # or what is wrong
    quiet: frozenset[int]  # keys whose quiesce was confirmed to a reclaim that is under way
    unmapped: frozenset[int]
    revoked: frozenset[int]
    rights: int  # in the table
    outside: frozenset[int]  # keys of clients that the storage has fenced: their right has left the table
    shared: frozenset[int]  # blocks of several files


def facts_of(books: Books, blocks: int, of: Callable[[str, int], int]) -> Facts:
    files, mrs = books["files"].values(), books["mrs"]
    owner: dict[int, str] = {}
    for row in sorted(files, key=lambda row: row.path == FILE):  # of a block that a clone has too, /mnt/a
        owner |= {e[1] + at: row.path for e in row.extents for at in range(e[2])}
    mine = next((row for row in files if row.path == FILE), None)
    places = list(owner)
    places += held(books, "quarantine")
    owned = tuple(sorted(places))  # in quarantine a block keeps its generation
    places += held(books, "limbo") + held(books, "free")
    again = {row.key for row in books["tokens"].values() if row.kind == "retargeted"}
    rows = books["reclaims"].values()
    draining = {
        key for row in rows if row.fencing and not row.fenced for key in row.keys if _parked(mrs, key)
    }
    quiet = {
        key
        for row in rows
        if row.fenced
        for key in row.keys
        if key in mrs
        and (mrs[key].revoked or mrs[key].state == "parked")
        and key not in again | draining
        and not _switched(row, mrs[key], books["devices"]["pm0"].aperture, blocks)
    }
    return Facts(
        owner,
        -1 if mine is None else mine.size,
        () if mine is None else tuple((e[0] + at, e[1] + at) for e in mine.extents for at in range(e[2])),
        books["devices"]["pm0"].online,
        owned,
        _adds_up(books, places, blocks),
        frozenset(of("key", key) for key in quiet),
        frozenset(of("key", key) for key, row in mrs.items() if row.state in {"unmapped", "absent"}),
        frozenset(of("key", key) for key, row in mrs.items() if row.revoked),
        len(books["rights"]),
        frozenset(
            of("key", key) for key, row in mrs.items() if row.right and row.right not in books["rights"]
        ),
        _shared(files) if any(row.origin for row in files) else frozenset(),
    )


def _parked(mrs: Any, key: int) -> bool:
    """By the last reclaim that asked: it may have lived since an earlier one was answered."""
    return key in mrs and mrs[key].state == "parked"


def _switched(row: Any, mr: Any, aperture: int, blocks: int) -> bool:
    """It leads to a scratch page by now, which was what the reclaim had quiesced it for: it has lived since. Whoever quiesces it again has his own answer."""
    away = mr.aperture != aperture or any(at >= blocks * BLOCK for at, _size in mr.runs)
    return bool(row.switching and away)


def _shared(files: Collection[Any]) -> frozenset[int]:
    every = [start + n for row in files for _at, start, count, _since in row.extents for n in range(count)]
    return frozenset(block for block, count in Counter(every).items() if count > 1)


def _adds_up(books: Books, places: list[int], blocks: int) -> str:
    """Each block in one place, and the durable record of orphans names those that no reclaim will free."""
    if sorted(places) != list(range(blocks)):
        return f"blocks do not add up: {sorted(places)} of {blocks}"
    kept = {run.start: run.blocks for run in books["quarantine"].values() if not run.reclaim}
    noted = {row.start: row.blocks for row in books["orphans"].values()}
    return "" if kept == noted else f"blocks {noted} are noted as orphans: those that are kept are {kept}"


def held(books: Books, name: str) -> list[int]:
    """Blocks that one of the books of runs has."""
    return [block for run in books[name].values() for block in range(run.start, run.start + run.blocks)]
