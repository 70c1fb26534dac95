"""S1, S2 and S4, as far as bytes tell: what the engine moved, what lies in the memory afterwards, what was acknowledged.

A quantum carries the generations that its thread saw, so none of this rests on the core's opinion of who owned a block. A record is
laid at a reclaim's door if the key that it used was one of the reclaim's, or translates to blocks that the reclaim took.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from emu.check.invariants.invariant import Breach
from emu.check.invariants.reading import read
from emu.check.invariants.rows import ALWAYS, blocks_of
from emu.check.memory import foreign_by_file, holes, misplaced_cells, victim
from emu.check.traffic import READ, SUCCESS, in_vain, started_after
from emu.core.rows import BLOCK
from emu.history.journal import Kind
from emu.history.oplog import Flag
from emu.history.oplog import Kind as OpKind
from emu.history.stamp import CELL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.check.history import History
    from emu.check.invariants.reclaims import Reclaim
    from emu.check.invariants.rows import Json
    from emu.check.invariants.timeline import Mapped, Reading
    from emu.history.oplog import OpRecord

# Plain integers: an IntFlag's operators cost more than the rules do.
FOREIGN = int(Flag.SRC_FOREIGN | Flag.DST_FOREIGN)
CHANGED = int(Flag.SRC_FREED | Flag.DST_FREED) | FOREIGN
GONE = int(Flag.SRC_FREED | Flag.DST_FREED | Flag.SRC_ABSENT | Flag.DST_ABSENT)
ABSENT = int(Flag.SRC_ABSENT | Flag.DST_ABSENT)
MISSED = int(Flag.DST_FREED | Flag.DST_FOREIGN | Flag.DST_ABSENT)
READ_AMISS = int(Flag.SRC_FOREIGN | Flag.SRC_FREED | Flag.SRC_ABSENT)
SHOWN = 8  # records that a breach names


class Moved(NamedTuple):
    """A record of a thread's log."""

    thread: int
    record: OpRecord


# ---- S1


def foreign(history: History) -> Iterator[Breach]:
    """S1: no byte in memory whose generation is another than at translation."""
    made = read(history)
    found: dict[int, list[Moved]] = {}
    for thread, record in history.records():
        if record.bytes and has_changed(record):
            found.setdefault(used_key(record, CHANGED), []).append(Moved(thread, record))
    for key, moved in found.items():
        moved.sort(key=lambda one: not one.record.flags & FOREIGN)  # the worst is told first
        count = sum(one.record.bytes for one in moved)
        sentence = f"the engine moved {count} bytes under key {key:#x} in memory that had been freed, or changed hands"
        yield Breach("S1", sentence, causes(made, key, moved[0].record), named(moved))
    yield from _foreign_memory(history)


def _foreign_memory(history: History) -> Iterator[Breach]:
    if history.filemap:
        for path, count in foreign_by_file(*history.seen).items():
            where = path or "blocks of nobody"
            yield Breach("S1", f"{count} stamped bytes lie in memory that had changed hands ({where})")
    leaked = CELL * len(history.row.get("leaked", ()))
    if leaked:
        yield Breach("S1", f"{leaked} bytes of somebody else's were read")


def has_changed(record: OpRecord) -> bool:
    """The generation is not that of the translation: by the engine's flag, or by those that a single quantum carries."""
    if record.flags & CHANGED:
        return True
    last, before = max(record.gen_first, record.gen_last), record.gen_translated
    nobodys = before % 2  # odd: it was free already when it was translated
    return record.kind == OpKind.QUANTUM and before > 0 and (last > before or bool(nobodys))


def nobody_moved(history: History) -> str:
    return "" if any(record.bytes for _, record in history.records()) else "the engine moved no byte"


# ---- S2


def reached_afterwards(history: History) -> Iterator[Breach]:
    """S2: what a successful reclaim took is not reached by operations that began behind its answer, nor by a live translation."""
    made = read(history)
    for row in made.reclaims:
        if row.succeeded:
            yield from _translations(made, row)
            epoch = row.phases["returned"].epoch
            moved = [one for one in _under(history, made, row) if one.record.flags & GONE]
            until = _replaced(history, row)
            late = [
                one for one in moved if started_after(one.record, epoch) and one.record.epoch_last < until
            ]
            count = sum(started_after(one.record, epoch) for one in late)
            if count:
                sentence = (
                    f"{count} bytes moved in freed or absent memory after {row.words()} had returned success"
                )
                yield Breach("S2", sentence, row.told, named(late))


def _replaced(history: History, row: Reclaim) -> int:
    """The epoch from which on it is not this reclaim's doing that memory is absent, or free: the whole device has gone."""
    if "device" in row.target:
        return ALWAYS
    gone = (line for line in history.of("Offline", "Online") if line["aperture"] == row.aperture)
    return min((line["epoch"] for line in gone if line["n"] > row.at("returned")), default=ALWAYS)


