"""Who waits for whom: V16, V17, V23.

A session that did nothing between a reclaim's request and its end was not needed for it, stopped or not. A shell with a lock of its own
writes Enter(reclaim) and Leave(reclaim); else a step of the core is the critical section.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emu.check.invariants.invariant import Breach, Invariant
from emu.check.invariants.reading import read
from emu.check.invariants.reclaims import Reclaim
from emu.check.invariants.timeline import Registration, covers
from emu.check.invariants.waiting import doubtful_in, idle_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from emu.check.history import History
    from emu.check.invariants.timeline import Asked, At

Json = dict[str, Any]
NEVER = 1 << 62


# ---- V16: the lock is not held during the unmap wait


def lock_broken(history: History) -> Iterator[Breach]:
    for asked in _unmaps(history):
        row = asked.of
        assert row is not None
        over = next((step.at for step in row.order if step.name == "unmapped" and step.at > asked.at), None)
        if over is not None and over.step == asked.at.step:
            sentence = f"{row.name()} waited for the unmap within the step that asked for it"
            yield Breach("V16", sentence, (asked.at.n, over.n))
        elif over is not None and _locked(history, row, asked.at, over):
            sentence = f"{row.name()} held its lock while it waited for the unmap"
            yield Breach("V16", sentence, (asked.at.n, over.n))


def _unmaps(history: History) -> Iterator[Asked]:
    return (asked for asked in read(history).asked if asked.kind == "Unmap" and asked.of is not None)


def _locked(history: History, row: Reclaim, begin: At, over: At) -> bool:
    """The last Enter before the wait has its Leave behind it."""
    marks = [
        line
        for line in history.of("Enter", "Leave")
        if line.get("reclaim") == row.number and line["n"] < over.n
    ]
    inside = [line for line in marks if line["n"] > begin.n]
    return bool(marks) and (marks[-1]["type"] == "Enter" or (bool(inside) and inside[0]["type"] == "Leave"))


def lock_untested(history: History) -> str:
    for asked in _unmaps(history):
        over = asked.done or read(history).last
        if over.step - asked.at.step > 1 or any(lock_broken(history)):
            return ""
    return "nobody else was served while a reclaim waited for an unmap"


# ---- V17: nothing that a reclaim does needs an action of a holder or a peer


def alone_broken(history: History) -> Iterator[Breach]:
    for row, at in idle_in(history):
        sentence = f"{row.name()} waited with nothing left that could advance it but its holders"
        yield Breach("V17", sentence, (row.phases["requested"].n, at.n))


def alone_untested(history: History) -> str:
    if any(alone_broken(history)):
        return ""
    acts = _acts(history)
    for row, _at in doubtful_in(history):
        if not _ended_alone(row, acts):
            return f"no line tells whether what was still to come was owed to {row.name()}, or to another"
    if any(_ended_alone(row, acts) for row in read(history).reclaims):
        return ""
    return "no reclaim of held memory ended while its holders did nothing"


def _ended_alone(row: Reclaim, acts: dict[tuple[int, int], list[int]]) -> bool:
    """A reclaim of held memory that ended while its holders did nothing."""
    if "requested" not in row.phases or not row.held or row.ended is None:
        return False
    begin, end = row.phases["requested"].n, row.ended.n
    sessions = {m.registration.session for m in row.held if m.registration is not None}
    return not any(begin < n < end for session in sorted(sessions) for n in acts.get((row.life, session), ()))


def _acts(history: History) -> dict[tuple[int, int], list[int]]:
    """(life, session) -> lines that it caused."""
    reading = read(history)
    found: dict[tuple[int, int], list[int]] = {}
    for line in history.of("Requested", "SessionLost"):
        found.setdefault((reading.at(line).life, line["session"]), []).append(line["n"])
    return found


# ---- V23: new pins do not overtake a reclaim that waits


def overtaken_broken(history: History) -> Iterator[Breach]:
    for row, begin, end, made in _behind(history):
        if made.made is not None and made.made.at.n < end:
            sentence = f"bytes {made.lo} to {made.hi} of {made.op.get('path') or made.host} were pinned while a {row.kind} of them waited"
            yield Breach("V23", sentence, (begin, made.asked.n, made.made.at.n))


def _behind(history: History) -> Iterator[tuple[Reclaim, int, int, Registration]]:
    """Registrations that came behind a request to take their range back, and before its answer."""
    asked = list(_requests(history))
    for made in read(history).registrations:
        for row, begin, end in asked:
            if begin.n < made.asked.n < end and begin.life == made.asked.life and covers(row, made):
                yield row, begin.n, end, made


_TAKING: Mapping[str, Callable[[Json], Json]] = {
    "FsTruncate": lambda op: {"kind": "truncate", "path": op["path"], "lo": op["size"], "hi": 1 << 63},
    "FsPunch": lambda op: {
        "kind": "punch",
        "path": op["path"],
        "lo": op["offset"],
        "hi": op["offset"] + op["length"],
    },
    "FsUnlink": lambda op: {"kind": "unlink", "path": op["path"]},
    "DmabufMove": lambda op: {"kind": "move", "buffer": op["name"]},
    "DmabufRevoke": lambda op: {"kind": "revoke", "buffer": op["name"]},
    "FsMigrate": lambda op: {"kind": "migrate", "path": op["path"]},
    "FsReflink": lambda op: {"kind": "reflink", "path": op["path"]},
    "FsFallocate": lambda op: {
        "kind": op["mode"],
        "path": op["path"],
        "lo": op["offset"],
        "hi": op["offset"] + op["length"] if op["mode"] == "zero" else 1 << 63,
    },
    "FsUnplug": lambda op: {
        "kind": "unplug",
        "path" if op["target"].startswith("/") else "device": op["target"],
    },
}


def _requests(history: History) -> Iterator[tuple[Reclaim, At, int]]:
    """Requests that take memory back: as it is asked for, from, until. Who is lost waits no longer."""
    reading = read(history)
    open_: dict[tuple[int, int], tuple[Reclaim, At]] = {}
    for line in history.of("Requested", "Reply", "Fail", "SessionLost", "Loaded"):
        name = line["type"]
        if name == "Requested" and line["op"].get("type") in _TAKING and not line["op"].get("host"):
            at = reading.at(line)
            open_[line["session"], line["request"]] = (
                Reclaim(0, at.life, _TAKING[line["op"]["type"]](line["op"])),
                at,
            )
        elif name in {"Reply", "Fail"}:
            ended = open_.pop((line["session"], line["request"]), None)
            if ended is not None:
                yield (*ended, line["n"])
        elif name in {"SessionLost", "Loaded"}:
            for pair in [pair for pair in open_ if name == "Loaded" or pair[0] == line["session"]]:
                yield (*open_.pop(pair), line["n"])
    for row, at in open_.values():
        yield row, at, NEVER


def overtaken_untested(history: History) -> str:
    return "" if any(_behind(history)) else "nobody asked to register a range that a reclaim was waiting for"


INVARIANTS = (
    Invariant("V16", "the lock is not held during the unmap wait", lock_broken, lock_untested),
    Invariant("V17", "a reclaim needs no action of holder or peer", alone_broken, alone_untested),
    Invariant("V23", "new pins do not overtake a reclaim that waits", overtaken_broken, overtaken_untested),
)
