"""Buffers of exporters in a history: what their reclaims change, and why else their rows may change.

A buffer's row is a file's, with the path dmabuf/NAME. It is made by DmabufCreate, goes with DmabufDestroy, is closed at the end of the session
that made it, and then goes when no reclaim is about it any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.core.rows import DMABUF

if TYPE_CHECKING:
    from collections.abc import Iterable

    from emu.check.invariants.reclaims import Change
    from emu.check.invariants.rows import FileRow, Json
    from emu.check.invariants.timeline import Reading

KINDS = ("move", "revoke")


def fits(target: Json, old: FileRow | None, new: FileRow) -> bool:
    """Is this what a move, or a revoke, leaves of the row?"""
    if target["kind"] == "move":
        return old is None or (new.size == old.size and not new.blocks & old.blocks and not new.gone)
    if target.get("permanent", True):
        return new.gone and not new.blocks
    return old is None or new.blocks == old.blocks


def last_seen(made: Reading, paths: Iterable[str]) -> dict[str, set[int]]:
    """Blocks of these buffers when their rows were committed last: they are gone with their exporters, who leave behind the survey."""
    rows = {change.new.path: change.new.blocks for change in made.changes if change.new is not None}
    return {path: rows[path] for path in paths if path in rows}


def explained(made: Reading, change: Change) -> bool:
    """Has its exporter asked for it, or come to its end?"""
    row = change.new or change.old
    name = row.path.removeprefix(f"{DMABUF}/") if row is not None and row.device == DMABUF else ""
    if not name:
        return False
    op = change.step.op
    if op.get("type") in {"DmabufCreate", "DmabufDestroy"} and op["name"] == name:
        return bool((change.new is None) == (op["type"] == "DmabufDestroy"))
    closing = change.new is None or (change.new.gone and change.old is not None)
    return closing and _exporter_ended(made, change, name)


def _exporter_ended(made: Reading, change: Change, name: str) -> bool:
    """Whoever created the buffer that this row was is lost by now."""
    maker, ended = 0, False
    for step in made.steps:
        if step.life != change.step.life or not step.lines or step.lines[0]["n"] > change.line["n"]:
            continue
        if step.op.get("type") == "DmabufCreate" and step.op["name"] == name and step.event is not None:
            if any(each.ino == change.ino for each in step.changes):
                maker = step.event["session"]
        elif step.event is not None and step.event["type"] == "SessionLost":
            ended = ended or step.event["session"] == maker
    return ended
