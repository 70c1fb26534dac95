"""Who holds what: V24, V25.

What the lab knows, and the broker cannot: shell lines, or the same in row.json as lists under their names in small letters, with `t`.

    Holds(session, who), LetsGo(session, who)    process `who` has a descriptor of the session's context, and has it no longer
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emu.check.invariants.invariant import Breach, Invariant
from emu.check.invariants.reading import read

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.check.history import History
    from emu.check.invariants.timeline import At, Mapped, Person
    from emu.history.oplog import OpRecord

Json = dict[str, Any]


# ---- V24: every pin has a live owner who can be named


def orphan_broken(history: History) -> Iterator[Breach]:
    reading = read(history)
    people = _people(history)
    for mapped in reading.maps:
        owner = _owner(people, mapped)
        if owner is None:
            continue
        end = mapped.removed or mapped.died
        if owner.opened is None:
            yield Breach(
                "V24",
                f"key {mapped.key:#x} is pinned by session {owner.number}, which nobody opened",
                (mapped.at.n,),
            )
        elif owner.ended is not None and (end is None or end > owner.ended):
            yield Breach(
                "V24",
                f"session {owner.number} was forgotten while key {mapped.key:#x} was its",
                (mapped.at.n, owner.ended.n),
            )
        elif (
            owner.lost is not None
            and owner.lost.step < reading.last.step
            and end is None
            and mapped.unmapped is None  # what has no translation pins nothing
            and not _going(history, mapped)
        ):
            sentence = f"session {owner.number} ({owner.name}) is gone, and key {mapped.key:#x} stays pinned for nobody"
            yield Breach("V24", sentence, (mapped.at.n, owner.lost.n))


def _people(history: History) -> dict[tuple[int, int], Person]:
    return {(person.life, person.number): person for person in read(history).people}


def _owner(people: dict[tuple[int, int], Person], mapped: Mapped) -> Person | None:
    made = mapped.registration
    return people.get((mapped.at.life, made.session)) if made is not None else None


def _going(history: History, mapped: Mapped) -> bool:
    """Is it being taken down, or not yet installed? Then an answer is still to come."""
    reading = read(history)
    if any(mapped in asked.maps and not asked.answers for asked in reading.asked):
        return True
    return not any(
        line["key"] == mapped.key and line["n"] > mapped.at.n for line in history.of("KeyInstalled")
    )


def orphan_untested(history: History) -> str:
    people = _people(history)
    owners = [_owner(people, mapped) for mapped in read(history).maps]
    if any(owner is not None and (owner.lost is not None or owner.opened is None) for owner in owners):
        return ""
    return "no session ended that had pinned memory"


# ---- V25: the owners of a pin are exactly the contexts that can still use its key


def right_broken(history: History) -> Iterator[Breach]:
    yield from _strange_uses(history)
    yield from _told_others(history)
    yield from _held_or_not(history)
    yield from _named(history)


def _strange_uses(history: History) -> Iterator[Breach]:
    """A local key works for its own context only."""
    for thread, record, mapped, session in _local_uses(history):
        made = mapped.registration
        if made is not None and made.session != session:
            sentence = f"queue pair {record.qp_num} of session {session} used local key {mapped.key:#x} of session {made.session}"
            yield Breach("V25", sentence, (mapped.at.n,), ((thread, record.seq),))


def _told_others(history: History) -> Iterator[Breach]:
    """A notice goes to the context that has the MR, whoever opened it and whoever else there is."""
    for line, mapped in _told(history):
        made = mapped.registration
        if made is not None and made.session != line["session"]:
            sentence = f"{line['name']} of key {mapped.key:#x}, which is session {made.session}'s, went to session {line['session']}"
            yield Breach("V25", sentence, (mapped.at.n, line["n"]))


def _told(history: History) -> Iterator[tuple[Json, Mapped]]:
    """Notices about an MR, and its translation at that moment."""
    reading = read(history)
    for line in history.of("Notify"):
        at = reading.at(line)
        known = reading.by_number.get(line.get("fields", {}).get("mr", -1), ())
        mine = [mapped for mapped in known if mapped.at < at and mapped.at.life == at.life]
        if mine:
            yield line, mine[-1]


def _local_uses(history: History) -> Iterator[tuple[int, OpRecord, Mapped, int]]:
    reading, owner = read(history), _queue_pairs(history)
    for thread, record in history.records():
        for mapped in (
            reading.by_number.get(record.lkey, ()) if record.bytes and record.qp_num in owner else ()
        ):
            if mapped.at.epoch < record.epoch_first and mapped.current(record.epoch_last):
                yield thread, record, mapped, owner[record.qp_num]


def _queue_pairs(history: History) -> dict[int, int]:
    """Queue pair -> session, where its number was one session's only."""
    asked: dict[int, int] = {}
    found: dict[int, set[int]] = {}
    for line in history.of("MakeQp", "Answered"):
        if line["type"] == "MakeQp":
            asked[line["token"]] = line["session"]
        elif line["token"] in asked:
            session, number = asked.pop(line["token"]), line.get("value", {}).get("qp_num")
            if number is not None:
                found.setdefault(number, set()).add(session)
    return {number: min(sessions) for number, sessions in found.items() if len(sessions) == 1}


