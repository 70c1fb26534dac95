"""The two waits, and what may move before, between and behind them: V3, V4, V9, V18, V20.

    A mapped -> B notified -> (fences retired: Quiesced) -> C -> (unmapped: Unmapped) -> D

A quantum reads its last epoch before the engine lets go of it, and a Quiesced is written behind that: one that was over in time shows no
later epoch than the answer's line. Whoever shows a later one was running when nobody should have been. In one and the same epoch
nothing is known, and nothing is said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from emu.check.invariants.invariant import Breach, Invariant
from emu.check.invariants.reading import read
from emu.check.invariants.timeline import DYNAMIC, SYNC, Mapped, meet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from emu.check.history import History
    from emu.check.invariants.reclaims import Reclaim
    from emu.check.invariants.timeline import At, Given
    from emu.history.oplog import OpRecord

READ = 4  # EMU_WR_RDMA_READ
NEVER = 1 << 64


# ---- quanta under a key


class Use(NamedTuple):
    """A quantum under a key. wrote: into the key's memory."""

    thread: int
    record: OpRecord
    mapped: Mapped
    wrote: bool


class Uses(NamedTuple):
    """late: whatever ran, or was begun, when its key had been taken back (a request that was cut moved no byte); and all under dynamic
    importers' keys. used: translations that were taken back, at any time, and had moved bytes.
    """

    late: list[Use]
    used: list[Mapped]


def uses(history: History) -> Uses:
    return history.once(_uses)


def _uses(history: History) -> Uses:
    telling = {
        key: [(mapped, _stop(mapped)) for mapped in known if _stop(mapped) < NEVER]
        for key, known in read(history).by_number.items()
    }
    late: list[Use] = []
    used: dict[int, Mapped] = {}
    for thread, record in history.records():
        for key in (record.rkey, record.lkey) if record.rkey != record.lkey else (record.rkey,):
            for mapped, stop in telling.get(key, ()):
                if record.bytes:
                    used[mapped.at.n] = mapped
                if record.epoch_last >= stop or record.op_epoch >= stop:
                    wrote = (record.opcode != READ) == (key == record.rkey) or record.lkey == record.rkey
                    late.append(Use(thread, record, mapped, wrote))
    return Uses(late, list(used.values()))


def _stop(mapped: Mapped) -> int:
    if mapped.importer == DYNAMIC:
        return -1
    stop = mapped.stopped_in
    return NEVER if stop is None else stop


def ran_behind(record: OpRecord, mapped: Mapped, epoch: int | None) -> bool:
    """Whether the quantum was still running in this epoch, and under this translation."""
    if epoch is None or not record.bytes:
        return False
    return record.epoch_last >= epoch and mapped.current(record.epoch_last)


def _story(record: OpRecord, answer: At | None) -> str:
    behind = f", behind line {answer.n}" if answer is not None else ""
    return f"epochs {record.epoch_first} to {record.epoch_last}{behind}"


def _lines(*places: At | None) -> tuple[int, ...]:
    return tuple(sorted(place.n for place in places if place is not None))


# ---- V3: no write between fence and unmap, nothing behind the unmap


def late_use_broken(history: History) -> Iterator[Breach]:
    for thread, record, mapped, wrote in uses(history).late:
        where = ((thread, record.seq),)
        if ran_behind(record, mapped, mapped.gone_in):
            last = mapped.unmapped or mapped.parted
            sentence = f"{record.bytes} bytes moved under key {mapped.key:#x} without a translation ({_story(record, last)})"
            yield Breach("V3", sentence, _lines(last), where)
        elif wrote and ran_behind(record, mapped, mapped.stopped_in):
            last = mapped.quiesced or mapped.fenced
            sentence = f"{record.bytes} bytes were written under key {mapped.key:#x} behind the fence ({_story(record, last)})"
            yield Breach("V3", sentence, _lines(last), where)


def late_use_untested(history: History) -> str:
    return _nothing_fenced(history, lambda _mapped: True)


def _nothing_fenced(history: History, concerns: Callable[[Mapped], bool]) -> str:
    """Without a key that was used and taken back, nothing could have been late."""
    fenced = [m for m in read(history).maps if m.stopped_in is not None and concerns(m)]
    if not fenced:
        return "no key was taken back"
    if any(mapped.stopped_in is not None and concerns(mapped) for mapped in uses(history).used):
        return ""
    return "nothing moved under the keys that were taken back"


# ---- V9: sync-revocable: when the callback returns, no quantum under the key starts or runs


def callback_broken(history: History) -> Iterator[Breach]:
    for thread, record, mapped, _wrote in uses(history).late:
        if mapped.importer == SYNC and ran_behind(record, mapped, mapped.stopped_in):
            last = mapped.quiesced or mapped.fenced
            sentence = f"{record.bytes} bytes moved under key {mapped.key:#x} after its quiesce was confirmed ({_story(record, last)})"
            yield Breach("V9", sentence, _lines(last), ((thread, record.seq),))


