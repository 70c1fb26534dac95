"""S5, S7 and S8: what clients are owed. Each request completes once; each reclaim ends; nobody outside is hurt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.check.fatal import swallowed
from emu.check.invariants.invariant import Breach
from emu.check.invariants.reading import read
from emu.check.invariants.waiting import at_end
from emu.history.journal import Kind
from emu.history.oplog import Flag

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.check.history import History
    from emu.check.invariants.reclaims import Reclaim
    from emu.check.invariants.rows import Json
    from emu.check.invariants.timeline import Mapped
    from emu.history.journal import JournalFile, Record

UNSIGNALED = 1  # code of a POSTED record: no completion was asked for
RECEIVED = 128  # IBV_WC_RECV: opcodes of receive completions begin here
SHOWN = 8  # records that a breach names
RESET = 0  # IBV_QPS_RESET
FOREVER = 1 << 63
RECLAIMS = frozenset(
    {
        *(
            "FsTruncate",
            "FsPunch",
            "FsUnlink",
            "FsUnplug",
            "FsFallocate",
            "FsReflink",
            "FsMigrate",
            "FsPoison",
            "FsUmount",
        ),
        *("FsWriteback", "FsPressure", "DmabufMove", "DmabufRevoke"),
    }
)


# ---- S5


def completions(history: History) -> Iterator[Breach]:
    """S5: what was posted completes exactly once and in order, save what was unsignaled, and what a RESET or the end swallowed."""
    emptied = _emptied(history)
    for journal in history.journals.values():
        if journal.missing:
            continue
        drained = journal.name in history.row.get("drained", ())
        for qp, posted, polled in _queues(journal):
            wrong = _compare(posted, polled, emptied.get(qp, 0), drained=drained)
            if wrong:
                counts = f"{len(posted)} posted, {len(polled)} completed"
                yield Breach("S5", f"queue pair {qp} of {journal.name}: {wrong} ({counts})")


def _queues(journal: JournalFile) -> Iterator[tuple[int, list[Record], list[Record]]]:
    posted: dict[int, list[Record]] = {}
    polled: dict[int, list[Record]] = {}
    for record in journal.records:
        if record.kind == Kind.POSTED and record.opcode < RECEIVED:
            posted.setdefault(record.qp_num, []).append(record)
        elif record.kind == Kind.POLLED and record.opcode < RECEIVED:
            polled.setdefault(record.qp_num, []).append(record)
    for qp in sorted(posted.keys() | polled.keys()):
        yield qp, posted.get(qp, []), polled.get(qp, [])


def _compare(posted: list[Record], polled: list[Record], emptied: int, *, drained: bool) -> str:
    """What is wrong with a queue's completions, "" if nothing is. `emptied`: when a RESET last emptied it."""
    waiting = iter(posted)
    for done in polled:
        for asked in waiting:
            if asked.wr_id == done.wr_id:
                break
            if asked.code != UNSIGNALED and asked.time > emptied:
                return f"request {done.wr_id} completed before request {asked.wr_id}, or that never did"
        else:
            return f"request {done.wr_id} completed twice, out of order, or was never posted"
    left = [asked for asked in waiting if asked.code != UNSIGNALED and asked.time > emptied]
    return f"request {left[0].wr_id} never completed" if left and drained else ""


def _emptied(history: History) -> dict[int, int]:
    """Queue pair -> when it was last put into RESET, or destroyed: what was posted before may be gone. For good, where its context is."""
    found: dict[int, int] = {}
    for line in history.of("SetQp", "EndQp"):
        if line["type"] == "EndQp" or line["attrs"].get("state") == RESET:
            found[line["qp_num"]] = line["t"]
    return found | dict.fromkeys(swallowed(history), FOREVER)


def nothing_posted(history: History) -> str:
    if any(record.kind == Kind.POSTED for journal in history.journals.values() for record in journal.records):
        return ""
    return "no client kept a journal of what it posted"


# ---- S7


def ends(history: History) -> Iterator[Breach]:
    """S7: a reclaim that has not returned can still be advanced by something that is outstanding."""
    for row in _unreturned(history):
        if not _advance(history, row.number):
            lines = tuple(sorted(at.n for at in row.phases.values()))
            yield Breach(
                "S7", f"{row.words()} did not return, and nothing is left that could advance it", lines
            )
    for line in [] if _advance(history, *history.once(at_end).keys) else _unanswered(history):
        what = line["op"]["type"].removeprefix("Fs").removeprefix("Dmabuf").lower()
        yield Breach(
            "S7", f"a {what} was never answered, and nothing is left that could advance it", (line["n"],)
        )


def _unreturned(history: History) -> list[Reclaim]:
    made = read(history)
    life = made.steps[-1].life if made.steps else 0
    return [row for row in made.reclaims if row.life == life and row.errno is None]


