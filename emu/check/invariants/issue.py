"""When a key's number comes again, and how its end is told: V11, V13.

A key is (24-bit index << 8 | 8-bit generation). It comes to rest when it is removed, first in, first out, and is issued again with the next
generation; a registration that fails on its way uses up a generation that no line shows.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from emu.check.invariants.invariant import Breach, Invariant
from emu.check.invariants.reading import read
from emu.check.invariants.timeline import DYNAMIC
from emu.history.journal import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.check.history import History
    from emu.check.invariants.timeline import At, Mapped

MR_REVOKED = 1001
ROUND = 255  # issues of an index until its generation comes again


# ---- V11: a key is not issued again before its MR is deregistered; then first in, first out


@dataclass
class _Rest:
    """What is known of one life's keys. removed: index -> (turn in which it came to rest, key that it was). taken: (turn, asked for) of each that was issued again."""

    there: dict[int, int] = field(default_factory=dict)
    issues: Counter[int] = field(default_factory=Counter)
    last: dict[int, int] = field(default_factory=dict)
    removed: dict[int, tuple[int, int]] = field(default_factory=dict)
    turn: int = 0
    taken: list[tuple[int, int, Mapped]] = field(default_factory=list)


def issue_broken(history: History) -> Iterator[Breach]:
    lives: dict[int, _Rest] = {}
    for at, mapped, issued in _issues(history):
        rest = lives.setdefault(at.life, _Rest())
        index = mapped.key >> 8
        if issued:
            yield from _issue(rest, mapped, index)
        elif rest.there.get(index) == mapped.key:
            del rest.there[index]
            rest.turn += 1
            rest.removed[index] = (rest.turn, mapped.key)
    for rest in lives.values():
        yield from _overtaken(rest)


def _issues(history: History) -> list[tuple[At, Mapped, bool]]:
    """Every issue (True) and every end of a key, in order of the lines."""
    maps = [mapped for mapped in read(history).maps if not mapped.again]
    found = [(mapped.at, mapped, True) for mapped in maps]
    found += [(mapped.removed, mapped, False) for mapped in maps if mapped.removed is not None]
    return sorted(found, key=lambda item: item[0])


def _issue(rest: _Rest, mapped: Mapped, index: int) -> Iterator[Breach]:
    if index in rest.there:
        sentence = f"key {mapped.key:#x} was issued again before {rest.there[index]:#x} was removed"
        yield Breach("V11", sentence, (mapped.at.n,))
    since = rest.issues[index] - rest.last.get(mapped.key, -ROUND)
    if since < ROUND:
        yield Breach(
            "V11",
            f"key {mapped.key:#x} came again with the same generation, {since} issues later",
            (mapped.at.n,),
        )
    rest.issues[index] += 1
    rest.last[mapped.key] = rest.issues[index]
    rest.there[index] = mapped.key
    turn, old = rest.removed.pop(index, (0, 0))
    made = mapped.registration
    # a generation that was skipped went to a registration that failed: then it has come to rest again unseen
    if turn and made is not None and made.asked.life == mapped.at.life and mapped.key == _behind(old):
        rest.taken.append((made.asked.n, turn, mapped))


def _behind(key: int) -> int:
    return (key & ~0xFF) | ((key + 1) & 0xFF)


def _overtaken(rest: _Rest) -> Iterator[Breach]:
    """Keys are issued when they are asked for, which may be long before they are installed."""
    latest = 0
    for _asked, turn, mapped in sorted(rest.taken, key=lambda item: item[0]):
        if turn < latest:
            yield Breach(
                "V11",
                f"key {mapped.key:#x} had rested longer than one that was issued before it",
                (mapped.at.n,),
            )
        latest = max(latest, turn)


def issue_untested(history: History) -> str:
    maps = read(history).maps
    ends = [m.removed or m.revoked for m in maps if m.removed is not None or m.revoked is not None]
    first = min((end for end in ends if end is not None), default=None)
    if first is not None and any(m.at > first for m in maps):
        return ""
    return "no key was issued after another had been revoked or removed"


# ---- V13: pinned: a revoke is told at most once; a deregistration is a revoke itself, one behind the other


def told_broken(history: History) -> Iterator[Breach]:
    yield from _told_by_broker(history)
    yield from _told_by_receipts(history)
    for mapped in read(history).maps:
        gone = mapped.removed
        if (
            gone is not None
            and not mapped.replaced
            and any(answer is None or answer > gone for answer in (mapped.quiesced, mapped.unmapped))
        ):
            yield Breach(
                "V13", f"key {mapped.key:#x} was removed without having been revoked", (mapped.at.n, gone.n)
            )


def _revokes_told(history: History) -> dict[tuple[int, int, int], list[At]]:
    """(session, key, installation) -> lines of MR_REVOKED."""
    reading = read(history)
    found: dict[tuple[int, int, int], list[At]] = {}
    for line in history.of("Notify"):
        if line["name"] == "MR_REVOKED" and "mr" in line["fields"]:
            at, key = reading.at(line), line["fields"]["mr"]
            mine = [m for m in reading.by_number.get(key, ()) if m.at < at]
            if not mine or mine[-1].importer != DYNAMIC:
                made = mine[-1].at.n if mine else -1
                found.setdefault((line["session"], key, made), []).append(at)
    return found


def _told_by_broker(history: History) -> Iterator[Breach]:
    for (_session, key, _made), places in _revokes_told(history).items():
        for first, second in pairwise(places):
            yield Breach("V13", f"the revoke of key {key:#x} was told twice", (first.n, second.n))


def _told_by_receipts(history: History) -> Iterator[Breach]:
    """A number that came again may be told of again. Who has only the rkey (key 0) is told of each."""
    sent = Counter(key for _session, key, _made in _revokes_told(history))
    dynamic = {m.key for m in read(history).maps if m.importer == DYNAMIC}
    for name in sorted(history.journals):
        heard = Counter(
            r.key for r in history.journals[name].of(Kind.EVENT) if r.code == MR_REVOKED and r.key
        )
        for key, times in heard.items():
            if times > max(1, sent[key]) and key not in dynamic:
                yield Breach("V13", f"{name} was told {times} times that key {key:#x} is revoked")


def told_untested(history: History) -> str:
    reading = read(history)
    if _revokes_told(history) or any(m.removed is not None for m in reading.maps):
        return ""
    heard = (record for name in sorted(history.journals) for record in history.journals[name].of(Kind.EVENT))
    if any(record.code == MR_REVOKED for record in heard):
        return ""
    return "nobody was told of a revoke, and nobody deregistered"


INVARIANTS = (
    Invariant(
        "V11",
        "a key is issued again only behind its removal, the longest at rest first",
        issue_broken,
        issue_untested,
    ),
    Invariant("V13", "a revoke is told once, and a deregistration is one", told_broken, told_untested),
)
