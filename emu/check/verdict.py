"""The classifier: a run folder in, a verdict out. There is one, for every protocol, and it never sees a protocol's name.

It reads a whole folder (history.py): the bytes (memory.py), the engine's log (traffic.py), the clients' journals, the phases of the
reclaim, and what the clients answered (row.json). From these it says

- `outcomes`: all that apply, in order of precedence, `outcome` being the first;
- `violated`: rules of the revoke contract (CONTRACT names S.., V..) that this run broke, each with a sentence, and `checked`: those that
  it could have shown to be broken. Both come from emu/check/invariants, as `emu check` has them. Whether a broken rule is a breach
  depends on what the protocol promised; that is the caller's to compare (emu/lab/rows.py).

Nothing is concluded from a run that could not have shown it: without DMA in flight at the gate, with a gap in a log, or with
evidence missing, the outcome is UNKNOWN, and `why` says what was lacking. A run that was meant to be idle (`dma` false in
row.json: a control), or in which nobody was to ask (`asked` false of its reclaim: another), is exempt from the gate rule only.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from emu.check import invariants
from emu.check.history import BrokenHistory, History
from emu.check.invariants import safety_bytes, safety_people
from emu.check.invariants.away import away_bytes
from emu.check.memory import file_of, foreign_bytes, holes, until
from emu.check.nowhere import detached_bytes, nowhere
from emu.check.shown import dma_at_gate
from emu.check.space import space_debt_byte_s, space_owed
from emu.check.traffic import Traffic, add_up
from emu.history.journal import Kind
from emu.history.stamp import CELL

if TYPE_CHECKING:
    from pathlib import Path

PRECEDENCE = (
    "CORRUPT", "FAULT", "KILL", "HANG", "LEAK", "LOST", "STALE", "DENY", "REFUSED", "OK+ERR", "OK", "UNKNOWN",
)  # fmt: skip

STATUS = (
    "SUCCESS", "LOC_LEN_ERR", "LOC_QP_OP_ERR", "LOC_EEC_OP_ERR", "LOC_PROT_ERR", "WR_FLUSH_ERR", "MW_BIND_ERR",
    "BAD_RESP_ERR", "LOC_ACCESS_ERR", "REM_INV_REQ_ERR", "REM_ACCESS_ERR", "REM_OP_ERR", "RETRY_EXC_ERR",
    "RNR_RETRY_EXC_ERR", "LOC_RDD_VIOL_ERR", "REM_INV_RD_REQ_ERR", "REM_ABORT_ERR", "INV_EECN_ERR",
    "INV_EEC_STATE_ERR", "FATAL_ERR", "RESP_TIMEOUT_ERR", "GENERAL_ERR",
)  # fmt: skip

Json = dict[str, Any]

STILL_OPEN = "the reclaim did not return, and something could still have advanced it"
NEVER_ASKED = "who asked had no answer, and the history knows of no reclaim that lacks one: it never came, or its answer was lost"
NO_DMA_AT_GATE = "no DMA was in flight at the gate"
NOTICES = frozenset({1000, 1001})  # MR_REVOKING, MR_REVOKED
DEVICE_FATAL = 8
TOLD = 3  # breaches of one rule that are told


class Phase(NamedTuple):
    """A reclaim's step, as the broker recorded it when it took it."""

    reclaim: int
    name: str
    epoch: int
    time: int
    inflight: int
    keys: tuple[int, ...]
    detail: Json


@dataclass
class Verdict:
    """Figures are None where this run could not measure them."""

    outcome: str = "UNKNOWN"
    outcomes: list[str] = field(default_factory=list)
    why: list[str] = field(default_factory=list)
    violated: list[list[str]] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)
    model: str | None = None  # what emu.check.validate says of the history
    foreign_bytes: int | None = None
    leaked_bytes: int | None = None
    foreign_dma_bytes: int | None = None
    freed_bytes: int | None = None
    lost_bytes: int | None = None
    stale_bytes: int | None = None
    absent_bytes: int | None = None
    absent_before_answer_bytes: int | None = None
    dma_bytes: int | None = None
    dma_at_gate: int | None = None
    error_completions: dict[str, int] = field(default_factory=dict)
    qps_lost: int | None = None
    collateral: int | None = None
    killed: int = 0
    innocent_killed: int = 0
    notified: float | None = None
    notified_before_loss: float | None = None
    recovery_us: float | None = None
    blocked_us: float | None = None
    enospc_failures: int | None = None
    enospc_wait_us: float | None = None
    space_debt_byte_s: float | None = None
    phases_us: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> Json:
        return asdict(self)


