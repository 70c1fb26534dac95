"""S9: what becomes readable, and nobody wrote, is zero: new blocks, tails of files that grow, edges of holes, what a restart found half done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.check.invariants.invariant import Breach
from emu.check.invariants.reading import read
from emu.check.invariants.rows import ALWAYS, blocks_in, blocks_of
from emu.check.invariants.safety_layout import is_clone
from emu.core.rows import BLOCK, DMABUF

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.check.history import History
    from emu.check.invariants.reclaims import Change, Step
    from emu.check.invariants.rows import FileRow
    from emu.check.invariants.timeline import Reading


def zeros(history: History) -> Iterator[Breach]:
    """S9: what becomes readable, and nobody wrote, has been zeroed first: new blocks, tails, edges of holes."""
    made = read(history)
    for change in made.changes:
        aperture = made.aperture_of(change.step.life, change.new.device) if change.new else 0
        if aperture and change.new:
            yield from _new_bytes(change, change.new, aperture)
    yield from _edges(made)
    yield from _left_over(made)
    yield from _nobody_wrote(history, made)
    taken = history.row.get("taken")
    if taken and taken["unzeroed"]:
        yield Breach("S9", f"{taken['unzeroed']} bytes of newly allocated blocks were not zero")


def _new_bytes(change: Change, new: FileRow, aperture: int) -> Iterator[Breach]:
    before = [
        line
        for line in change.step.lines
        if line["n"] < change.line["n"] and line.get("aperture") == aperture
    ]
    had = change.old.blocks if change.old else set()
    given = blocks_in([line for line in before if line["type"] == "Allocate"])
    fresh = new.blocks - had - given - _cloned(change)
    if fresh:
        yield Breach(
            "S9",
            f"block {min(fresh)} came to {new.path} without having been overwritten",
            (change.line["n"],),
        )
    if change.old and new.size > change.old.size and "insert" not in _kinds(change):
        end = min(new.size, -(-change.old.size // BLOCK) * BLOCK)
        runs = change.old.runs(change.old.size, end)
        blanked = [run for line in before if line["type"] == "Blank" for run in line["runs"]]
        if not _covered(runs, blanked):
            yield Breach(
                "S9",
                f"the tail of {new.path} became readable without having been zeroed",
                (change.line["n"],),
            )


def _kinds(change: Change) -> set[str]:
    """Of the reclaims of this file that the step has applied."""
    rows = change.step.rows
    return {row.kind for row in rows if row.target.get("ino") == change.ino}


def _cloned(change: Change) -> set[int]:
    """Blocks that a clone has from what it was cloned from. Of a step that was cut off nobody says what it was: it has the same as another."""
    new, step = change.new, change.step
    if step.cut and change.old is None and new and new.origin:
        alike = ((row.device, row.size, row.places) for row in step.before.values())
        return new.blocks if (new.device, new.size, new.places) in alike else set()
    return {
        block
        for row in change.step.rows
        if row.source and is_clone(row, change)
        for block in row.source.blocks
    }


def _covered(runs: list[list[int]], by: list[list[int]]) -> bool:
    """Whether each of the runs lies in those."""
    for at, size in runs:
        end = at
        for low, length in sorted(by):
            if low <= end:
                end = max(end, low + length)
        if end < at + size:
            return False
    return True


def _edges(made: Reading) -> Iterator[Breach]:
    """The unaligned ends of a hole are zero when its success is told."""
    for row in made.reclaims:
        if not (row.kind in {"punch", "zero"} and row.succeeded and row.after and row.aperture):
            continue
        lo, hi = row.target["lo"], row.target["hi"]
        if row.kind == "zero" and hi >= row.after.size:
            hi = -(-hi // BLOCK) * BLOCK  # the last block is a new one
        up, down = -(-lo // BLOCK) * BLOCK, hi // BLOCK * BLOCK
        ends = [(lo, min(hi, up)), (max(lo, down), hi)] if up <= down else [(lo, hi)]
        runs = [run for low, high in ends for run in row.after.runs(low, high)]
        mine = [line for step in row.steps for line in step.of("Zero")]
        if not _covered(runs, [run for line in mine for run in line["runs"]]):
            yield Breach("S9", f"{row.words()} left the edges of its hole as they were", row.told)


def _nobody_wrote(history: History, made: Reading) -> Iterator[Breach]:
    """Files of this history that hold something, in extents that no key was ever registered for and no CPU stored to."""
    if not history.filemap or history.gaps:
        return
    born = {change.ino for change in made.changes if change.old is None}
    registered = _registered(history)
    stored = blocks_in(history.of("Store"))
    copied = {
        block
        for line in history.of("Copy")
        for _from, to, size in line["pieces"]
        for block in blocks_of([[to, size]])
    }
    for file in history.filemap["files"]:
        row = made.files.get(file["ino"])
        if file["ino"] not in born or row is None or row.path != file["path"] or row.origin:
            continue
        count = 0
        for offset, at, length, since in file["extents"]:
            end = at + max(0, min(length, file["size"] - offset))
            handled = blocks_of([[at, end - at]]) & (stored | copied)
            if registered.get(file["path"], 0) < since and not handled:
                count += end - at - bytes(history.image[at:end]).count(0)
        if count:
            yield Breach("S9", f"{count} bytes of {file['path']}, which nobody wrote to, are not zero")


def _registered(history: History) -> dict[str, int]:
    """Path -> the layout of the file at the last registration of it; without end while one is not answered."""
    found: dict[str, int] = {}
    asked: dict[tuple[int, int], str] = {}
    for line in history.of("Requested", "Reply", "Fail"):
        request = line["session"], line["request"]
        if line["type"] == "Requested" and line["op"]["type"] == "RegMr":
            path = str(line["op"].get("path", ""))
            asked[request] = f"{DMABUF}/{path}" if line["op"].get("backing") == DMABUF else path
        elif request in asked:
            path = asked.pop(request)
            layout = int(line.get("result", {}).get("layout", 0))
            found[path] = max(found.get(path, 0), layout)
    return found | dict.fromkeys(asked.values(), ALWAYS)


def _left_over(made: Reading) -> Iterator[Breach]:
    """Edges that an earlier life had still to zero are zeroed before anybody is served."""
    for at, step in enumerate(made.steps):
        for line in step.of("Loaded"):
            runs = [
                list(run) for book, _, row in line["delta"] if book == "zeroing" and row for run in row[1]
            ]
            boot = _boot(made.steps[at:]) if runs else []
            done = [run for s in boot for blank in s.of("Blank") for run in blank["runs"]]
            if boot and not _covered(runs, done):
                yield Breach("S9", "an edge that was to be zeroed before the restart was not", (line["n"],))


def _boot(steps: list[Step]) -> list[Step]:
    """Those in front of the first client of this life; none if nobody came."""
    for at, step in enumerate(steps):
        if step.life != steps[0].life:
            return []
        if step.of("SessionOpened"):
            return steps[:at]
    return []


def nothing_grew(history: History) -> str:
    made = read(history)
    grew = any(
        c.new and (c.old is None or c.new.blocks - c.old.blocks or c.new.size > c.old.size)
        for c in made.changes
    )
    return "" if grew or history.row.get("taken") else "no file was created or grew"
