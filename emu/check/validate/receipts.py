"""The clients' journals held against events and log: told what was sent, completed what was posted, under queue pairs that were made."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from emu.check.fatal import swallowed
from emu.check.validate.refusal import Refusal
from emu.history.journal import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.check.history import History
    from emu.history.journal import JournalFile

NAMES = {1000: "MR_REVOKING", 1001: "MR_REVOKED", 1002: "MR_RESTORED"}
STATUSES = 22  # IBV_WC_*
UNSIGNALED = 1  # code of a POSTED record: no completion was asked for
RESET = 0  # IBV_QPS_RESET
FOREVER = 1 << 63


def receipts(history: History) -> list[Refusal]:
    qps = {line["value"]["qp_num"] for line in history.of("Answered") if "qp_num" in line["value"]}
    return [
        Refusal(f"journals/{name}.jrnl", why)
        for name, journal in sorted(history.journals.items())
        for why in _wrong(history, name, journal, qps)
    ]


def _wrong(history: History, name: str, journal: JournalFile, qps: set[int]) -> Iterator[str]:
    yield from _order(journal)
    if history.meta.get("source") != "simulated":
        yield from _requests(journal, qps)
        yield from _in_time(history, name, journal)
        yield from _behind_the_log(history, journal)
        yield from _drained(history, name, journal)
    yield from _told(history, name, journal)
    yield from _moved(history, journal)


def _order(journal: JournalFile) -> Iterator[str]:
    times = [record.time for record in journal.records]
    back = next((at for at in range(1, len(times)) if times[at] < times[at - 1]), None)
    if back is not None:
        yield f"record {back} is older than the one before it"


def _requests(journal: JournalFile, qps: set[int]) -> Iterator[str]:
    """Every completion is of a request that was posted, and that had not completed."""
    posted: dict[tuple[int, int], int] = {}
    for at, record in enumerate(journal.records):
        place = record.qp_num, record.wr_id
        if record.kind == Kind.POSTED:
            posted[place] = posted.get(place, 0) + 1
        elif record.kind == Kind.POLLED:
            if not posted.get(place):
                yield f"record {at}: request {record.wr_id} of queue pair {record.qp_num} completes, and none is open"
                return
            posted[place] -= 1
            if record.code >= STATUSES:
                yield f"record {at}: {record.code} is no completion status"
                return
        if record.kind in {Kind.POSTED, Kind.POLLED} and record.qp_num not in qps:
            yield f"record {at}: queue pair {record.qp_num} was never made"
            return


def _in_time(history: History, name: str, journal: JournalFile) -> Iterator[str]:
    """Whoever posts and polls has a session: not before the first of that name opened, not after the last was lost."""
    sessions = {line["session"]: line["t"] for line in history.of("SessionOpened") if line["name"] == name}
    lost = {line["session"]: line["t"] for line in history.of("SessionLost") if line["session"] in sessions}
    times = [record.time for record in journal.records if record.kind in {Kind.POSTED, Kind.POLLED}]
    if not sessions or not times:
        return
    if times[0] < min(sessions.values()):
        yield f"it begins {min(sessions.values()) - times[0]} ns before {name} had a session"
    if lost.keys() == sessions.keys() and times[-1] > max(lost.values()):
        yield f"it goes on {times[-1] - max(lost.values())} ns after {name} had lost its session"


def _behind_the_log(history: History, journal: JournalFile) -> Iterator[str]:
    """At each moment: what was acknowledged had begun to move, and what had moved had been posted. By queue pair."""
    if not history.logs:
        return
    lengths = journal.lengths
    for qp in sorted({r.qp_num for r in journal.of(Kind.POSTED)}):
        posted = [(r.time, r.length) for r in journal.of(Kind.POSTED) if r.qp_num == qp]
        good = [
            (r.time, lengths.get((qp, r.wr_id), 0))
            for r in journal.of(Kind.POLLED)
            if r.qp_num == qp and not r.code
        ]
        moved = [record for _, record in history.records() if record.qp_num == qp and not record.status]
        begun = [(record.time_first, record.bytes) for record in moved]
        over = [(record.time_last, record.bytes) for record in moved]
        if _ahead(good, begun):
            yield f"queue pair {qp}: bytes were acknowledged before the log has them move"
        if _ahead(over, posted):
            yield f"queue pair {qp}: the log has bytes move before they were posted"


def _ahead(later: list[tuple[int, int]], earlier: list[tuple[int, int]]) -> bool:
    """Whether the sum of `later` is at some time above that of `earlier`. Both are (time, bytes)."""
    total = 0
    for _, is_later, size in sorted([(t, 1, n) for t, n in later] + [(t, 0, n) for t, n in earlier]):
        total += -size if is_later else size
        if total < 0:
            return True
    return False


def _drained(history: History, name: str, journal: JournalFile) -> Iterator[str]:
    """A lab's client that waited until all was completed: every request has its completion, every success its last quantum."""
    if name not in history.row.get("drained", ()):
        return
    last = journal.records[-1].time if journal.records else 0
    emptied = {
        line["qp_num"]: line["t"]
        for line in history.of("SetQp", "EndQp")
        if line["t"] <= last and (line["type"] == "EndQp" or line["attrs"].get("state") == RESET)
    }
    emptied |= dict.fromkeys(swallowed(history), FOREVER)
    polled = {(r.qp_num, r.wr_id): r.code for r in journal.of(Kind.POLLED)}
    ended: Counter[int] = Counter()
    for _, moved in history.records():
        if not moved.status:
            ended[moved.qp_num] += moved.op_done
    good: Counter[int] = Counter()
    for record in journal.of(Kind.POSTED):
        code = polled.get((record.qp_num, record.wr_id))
        good[record.qp_num] += code == 0 and record.length > 0
        if code is None and record.code != UNSIGNALED and record.time > emptied.get(record.qp_num, 0):
            yield f"request {record.wr_id} of queue pair {record.qp_num} never completed, and {name} waited for all"
            return
    for qp in sorted(good):
        if good[qp] > ended[qp]:
            yield f"queue pair {qp}: {good[qp]} requests completed with success, the log has {ended[qp]} come to an end"