def _held_or_not(history: History) -> Iterator[Breach]:
    """What the lab knows of descriptors against what the broker does to the context."""
    holders: dict[int, list[str]] = {}
    people = {person.number: person for person in read(history).people}
    for line in _facts(history):
        if line["type"] == "SessionLost":
            if holders.get(line["session"]):
                sentence = f"session {line['session']} was taken down while {holders[line['session']][0]} held its context"
                yield Breach("V25", sentence, (line["n"],))
        elif line["type"] == "Holds":
            holders.setdefault(line["session"], []).append(line["who"])
        elif line["who"] in holders.get(line["session"], ()):
            holders[line["session"]].remove(line["who"])
    for mapped in read(history).maps:
        made = mapped.registration
        if made is None or mapped.removed is not None or mapped.died is not None:
            continue
        if (
            holders.get(made.session) == []
            and people[made.session].lost is None
            and _long_ago(history, made.session)
        ):
            sentence = f"nobody holds the context of session {made.session} any more, and key {mapped.key:#x} is still its pin"
            yield Breach("V25", sentence, (mapped.at.n,))


def _long_ago(history: History, session: int) -> bool:
    """Has the broker been told of anything since its last descriptor was closed?"""
    last = [fact for fact in _facts(history) if fact["type"] == "LetsGo" and fact["session"] == session][-1]
    return any(line["t"] > last["t"] for line in history.events if line["kind"] == "event")


def _facts(history: History) -> list[Json]:
    """Lines, and the lab's own facts among them by their time."""
    lines = history.of("Holds", "LetsGo", "SessionLost")
    known = [
        {"n": -1, **fact, "type": name}
        for name in ("Holds", "LetsGo")
        for fact in history.row.get(name.lower(), ())
    ]
    return sorted([*lines, *known], key=lambda line: (line["t"], line["n"])) if known else lines


def _named(history: History) -> Iterator[Breach]:
    """An answer that names owners: `owners` [{key, session}, ...] of what is pinned over `ino`."""
    reading = read(history)
    for line, owners in _answers(history):
        at = reading.at(line)
        named = {owner["key"]: owner["session"] for owner in owners}
        for mapped in reading.maps:
            made = mapped.registration
            if made is None or made.ino != line["result"].get("ino") or not _pinned_at(mapped, at):
                continue
            if named.get(mapped.key) != made.session:
                sentence = f"key {mapped.key:#x} is session {made.session}'s, and is said to be {named.get(mapped.key, 'nobody')}'s"
                yield Breach("V25", sentence, (mapped.at.n, at.n))


def _answers(history: History) -> Iterator[tuple[Json, list[Json]]]:
    return (
        (line, line["result"]["owners"]) for line in history.of("Reply") if "owners" in line.get("result", {})
    )


def _pinned_at(mapped: Mapped, at: At) -> bool:
    ends = (mapped.unmapped, mapped.died)
    return mapped.at < at and mapped.at.life == at.life and all(end is None or end > at for end in ends)


def right_untested(history: History) -> str:
    if (
        any(line["type"] in {"Holds", "LetsGo"} for line in _facts(history))
        or any(_answers(history))
        or any(_local_uses(history))
        or any(_told(history))
    ):
        return ""
    return "nothing tells who could use a key: no local use, no notice, no descriptor passed, no owner named"


INVARIANTS = (
    Invariant("V24", "every pin has a live owner who can be named", orphan_broken, orphan_untested),
    Invariant(
        "V25", "a pin's owners are exactly the contexts that can use its key", right_broken, right_untested
    ),
)