def callback_untested(history: History) -> str:
    return _nothing_fenced(history, lambda mapped: mapped.importer == SYNC)


# ---- V4: memory goes to others only behind both answers of every importer; a dynamic one may be moved behind the first


def reuse_broken(history: History) -> Iterator[Breach]:
    for given in read(history).given:
        for mapped in given.under:
            lacking = _lacking(mapped, given.at)
            if lacking:
                sentence = f"{_WHAT.get(given.what, given.what)} while key {mapped.key:#x} was mapped there, before {lacking}"
                yield Breach("V4", sentence, (mapped.at.n, given.at.n))


def _lacking(mapped: Mapped, at: At) -> str:
    fence = mapped.quiesced is None or mapped.quiesced > at
    unmap = mapped.unmapped is None or mapped.unmapped > at
    if mapped.importer == DYNAMIC and not fence:
        return ""
    names = [name for name, open_ in (("its fence", fence), ("its unmap", unmap)) if open_]
    return " and ".join(names)


_WHAT = {
    "Release": "blocks were freed",
    "Online": "a new namespace came",
    "Offline": "the device was taken away",
}


def reuse_untested(history: History) -> str:
    reading = read(history)
    if any(given.under or _was_mapped(given, mapped) for given in reading.given for mapped in reading.maps):
        return ""
    return "no memory that a key had been mapped over went to anybody else"


def _was_mapped(given: Given, mapped: Mapped) -> bool:
    if given.named:
        return True
    return mapped.at < given.at and mapped.aperture == given.aperture and meet(mapped.runs, given.runs)


# ---- V18: the wait for hardware and the wait for software show apart


def apart_broken(history: History) -> Iterator[Breach]:
    for row in read(history).reclaims:
        yield from _early(row)
        yield from _missing(row)


def _early(row: Reclaim) -> Iterator[Breach]:
    fenced, unmapped = row.phases.get("fenced"), row.phases.get("unmapped")
    if unmapped is not None and (fenced is None or fenced > unmapped):
        yield Breach("V18", f"the unmap of {row.name()} was over before its fence", _lines(unmapped, fenced))
    for mapped in row.held:
        said, answered = mapped.fenced, mapped.quiesced
        if said is not None and row.phases.get("fenced") == said and (answered is None or answered > said):
            sentence = f"{row.name()} calls key {mapped.key:#x} fenced, and the engine had not answered"
            yield Breach("V18", sentence, _lines(said, answered))


def _missing(row: Reclaim) -> Iterator[Breach]:
    """The memory leaves its owner: were both waits seen, wherever a key was there?"""
    for step in row.order:
        if step.unseen and _parts(row, step.name):
            lacking = [
                name
                for name in ("fenced", "unmapped")
                if name not in row.phases or row.phases[name] > step.at
            ]
            if lacking:
                sentence = (
                    f"the history does not show {' and '.join(lacking)} before {row.name()} was {step.name}"
                )
                yield Breach("V18", f"{sentence}, with {step.unseen} keys in its range", (step.at.n,))


def _parts(row: Reclaim, name: str) -> bool:
    return name == "freed" or (name == "applied" and row.kind == "unplug")


def apart_untested(history: History) -> str:
    for row in read(history).reclaims:
        if "unmapped" in row.phases and row.held:
            return ""
        if any(step.unseen and _parts(row, step.name) for step in row.order):
            return ""
    return "no reclaim met a key, and went on to the memory"


# ---- V20: behind the second wait no importer of the range is mapped


def mapped_broken(history: History) -> Iterator[Breach]:
    for row in read(history).reclaims:
        over = row.phases.get("unmapped")
        for mapped in row.late:
            if over is not None and (mapped.unmapped is None or mapped.unmapped > over):
                sentence = (
                    f"key {mapped.key:#x} was mapped when the unmap of {row.name()} was said to be over"
                )
                yield Breach("V20", sentence, _lines(mapped.at, over))
        answer = row.phases.get("returned")
        for mapped in row.left if answer is not None and (over is None or over > answer) else ():
            sentence = (
                f"{row.name()} returned success while key {mapped.key:#x} was mapped over what it had taken"
            )
            yield Breach("V20", sentence, _lines(mapped.at, answer))


def mapped_untested(history: History) -> str:
    if any("unmapped" in row.phases and (row.held or row.late) for row in read(history).reclaims):
        return ""
    return "no reclaim waited until keys were unmapped"


INVARIANTS = (
    Invariant(
        "V3", "no write between fence and unmap, nothing behind the unmap", late_use_broken, late_use_untested
    ),
    Invariant(
        "V4", "memory is reused only behind both answers of every importer", reuse_broken, reuse_untested
    ),
    Invariant(
        "V9", "nothing runs under a key whose callback has returned", callback_broken, callback_untested
    ),
    Invariant(
        "V18", "the wait for hardware and the wait for software show apart", apart_broken, apart_untested
    ),
    Invariant("V20", "behind the second wait nothing of the range is mapped", mapped_broken, mapped_untested),
)