def _told(history: History, name: str, journal: JournalFile) -> Iterator[str]:
    """MR_REVOKING, MR_REVOKED, MR_RESTORED: no more of them than were sent to a session of that name, and not before."""
    sessions = {line["session"] for line in history.of("SessionOpened") if line["name"] == name}
    sent: Counter[tuple[str, int]] = Counter()
    times: dict[tuple[str, int], int] = {}
    for line in history.of("Notify"):
        if line["session"] in sessions and line["name"] in NAMES.values():
            place = line["name"], line["fields"].get("mr", 0)
            sent[place] += 1
            times.setdefault(place, line["t"])
    got: Counter[tuple[str, int]] = Counter()
    for record in journal.of(Kind.EVENT):
        if record.code in NAMES:
            place = NAMES[record.code], record.key
            got[place] += 1
            if got[place] > sent[place]:
                yield f"was told {place[0]} of key {record.key:#x} {got[place]} times: it was sent {sent[place]} times"
                return
            if record.time < times[place]:
                yield f"was told {place[0]} of key {record.key:#x} before it was sent"
                return


def _moved(history: History, journal: JournalFile) -> Iterator[str]:
    """Bytes that were acknowledged have moved; what has moved with success had been posted. By queue pair."""
    if not history.logs:
        return
    length = journal.lengths
    posted: Counter[int] = Counter()
    for (qp, _), size in length.items():
        posted[qp] += size
    good: Counter[int] = Counter()
    for record in journal.of(Kind.POLLED):
        if not record.code:
            good[record.qp_num] += length.get((record.qp_num, record.wr_id), 0)
    went: Counter[int] = Counter()
    for _, moved in history.records():
        if not moved.status:
            went[moved.qp_num] += moved.bytes
    for qp in sorted(posted):
        if good[qp] > went[qp]:
            yield f"queue pair {qp}: {good[qp]} bytes were acknowledged, and the log shows that {went[qp]} moved"
        if went[qp] > posted[qp]:
            yield f"queue pair {qp}: {posted[qp]} bytes were posted, and the log shows that {went[qp]} moved"