def _translations(made: Reading, row: Reclaim) -> Iterator[Breach]:
    n = row.at("returned")
    free = _released(made, row, n)
    for life in made.maps:
        if life.at.life != row.life or life.aperture != row.aperture or not life.mapped_at(n):
            continue
        whole = row.device
        reached = len(life.blocks if whole else life.blocks & free)
        if reached:
            sentence = f"{row.words()} returned success while key {life.key:#x} translated to {reached} blocks that it had taken"
            yield Breach("S2", sentence, tuple(sorted({life.at.n, *row.told})))


def _released(made: Reading, row: Reclaim, n: int) -> set[int]:
    """Blocks that this reclaim took and that were free when it answered."""
    freed: set[int] = set()
    first = bisect_left(made.handed, row.at("requested"), key=lambda line: line["n"])
    for line in made.handed[first : bisect_left(made.handed, n, key=lambda line: line["n"])]:
        if line["aperture"] == row.aperture and line["type"] != "Online":
            blocks = blocks_of(line["runs"])
            freed = freed | blocks if line["type"] == "Release" else freed - blocks
    return row.taken & freed


def expected_file(history: History) -> Iterator[Breach]:
    """S2: the victim of a lab's run is what the reclaim's success says it is."""
    row = history.row
    if row and history.filemap and row["reclaim"]["returned"] and row["reclaim"]["errno"] is None:
        for sentence in victim(*history.seen, row["victim"]["path"], row["expected"]):
            yield Breach("S2", sentence)


# ---- S4


def lost(history: History) -> Iterator[Breach]:
    """S4: what was acknowledged with success is there, unless the range was detached later."""
    made = read(history)
    vain = {log.thread: in_vain(log, acknowledged(history)) for log in history.logs}
    for row in made.reclaims:
        moved = _behind(history, made, row)
        told = {(one.thread, one.record.seq) for one in moved}
        moved += [
            one for one in led_elsewhere(history, made, row) if (one.thread, one.record.seq) not in told
        ]
        count = sum(max(0, one.record.bytes - vain[one.thread].get(one.record.seq, 0)) for one in moved)
        if count:
            sentence = f"{count} bytes were acknowledged behind {row.words()}, and are not in the file"
            yield Breach("S4", sentence, row.told, named(moved))
    yield from _overwritten(history, made)


def _behind(history: History, made: Reading, row: Reclaim) -> list[Moved]:
    """What was written where the file was, behind a reclaim that did not fail."""
    applied = row.phases.get("applied") or row.phases.get("returned")
    if row.errno or applied is None:
        return []
    moved = [one for one in _under(history, made, row) if _silent(one.record, applied.epoch)]
    told = {(one.thread, one.record.seq) for one in moved}
    return moved + [one for one in taken_away(history, made, row) if (one.thread, one.record.seq) not in told]


def _silent(record: OpRecord, detached: int) -> bool:
    written = record.opcode != READ and record.status == SUCCESS and record.epoch_first >= detached
    return written and bool(record.flags & MISSED)


def taken_away(history: History, made: Reading, row: Reclaim) -> Iterator[Moved]:
    """What was written, behind the commit of it, into blocks that the reclaim had taken from their file, freed or not; of a sum, whose blocks
    nobody knows, where all that its key translates to was taken.
    """
    if not row.taken:
        return
    for thread, record in history.once(_good_writes):
        if record.epoch_last < row.detached:
            continue
        life = made.used(record.rkey, record)
        if life is None or life.at.life != row.life or life.at.n > row.at("applied"):
            continue
        if record.kind == OpKind.QUANTUM:
            count = min(record.bytes, BLOCK * len(_written_blocks(record) & row.taken))
        else:
            count = record.bytes if life.blocks <= row.taken and record.epoch_first >= row.detached else 0
        if count and life.aperture == row.aperture:
            yield Moved(thread, record._replace(bytes=count))


def led_elsewhere(history: History, made: Reading, row: Reclaim) -> Iterator[Moved]:
    """What was written into the scratch pages to which the reclaim had switched its keys: it is in no file from then on, whatever comes of the
    reclaim.
    """
    pages = history.once(_scratch) if "retargeting" in row.phases else {}
    for thread, record in history.once(_good_writes) if pages else ():
        life = made.used(record.rkey, record) if record.rkey in row.named else None
        if life is None or not life.again or life.at.life != row.life:
            continue
        if life.at.n < row.at("retargeting"):
            continue
        first = pages.get(life.aperture, ALWAYS)
        known = record.kind == OpKind.QUANTUM or all(block >= first for block in life.blocks)
        if known and record.dst_offset >= first * BLOCK:
            yield Moved(thread, record)


def _scratch(history: History) -> dict[int, int]:
    """Aperture -> the first block that lies in no device: behind a device's last, and all of the node's own page."""
    if not history.of("Remap"):
        return {}
    found = {int(line["aperture"]): int(line["blocks"]) for line in history.of("OpenDevice")}
    return found | {int(line["aperture"]): 0 for line in history.of("OpenScratch")}


def _good_writes(history: History) -> list[tuple[int, OpRecord]]:
    """Records of remote WRITEs that went well, as far as they went."""
    return [
        (thread, record)
        for thread, record in history.records()
        if record.bytes and record.rkey and record.opcode != READ and record.status == SUCCESS
    ]


