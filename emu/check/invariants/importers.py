"""What importers of each class promise, and what an owner may build on it: V5, V6, V7, V8.

    class            InstallKey.importer     promises
    sync-revocable   0                       when its quiesce is answered it neither reads nor writes
    deferred-unmap   1                       unmaps within `bound` seconds (field of its RegMr) behind its fence
    dynamic          2                       drops its translation, and maps again (Remap) before more DMA
    non-revocable    3                       nothing

An owner that lets importers come back writes Restore (effect: reclaim, keys), and the phase `restored` when that is over; an importer
that does come back is given a new translation by Remap (effect: key, aperture, extents). An owner whose importer is late writes the phase
`overdue`, and waits on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.check.invariants.invariant import Breach, Invariant
from emu.check.invariants.reading import read
from emu.check.invariants.timeline import DEFERRED, DYNAMIC, NON_REVOCABLE
from emu.check.invariants.waits import uses

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.check.history import History
    from emu.check.invariants.reclaims import Reclaim
    from emu.check.invariants.rows import Json
    from emu.check.invariants.timeline import At, Mapped, Registration
    from emu.history.oplog import OpRecord

SLACK = 250_000_000  # nanoseconds: the owner's timer rings late on a machine under load; scaled as its timers are,
LEAST_SLACK = 25_000_000  # but a machine is late by so much, however short they are

CLASSES = {
    "sync-revocable": 0,
    "deferred-unmap": DEFERRED,
    "dynamic": DYNAMIC,
    "non-revocable": NON_REVOCABLE,
}


# ---- V5: a deferred-unmap importer unmaps within its bound; where it does not, the owner says so and waits on


def bound_broken(history: History) -> Iterator[Breach]:
    reading = read(history)
    for mapped, until in _bounded(history):
        fence = mapped.quiesced
        done = mapped.unmapped or mapped.died or reading.last
        if fence is not None and done.t > until + _slack(history) and not _overdue(history, mapped):
            sentence = f"key {mapped.key:#x} was not unmapped within its bound of {_bound(mapped):g} s, and nobody said so"
            yield Breach("V5", sentence, (fence.n, done.n))
    for given in reading.given:
        for mapped in given.under:
            if mapped.importer == DEFERRED and mapped.quiesced is not None and mapped.quiesced < given.at:
                sentence = f"the memory went to others before the deferred importer of key {mapped.key:#x} had unmapped it"
                yield Breach("V5", sentence, (mapped.quiesced.n, given.at.n))


def _bounded(history: History) -> Iterator[tuple[Mapped, float]]:
    """Deferred importers that were fenced, and when each must have unmapped."""
    scale = _scale(history)
    for mapped in read(history).maps:
        if mapped.importer == DEFERRED and mapped.quiesced is not None:
            yield mapped, mapped.quiesced.t + _bound(mapped) * scale * 1e9


def _scale(history: History) -> float:
    return float(history.meta.get("time_scale", 1) or 1)


def _slack(history: History) -> float:
    return max(LEAST_SLACK, SLACK * _scale(history))


def _bound(mapped: Mapped) -> float:
    made = mapped.registration
    return float(made.op.get("bound") or float("inf")) if made is not None else float("inf")


def _overdue(history: History, mapped: Mapped) -> bool:
    return any(
        step.name == "overdue" and mapped.key in step.keys and mapped.at < step.at
        for row in read(history).reclaims
        for step in row.order
    )


def bound_untested(history: History) -> str:
    return "" if any(_bounded(history)) else "no deferred-unmap importer was fenced"


# ---- V6: an owner that waits for unmaps refuses, at registration, whoever cannot promise one


def class_broken(history: History) -> Iterator[Breach]:
    for row, made in _waited_for(history):
        if _cannot_promise(made):
            key = made.key
            sentence = f"{row.name()} waits for key {key:#x} to be unmapped, whose {made.op.get('importer')} importer never promised that"
            yield Breach("V6", sentence, (made.asked.n, row.phases["unmapping"].n))
    for made in _unable(history):
        if made.answered is not None and not made.errno and made.key and _declined(history, made):
            sentence = f"a {made.op.get('importer')} importer was admitted by an owner that says it cannot take memory back from one"
            yield Breach("V6", sentence, (made.asked.n, made.answered.n))


def _waited_for(history: History) -> Iterator[tuple[Reclaim, Registration]]:
    """Whom an owner waited for: still mapped when it began to wait for unmaps."""
    for row in read(history).reclaims:
        for mapped in row.held if "unmapping" in row.phases else ():
            begun = row.phases["unmapping"]
            if mapped.registration is not None and (mapped.unmapped is None or mapped.unmapped > begun):
                yield row, mapped.registration


def _cannot_promise(made: Registration) -> bool:
    kind = CLASSES.get(str(made.op.get("importer", "sync-revocable")), 0)
    return kind == NON_REVOCABLE or (kind == DEFERRED and not made.op.get("bound"))


def _unable(history: History) -> Iterator[Registration]:
    """Registrations of memory that somebody owns, by whoever cannot promise to unmap it."""
    for made in read(history).registrations:
        if made.op.get("backing") != "anon" and _cannot_promise(made):
            yield made


def _declined(history: History, made: Registration) -> bool:
    """Whether the owner had said that it takes memory from other classes only. (A mount's protocol may change: then nothing is known.)"""
    declared = history.meta.get("importers")
    changed = any(
        line["op"].get("type") == "SetProtocol" and line["op"].get("name") for line in history.of("Requested")
    )
    return declared is not None and not changed and made.op.get("importer") not in declared


def class_untested(history: History) -> str:
    if any(True for _made in _unable(history)):
        return ""
    return "nobody registered who cannot promise to unmap"


# ---- V7: pinned: a notice may be final; who was told need not come back


def final_broken(history: History) -> Iterator[Breach]:
    reading = read(history)
    for line in _restores(history):
        at = reading.at(line)
        final = [key for key in line["keys"] if _class(history, key, at) != DYNAMIC]
        for mapped in reading.maps:
            if mapped.again and mapped.key in final and mapped.at > at:
                sentence = f"key {mapped.key:#x} of a pinned importer was mapped again, though its revoke may have been final"
                yield Breach("V7", sentence, (at.n, mapped.at.n))
        if (
            final
            and not _restored(history, line)
            and all(_came_back(history, key, at) for key in line["keys"] if key not in final)
        ):
            sentence = f"the restore waits for the pinned importer of key {final[0]:#x}, which may ignore it"
            yield Breach("V7", sentence, (at.n,))


def _restores(history: History) -> list[Json]:
    return history.of("Restore")


def _class(history: History, key: int, at: At) -> int:
    mine = [m for m in read(history).by_number.get(key, ()) if m.at < at]
    return mine[-1].importer if mine else 0


def _restored(history: History, line: Json) -> bool:
    rows = [row for row in read(history).reclaims if row.number == line["reclaim"]]
    return any(step.name == "restored" and step.at.n > line["n"] for row in rows for step in row.order)


def _came_back(history: History, key: int, at: At) -> bool:
    mine = read(history).by_number.get(key, ())
    return any(m.at > at or (m.removed is not None and m.removed > at) for m in mine)


def final_untested(history: History) -> str:
    reading = read(history)
    for line in _restores(history):
        if any(_class(history, key, reading.at(line)) != DYNAMIC for key in line["keys"]):
            return ""
    return "no memory was restored to a pinned importer"


# ---- V8: dynamic: maps again before more DMA, and never assumes the old place


def moved_broken(history: History) -> Iterator[Breach]:
    for thread, record, mapped, wrote in uses(history).late:
        if mapped.importer != DYNAMIC or not record.bytes:
            continue
        gone, where = mapped.unmapped, ((thread, record.seq),)
        if gone is not None and record.epoch_first > gone.epoch and mapped.current(record.epoch_last):
            sentence = f"{record.bytes} bytes moved under key {mapped.key:#x} before it was mapped again"
            yield Breach("V8", sentence, (gone.n,), where)
        elif (
            mapped.again
            and record.epoch_first > mapped.at.epoch
            and _is_current(mapped, record)
            and not _inside(mapped, record, wrote)
        ):
            sentence = f"key {mapped.key:#x} was used at offset {_place(record, wrote)}, which is not where it is mapped now"
            yield Breach("V8", sentence, (mapped.at.n,), where)


def _is_current(mapped: Mapped, record: OpRecord) -> bool:
    stopped = mapped.stopped_in
    return mapped.current(record.epoch_last) and (stopped is None or record.epoch_last < stopped)


def _place(record: OpRecord, wrote: bool) -> int:
    return record.dst_offset if wrote else record.src_offset


def _inside(mapped: Mapped, record: OpRecord, wrote: bool) -> bool:
    at = _place(record, wrote)
    return any(start <= at < start + size for start, size in mapped.runs)


def moved_untested(history: History) -> str:
    mine = [mapped for mapped in uses(history).used if mapped.importer == DYNAMIC]
    if any(mapped.again or mapped.unmapped is not None for mapped in mine):
        return ""
    return "no dynamic importer was used and moved"


INVARIANTS = (
    Invariant(
        "V5",
        "a deferred importer unmaps within its bound, or the owner says so and waits on",
        bound_broken,
        bound_untested,
    ),
    Invariant(
        "V6", "an owner that waits for unmaps admits only who can promise one", class_broken, class_untested
    ),
    Invariant("V7", "a notice to a pinned importer may be final", final_broken, final_untested),
    Invariant(
        "V8",
        "a dynamic importer maps again before more DMA, where the memory is now",
        moved_broken,
        moved_untested,
    ),
)
