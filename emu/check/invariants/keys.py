"""What a key that was taken back may still do: V10, V15, V19.

A key is (24-bit index << 8 | 8-bit generation). The engine's log tells what was moved under it, the clients' journals what they were
answered. A pinned importer's key that was taken back stays taken back until its MR is deregistered; a dynamic importer's comes back when
it has mapped again (V8).
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from emu.check.invariants.invariant import Breach, Invariant
from emu.check.invariants.reading import read
from emu.check.invariants.safety_bytes import FOREIGN, SHOWN, used_key
from emu.check.invariants.timeline import DYNAMIC
from emu.check.invariants.waits import uses
from emu.history.journal import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.check.history import History
    from emu.check.invariants.reclaims import Reclaim
    from emu.check.invariants.timeline import Asked, Mapped
    from emu.history.journal import Record


# ---- what clients asked for under a key, and how it ended


class Answer(NamedTuple):
    """A request that names a key, and how it completed."""

    client: str
    asked: Record
    polled: Record


def _answers(history: History) -> list[Answer]:
    return history.once(_paired)


def _paired(history: History) -> list[Answer]:
    found = []
    for name in sorted(history.journals):
        open_: dict[tuple[int, int], Record] = {}
        for record in history.journals[name].records:
            if record.kind == Kind.POSTED:
                if record.key:
                    open_[record.qp_num, record.wr_id] = record
            elif record.kind == Kind.POLLED and (asked := open_.pop((record.qp_num, record.wr_id), None)):
                found.append(Answer(name, asked, record))
    return found


def _used_too_late(asked: Record, polled: Record, mapped: Mapped) -> bool:
    """Posted when the key had been taken back already, and over before its number came again."""
    stop = mapped.quiesced or mapped.fenced
    return stop is not None and asked.time > stop.t and (mapped.next is None or polled.time < mapped.next.t)


# ---- V10: use of a revoked key is an error, never a wrong target


def target_broken(history: History) -> Iterator[Breach]:
    for thread, record, mapped, _wrote in uses(history).late:
        if mapped.importer == DYNAMIC or record.status or not record.bytes:
            continue
        if _began_behind(record.op_epoch, mapped) and mapped.current(record.epoch_last):
            stop = mapped.quiesced or mapped.fenced
            sentence = f"an operation that began under key {mapped.key:#x} after it was taken back moved {record.bytes} bytes"
            yield Breach("V10", sentence, (stop.n,) if stop else (), ((thread, record.seq),))
    yield from _changed_hands(history)
    inos = _files(history)
    for name, asked, polled in _answers(history):
        if polled.code or not asked.ino or inos.get(asked.key, {asked.ino}) == {asked.ino}:
            continue
        wrong = _wrong_target(history, asked, polled)
        if wrong is not None:
            sentence = f"{name} used key {asked.key:#x} for file {asked.ino}, and reached file {wrong.registration.ino if wrong.registration else 0}"
            yield Breach("V10", sentence, (wrong.at.n,))


def _changed_hands(history: History) -> Iterator[Breach]:
    """The memory of the key has become somebody else's, and its use is no error."""
    found: dict[int, list[tuple[int, int]]] = {}
    for thread, record in history.records():
        if record.flags & FOREIGN and record.bytes and not record.status:
            found.setdefault(used_key(record, FOREIGN), []).append((thread, record.seq))
    for key, where in found.items():
        sentence = f"use of key {key:#x} reached memory that had changed hands, and was no error"
        yield Breach("V10", sentence, (), tuple(where[:SHOWN]))


def _began_behind(op_epoch: int, mapped: Mapped) -> bool:
    return mapped.stopped_in is not None and op_epoch >= mapped.stopped_in


def _files(history: History) -> dict[int, set[int]]:
    """Key -> inode numbers, as clients see them, of the files that it was registered for."""
    found: dict[int, set[int]] = {}
    for mapped in read(history).maps:
        if mapped.registration is not None and mapped.registration.ino:
            found.setdefault(mapped.key, set()).add(mapped.registration.ino & 0xFFFFFFFF)
    return found


def _wrong_target(history: History, asked: Record, polled: Record) -> Mapped | None:
    """The translation that must have been used, if it is of another file than the client meant."""
    known = [
        m
        for m in read(history).by_number.get(asked.key, ())
        if m.registration is not None and m.registration.ino
    ]
    used = [m for m in known if m.at.t <= polled.time and (m.quiesced is None or asked.time <= m.quiesced.t)]
    if any(m.registration and m.registration.ino & 0xFFFFFFFF == asked.ino for m in used):
        return None
    return used[-1] if used else None


def target_untested(history: History) -> str:
    return (
        ""
        if _late_uses(history) or any(target_broken(history))
        else "nobody used a key after it was taken back"
    )


