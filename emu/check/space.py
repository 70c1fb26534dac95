"""Space that was reported free and cannot be allocated: the debt of a reclaim's success, in bytes times seconds, from the history alone.

A reclaim that succeeded has told its caller that the whole blocks of its range are free. Each is owed from that answer until its Release; what
its file still has, and what is kept under a pin, is owed to the end of the history, or until the device itself goes. Blocks that
another file shared when it was asked for were never promised. Nothing here asks what the protocol is, or means.

    space_debt_byte_s(history)     bytes x seconds
    space_owed(history)            bytes that are owed at the end
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
FREEING = frozenset({"truncate", "punch", "unlink", "collapse"})  # kinds whose success promises space


class Owed(NamedTuple):
    """A block: when the success was told, and when it was free (None: it is not)."""

    block: int
    since: int
    until: int | None


def space_debt_byte_s(history: History) -> float:
    end = history.events[-1]["t"] if history.events else 0
    return sum(
        BLOCK * max(0, (end if one.until is None else one.until) - one.since) / NANO for one in owed(history)
    )


def space_owed(history: History) -> int:
    return sum(BLOCK for one in owed(history) if one.until is None)


def owed(history: History) -> list[Owed]:
    """All blocks that reclaims have promised with their success."""
    made = read(history)
    promised = _promised(made)
    found = []
    for row in made.reclaims:
        if row.succeeded and (life := (row.life, row.number)) in promised:
            told = row.phases["returned"]
            freed = _freed(made, row)
            found += [
                Owed(block, told.t, freed.get(block, freed.get(-1))) for block in sorted(promised[life])
            ]
    return found


def _promised(made: Reading) -> dict[tuple[int, int], set[int]]:
    """(life, reclaim) -> whole blocks of its range that only its file had when it began."""
    files: dict[int, FileRow] = {}
    found: dict[tuple[int, int], set[int]] = {}
    for step in made.steps:
        for line in step.of(
            "Phase"
        ):  # the rows as they were before: a step's commit stands before its phases
            detail = line["detail"]
            asked = line["phase"] == "requested" and detail.get("kind") in FREEING
            if asked and detail.get("ino") in files:
                found[step.life, line["reclaim"]] = _whole(files, detail)
        for line in step.lines:
            if line["type"] in {"Loaded", "Commit"}:
                files = {} if line["type"] == "Loaded" else files
                _rows(files, line)
    return found


def _rows(files: dict[int, FileRow], line: Json) -> None:
    for book, key, row in line["delta"]:
        if book == "files":
            files.pop(key, None)
            if row:
                files[key] = file_row(row)


def _whole(files: dict[int, FileRow], detail: Json) -> set[int]:
    file = files[detail["ino"]]
    lo, hi = -(-detail["lo"] // BLOCK) * BLOCK, detail["hi"]
    hi = FOREVER if hi >= file.size else hi // BLOCK * BLOCK
    others = (row for ino, row in files.items() if ino != detail["ino"] and row.device == file.device)
    mine = file.within(lo, hi) if lo < hi else set()
    return mine.difference(*(row.blocks for row in others)) if mine else mine


def _freed(made: Reading, row: Reclaim) -> dict[int, int]:
    """Block -> when it was released, behind the request; -1: when the device went, and with it whatever was owed there."""
    found: dict[int, int] = {}
    begun = row.at("requested")
    for line in _gone(made, row):
        if line["n"] > begun:
            for block in blocks_of(line["runs"]) if line["type"] == "Release" else (-1,):
                found.setdefault(block, line["t"])
    return found


def _gone(made: Reading, row: Reclaim) -> Iterator[Json]:
    for step in made.steps:
        if step.life == row.life:
            yield from (
                line
                for line in step.lines
                if line["type"] in {"Release", "Offline"} and line["aperture"] == row.aperture
            )
        elif step.life > row.life:  # a restart: nobody pins anything any more
            yield {**step.lines[0], "type": "Offline"}
            return


def enospc_failures(history: History) -> int:
    begun = min((row.at("requested") for row in read(history).reclaims), default=ALWAYS)
    return sum(line["errno"] == errno.ENOSPC and line["n"] > begun for line in history.of("Fail"))
