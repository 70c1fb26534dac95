"""One run as checkers see it, live or simulated: the same parts, whoever made them, in memory or in a folder.

    meta      who ran: schema, versions, source ("live", "simulated"), seed, what was declared
    events    the lines of events.jsonl, in order: what the core was told, what it ordered, what was committed (Commit lines carry the
              durable rows that changed: "delta": [[book, key, row or null], ...]; a Loaded line of the same shape begins each life of
              the broker, with all rows that it found: keys, sessions, requests and timers of the life before are gone, and their
              numbers may come again)
    logs      what the engine's threads moved: quanta with epochs and block generations (emu.history.oplog)
    journals  the clients' receipts by name: what each posted, polled and was told (emu.history.journal)
    row       what was asked for and what clients answered; {} in a run that no lab made
    filemap, image   the memory at the end, and whose it is; {} and b"" where nobody kept it

Events are ordered by `n`. Engine and core are ordered by epoch: a record whose last epoch is older than a line's ended before it,
one whose first epoch is that or newer began behind it; within one epoch nothing is known. A file that is missing or broken raises
BrokenHistory, which names it and says what is wrong; nothing is repaired.

A folder whose meta.json says `"whole": true` (every simulated one, and those of `emu compare`) has been ended by a manifest.json: it is
there, and agrees. A live broker's own folder has none, and may end in the middle of a line.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from emu.check import opening
from emu.check.opening import BrokenHistory
from emu.history.events import write_events
from emu.history.journal import write_journal
from emu.history.manifest import MANIFEST, differences, write_manifest
from emu.history.oplog import write_oplog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from emu.history.journal import JournalFile
    from emu.history.oplog import OpLog, OpRecord

__all__ = ["BrokenHistory", "History"]

Json = dict[str, Any]
NAMED = 5  # runs that are named
NAMING = frozenset({"protocol", "sentence", "error"})
WITH_NAME = NAMING | {"name"}
NESTED = frozenset({dict, list})
T = TypeVar("T")


@dataclass(frozen=True)
class History:
    meta: Json = field(default_factory=dict)
    events: list[Json] = field(default_factory=list)
    logs: list[OpLog] = field(default_factory=list)
    journals: dict[str, JournalFile] = field(default_factory=dict)
    row: Json = field(default_factory=dict)
    filemap: Json = field(default_factory=dict)
    image: Any = b""
    pages: Any = b""  # of files with a page cache
    verdict: Json = field(
        default_factory=dict, compare=False
    )  # what was concluded when the run ended; never judged by
    _made: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def once(self, make: Callable[[History], T]) -> T:
        """What `make` reads out of this history, made at the first call: indexes that several checkers share."""
        if make not in self._made:
            self._made[make] = make(self)
        return cast("T", self._made[make])

    @classmethod
    def read(cls, folder: str | Path) -> Self:
        """The run in this folder. Raises BrokenHistory."""
        place = Path(folder)
        _check_folder(place)
        meta = opening.read_meta(place)
        whole = meta["source"] == "simulated" or meta.get("whole") is True
        _check_manifest(place, whole=whole)
        filemap = opening.read_filemap(place)
        left = {  # not judged, but part of what was left
            name: opening.read_json(place, name, "one JSON object")
            for name in ("verdict.json", "script.json")
            if (place / name).exists()
        }
        return cls(
            meta,
            opening.read_lines(place, whole=whole),
            opening.read_logs(place),
            opening.read_journals(place),
            opening.read_row(place),
            filemap,
            opening.read_image(place, filemap),
            opening.read_image(place, filemap, "pages"),
            left.get("verdict.json", {}),
        )

    def write(self, folder: str | Path) -> Path:
        """Into a new or empty folder, as a whole run: what `read` gives back is equal. Raises OSError."""
        place = Path(folder)
        (place / "journals").mkdir(parents=True, exist_ok=True)
        _write_json(place / "meta.json", {**self.meta, "whole": True})
        write_events(place, self.events)
        for log in self.logs:
            write_oplog(place / f"oplog-{log.thread}.bin", log)
        for name, journal in sorted(self.journals.items()):
            write_journal(place / "journals" / f"{name}.jrnl", journal)
        if self.row:
            _write_json(place / "row.json", self.row)
        if self.filemap:
            _write_json(place / "filemap.json", self.filemap)
            (place / str(self.filemap["image"])).write_bytes(self.image)
            if "pages" in self.filemap:
                (place / str(self.filemap["pages"])).write_bytes(self.pages)
        return place

    def finish(self, folder: str | Path) -> None:
        """Behind everything else that belongs into the folder (verdict.json, script.json): its manifest."""
        write_manifest(folder)

    @cached_property
    def blind(self) -> History:
        """The same without fields that name a protocol, or say in words what happened: what judges see. Of what was declared they
        see the unit of loss, and whose memory the owner says it can take back.
        """
        declared = self.meta.get("declared") or self.meta  # which has been made blind before
        known = {name: declared[name] for name in ("loss", "importers") if name in declared}
        options = self.meta.get("options") or self.meta
        meta = {"loss": "", "time_scale": options.get("time_scale", 1), **known}
        return replace(self, meta=meta, events=[_blind(line) for line in self.events])

    @cached_property
    def seen(self) -> tuple[Any, Json]:
        """Memory and file map as a reader of the files meets them: their pages where they have some, else the device."""
        return (self.image, self.filemap) if "pages" not in self.filemap else over_pages(self)

    @cached_property
    def by_type(self) -> dict[str, list[Json]]:
        """Lines by their type, in order; gaps under "gap"."""
        found: dict[str, list[Json]] = {}
        for line in self.events:
            found.setdefault(str(line.get("type", line["kind"])), []).append(line)
        return found

    def of(self, *types: str) -> list[Json]:
        """Lines of these types, in order."""
        if len(types) == 1:
            return self.by_type.get(types[0], [])
        return sorted(
            (line for name in types for line in self.by_type.get(name, [])), key=lambda line: line["n"]
        )

    @cached_property
    def gaps(self) -> int:
        """Lines, log records and journal records that are missing."""
        lost: int = sum(line["last"] - line["first"] + 1 for line in self.of("gap"))
        return (
            lost
            + sum(log.missing for log in self.logs)
            + sum(journal.missing for journal in self.journals.values())
        )

    def records(self) -> Iterator[tuple[int, OpRecord]]:
        """(thread, record) of all logs, thread by thread."""
        return iter(self._records)

    @cached_property
    def _records(self) -> list[tuple[int, OpRecord]]:
        return [(log.thread, record) for log in self.logs for record in log.records]


def over_pages(history: History) -> tuple[Any, Json]:
    """One memory: the device's, then the pages; extents of files lie in the pages they have. `beneath`: those of the device."""
    base = len(history.image)
    files = [
        {**file, "extents": _covered(file, base), "beneath": file["extents"]}
        for file in history.filemap["files"]
    ]
    whole = bytes(history.image) + bytes(history.pages)
    return whole, {**history.filemap, "files": files, "device_bytes": base}


