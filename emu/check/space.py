"""Space that was reported free and cannot be allocated: the debt of a reclaim's success, in bytes times seconds, from the history alone.

A reclaim that succeeded has told its caller that the whole blocks of its range are free, if its kind is asked for the sake of space:

    truncate, punch, unlink, collapse      the device's blocks, and the pages over them where DMA goes to a cache
    migrate, move                          the place where the file, or the buffer, lay
    memory-pressure                        the pages; the device's blocks stay the file's
    revoke, for good                       the buffer's memory, which goes back to its exporter

A surprise promises nobody anything, an unplug a device, an umount and a write-back what they do and no memory, a revoke for a time is a loan called in,
and insert, zero, reflink, cow-write and poison need space, or touch none.

Each block is owed from that answer until its Release; what its file still has, and what is kept under a pin, is owed to the end of the history, or until
the device itself goes. Blocks that another file shared when it was asked for were never promised. Nothing here asks what the protocol is, or means.

    space_debt_byte_s(history)     bytes x seconds
    space_owed(history, at)        bytes that are owed at this time, or at the end
    enospc_failures(history)       requests that found no space behind the first reclaim that was asked for
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, NamedTuple

from emu.check.invariants.reading import read
from emu.check.invariants.rows import ALWAYS, blocks_of, file_row
from emu.core.rows import BLOCK, FOREVER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.check.history import History
    from emu.check.invariants.reclaims import Reclaim
    from emu.check.invariants.rows import FileRow, Json
    from emu.check.invariants.timeline import Reading

NANO = 1_000_000_000
CUT = frozenset({"truncate", "punch", "unlink", "collapse"})
FREEING = CUT | {"migrate", "move", "memory-pressure", "revoke"}  # kinds whose success promises space
Place = tuple[int, int]  # aperture, block


class Owed(NamedTuple):
    """A block: when the success was told, and when it was free (None: it is not)."""

    aperture: int
    block: int
    since: int
    until: int | None


def space_debt_byte_s(history: History) -> float:
    end = history.events[-1]["t"] if history.events else 0
    return sum(
        BLOCK * max(0, (end if one.until is None else one.until) - one.since) / NANO for one in owed(history)
    )


def space_owed(history: History, at: int | None = None) -> int:
    """At this time; None: at the end."""
    return sum(
        BLOCK
        for one in owed(history)
        if one.until is None or (at is not None and one.since <= at < one.until)
    )


def owed(history: History) -> list[Owed]:
    """All blocks that reclaims have promised with their success."""
    return history.once(_owed)


def _owed(history: History) -> list[Owed]:
    made = read(history)
    promised = _promised(made)
    found = []
    for row in made.reclaims:
        if row.succeeded and (life := (row.life, row.number)) in promised:
            told = row.phases["returned"]
            freed = _freed(made, row)
            found += [
                Owed(*place, told.t, freed.get(place, freed.get((place[0], -1))))
                for place in sorted(promised[life])
            ]
    return found


def _promised(made: Reading) -> dict[tuple[int, int], set[Place]]:
    """(life, reclaim) -> whole blocks of its range that only its file had when it began."""
    files: dict[int, FileRow] = {}
    found: dict[tuple[int, int], set[Place]] = {}
    for step in made.steps:
        for line in step.of(
            "Phase"
        ):  # the rows as they were before: a step's commit stands before its phases
            if (
                line["phase"] == "requested"
                and promises_space(line["detail"])
                and line["detail"].get("ino") in files
            ):
                row = made.reclaim_at[step.life, line["reclaim"]]
                found[step.life, row.number] = _whole(made, row, files)
        for line in step.lines:
            if line["type"] in {"Loaded", "Commit"}:
                files = {} if line["type"] == "Loaded" else files
                _rows(files, line)
    return found


def promises_space(target: Json) -> bool:
    """Whether a success of this reclaim says that memory is free."""
    kind = target.get("kind")
    return kind in FREEING and (kind != "revoke" or bool(target.get("permanent", True)))


def _rows(files: dict[int, FileRow], line: Json) -> None:
    for book, key, row in line["delta"]:
        if book == "files":
            files.pop(key, None)
            if row:
                files[key] = file_row(row)


def _whole(made: Reading, row: Reclaim, files: dict[int, FileRow]) -> set[Place]:
    file = files[row.target["ino"]]
    lo, hi = -(-row.target["lo"] // BLOCK) * BLOCK, row.target["hi"]
    hi = FOREVER if hi >= file.size else hi // BLOCK * BLOCK
    if lo >= hi:
        return set()
    device, found = made.aperture_of(row.life, file.device), set()
    if row.kind != "memory-pressure":
        others = (
            each for ino, each in files.items() if ino != row.target["ino"] and each.device == file.device
        )
        found = {
            (device, block) for block in file.within(lo, hi).difference(*(each.blocks for each in others))
        }
    if row.aperture != device and row.asked_of is not None:  # it is in a cache
        found |= {(row.aperture, block) for block in row.asked_of.within(lo, hi)}
    return found


def _freed(made: Reading, row: Reclaim) -> dict[Place, int]:
    """Block -> when it was released, behind the request; -1: when the device went, and with it whatever was owed there."""
    found: dict[Place, int] = {}
    begun = row.at("requested")
    for line in _gone(made, row):
        if line["n"] > begun:
            for block in blocks_of(line["runs"]) if line["type"] == "Release" else (-1,):
                found.setdefault((line["aperture"], block), line["t"])
    return found


def _gone(made: Reading, row: Reclaim) -> Iterator[Json]:
    for step in made.steps:
        if step.life == row.life:
            yield from (line for line in step.lines if line["type"] in {"Release", "Offline"})
        elif step.life > row.life:  # a restart: nobody pins anything any more
            spaces = {aperture for (life, _), aperture in made.apertures.items() if life == row.life}
            yield from (
                {**step.lines[0], "type": "Offline", "aperture": aperture} for aperture in sorted(spaces)
            )
            return


def enospc_failures(history: History) -> int:
    begun = min((row.at("requested") for row in read(history).reclaims), default=ALWAYS)
    return sum(line["errno"] == errno.ENOSPC and line["n"] > begun for line in history.of("Fail"))
