"""The gate and what it is for: V1, V2, V12, V22.

A reclaim closes its range (`gated`), tells, waits, applies, and ends; between gate and end nobody else comes in. What is one step of the
core is one critical section, so a reclaim that looks and acts within one step needs no gate; one that lets others in between does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.check.invariants.invariant import Breach, Invariant
from emu.check.invariants.reading import read
from emu.check.invariants.rows import blocks_within
from emu.check.invariants.timeline import Registration, covers
from emu.core.errors import errno_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.check.history import History
    from emu.check.invariants.reclaims import Reclaim
    from emu.check.invariants.timeline import At, Reading

TAKING = ("notified", "destroyed", "fencing", "unmapping", "applying", "applied", "freed")
DONE = ("applying", "applied", "freed")
NEVER = 1 << 62


# ---- V1: from the gate until the reclaim ends nothing maps, pins or registers the range


def gate_broken(history: History) -> Iterator[Breach]:
    reading = read(history)
    for row in reading.reclaims:
        act = _first_act(row)
        if act is not None and _lets_others_in(row, act) and not _gated_before(row, act):
            yield Breach(
                "V1",
                f"{row.name()} took the range from others in several steps, and closed no gate",
                (act.n,),
            )
    for row, made in _tries(history):
        if made.pinned and not _waited(reading, row, made):
            where = made.op.get("path") or made.host
            sentence = (
                f"bytes {made.lo} to {made.hi} of {where} were registered behind the gate of {row.name()}"
            )
            yield Breach("V1", sentence, (row.phases["gated"].n, made.asked.n))


def gate_untested(history: History) -> str:
    for row in read(history).reclaims:
        act = _first_act(row)
        if act is not None and _lets_others_in(row, act):
            return ""
    if any(_tries(history)):
        return ""
    return "no reclaim took so long that anybody could have come in"


def _first_act(row: Reclaim) -> At | None:
    """Where it first did something to those who are there, or to the memory."""
    return next(
        (step.at for step in row.order if step.name in TAKING and (step.keys or step.name in DONE)), None
    )


def _lets_others_in(row: Reclaim, act: At) -> bool:
    return row.ended is None or row.ended.step > act.step


def _gated_before(row: Reclaim, act: At) -> bool:
    return "gated" in row.phases and row.phases["gated"] < act


def _tries(history: History) -> Iterator[tuple[Reclaim, Registration]]:
    """Registrations of a range that were asked for behind its gate."""
    reading = read(history)
    for row in reading.reclaims:
        if "gated" not in row.phases:
            continue
        shut, opens = row.phases["gated"].n, _opens(reading, row)
        for made in reading.registrations:
            if shut < made.asked.n < opens and made.asked.life == row.life and covers(row, made):
                yield row, made


def _waited(reading: Reading, row: Reclaim, made: Registration) -> bool:
    """Nothing of it happened before the gate opened: it was parked. (Of a host file whose memory is yet to be opened no line tells.)"""
    return made.made is None or made.made.at.n > _opens(reading, row)


def _opens(reading: Reading, row: Reclaim) -> int:
    """A dma-buf that was revoked for good stays closed (ENODEV), one that was revoked for a time until it is restored; everything else opens
    when the reclaim ends, a buffer that was moved too. Where it was revoked again meanwhile, what is restored is told of the later reclaim.
    """
    closed = "buffer" in row.target and row.kind != "move" and not row.errno
    if row.ended is None or (closed and row.target.get("permanent", True)):
        return NEVER
    return _restored(reading, row) if closed else row.ended.n


def _restored(reading: Reading, row: Reclaim) -> int:
    assert row.ended is not None
    mine = (
        one
        for one in reading.reclaims
        if one.target.get("ino") == row.target.get("ino") and "restored" in one.phases
    )
    back = [one.phases["restored"] for one in mine]
    return min((at.n for at in back if at.life == row.ended.life and at.n > row.ended.n), default=NEVER)


# ---- V2: the notice is given inside the critical section that closes the gate; no mapping of the range appears in it


def notice_broken(history: History) -> Iterator[Breach]:
    for row in read(history).reclaims:
        told, shut = _told(row), row.phases.get("gated")
        if told is None:
            continue
        if shut is None or shut > told:
            yield Breach("V2", f"{row.name()} told the holders before it closed the gate", (told.n,))
        elif _left(history, row, shut, told):
            yield Breach(
                "V2",
                f"{row.name()} told the holders after it had left the gate's critical section",
                (shut.n, told.n),
            )
        else:
            yield from _mapped_inside(history, row, shut, told)


def _mapped_inside(history: History, row: Reclaim, shut: At, told: At) -> Iterator[Breach]:
    for mapped in read(history).maps:
        made = mapped.registration
        if shut < mapped.at < told and made is not None and covers(row, made):
            sentence = f"key {mapped.key:#x} was mapped between the gate of {row.name()} and its notice"
            yield Breach("V2", sentence, (shut.n, mapped.at.n, told.n))


def _told(row: Reclaim) -> At | None:
    """The first notice that anybody was there to hear."""
    return next((step.at for step in row.order if step.name == "notified" and step.keys), None)


def _left(history: History, row: Reclaim, shut: At, told: At) -> bool:
    """A shell with a lock of its own writes Enter and Leave; else a step is the section."""
    marks = [
        line
        for line in history.of("Leave")
        if line.get("reclaim") == row.number and shut.n < line["n"] < told.n
    ]
    return bool(marks) or (shut.step != told.step and not history.of("Enter"))


def notice_untested(history: History) -> str:
    if any(_told(row) is not None for row in read(history).reclaims):
        return ""
    return "no reclaim told a holder anything"


# ---- V12: between pin and installed key no revoke is lost; what was given up is not called back


def registration_broken(history: History) -> Iterator[Breach]:
    yield from _handed_out(history)
    yield from _called_back(history)
    yield from _left_out(history)


def _left_out(history: History) -> Iterator[Breach]:
    """A reclaim has succeeded, and a key that was being installed over what it took was not revoked."""
    for row in read(history).reclaims:
        answer = row.phases.get("returned")
        if answer is None or "device" in row.target:
            continue
        for mapped in row.left:
            made = mapped.registration
            on_its_way = made is not None and (made.answered is None or made.answered > answer)
            if on_its_way and (mapped.revoked is None or mapped.revoked > answer):
                sentence = f"{row.name()} succeeded, and key {mapped.key:#x}, which was being installed, was not revoked"
                yield Breach("V12", sentence, (mapped.at.n, answer.n))


def _handed_out(history: History) -> Iterator[Breach]:
    for row, made, key, fencing in _met_on_the_way(history):
        if made.answered is not None and not made.errno and made.key == key:
            sentence = f"key {key:#x} was handed out although {row.name()} had taken it back on its way"
            yield Breach("V12", sentence, (made.asked.n, fencing.n, made.answered.n))
    for mapped in read(history).maps:
        if mapped.lost is not None:
            sentence = f"key {mapped.key:#x} was installed although a reclaim had taken it back before"
            yield Breach("V12", sentence, (mapped.lost.n, mapped.at.n))


def _met_on_the_way(history: History) -> Iterator[tuple[Reclaim, Registration, int, At]]:
    """Registrations that were under way when a reclaim began to fence their key."""
    reading = read(history)
    by_key: dict[tuple[int, int], list[Registration]] = {}
    for made in reading.registrations:
        if made.key and made.pinned:
            by_key.setdefault((made.asked.life, made.key), []).append(made)
    for row in reading.reclaims:
        for step in row.order:
            for key in step.keys if step.name == "fencing" else ():
                for made in by_key.get((row.life, key), ()):
                    if made.asked < step.at and (made.answered is None or step.at < made.answered):
                        yield row, made, key, step.at


def _called_back(history: History) -> Iterator[Breach]:
    """A notice, a quiesce or an unmap for a key that has left the table."""
    reading = read(history)
    for asked in reading.asked:
        there = [mapped.key for mapped in asked.maps]
        for key in asked.keys:
            if key not in there and _was_there(history, key, asked.at):
                yield Breach(
                    "V12", f"{asked.kind} names key {key:#x}, which was removed before", (asked.at.n,)
                )
    for line in history.of("Notify"):
        number, at = line.get("fields", {}).get("mr"), reading.at(line)
        if number is not None and _was_there(history, number, at) and _removed(history, number, at):
            yield Breach("V12", f"{line['name']} tells of MR {number}, which was removed before", (at.n,))


def _was_there(history: History, key: int, at: At) -> bool:
    return any(
        mapped.at < at and mapped.at.life == at.life for mapped in read(history).by_number.get(key, ())
    )


def _removed(history: History, key: int, at: At) -> bool:
    mine = [mapped for mapped in read(history).by_number[key] if mapped.at < at and mapped.at.life == at.life]
    return mine[-1].removed is not None and mine[-1].removed < at


def registration_untested(history: History) -> str:
    if any(_met_on_the_way(history)):
        return ""
    for mapped in read(history).maps:
        if mapped.removed is not None and mapped.revoked is not None:
            return ""  # it could have been called back
    return "no reclaim met a registration on its way, and no revoked key was removed"


# ---- V22: a reclaim that was interrupted or denied has freed nothing


def interrupted_broken(history: History) -> Iterator[Breach]:
    yield from _went_on(history)
    for row in _denied(history):
        answer = row.phases["returned"]
        for name in ("applied", "freed"):
            if name in row.phases:
                sentence = (
                    f"{row.name()} was answered with {errno_name(row.errno or 0)} and took its {name} step"
                )
                yield Breach("V22", sentence, tuple(sorted((row.phases[name].n, answer.n))))
                break
        else:
            if _lost_blocks(row) - _made_way(history, row):
                sentence = f"{row.name()} was answered with {errno_name(row.errno or 0)}, and its range has lost blocks"
                yield Breach("V22", sentence, (answer.n,))


def _went_on(history: History) -> Iterator[Breach]:
    """Whoever asked was told that nothing has changed, and then it was taken."""
    for row in read(history).reclaims:
        later = [row.phases[name] for name in ("applied", "freed") if name in row.phases]
        if row.denied is not None and not row.errno and later and row.denied < later[0]:
            sentence = f"{row.name()} was answered with an error, and went on to take its range"
            yield Breach("V22", sentence, (row.denied.n, later[0].n))


def _denied(history: History) -> Iterator[Reclaim]:
    """With an error that says nothing has changed."""
    return (row for row in read(history).reclaims if row.errno and row.definite and row.kind != "surprise")


def _lost_blocks(row: Reclaim) -> set[int]:
    """Blocks of the range that were the file's before, and are not at the end. (Overlapping reclaims wait for this one.)"""
    if row.asked_of is None or row.ended is None:
        return set()
    lo, hi = int(row.target.get("lo", 0)), int(row.target.get("hi", 1 << 63))
    later = row.ended.step > row.phases["requested"].step
    before = row.start if later and row.start is not None else row.asked_of
    return blocks_within(before, lo, hi) - blocks_within(row.end, lo, hi)


def _made_way(history: History, row: Reclaim) -> set[int]:
    """What those who had waited for it took of the same file in the very step in which it ended."""
    made = read(history)
    step = made.step_of(row.ended.n) if row.ended else None
    if step is None:
        return set()
    others = (made.reclaim_at[row.life, number] for number in step.applied - {row.number})
    mine = (other for other in others if other.target.get("ino") == row.target.get("ino"))
    return {block for other in mine if other.changed == step.lines[0]["n"] for block in other.due}


def interrupted_untested(history: History) -> str:
    return "" if any(_denied(history)) else "no reclaim was denied or interrupted"


INVARIANTS = (
    Invariant("V1", "the gate comes first, and nothing registers behind it", gate_broken, gate_untested),
    Invariant("V2", "holders are told inside the gate's critical section", notice_broken, notice_untested),
    Invariant(
        "V12",
        "a registration loses no revoke, and what was removed is not called back",
        registration_broken,
        registration_untested,
    ),
    Invariant("V22", "an interrupted reclaim has freed nothing", interrupted_broken, interrupted_untested),
)