def _covered(file: Json, base: int) -> list[list[int]]:
    """The file's extents, each of its pages in place of what lies beneath."""
    pages = sorted(file.get("pages", ()))
    found = [[offset, base + at, size, since] for offset, at, size, since in pages]
    for offset, at, size, since in file["extents"]:
        low, end = offset, offset + size
        for start, _page, length, _since in pages:
            if low < start < end:
                found.append([low, at + low - offset, start - low, since])
            if start < end and low < start + length:
                low = start + length
        if low < end:
            found.append([low, at + low - offset, end - low, since])
    return sorted(found)


def _check_folder(place: Path) -> None:
    if not place.exists():
        raise BrokenHistory(f"{place} does not exist: name the folder of a run, as DIR/runs/N")
    if not place.is_dir():
        raise BrokenHistory(f"{place} is a file: name the folder of a run, as DIR/runs/N")
    try:
        empty = not os.listdir(place)  # noqa: PTH208 - iterdir would not tell an unreadable folder in time
    except OSError as error:
        raise BrokenHistory(f"{place} cannot be read: {error.strerror}") from error
    if empty:
        raise BrokenHistory(
            f"{place} is empty: a run's folder has at least meta.json, events.jsonl and oplog-0.bin"
        )
    if not (place / "meta.json").exists() and (below := _runs_below(place)):
        more = f" (and {len(below) - NAMED} more)" if len(below) > NAMED else ""
        raise BrokenHistory(f"{place} is no run, it has some: check {', '.join(below[:NAMED])}{more}")


def _runs_below(place: Path) -> list[str]:
    """Folders of runs, as `emu compare --out` and DIR/runs hold them."""
    try:
        found = [path.parent for depth in ("*", "*/*") for path in place.glob(f"{depth}/meta.json")]
    except OSError:
        return []
    return [str(path) for path in sorted(found)]


def _check_manifest(place: Path, *, whole: bool) -> None:
    if not whole and not (place / MANIFEST).exists():
        return
    opening.read_json(place, MANIFEST, "the lengths and digests of all files here, written last")
    try:
        found = differences(place)
    except OSError as error:
        raise BrokenHistory(f"{error.filename or MANIFEST} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise BrokenHistory(str(error)) from error
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise BrokenHistory(
            f"{found[0]}{more}: it should be as {MANIFEST} says, which was written when the run ended"
        )


def _write_json(path: Path, content: Json) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _blind(value: Any) -> Any:
    kind = type(value)
    if kind is dict:
        named = WITH_NAME if value.get("type") == "SetProtocol" else NAMING
        return {
            name: _blind(item) if type(item) in NESTED else item
            for name, item in value.items()
            if name not in named
        }
    return [_blind(item) if type(item) in NESTED else item for item in value] if kind is list else value
