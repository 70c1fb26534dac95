"""Buffers that are revoked for a time: what moves under keys of one between the answer and its restore moves in memory that is not the importer's.

Such a revoke frees nothing: the blocks stay the buffer's and no generation moves, so nothing in the engine's log tells of it. What does are the
lines: from the epoch in which the revoke returned success until the buffer is restored, or is not what it was (closed, destroyed), nobody but its exporter
may use it. Counted are bytes that moved in this span by operations that *started* in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from emu.check.invariants.invariant import Breach
from emu.check.invariants.reading import read
from emu.check.invariants.rows import ALWAYS
from emu.check.traffic import ABSENT, started_after

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.check.history import History
    from emu.check.invariants.reclaims import Reclaim
    from emu.check.invariants.timeline import Mapped, Reading
    from emu.history.oplog import OpRecord

SHOWN = 8  # records that a breach names


class Span(NamedTuple):
    """Epochs from `start` up to, without it, `end`."""

    row: Reclaim
    start: int
    end: int


class Astray(NamedTuple):
    """A record of a thread's log, and how many of its bytes belong to operations that started while the buffer was away."""

    span: Span
    thread: int
    record: OpRecord
    bytes: int


def away_bytes(history: History) -> int:
    """All bytes that moved in buffers while these were revoked for a time; each record counts once."""
    return sum(one.bytes for one in history.once(_astray))


def reached_while_away(history: History) -> Iterator[Breach]:
    """S2: what a revoke for a time took back is not reached until it is restored."""
    found: dict[Span, list[Astray]] = {}
    for one in history.once(_astray):
        found.setdefault(one.span, []).append(one)
    for span, moved in found.items():
        count = sum(one.bytes for one in moved)
        sentence = (
            f"{count} bytes moved under keys of the buffer after {span.row.words()} had returned success, "
            "and before it was restored"
        )
        records = tuple((one.thread, one.record.seq) for one in moved[:SHOWN])
        yield Breach("S2", sentence, span.row.told, records)


def _astray(history: History) -> list[Astray]:
    made = read(history)
    spans = list(_spans(made))
    found = []
    for thread, record in history.records() if spans else ():
        if not record.bytes or record.flags & ABSENT:  # what is absent is counted as that
            continue
        for span in spans:
            count = started_after(record, span.start) if record.epoch_last < span.end else 0
            if count and _under_it(made, span.row, record):
                found.append(Astray(span, thread, record, count))
                break
    return found


def _spans(made: Reading) -> Iterator[Span]:
    for row in made.reclaims:
        if row.succeeded and row.kind == "revoke" and not row.target.get("permanent", True):
            yield Span(row, row.phases["returned"].epoch, _over(made, row))


def _over(made: Reading, row: Reclaim) -> int:
    """The epoch in which the buffer was restored (told of the last of several revokes), or was not what it was; behind the end if neither came."""
    told, ino = row.at("returned"), row.target.get("ino")
    back = [
        one.phases["restored"]
        for one in made.reclaims
        if one.life == row.life and one.target.get("ino") == ino and "restored" in one.phases
    ]
    ends = [at.epoch for at in back if at.n > told]
    ends += [
        one.line["epoch"]
        for one in made.changes
        if one.line["n"] > told and _another(one.old, one.new, one.ino == ino)
    ]
    ends += [step.lines[0]["epoch"] for step in made.steps if step.life > row.life and step.lines][:1]
    return min(ends, default=ALWAYS)


def _another(old: object, new: object, mine: bool) -> bool:
    before, after = getattr(old, "blocks", None), getattr(new, "blocks", None)
    return mine and before != after


def _under_it(made: Reading, row: Reclaim, record: OpRecord) -> bool:
    lives = (made.used(key, record) for key in {record.rkey, record.lkey} - {0})
    return any(life is not None and _of_it(row, life) for life in lives)


def _of_it(row: Reclaim, life: Mapped) -> bool:
    """Does this translation lead to the buffer?"""
    return life.at.life == row.life and life.aperture == row.aperture and bool(life.blocks & row.range)
