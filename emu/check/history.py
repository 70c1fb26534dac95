"""One run as checkers see it, live or simulated: the same parts, whoever made them, in memory or in a folder.

    meta      who ran: schema, versions, source ("live", "simulated"), seed
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
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.history.journal import JournalFile
    from emu.history.oplog import OpLog, OpRecord

Json = dict[str, Any]


class BrokenHistory(ValueError):
    """A folder that is no whole run; the sentence names the file and what is wrong with it."""


@dataclass(frozen=True)
class History:
    meta: Json = field(default_factory=dict)
    events: list[Json] = field(default_factory=list)
    logs: list[OpLog] = field(default_factory=list)
    journals: dict[str, JournalFile] = field(default_factory=dict)
    row: Json = field(default_factory=dict)
    filemap: Json = field(default_factory=dict)
    image: Any = b""

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
        return ((log.thread, record) for log in self.logs for record in log.records)