def _written_blocks(record: OpRecord) -> set[int]:
    return blocks_of([[record.dst_offset, record.bytes]])


def acknowledged(history: History) -> dict[int, int]:
    """Queue pair -> bytes whose requests its owner saw succeed; a queue pair whose journal is not whole is left out."""
    return history.once(_acknowledged)


def _acknowledged(history: History) -> dict[int, int]:
    found: Counter[int] = Counter()
    for journal in history.journals.values():
        if journal.missing:
            continue
        length = journal.lengths
        found.update(dict.fromkeys({qp for qp, _ in length}, 0))
        for done in journal.good & length.keys():
            found[done[0]] += length[done]
    return found


def _overwritten(history: History, made: Reading) -> Iterator[Breach]:
    """Whoever wrote to a file that no reclaim and no CPU touched finds it in the memory at the end."""
    if not history.filemap:
        return
    touched = {row.target.get("ino", 0) for row in made.reclaims}
    stored = {"Store", "Blank", "Zero", "Online"} & history.by_type.keys()
    image, filemap = history.seen
    for file in filemap["files"]:
        spans = sorted(_written(history, file["ino"])) if file["ino"] not in touched and not stored else []
        there = [(lo, hi) for lo, hi in spans if hi <= file["size"] and not holes(file, lo, hi)]
        wrong = misplaced_cells(image, file, there)
        if wrong:
            yield Breach(
                "S4", f"{wrong * CELL} bytes that were written to {file['path']} with success are not there"
            )


def _written(history: History, ino: int) -> set[tuple[int, int]]:
    """Byte ranges of a file that stamped writes covered, as their writers noted them."""
    found = set()
    for journal in history.journals.values():
        good = {(r.qp_num, r.wr_id) for r in journal.of(Kind.POLLED) if not r.code}
        found |= {
            (r.offset, r.offset + r.length)
            for r in journal.of(Kind.POSTED)
            if r.ino == ino and r.opcode != READ and (r.qp_num, r.wr_id) in good and not r.length % CELL
        }
    return found


def nothing_acknowledged(history: History) -> str:
    if any(acknowledged(history).values()):
        return ""
    return "no client saw a request succeed, or none kept a journal"


# ---- what belongs together


def used_key(record: OpRecord, mask: int) -> int:
    """The key under which the side with these flags was reached: the remote side of a one-sided operation, else the local one."""
    remote = READ_AMISS if record.opcode == READ else MISSED
    flags = record.flags & mask
    return record.rkey if record.rkey and (flags & remote or not flags) else record.lkey


def _under(history: History, made: Reading, row: Reclaim) -> list[Moved]:
    """Records under translations that the reclaim concerned and that are older than its answer; in absent memory if it took the device."""
    concerned: dict[tuple[int, int], bool] = {}
    found = []
    device = row.device or not row.known
    for thread, record in history.once(_telling):
        if record.flags & ABSENT and not device:
            continue
        for key in {record.rkey, record.lkey} - {0}:
            life = made.used(key, record)
            place = (key, life.at.n if life else -1)
            if place not in concerned:
                concerned[place] = _concerns(row, key, life)
            if concerned[place]:
                found.append(Moved(thread, record))
                break
    return found


def _telling(history: History) -> list[tuple[int, OpRecord]]:
    """Records of bytes that met memory which was not theirs any more."""
    wrong = FOREIGN | GONE
    return [(thread, record) for thread, record in history.records() if record.bytes and record.flags & wrong]


def _concerns(row: Reclaim, key: int, life: Mapped | None) -> bool:
    if life is None:
        return key in row.named
    if life.at.life != row.life or life.at.n > row.at("returned"):
        return False
    mine = life.aperture == row.aperture and (row.taken & life.blocks or row.device)
    return bool(mine) or (key in row.named and not row.known)


def named(moved: list[Moved]) -> tuple[tuple[int, int], ...]:
    """The first of them, for a breach."""
    return tuple((one.thread, one.record.seq) for one in moved[:SHOWN])


def causes(made: Reading, key: int, record: OpRecord) -> tuple[int, ...]:
    """The lines without which this would not have happened: the key's installation, the reclaim, the memory's next owner."""
    life = made.used(key, record)
    if life is None:
        return ()
    found = {life.at.n}
    for row in made.reclaims:
        if row.at("requested") > life.at.n and _concerns(row, key, life):
            found |= set(row.told)
    for line in made.handed:
        later = line["n"] > life.at.n and line["epoch"] <= record.epoch_last
        if (
            later
            and line["type"] != "Release"
            and line["aperture"] == life.aperture
            and _meets(line, life.blocks)
        ):
            found.add(line["n"])
            break
    return tuple(sorted(found))


def _meets(line: Json, blocks: set[int]) -> bool:
    """Does this line give blocks to a new owner? Another namespace gives all of them."""
    return line["type"] == "Online" or bool(blocks_of(line["runs"]) & blocks)
