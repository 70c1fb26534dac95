"""S10: file operations take effect one by one: every change has a cause in its own step, answers tell what was committed, reclaims of one range take turns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.check.invariants import buffers
from emu.check.invariants.invariant import Breach
from emu.check.invariants.reading import read
from emu.check.invariants.rows import blocks_of, file_row
from emu.check.invariants.safety_layout import is_clone, only_more
from emu.check.memory import file_of, vanished_cells
from emu.history.stamp import CELL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from emu.check.history import History
    from emu.check.invariants.reclaims import Change, Reclaim, Step
    from emu.check.invariants.rows import FileRow, Json
    from emu.check.invariants.timeline import Reading


def one_order(history: History) -> Iterator[Breach]:
    """S10: file operations take effect one by one, each between its request and its answer; reclaims of one range one behind the other."""
    made = read(history)
    late = set(_late(made))
    for change in made.changes:
        if not _explained(made, change) and (change.line["n"], change.ino) not in late:
            what = change.new.path if change.new else (change.old.path if change.old else "a file")
            yield Breach("S10", f"{what} changed, and nobody had asked for that", (change.line["n"],))
    yield from _answers(made)
    yield from _at_once(made)
    yield from _vanished(history)


def _explained(made: Reading, change: Change) -> bool:
    step = change.step
    rows = [made.reclaim_at[step.life, number] for number in step.applied]
    mine = any(row.target.get("ino") == change.ino or is_clone(row, change) for row in rows)
    return (
        mine
        or _went_on(made, change)
        or _asked(change, step.op)
        or buffers.explained(made, change)
        or _host_step(step)
        or _faulted(made, change)
    )


def _went_on(made: Reading, change: Change) -> bool:
    """A request that goes on where its cow-write ends: a write, a growing truncate, a registration. None of them takes anything."""
    if change.old is None or change.new is None or not only_more(change.old, change.new):
        return False
    ended = [line["reclaim"] for line in change.step.of("Phase") if line["phase"] == "ended"]
    rows = [made.reclaim_at[change.step.life, number] for number in ended]
    return any(row.kind == "cow-write" and row.target.get("ino") == change.ino for row in rows)


def _faulted(made: Reading, change: Change) -> bool:
    """Holes that a page fault filled, nothing else: a key of this file is mapped over them, or over the pages filled from them, in the same step."""
    old, new = change.old, change.new
    if old is None or new is None or old.size != new.size or not old.places.items() <= new.places.items():
        return False
    grown, mapped = new.blocks - old.blocks, change.step.of("Remap")
    own = made.aperture_of(change.step.life, new.device)
    return any(
        grown <= _reached(change.step, line, own) for line in mapped if _of_file(made, line, change.ino)
    )


def _of_file(made: Reading, remap: Json, ino: int) -> bool:
    """Whether the key was registered for this file, or nobody says for which."""
    known = [one.registration for one in made.by_number.get(remap["key"], ())]
    return any(row is None or row.ino in {0, ino} for row in known)


def _reached(step: Step, remap: Json, own: int) -> set[int]:
    """Blocks of the device (`own`: its aperture) that a Remap reaches, or had filled into the pages that it reaches."""
    mapped = blocks_of([run for run in remap["extents"] if run[0] >= 0])
    if remap["aperture"] == own:
        return mapped
    fills = [line for line in step.of("Fill") if (line["source"], line["target"]) == (own, remap["aperture"])]
    pieces = [piece for line in fills for piece in line["pieces"]]
    return {
        block
        for source, page, size in pieces
        if blocks_of([[page, size]]) <= mapped
        for block in blocks_of([[source, size]])
    }


def _late(made: Reading) -> Iterator[tuple[int, int]]:
    """(line, file) of what registrations did that had waited behind a reclaim, in the step that let them go on; and of what was committed by a
    reclaim whose broker was killed in front of its first line.
    """
    waiting: dict[tuple[int, int], Json] = {}
    for step in made.steps:
        for line in step.lines:
            match line["type"]:
                case "Loaded":
                    waiting.clear()
                case "SessionLost":
                    waiting = {pair: op for pair, op in waiting.items() if pair[0] != line["session"]}
                case "Requested" if line["op"]["type"] in {"RegMr", *TAKING}:
                    waiting[line["session"], line["request"]] = line["op"]
        for change in step.changes:
            if any(_asked_late(change, op) for op in waiting.values()):
                yield change.line["n"], change.ino
        for line in step.lines:
            if line["type"] in {"Reply", "Fail"}:
                waiting.pop((line["session"], line["request"]), None)


TAKING = frozenset({"FsTruncate", "FsPunch", "FsUnlink", "FsFallocate", "FsReflink", "FsMigrate", "FsWrite"})


def _asked_late(change: Change, op: Json) -> bool:
    if op["type"] == "RegMr" and _asked(change, op):
        return True
    paths = {row.path for row in (change.old, change.new) if row}
    return change.step.cut and bool(paths & {op.get("path"), op.get("to")})


def _asked(change: Change, op: Json) -> bool:
    """Is it what this request does?"""
    old, new = change.old, change.new
    kind = str(op.get("type"))
    if kind == "FsPlug":
        return new is None and old is not None and old.device == op["device"]
    if kind == "FsPoison":
        same = old and new and (old.path, old.size) == (new.path, new.size)
        return bool(same and new and old and new.blocks < old.blocks and len(old.blocks - new.blocks) == 1)
    if kind not in SIZES or new is None or new.path != op["path"]:
        return False
    if kind == "FsCreate":
        return old is None and new.size == op["size"]
    return old is not None and old.blocks <= new.blocks and new.size == SIZES[kind](old, op)


# The size that a request leaves behind, of those that only add blocks; registering fills holes.
SIZES: Mapping[str, Callable[[FileRow, Json], int]] = {
    "FsCreate": lambda _old, op: int(op["size"]),
    "FsTruncate": lambda _old, op: int(op["size"]),
    "FsWrite": lambda old, op: max(old.size, int(op["offset"]) + int(op["data"])),
    "RegMr": lambda old, _op: old.size,
    "FsMark": lambda old, _op: old.size,
}


def _host_step(step: Step) -> bool:
    """A step of the start, before anybody is served."""
    return step.event is None or step.event["type"] in {"DeviceAdded", "MountAdded", "BuffersLost"}


def _answers(made: Reading) -> Iterator[Breach]:
    """What fs_create and fs_stat answered is what was committed by then."""
    files: dict[int, FileRow] = {}
    asked: dict[tuple[int, int], Json] = {}
    for step in made.steps:
        for line in step.lines:
            match line["type"]:
                case "Loaded" | "Commit":
                    files = {} if line["type"] == "Loaded" else files
                    for book, key, row in line["delta"]:
                        if book == "files":
                            files.pop(key, None)
                            if row:
                                files[key] = file_row(row)
                case "Requested":
                    asked[line["session"], line["request"]] = line["op"]
                case "Reply":
                    yield from _answered(line, asked.pop((line["session"], line["request"]), {}), files)


def _answered(line: Json, op: Json, files: dict[int, FileRow]) -> Iterator[Breach]:
    result = line["result"]
    if op.get("type") not in {"FsCreate", "FsStat"} or "ino" not in result:
        return
    row = files.get(result["ino"])
    if row is None or row.path != op["path"] or row.size != result["size"]:
        yield Breach(
            "S10",
            f"{op['path']} was said to have {result['size']} bytes as file {result['ino']}, and has not",
            (line["n"],),
        )


def _at_once(made: Reading) -> Iterator[Breach]:
    """Two reclaims of one range: the second starts when the first has ended. A surprise waits for nobody."""
    under_way: dict[tuple[int, int], list[Reclaim]] = {}
    asked = (row for row in made.reclaims if row.kind not in {"surprise", ""} and "ino" in row.target)
    for second in sorted(asked, key=lambda row: row.at("requested")):
        began, target = second.at("requested"), second.target
        others = under_way.setdefault((second.life, target["ino"]), [])
        others[:] = [first for first in others if began < first.at("ended")]
        for first in others:
            if first.target["lo"] < target["hi"] and target["lo"] < first.target["hi"]:
                sentence = f"{first.words()} and {second.words()} ran at once"
                yield Breach("S10", sentence, tuple(sorted({*first.told, *second.told})))
        others.append(second)


def _vanished(history: History) -> Iterator[Breach]:
    """What a lab's second file was given once is still there."""
    taken = history.row.get("taken")
    if not taken or not history.filemap:
        return
    file = file_of(history.seen[1], taken["path"])
    if file is None:
        yield Breach("S10", f"{taken['path']}, which was made after the reclaim, is gone")
        return
    gone = vanished_cells(history.seen[0], file, taken["written"])
    if gone:
        yield Breach("S10", f"{gone * CELL} bytes that were written once to {taken['path']} are not there")


def nothing_in_order(history: History) -> str:
    made = read(history)
    return "" if made.changes or history.row.get("taken") else "no file was changed"