def judge(folder: Path) -> Verdict:
    """The verdict on one run's folder."""
    try:
        history = History.read(folder)
    except BrokenHistory as error:
        return Verdict(outcomes=["UNKNOWN"], why=[str(error)])
    return judge_read(history)


def judge_read(history: History) -> Verdict:
    """The same of a folder that has been read."""
    lacking = [name for name, part in _parts(history).items() if not part]
    if lacking:
        return Verdict(outcomes=["UNKNOWN"], why=[f"{name} is missing or empty" for name in lacking])
    return judge_history(history)


def judge_history(history: History) -> Verdict:
    """The same of a history that has all its parts."""
    return _Judge(history.blind, Verdict()).run()


def _parts(history: History) -> dict[str, object]:
    """What a lab's run has beside a broker's own history."""
    return {"row.json": history.row, "filemap.json": history.filemap, "journals": history.journals}


class _Judge:
    """One run under judgement; each method looks at one kind of evidence."""

    def __init__(self, history: History, verdict: Verdict) -> None:
        self.history, self.verdict = history, verdict
        self.row = history.row
        self.reclaim: Json = self.row["reclaim"]
        self.phases = [phase_of(line) for line in history.of("Phase")]
        self.ours = _judged_reclaim(self.phases)
        self.unknown: list[str] = []

    @property
    def succeeded(self) -> bool:
        return bool(self.reclaim["returned"]) and self.reclaim["errno"] is None

    @property
    def _asked(self) -> bool:
        """Whether anybody wanted the memory: in a control, nobody may."""
        return bool(self.reclaim.get("asked", True))

    @property
    def _abandoned(self) -> bool:
        """Who asked was killed before there was an answer: nobody can say that it did not come."""
        return bool(self.reclaim.get("abandoned")) and bool(self.row["killed"])

    def run(self) -> Verdict:
        self._gaps()
        self._traffic()
        self._memory()
        self._journals()
        self._people()
        self._blocked()
        self._invariants()
        self._gate()
        self._conclude()
        return self.verdict

    def _gaps(self) -> None:
        lines = sum(line["last"] - line["first"] + 1 for line in self.history.of("gap"))
        if lines:
            self.unknown.append(f"{lines} lines of the history are missing")
        for journal in self.history.journals.values():
            if journal.missing:
                self.unknown.append(f"{journal.missing} records of {journal.name}'s journal were overwritten")

    def _invariants(self) -> None:
        """Which rules were broken, and which could have been seen to be."""
        for judgement in invariants.judge(self.history):
            if not judgement.untested:
                self.verdict.checked.append(judgement.name)
            self.verdict.violated += [[one.invariant, one.sentence] for one in judgement.breaches[:TOLD]]

    # ---- the engine's log

    def _traffic(self) -> None:
        returned = self._epoch("returned") if self.succeeded else None
        if self.succeeded and returned is None and self.ours:
            self.unknown.append("the history has no epoch in which the reclaim returned")
        traffic = add_up(
            self.history.logs, returned, safety_bytes.acknowledged(self.history), self._absent_from(returned)
        )
        if traffic.missing:
            self.unknown.append(f"{traffic.missing} records of the operation log were overwritten")
        self._note_traffic(traffic)

    def _note_traffic(self, traffic: Traffic) -> None:
        verdict = self.verdict
        verdict.dma_bytes = traffic.bytes
        gone = nowhere(self.history)
        verdict.freed_bytes, verdict.lost_bytes = (
            traffic.freed,
            max(traffic.lost, gone.written, detached_bytes(self.history)),
        )
        verdict.stale_bytes = max(traffic.stale, gone.read)
        verdict.absent_bytes = traffic.absent_after + away_bytes(self.history)
        verdict.absent_before_answer_bytes = traffic.absent_before
        if self.row["backing"] != "host":  # an ordinary file has no table of block generations
            verdict.foreign_dma_bytes = traffic.foreign

    def _absent_from(self, returned: int | None) -> int | None:
        """From which epoch on DMA to memory that is not there is a fault: the answer's. Without a success to wait for, the memory's own end: who
        asks for what is gone already, and hangs or is denied, has not made the fact undone.
        """
        if returned is not None:
            return returned
        ends = [line["epoch"] for line in self.history.of("Offline", "Poison")]
        return min(ends) + 1 if ends else None

    def _epoch(self, name: str) -> int | None:
        return next((p.epoch for p in self.phases if p.reclaim == self.ours and p.name == name), None)

    # ---- the memory

    def _memory(self) -> None:
        self.verdict.foreign_bytes = foreign_bytes(*self.history.seen)
        self.verdict.leaked_bytes = CELL * len(self.row["leaked"])

    # ---- the clients' journals

    def _journals(self) -> None:
        hurt = safety_people.hurt_qps(self.history)
        errors: Counter[str] = Counter()
        lost: set[int] = set()
        for journal in self.history.journals.values():
            for record in journal.of(Kind.POLLED):
                if record.code:
                    errors[STATUS[record.code] if record.code < len(STATUS) else f"STATUS_{record.code}"] += 1
                    lost |= {record.qp_num} - hurt
        self.verdict.error_completions = dict(sorted(errors.items()))
        self.verdict.qps_lost = len(lost)
        self.verdict.collateral = safety_people.collateral(self.history)

    # ---- who was told, who was killed, who came back

    def _people(self) -> None:
        verdict, row = self.verdict, self.row
        sent, by = self._signalled(), row.get("killed_by", {})
        killed = [name for name in row["killed"] if (name, by.get(name)) in sent]
        self.unknown += [
            f"{name} was ended by {_signal_words(by.get(name))} that the history knows nothing of"
            for name in row["killed"]
            if name not in killed
        ]
        verdict.killed = len(killed)
        verdict.innocent_killed = sum(name not in row.get("holders", ("holder",)) for name in killed)
        told = self._told()
        if row["pinned"]:
            verdict.notified = float(bool(told))
        loss = self._first_error()
        if loss is not None and row["pinned"]:
            verdict.notified_before_loss = float(bool(told) and min(told) <= loss)
        verdict.recovery_us = self._recovery(loss)

    def _signalled(self) -> set[tuple[str, int]]:
        """Clients to whose opener the broker has sent a signal, and which: who was only asked (SIGIO) and died of something else was not killed by it."""
        names = {line["session"]: line["name"] for line in self.history.of("SessionOpened")}
        return {(names.get(line["session"], ""), line["number"]) for line in self.history.of("Signal")}

    def _told(self) -> list[int]:
        """When a holder heard that its memory is wanted, or gone: by an event of the device, or by a signal."""
        journals = [self.history.journals.get(name) for name in self.row.get("holders", ("holder",))]
        return [
            record.time
            for journal in journals
            for record in (journal.records if journal else ())
            if (record.kind == Kind.EVENT and record.code in NOTICES) or record.kind == Kind.MARK
        ]

    def _blocked(self) -> None:
        """How long whoever wanted the memory had to wait for it: up to success, or to where that was given up."""
        reclaim = self.reclaim
        begun = reclaim.get("began")
        end = reclaim.get("ended") or reclaim.get("given_up")
        if begun is not None and end is not None:
            self.verdict.blocked_us = max(0, end - begun) / 1000
        if not self.history.gaps:
            self.verdict.space_debt_byte_s = space_debt_byte_s(self.history)
        need = self.row.get("need")
        if need:
            self.verdict.enospc_failures = need["failures"]
            self.verdict.enospc_wait_us = need["waited_us"]

    def _first_error(self) -> int | None:
        peer = self.history.journals.get("peer")
        return min((r.time for r in peer.of(Kind.POLLED) if r.code), default=None) if peer else None

    def _recovery(self, loss: int | None) -> float | None:
        """From the peer's first error to its next good completion on a queue pair that was made afterwards."""
        peer = self.history.journals.get("peer")
        again = set(self.row["recovery_qps"])
        if loss is None or not again or peer is None:
            return None
        good = (r.time for r in peer.of(Kind.POLLED) if r.qp_num in again and not r.code)
        first = min(good, default=None)
        return None if first is None else (first - loss) / 1000

    # ---- the gate

    def _gate(self) -> None:
        ours = [p for p in self.phases if p.reclaim == self.ours]
        self.verdict.phases_us = _since_requested(ours)
        begun = [line for line in self.history.of("Phase") if line["phase"] == "requested"]
        requested = next((line for line in begun if line["keys"]), next(iter(begun), None))
        if requested:  # the first: a request that was denied, and asked again, met the DMA then
            self.verdict.dma_at_gate = dma_at_gate(self.history, requested)
        if self._asked and self.row["dma"] and self.row["pinned"] and not self.verdict.dma_at_gate:
            self.unknown.append(NO_DMA_AT_GATE)

    # ---- the conclusion

    def _conclude(self) -> None:
        verdict = self.verdict
        found = {name for name, applies in self._tests().items() if applies}
        if len(found) > 1:
            found.discard("OK")  # nothing but itself
        if self._asked and not self.reclaim["returned"] and not self._abandoned and "HANG" not in found:
            waits = safety_people.waits(self.history)
            self.unknown.append(STILL_OPEN if waits else NEVER_ASKED)
        if self.unknown:
            verdict.why = self.unknown
            # What was seen in spite of a gap was seen; what was not seen may have been missed.
            found = (found & set(PRECEDENCE[: PRECEDENCE.index("DENY")])) | {"UNKNOWN"}
        verdict.outcomes = [name for name in PRECEDENCE if name in found]
        verdict.outcome = verdict.outcomes[0]

    def _tests(self) -> dict[str, bool]:
        verdict, row = self.verdict, self.row
        ended = self.succeeded or not self._asked
        hurt = bool(verdict.error_completions) or self._device_lost()
        refused = self.reclaim["returned"] and self.reclaim["errno"] is not None
        denied = refused or bool(self.reclaim.get("denied"))
        debt = space_owed(self.history, row.get("surveyed")) or self._not_given_back()
        return {
            "CORRUPT": bool(verdict.foreign_bytes or verdict.leaked_bytes or verdict.foreign_dma_bytes),
            "FAULT": bool(verdict.absent_bytes),
            "KILL": bool(verdict.killed),
            "HANG": not self.reclaim["returned"] and not self._abandoned and self._hangs(),
            "LEAK": self.succeeded and bool(debt),
            "LOST": bool(verdict.lost_bytes),
            "STALE": bool(verdict.stale_bytes),
            "DENY": denied,
            "REFUSED": row["refused"] is not None,
            "OK+ERR": ended and hurt,
            "OK": ended and not hurt and row["refused"] is None,
        }

    def _device_lost(self) -> bool:
        """Somebody's context was destroyed under it."""
        return any(
            record.code == DEVICE_FATAL
            for journal in self.history.journals.values()
            for record in journal.of(Kind.EVENT)
        )

    def _not_given_back(self) -> int:
        """Bytes of the victim that a success should have freed, and that still have memory."""
        file = file_of(self.history.filemap, self.row["victim"]["path"])
        spans = self.row.get("frees", ())
        file = until(file, self.row["expected"].get("layout")) if file else None
        return sum(end - start - holes(file, start, end) for start, end in spans) if file else 0

    def _hangs(self) -> bool:
        """The broker has a reclaim that it has not answered, neither a timer nor an answer is outstanding, and every line is there that
        would tell of one.
        """
        waits = safety_people.waits(self.history)
        return waits and not self.history.gaps and not safety_people.outstanding(self.history)


def _signal_words(number: int | None) -> str:
    return f"signal {number}" if number else "a signal"


def phase_of(line: Json) -> Phase:
    """A Phase line of events.jsonl."""
    return Phase(
        line["reclaim"],
        line["phase"],
        line["epoch"],
        line["t"],
        line["inflight"],
        tuple(line["keys"]),
        line["detail"],
    )


def _judged_reclaim(phases: list[Phase]) -> int | None:
    """The run's reclaim: the first that was requested; where it was denied and asked again, the one that succeeded."""
    good = [p.reclaim for p in phases if p.name == "returned" and not p.detail.get("errno")]
    first = [p.reclaim for p in phases if p.name == "requested"]
    return next(iter(good or first), None)


def _since_requested(phases: list[Phase]) -> dict[str, float]:
    """When each step of the reclaim was taken, in microseconds after the broker took the request."""
    return {phase.name: (phase.time - phases[0].time) / 1000 for phase in phases[1:]}
