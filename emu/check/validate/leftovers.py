"""What lies beside the history, held against it: the file map is the last commit's, the image holds what was stored (stored.py), and row.json
tells of the answers that were given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emu.check.validate.lab import TAKING, unasked
from emu.check.validate.refusal import Refusal
from emu.check.validate.stored import stored
from emu.core.errors import errno_name
from emu.core.rows import BLOCK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.check.history import History

Json = dict[str, Any]


def leftovers(history: History) -> list[Refusal]:
    found = []
    if history.filemap and history.filemap.get("device"):
        found += [Refusal("filemap.json", why) for why in (*_files(history), *_pages(history))]
        found += [Refusal(str(history.filemap["image"]), why) for why in stored(history)]
    if history.row:
        found += [Refusal("row.json", why) for why in _row(history)]
    return found


def _files(history: History) -> Iterator[str]:
    """The device's files as the last commits before the survey left them: whoever leaves behind it takes its buffers along. Entries of others (a
    host file) are the host's.
    """
    device: str = history.filemap["device"]
    surveyed = history.row.get("surveyed")
    last: dict[int, Any] = {}
    for line in history.of("Loaded", "Commit"):
        if surveyed is not None and line["t"] > surveyed:
            break
        if line["type"] == "Loaded":
            last.clear()
        last |= {key: row for book, key, row in line["delta"] if book == "files"}
    wanted = {key: row for key, row in last.items() if row is not None and row[1] == device}
    shown = {file["ino"]: file for file in history.filemap["files"]}
    if not wanted.keys() and not any(row and row[1] == device for row in last.values()):
        return
    for ino, row in wanted.items():
        file = shown.get(ino)
        if file is None:
            continue  # taken after the device went, or made by others than the row's
        extents = [[e[0] * BLOCK, e[1] * BLOCK, e[2] * BLOCK, e[3]] for e in row[3]]
        if (file["path"], file["size"]) != (row[0], row[2]) or file["extents"] != extents:
            yield f"{file['path']}: {file['size']} bytes in {file['extents']}: the last commit left {row[2]} in {extents}"
    for ino in shown.keys() - wanted.keys():
        yield f"{shown[ino]['path']} (ino {ino}) is no file of {device} any more"


def _pages(history: History) -> Iterator[str]:
    """Their pages as the last lines about them left them."""
    last: dict[int, Any] = {}
    for line in history.of("Loaded", "MapPages"):
        if line["type"] == "Loaded":
            last.clear()
        else:
            last[line["ino"]] = [[e[0] * BLOCK, e[1] * BLOCK, e[2] * BLOCK, e[3]] for e in line["extents"]]
    for file in history.filemap["files"]:
        if file.get("pages", []) != (wanted := last.get(file["ino"], []) if "pages" in file else []):
            yield f"{file['path']}: its pages are {file['pages']}: the history leaves {wanted}"


def _row(history: History) -> Iterator[str]:
    """The reclaim's errno is one that a reclaim was answered with."""
    reclaim = history.row.get("reclaim")
    if not reclaim or not reclaim.get("returned"):
        return
    asked = {
        (line["session"], line["request"])
        for line in history.of("Requested")
        if line["op"]["type"] in TAKING or history.row["event"] == "cow-write"
    }
    answers = {
        errno_name(line["errno"]) if line["type"] == "Fail" else None
        for line in history.of("Reply", "Fail")
        if (line["session"], line["request"]) in asked
    }
    if not answers and unasked(history):
        return  # nobody was asked for that, and nobody was answered
    if reclaim.get("errno") not in answers:
        yield f"the reclaim's errno is {reclaim.get('errno')}: the broker answered {sorted(map(str, answers))}"