def _unanswered(history: History) -> list[Json]:
    """Reclaims that wait behind others, so that they have no phase yet."""
    open_: dict[tuple[int, int], Json] = {}
    for line in history.of("Loaded", "Requested", "Reply", "Fail", "SessionLost"):
        match line["type"]:
            case "Loaded":
                open_.clear()
            case "Requested" if line["op"]["type"] in RECLAIMS:
                open_[line["session"], line["request"]] = line
            case "Reply" | "Fail":
                open_.pop((line["session"], line["request"]), None)
            case "SessionLost":
                open_ = {name: asked for name, asked in open_.items() if name[0] != line["session"]}
    begun = {line["n"] for line in history.of("Phase") if line["phase"] == "requested"}
    made = read(history)
    steps = {step.lines[0]["n"]: step for step in made.steps}
    return [
        line
        for line in open_.values()
        if line["n"] in steps and not any(other["n"] in begun for other in steps[line["n"]].lines)
    ]


def waits(history: History) -> bool:
    """Whether a reclaim of the last life has no answer: one that has begun, or whose request waits behind another."""
    return bool(_unreturned(history) or _unanswered(history))


def outstanding(history: History) -> list[str]:
    """What will come by itself at the end of the last life, and may be what a reclaim that was not answered waits for."""
    return _advance(history, *(row.number for row in _unreturned(history)))


def _advance(history: History, *numbers: int) -> list[str]:
    """What may advance one of these reclaims; where none of them is under way, whatever is still to come."""
    waiting = history.once(at_end)
    return waiting.words(*(number for number in numbers if number in waiting.keys))


def no_end_in_sight(history: History) -> str:
    made = read(history)
    if not made.reclaims and not _unanswered(history):
        return "nobody reclaimed anything"
    waits = _unreturned(history) or _unanswered(history)
    still = outstanding(history)
    return f"the history ends while a reclaim waits for {still[0]}" if waits and still else ""


# ---- S8


def bystanders(history: History) -> Iterator[Breach]:
    """S8: no key outside the range is stopped, nobody beside it sees an error; save what the declared unit of loss says."""
    made = read(history)
    loss = history.meta.get("loss", "")
    owner = _owners(history)
    for row in made.reclaims:
        mine = {owner.get(life.at.n) for life in row.stopped if _concerns(row, life)}
        for life in row.stopped if row.aperture and loss != "device" else ():
            excused = loss in {"context", "process"} and owner.get(life.at.n) in mine
            if not _concerns(row, life) and not excused:
                sentence = f"{row.words()} stopped key {life.key:#x}, which has nothing in the range"
                yield Breach("S8", sentence, tuple(sorted({life.at.n, *row.told})))
    yield from _overwritten(history)
    yield from _of_a_lab(history)


def _overwritten(history: History) -> Iterator[Breach]:
    """Whose bytes they were when they were written: a file's that has nothing to do with the reclaim."""
    found: dict[int, list[tuple[int, int]]] = {}
    for thread, record in history.records():
        if record.bytes and record.flags & Flag.DST_FOREIGN:
            found.setdefault(record.rkey or record.lkey, []).append((thread, record.seq))
    for key, where in found.items():
        yield Breach(
            "S8", f"somebody else's memory was overwritten under key {key:#x}", (), tuple(where[:SHOWN])
        )


def _concerns(row: Reclaim, life: Mapped) -> bool:
    return row.aperture == life.aperture and ("device" in row.target or bool(life.blocks & row.range))


def _owners(history: History) -> dict[int, int]:
    """Line of an InstallKey -> the session that registered it."""
    found: dict[int, int] = {}
    installed: dict[int, int] = {}
    for line in history.of("InstallKey", "Reply"):
        if line["type"] == "InstallKey":
            installed[line["key"]] = line["n"]
        elif line["result"].get("lkey") in installed:
            found[installed[line["result"]["lkey"]]] = line["session"]
    return found


def hurt_qps(history: History) -> set[int]:
    """Queue pairs of a lab's bystander that saw an error."""
    theirs = set(history.row["bystander"]["qps"]) if history.row else set()
    polled = (record for journal in history.journals.values() for record in journal.of(Kind.POLLED))
    return {record.qp_num for record in polled if record.code and record.qp_num in theirs}


def collateral(history: History) -> int:
    """Objects outside the range that were hurt, by a lab's bystander."""
    return len(hurt_qps(history)) + int(history.row["bystander"]["mr_lost"]) if history.row else 0


def _of_a_lab(history: History) -> Iterator[Breach]:
    """Its bystander is of the holder's own context, and goes with that where the unit of loss is no smaller."""
    if collateral(history) and history.meta.get("loss", "") not in {"context", "process", "device"}:
        yield Breach("S8", f"{collateral(history)} objects outside the range were hurt")


def nobody_beside(history: History) -> str:
    made = read(history)
    if history.row or any(
        not _concerns(row, life) for row in made.reclaims for life in made.maps if life.at.life == row.life
    ):
        return "" if made.reclaims or history.row else "nobody reclaimed anything"
    return "nobody had anything outside the ranges that were reclaimed"
