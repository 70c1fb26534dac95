"""What a client was told had gone well, of places that the file did not have any more: by the clients' own journals and the file map.

A request counts if it was *posted after* the reclaimer had its answer, completed with success, and named bytes of the victim at which the file has no
memory at the end. That is less than what was lost: requests that were on their way count for nothing. The engine's log (traffic.py) tells of freed and
absent memory; this tells of memory that was kept, or put in its place, and is no file's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from emu.check.invariants.reading import read
from emu.check.invariants.safety_bytes import acknowledged, taken_away
from emu.check.memory import file_of, holes
from emu.check.traffic import READ, in_vain, started_after
from emu.history.journal import Kind

if TYPE_CHECKING:
    from emu.check.history import History

IN_FILES = frozenset({"dax", "page-cache", "host"})


class Nowhere(NamedTuple):
    written: int = 0
    read: int = 0


def nowhere(history: History) -> Nowhere:
    """Bytes written to, and read from, places that the victim had no more when they were asked for."""
    row = history.row
    reclaim, victim = row["reclaim"], row["victim"]
    ended, ino = reclaim.get("ended"), victim.get("ino")
    if row["backing"] not in IN_FILES or not ino or ended is None or reclaim["errno"] is not None:
        return Nowhere()
    file = file_of(history.filemap, victim["path"]) or {"extents": [], "size": 0}
    missing: dict[tuple[int, int], int] = {}
    found = {True: 0, False: 0}
    for journal in history.journals.values():
        for record in journal.of(Kind.POSTED):
            if record.ino == ino and record.time > ended and (record.qp_num, record.wr_id) in journal.good:
                place = (record.offset, record.offset + record.length)
                if place not in missing:
                    missing[place] = holes(file, *place)
                found[record.opcode == READ] += missing[place]
    return Nowhere(found[False], found[True])


def detached_bytes(history: History) -> int:
    """Bytes that went well into blocks which a reclaim had taken from their file, by operations that began behind its answer."""
    made = read(history)
    vain = {log.thread: in_vain(log, acknowledged(history)) for log in history.logs}
    total = 0
    for row in made.reclaims:
        if not row.succeeded:
            continue
        epoch = row.phases["returned"].epoch
        for one in taken_away(history, made, row):
            good = one.record.bytes - vain[one.thread].get(one.record.seq, 0)
            total += max(0, min(started_after(one.record, epoch), good))
    return total
