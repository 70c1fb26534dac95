"""S2 and S3: what a reclaim that succeeded has changed is there, and one that failed has changed nothing. From Commit lines and what is beside them."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from emu.check.invariants import buffers
from emu.check.invariants.invariant import Breach
from emu.check.invariants.reading import read
from emu.check.memory import victim
from emu.core.rows import BLOCK, FOREVER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from emu.check.history import History
    from emu.check.invariants.reclaims import Change, Reclaim, Step
    from emu.check.invariants.rows import FileRow, Json
    from emu.check.invariants.timeline import Reading

# ---- S2


def applied(history: History) -> Iterator[Breach]:
    """S2: a reclaim that reported success has changed what it was to change; a restart loses nothing of it."""
    made = read(history)
    for row in made.reclaims:
        if row.succeeded and not _is_there(made, row):
            yield Breach("S2", f"{row.words()} returned success, and its change is not there", row.told)
    for line, ino in made.lost:
        sentence = f"file {ino} is not as it was committed before the restart"
        yield Breach("S2", sentence, (line["n"],))


def _is_there(made: Reading, row: Reclaim) -> bool:
    target = row.target
    if not row.known or row.kind in {"surprise", "poison"}:
        return True  # the host's own files; a fact that was there before
    if row.kind == "umount":
        return not _reached_behind(made, row)
    if "device" in target:
        return any(
            change[0] == "devices" and change[1] == target["device"] and change[2] and not change[2][2]
            for step in row.steps
            for line in step.of("Commit")
            for change in line["delta"]
        )
    if row.kind == "reflink":
        return any(is_clone(row, change) for step in row.steps for change in step.changes)
    if target["kind"] in {"writeback", "memory-pressure"}:
        return _pages_done(made, row)
    mine = [change for step in row.steps for change in step.changes if change.ino == target["ino"]]
    if not mine and (row.kind == "cow-write" or (row.kind == "migrate" and not row.range)):
        return True  # nobody else had these blocks any more; there were none
    return any(_fits(target, change) or _covered_up(target, change) for change in mine)


def is_clone(row: Reclaim, change: Change) -> bool:
    """The clone that this reclaim of kind reflink has made."""
    new, source = change.new, row.source
    return bool(
        row.kind == "reflink"
        and change.old is None
        and new
        and source
        and (new.path, new.size, new.places) == (row.target["to"], source.size, source.places)
        and new.origin == source.origin != 0
    )


def _reached_behind(made: Reading, row: Reclaim) -> bool:
    """Was a file of this mount reached between the answer and the next mount there?"""
    top = row.target["mount"].rstrip("/") + "/"
    asked: dict[tuple[int, int], Json] = {}
    for step in made.steps:
        if step.life != row.life or step.lines[-1]["n"] < row.at("returned"):
            continue
        if step.op:
            asked[step.event["session"], step.event["request"]] = step.op  # type: ignore[index]
        if step.op.get("type") == "FsMount" and step.of("Reply"):
            return False
        for line in step.of("Reply"):
            op = asked.get((line["session"], line["request"]), {})
            if op.get("type") in {"FsStat", "FsRead"} and str(op["path"]).startswith(top):
                return True
    return False


def _pages_done(made: Reading, row: Reclaim) -> bool:
    """What was dirty was written back; behind a pressure no clean page is left."""
    under_way = (s for s in made.steps if s.life == row.life and row.at("requested") <= s.lines[-1]["n"])
    flushed = (s.of("Flush") for s in under_way if s.lines[0]["n"] < row.at("returned"))
    saved = not row.unsaved or any(flushed)
    return saved and (row.kind == "writeback" or not row.stays)


def _covered_up(target: Json, change: Change) -> bool:
    """Another reclaim changed the same file in the same step, so that the row does not show this one. A hole would still be there."""
    return len(change.step.applied) > 1 and (target["kind"] != "punch" or change.new is None)


def _fits(target: Json, change: Change) -> bool:
    new, lo, hi = change.new, target["lo"], target["hi"]
    if target["kind"] == "unlink":
        return new is None
    if new is None:
        return False
    if target["kind"] == "unplug":
        return new.gone
    if target["kind"] in buffers.KINDS:
        return buffers.fits(target, change.old, new)
    if target["kind"] in LAID:
        return change.old is not None and LAID[target["kind"]](target, change.old, new)
    if target["kind"] == "truncate":
        return new.size == lo and not new.within(-(-lo // BLOCK) * BLOCK, FOREVER)
    return not _old(new).within(-(-lo // BLOCK) * BLOCK, hi // BLOCK * BLOCK)


def _old(new: FileRow) -> FileRow:
    """Without the blocks that came behind this change, in the same step: a registration that had waited for it fills the hole."""
    return new._replace(extents=tuple(extent for extent in new.extents if extent[3] < new.layout))


def _collapsed(target: Json, old: FileRow, new: FileRow) -> bool:
    first, count = target["lo"] // BLOCK, target["length"] // BLOCK
    stays = {block: at for block, at in old.places.items() if not first <= at < first + count}
    moved = {block: at - count * (at >= first) for block, at in stays.items()}
    return new.size == old.size - target["length"] and new.places == moved


def _inserted(target: Json, old: FileRow, new: FileRow) -> bool:
    first, count = target["lo"] // BLOCK, target["length"] // BLOCK
    moved = {block: at + count * (at >= first) for block, at in old.places.items()}
    return new.size == old.size + target["length"] and new.places == moved


def _zeroed(target: Json, old: FileRow, new: FileRow) -> bool:
    """Its whole blocks, and the last one of the file where the range reaches the end, are other blocks now."""
    lo, hi = -(-target["lo"] // BLOCK), min(target["hi"], old.size)
    end = -(-hi // BLOCK) if hi == old.size else hi // BLOCK
    whole = new.within(lo * BLOCK, end * BLOCK) if lo < end else set()
    return new.size == old.size and len(whole) == max(0, end - lo) and not whole & old.blocks


def _migrated(_target: Json, old: FileRow, new: FileRow) -> bool:
    same = sorted(old.places.values()) == sorted(new.places.values())
    return new.size == old.size and same and not new.blocks & old.blocks


def _unshared(target: Json, old: FileRow, new: FileRow) -> bool:
    """Blocks of its own in the range; nothing else of it has moved or gone. What waited for that may have made it longer in the same step."""
    first, end = target["lo"] // BLOCK, -(-min(target["hi"], FOREVER) // BLOCK)
    before, after = ({at: block for block, at in row.places.items()} for row in (old, new))
    stays = all(after.get(at) == block for at, block in before.items() if not first <= at < end)
    return bool(new.blocks - old.blocks) and stays and only_more(old, new)


def only_more(old: FileRow, new: FileRow) -> bool:
    return new.size >= old.size and set(new.places.values()) >= set(old.places.values())


LAID: Mapping[str, Callable[[Json, FileRow, FileRow], bool]] = {
    "collapse": _collapsed,
    "insert": _inserted,
    "zero": _zeroed,
    "migrate": _migrated,
    "cow-write": _unshared,
}


def nothing_succeeded(history: History) -> str:
    made = read(history)
    if any(row.succeeded for row in made.reclaims) or made.lost:
        return ""
    lab = history.row.get("reclaim", {})
    return "" if lab.get("returned") and lab.get("errno") is None else "no reclaim succeeded"


# ---- S3


def unchanged(history: History) -> Iterator[Breach]:
    """S3: a reclaim that reported an error, and did not say that it may have done something, left everything as it was."""
    made = read(history)
    for row in made.reclaims:
        if row.errno and row.sure:
            for step in row.steps:
                yield from _touched(row, step)
    lab = history.row
    if lab and history.filemap and lab["reclaim"]["returned"] and lab["reclaim"]["errno"] is not None:
        for sentence in victim(*history.seen, lab["victim"]["path"], lab["before"]):
            yield Breach("S3", sentence)


def _touched(row: Reclaim, step: Step) -> Iterator[Breach]:
    """What a step that applied nobody else's change did to its target."""
    if step.applied - {row.number}:
        return
    words = f"{row.words()} failed with {errno.errorcode.get(row.errno or 0, str(row.errno))}"
    for change in step.changes:
        if change.ino == row.target.get("ino") and change.old and _layout(change.old) != _layout(change.new):
            yield Breach("S3", f"{words}, and changed the file", (*row.told, change.line["n"]))
    for line in step.of("Zero"):
        yield Breach("S3", f"{words}, and bytes of the file were zeroed", (*row.told, line["n"]))


def _layout(row: FileRow | None) -> object:
    return row and (row.path, row.size, row.blocks, row.gone)


def nothing_failed(history: History) -> str:
    made = read(history)
    if any(row.errno and row.sure for row in made.reclaims):
        return ""
    lab = history.row.get("reclaim", {})
    return (
        ""
        if lab.get("returned") and lab.get("errno") is not None
        else "no reclaim was refused or interrupted"
    )


# ---- S6
