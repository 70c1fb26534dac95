"""What a run of `emu compare` leaves behind, opened for judging. docs/results.md explains each file.

    row.json      what was asked for, and what every client answered (never the protocol's name)
    events.jsonl  the core's history; the lines of kind Phase carry the epoch and the operations in flight
    oplog-T.bin   what the engine's threads did
    filemap.json  which bytes of the image belong to which file, and since which layout
    IMAGE         the memory itself (pm0.img, host.img), after DMA stopped
    journals/     what each client posted, polled and was told

A file that is missing or cut short is not repaired: the verdict is unknown, and says which. Nobody who judges sees the name of a
protocol: the history's lines come without it, and without the sentences that it may occur in.
"""

from __future__ import annotations

import json
import mmap
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from emu.history.events import read_events
from emu.history.journal import JournalFile, read_journal
from emu.history.oplog import OpLog, read_oplogs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Json = dict[str, Any]
NAMING = frozenset({"protocol", "sentence", "error"})


class Phase(NamedTuple):
    """A reclaim's step, as the broker recorded it when it took it."""

    reclaim: int
    name: str
    epoch: int
    time: int
    inflight: int
    keys: tuple[int, ...]
    detail: Json


@dataclass(frozen=True)
class Evidence:
    """One run's folder."""

    folder: Path

    @cached_property
    def row(self) -> Json:
        return self._json("row.json")

    @cached_property
    def filemap(self) -> Json:
        return self._json("filemap.json")

    @cached_property
    def events(self) -> list[Json]:
        return [blind(line) for line in read_events(self.folder)]

    @cached_property
    def gaps(self) -> int:
        """Lines of the history that are missing."""
        return sum(line["last"] - line["first"] + 1 for line in self.events if line["kind"] == "gap")

    @cached_property
    def phases(self) -> list[Phase]:
        return [phase_of(line) for line in self.events if line.get("type") == "Phase"]

    @cached_property
    def logs(self) -> list[OpLog]:
        return read_oplogs(self.folder)

    @cached_property
    def journals(self) -> dict[str, JournalFile]:
        found = [read_journal(path) for path in sorted((self.folder / "journals").glob("*.jrnl"))]
        return {journal.name: journal for journal in found}

    @cached_property
    def image_bytes(self) -> int:
        """How long the image is; 0 if it is shorter than what the file map finds in it. Raises OSError."""
        size = (self.folder / str(self.filemap["image"])).stat().st_size
        ends = [at + length for file in self.filemap["files"] for _, at, length, _ in file["extents"]]
        return size if size >= max(ends, default=0) else 0

    @contextmanager
    def image(self) -> Iterator[mmap.mmap]:
        """The memory after the run, mapped read-only."""
        path = self.folder / str(self.filemap["image"])
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
            yield raw

    def _json(self, name: str) -> Json:
        content: Json = json.loads((self.folder / name).read_text("utf-8"))
        return content


def blind(value: Any) -> Any:
    """The same without fields that name a protocol, or say in words what happened."""
    if isinstance(value, dict):
        return {name: blind(item) for name, item in value.items() if name not in NAMING}
    return [blind(item) for item in value] if isinstance(value, list) else value


def phase_of(line: Json) -> Phase:
    """A Phase line of events.jsonl."""
    return Phase(
        int(line["reclaim"]),
        str(line["phase"]),
        int(line["epoch"]),
        int(line["t"]),
        int(line.get("inflight", 0)),
        tuple(line.get("keys", ())),
        dict(line.get("detail", {})),
    )