def _late_uses(history: History) -> bool:
    """Did anybody try? By the log (a request that was cut moved nothing), or by the journals."""
    for _thread, record, mapped, _wrote in uses(history).late:
        if _began_behind(record.op_epoch, mapped) and mapped.current(record.epoch_last):
            return True
    known = read(history).by_number
    stopped = {key: [m for m in maps if m.stopped_in is not None] for key, maps in known.items()}
    return any(
        _used_too_late(asked, polled, mapped)
        for _name, asked, polled in _answers(history)
        for mapped in stopped.get(asked.key, ())
    )


# ---- V19: pinned: once revoked, every use fails until a new registration


def monotone_broken(history: History) -> Iterator[Breach]:
    by_number = read(history).by_number
    for name, asked, polled in _answers(history):
        for mapped in by_number.get(asked.key, ()):
            if not polled.code and mapped.importer != DYNAMIC and _used_too_late(asked, polled, mapped):
                stop = mapped.quiesced or mapped.fenced
                sentence = f"{name} used key {asked.key:#x} with success after it was revoked (work request {asked.wr_id})"
                yield Breach("V19", sentence, (stop.n,) if stop else ())


def monotone_untested(history: History) -> str:
    by_number = read(history).by_number
    for _name, asked, polled in _answers(history):
        if any(
            m.importer != DYNAMIC and _used_too_late(asked, polled, m) for m in by_number.get(asked.key, ())
        ):
            return ""
    return "no client used a key after it was revoked"


# ---- V15: a second revoke changes nothing; what is permanent never goes back


def _was_awaited(history: History, mapped: Mapped) -> bool:
    """Whoever asked for its unmap took the answer. A reclaim that was interrupted meanwhile did not: then its owner asks again."""
    for asked in read(history).asked:
        if asked.kind == "Unmap" and mapped in asked.maps and asked.done == mapped.unmapped:
            ended = asked.of.phases.get("ended") if asked.of else None
            return ended is None or asked.done is None or asked.done < ended
    return True


def twice_broken(history: History) -> Iterator[Breach]:
    for asked in read(history).asked:
        for mapped in asked.maps if asked.kind == "Unmap" else ():
            if mapped.unmapped is not None and mapped.unmapped < asked.at and _was_awaited(history, mapped):
                sentence = f"key {mapped.key:#x} was to be unmapped again, {asked.at.n - mapped.unmapped.n} lines behind its unmap"
                yield Breach("V15", sentence, (mapped.unmapped.n, asked.at.n))
    yield from _went_back(history)
    reading = read(history)
    for line in history.of("Restore"):
        at = reading.at(line)
        for row in reading.reclaims:
            again = [key for key in line["keys"] if key in row.keys and not _followed(history, row, key)]
            fencing = row.phases.get("fencing")
            if (
                again
                and fencing is not None
                and fencing < at
                and fencing.life == at.life
                and row.target.get("permanent", True)
            ):
                sentence = f"key {again[0]:#x} was given back after {row.name()} had revoked it for good"
                yield Breach("V15", sentence, (fencing.n, at.n))


def _followed(history: History, row: Reclaim, key: int) -> bool:
    """A dynamic importer of a buffer that was moved: it was not revoked, and is where the buffer is."""
    mine = read(history).by_number.get(key, [])
    return row.kind == "move" and any(mapped.importer == DYNAMIC for mapped in mine)


def _went_back(history: History) -> Iterator[Breach]:
    """A pinned key's translation comes again without a new registration."""
    for known in read(history).by_number.values():
        for old, new in pairwise(known):
            if (
                old.removed is None
                and old.revoked is not None
                and old.died is None
                and _permanent(history, old)
            ):
                sentence = f"key {old.key:#x} was mapped again after it had been revoked for good"
                yield Breach("V15", sentence, (old.revoked.n, new.at.n))


def _permanent(history: History, mapped: Mapped) -> bool:
    """Revoked by a reclaim that does not say it is for a time, and not lifted before it came to that."""
    reclaims = (row for row in read(history).reclaims if mapped.key in row.keys and "fencing" in row.phases)
    return any(row.target.get("permanent", True) for row in reclaims) and mapped.importer != DYNAMIC


def _second(asked: Asked) -> bool:
    """A revoke of what has been revoked already."""
    return any(m.quiesced is not None and m.quiesced < asked.at for m in asked.maps)


def twice_untested(history: History) -> str:
    reading = read(history)
    if any(m.revoked is not None and m.removed is not None for m in reading.maps):
        return ""  # its deregistration is the second
    if any(asked.kind == "Quiesce" and _second(asked) for asked in reading.asked) or any(
        m.again for m in reading.maps
    ):
        return ""
    return "no key was revoked twice, or given back"


INVARIANTS = (
    Invariant(
        "V10", "use of a revoked key is an error, never a wrong target", target_broken, target_untested
    ),
    Invariant(
        "V15", "a second revoke changes nothing, and for good is for good", twice_broken, twice_untested
    ),
    Invariant(
        "V19", "once revoked, every use fails until a new registration", monotone_broken, monotone_untested
    ),
)
