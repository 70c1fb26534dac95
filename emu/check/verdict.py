"""The classifier: a run folder in, a verdict out. There is one, for every protocol, and it never sees a protocol's name.

It reads the bytes (memory.py), the engine's log (traffic.py), the clients' journals, the phases of the reclaim, and what the clients
answered (row.json). From these it says

- `outcomes`: all that apply, in order of precedence, `outcome` being the first;
- `violated`: rules of the revoke contract (CONTRACT names S.., V..) that this run broke, each with a sentence. Whether that is a
  breach depends on what the protocol promised; that is the caller's to compare (emu/lab/rows.py).

Nothing is concluded from a run that could not have shown it: without DMA in flight at the gate, with a gap in a log, or with
evidence missing, the outcome is UNKNOWN, and `why` says what was lacking. A run that was meant to be idle (`dma` false in
row.json: a control) is exempt from the gate rule only.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from emu.check import phases as history
from emu.check.evidence import Evidence, Json, Phase
from emu.check.memory import file_of, foreign_bytes, holes, misplaced_cells, shared_blocks, vanished_cells
from emu.check.traffic import Moments, Traffic, add_up
from emu.core.decision import CONTRACT, RULES
from emu.history.journal import Kind
from emu.history.oplog import OplogError
from emu.history.stamp import CELL

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from emu.history.journal import JournalFile

PRECEDENCE = (
    "CORRUPT", "FAULT", "KILL", "HANG", "LEAK", "LOST", "STALE", "DENY", "REFUSED", "OK+ERR", "OK", "UNKNOWN",
)  # fmt: skip

STATUS = (
    "SUCCESS", "LOC_LEN_ERR", "LOC_QP_OP_ERR", "LOC_EEC_OP_ERR", "LOC_PROT_ERR", "WR_FLUSH_ERR", "MW_BIND_ERR",
    "BAD_RESP_ERR", "LOC_ACCESS_ERR", "REM_INV_REQ_ERR", "REM_ACCESS_ERR", "REM_OP_ERR", "RETRY_EXC_ERR",
    "RNR_RETRY_EXC_ERR", "LOC_RDD_VIOL_ERR", "REM_INV_RD_REQ_ERR", "REM_ABORT_ERR", "INV_EECN_ERR",
    "INV_EEC_STATE_ERR", "FATAL_ERR", "RESP_TIMEOUT_ERR", "GENERAL_ERR",
)  # fmt: skip

# What every judged run is checked for; S9 and S10 only where somebody took the freed memory.
CHECKED = ("S1", "S2", "S3", "S4", "S5", "S6", "S7", "S8", "V3", "V9", "V10", "V19", *history.CHECKED)
NO_DMA_AT_GATE = "no DMA was in flight at the gate"
MR_REVOKING, MR_REVOKED = 1000, 1001
_ASKED_BY = {"Quiesced": "Quiesce", "Unmapped": "Unmap"}


@dataclass
class Verdict:
    """Figures are None where this run could not measure them."""

    outcome: str = "UNKNOWN"
    outcomes: list[str] = field(default_factory=list)
    why: list[str] = field(default_factory=list)
    violated: list[list[str]] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)
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
    phases_us: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> Json:
        return asdict(self)


def judge(folder: Path) -> Verdict:
    """The verdict on one run's folder."""
    evidence = Evidence(folder)
    verdict = Verdict()
    gaps = _gaps(evidence)
    if gaps:
        verdict.outcomes, verdict.why = ["UNKNOWN"], gaps
        return verdict
    return _Judge(evidence, verdict).run()


def _gaps(evidence: Evidence) -> list[str]:
    """Evidence that is not there."""
    readers: dict[str, Callable[[], object]] = {
        "row.json": lambda: evidence.row,
        "filemap.json": lambda: evidence.filemap,
        "events.jsonl": lambda: evidence.phases,
        "the operation log": lambda: evidence.logs,
        "the clients' journals": lambda: evidence.journals,
    }
    lacking = []
    for name, read in readers.items():
        try:
            found = read()
        except (OSError, OplogError, ValueError, KeyError) as error:
            lacking.append(f"{name} cannot be read: {error}")
        else:
            lacking += [] if found else [f"{name} is empty"]
    return lacking or _no_image(evidence)


def _no_image(evidence: Evidence) -> list[str]:
    try:
        return [] if evidence.image_bytes else ["the image of the memory is cut short"]
    except (OSError, KeyError, TypeError, ValueError) as error:
        return [f"the image of the memory cannot be read: {error}"]


class _Judge:
    """One run under judgement; each method looks at one kind of evidence."""

    def __init__(self, evidence: Evidence, verdict: Verdict) -> None:
        self.evidence, self.verdict = evidence, verdict
        self.row = evidence.row
        self.reclaim: Json = self.row["reclaim"]
        self.ours = _judged_reclaim(evidence.phases)
        self.unknown: list[str] = []

    @property
    def succeeded(self) -> bool:
        return bool(self.reclaim["returned"]) and self.reclaim["errno"] is None

    def run(self) -> Verdict:
        if self.evidence.gaps:
            self.unknown.append(f"{self.evidence.gaps} lines of the history are missing")
        self.verdict.checked = list(CHECKED)
        self._traffic()
        self._memory()
        self._taken()
        self._journals()
        self._after_the_fence()
        self._people()
        self._order()
        self._books()
        self._contract()
        self._gate()
        self._conclude()
        return self.verdict

    # ---- the engine's log

    def _traffic(self) -> None:
        returned = self._epoch("returned") if self.succeeded else None
        if self.succeeded and returned is None and self.ours:
            self.unknown.append("the history has no epoch in which the reclaim returned")
        phases = self.evidence.phases
        moments = Moments(returned, _epochs(phases, "fenced"), _epochs(phases, "unmapped"))
        traffic = add_up(self.evidence.logs, moments, self._acknowledged())
        if traffic.missing:
            self.unknown.append(f"{traffic.missing} records of the operation log were overwritten")
        self._note_traffic(traffic)

    def _acknowledged(self) -> dict[int, int]:
        """Queue pair -> bytes whose requests its owner saw succeed; a queue pair whose journal is not whole is left out."""
        found: Counter[int] = Counter()
        for journal in self.evidence.journals.values():
            if journal.missing:
                continue
            length = {(r.qp_num, r.wr_id): r.length for r in journal.of(Kind.POSTED)}
            found.update(dict.fromkeys((qp for qp, _ in length), 0))
            for done in {(r.qp_num, r.wr_id) for r in journal.of(Kind.POLLED) if not r.code}:
                found[done[0]] += length.get(done, 0)
        return found

    def _note_traffic(self, traffic: Traffic) -> None:
        verdict = self.verdict
        verdict.dma_bytes, verdict.stale_bytes = traffic.bytes, traffic.stale
        verdict.freed_bytes, verdict.lost_bytes = traffic.freed, traffic.lost
        verdict.absent_bytes, verdict.absent_before_answer_bytes = traffic.absent_after, traffic.absent_before
        if self.row["backing"] != "host":  # an ordinary file has no table of block generations
            verdict.foreign_dma_bytes = traffic.foreign
        if traffic.foreign:
            self._broke("S1", f"the engine moved {traffic.foreign} bytes in memory that had changed hands")
        if traffic.freed or traffic.absent_after:
            self._broke(
                "S2",
                f"{traffic.freed + traffic.absent_after} bytes moved in freed or absent memory afterwards",
            )
        if traffic.lost:
            self._broke("S4", f"{traffic.lost} bytes were acknowledged and are not in the file")
        if traffic.unfenced:
            self._broke("V9", f"{traffic.unfenced} bytes moved under a key whose quiesce was confirmed")
        if traffic.written_unfenced or traffic.unmapped:
            late = f"{traffic.written_unfenced} bytes were written behind the fence, {traffic.unmapped} moved behind the unmap"
            self._broke("V3", late)
        if traffic.begun_fenced:
            self._broke(
                "V10", f"{traffic.begun_fenced} bytes moved for operations that began under a revoked key"
            )

    def _epoch(self, name: str) -> int | None:
        return next(
            (p.epoch for p in self.evidence.phases if p.reclaim == self.ours and p.name == name), None
        )

    # ---- the memory

    def _memory(self) -> None:
        verdict = self.verdict
        with self.evidence.image() as image:
            verdict.foreign_bytes = foreign_bytes(image, self.evidence.filemap)
            self._victim(image)
        verdict.leaked_bytes = CELL * len(self.row["leaked"])
        if verdict.foreign_bytes:
            self._broke("S1", f"{verdict.foreign_bytes} stamped bytes lie in memory that had changed hands")
        if verdict.leaked_bytes:
            self._broke("S1", f"{verdict.leaked_bytes} bytes of somebody else's were read")

    def _victim(self, image: Any) -> None:
        """Is the file what the reclaim's answer says it is?"""
        rule = "S2" if self.succeeded else "S3"
        wanted: Json = self.row["expected" if self.succeeded else "before"]
        if wanted.get("gone"):
            if file_of(self.evidence.filemap, self.row["victim"]["path"]):
                self._broke(rule, "the reclaim reported success, and the file is still there")
            return
        file = file_of(self.evidence.filemap, self.row["victim"]["path"])
        if file is None:
            self._broke(rule, "the file is gone")
            return
        if file["size"] != wanted["size"]:
            self._broke(rule, f"the file has {file['size']} bytes and should have {wanted['size']}")
        for start, end in wanted["holes"]:
            if holes(file, start, end) != end - start:
                self._broke(rule, f"bytes {start} to {end} of the file should be a hole")
        wrong = misplaced_cells(image, file, wanted["kept"])
        if wrong:
            self._broke(rule, f"{wrong * CELL} bytes that should have stayed are not what was stored there")

    def _taken(self) -> None:
        """What was written once into freed memory holds, and was zero before that."""
        taken: Json | None = self.row.get("taken")
        file = file_of(self.evidence.filemap, taken["path"]) if taken else None
        if not taken:
            return
        self.verdict.checked.append("S10")
        if file is None:
            self._broke("S10", f"{taken['path']}, which was made after the reclaim, is gone")
            return
        with self.evidence.image() as image:
            gone = vanished_cells(image, file, taken["written"])
        if gone:
            self._broke("S10", f"{gone * CELL} bytes that were written once to {taken['path']} are not there")
        if taken["unzeroed"] is not None:
            self.verdict.checked.append("S9")
            if taken["unzeroed"]:
                self._broke("S9", f"{taken['unzeroed']} bytes of newly allocated blocks were not zero")

    # ---- the clients' journals

    def _after_the_fence(self) -> None:
        """V19: a request that was posted under a key whose quiesce had been confirmed does not succeed."""
        fenced = {key: p.time for p in reversed(self.evidence.phases) if p.name == "fenced" for key in p.keys}
        for journal in self.evidence.journals.values():
            posted = {(r.qp_num, r.wr_id): r for r in journal.of(Kind.POSTED) if r.key in fenced}
            for record in journal.of(Kind.POLLED):
                asked = posted.get((record.qp_num, record.wr_id))
                if asked and not record.code and asked.time > fenced[asked.key]:
                    self._broke(
                        "V19", f"{journal.name} used key {asked.key:#x} with success after it was revoked"
                    )
                    return

    def _journals(self) -> None:
        bystander = set(self.row["bystander"]["qps"])
        errors: Counter[str] = Counter()
        lost: set[int] = set()
        hurt: set[int] = set()
        for journal in self.evidence.journals.values():
            if journal.missing:
                self.unknown.append(f"{journal.missing} records of {journal.name}'s journal were overwritten")
            for record in journal.of(Kind.POLLED):
                if record.code:
                    errors[STATUS[record.code]] += 1
                    (hurt if record.qp_num in bystander else lost).add(record.qp_num)
            if not journal.missing:
                self._completions(journal)
        self.verdict.error_completions = dict(sorted(errors.items()))
        self.verdict.qps_lost = len(lost)
        self._collateral(len(hurt))

    def _completions(self, journal: JournalFile) -> None:
        """S5: what was posted completes exactly once, in order for its queue. All requests are signaled."""
        posted: dict[int, list[int]] = {}
        polled: dict[int, list[int]] = {}
        for record in journal.records:
            if record.kind == Kind.POSTED:
                posted.setdefault(record.qp_num, []).append(record.wr_id)
            elif record.kind == Kind.POLLED:
                polled.setdefault(record.qp_num, []).append(record.wr_id)
        for qp, wanted in posted.items():
            got = polled.get(qp, [])
            if got != wanted and journal.name in self.row["drained"]:
                self._broke(
                    "S5",
                    f"queue pair {qp} of {journal.name}: {len(wanted)} posted, {len(got)} completed, or not in order",
                )

    def _collateral(self, hurt: int) -> None:
        bystander = self.row["bystander"]
        self.verdict.collateral = hurt + int(bystander["mr_lost"])
        if self.verdict.collateral:
            self._broke("S8", f"{self.verdict.collateral} objects outside the range were hurt")

    # ---- who was told, who was killed, who came back

    def _people(self) -> None:
        verdict, row = self.verdict, self.row
        verdict.killed = len(row["killed"])
        verdict.innocent_killed = sum(name != "holder" for name in row["killed"])
        holder = self.evidence.journals.get("holder")
        told = (
            [r.time for r in holder.of(Kind.EVENT) if r.code in {MR_REVOKING, MR_REVOKED}] if holder else []
        )
        if row["pinned"]:
            verdict.notified = float(bool(told))
        loss = self._first_error()
        if loss is not None and row["pinned"]:
            verdict.notified_before_loss = float(bool(told) and min(told) <= loss)
        verdict.recovery_us = self._recovery(loss)
        if holder:
            self._receipts(holder)

    def _receipts(self, holder: JournalFile) -> None:
        """V13: a pinned importer is told of a revoke at most once."""
        times = Counter(r.key for r in holder.of(Kind.EVENT) if r.code == MR_REVOKED)
        for key, count in times.items():
            if count > 1:
                self._broke("V13", f"the holder was told {count} times that key {key:#x} is revoked")

    def _first_error(self) -> int | None:
        peer = self.evidence.journals.get("peer")
        return min((r.time for r in peer.of(Kind.POLLED) if r.code), default=None) if peer else None

    def _recovery(self, loss: int | None) -> float | None:
        """From the peer's first error to its next good completion on a queue pair that was made afterwards."""
        peer = self.evidence.journals.get("peer")
        again = set(self.row["recovery_qps"])
        if loss is None or not again or peer is None:
            return None
        good = (r.time for r in peer.of(Kind.POLLED) if r.qp_num in again and not r.code)
        first = min(good, default=None)
        return None if first is None else (first - loss) / 1000

    # ---- the books, and the gate

    def _books(self) -> None:
        for name, blocks in self.row["blocks"].items():
            if blocks["free"] + blocks["owned"] + blocks["quarantined"] != blocks["total"]:
                self._broke("S6", f"the blocks of {name} do not add up: {blocks}")

        shared = shared_blocks(self.evidence.filemap)
        if shared:
            self._broke("S6", f"{len(shared)} blocks have two owners, block {shared[0]} first")

    def _order(self) -> None:
        """What the order of the history's lines breaks."""
        already = {rule for rule, _ in self.verdict.violated}
        for rule, sentence in history.broken(self.evidence.events):
            if rule not in already:
                self._broke(rule, sentence)

    def _contract(self) -> None:
        """What the core found the protocol to break is a breach whatever was promised."""
        for phase in self.evidence.phases:
            if phase.name == "broken":
                rule = str(phase.detail["rule"])
                self._broke(f"{CONTRACT}{rule}", f"the core stopped it: {RULES.get(rule, rule)}")

    def _gate(self) -> None:
        ours = [p for p in self.evidence.phases if p.reclaim == self.ours]
        self.verdict.phases_us = _since_requested(ours)
        requested = next((p for p in ours if p.name == "requested"), None)
        if requested:
            self.verdict.dma_at_gate = max(requested.inflight, self._caught_by_surprise(requested))
        if self.row["dma"] and self.row["pinned"] and not self.verdict.dma_at_gate:
            self.unknown.append(NO_DMA_AT_GATE)

    def _caught_by_surprise(self, requested: Phase) -> int:
        """A device that is gone by surprise is gone before anybody asks: operations that ran across that moment, by the log."""
        lines = self.evidence.events
        epochs = [
            line["epoch"]
            for line in lines
            if line.get("type") == "Offline" and line["epoch"] < requested.epoch
        ]
        if not epochs:
            return 0
        gone, keys = epochs[-1], set(requested.keys)
        caught = {
            (log.thread, record.op)
            for log in self.evidence.logs
            for record in log.records
            if record.op_epoch < gone <= record.epoch_last and record.rkey in keys
        }
        return len(caught)

    # ---- the conclusion

    def _conclude(self) -> None:
        verdict = self.verdict
        found = {name for name, applies in self._tests().items() if applies}
        if len(found) > 1:
            found.discard("OK")  # nothing but itself
        if not self.reclaim["returned"] and "HANG" not in found:
            self.unknown.append("the reclaim did not return, and something could still have advanced it")
        if self.unknown:
            verdict.why = self.unknown
            # What was seen in spite of a gap was seen; what was not seen may have been missed.
            found = (found & set(PRECEDENCE[: PRECEDENCE.index("DENY")])) | {"UNKNOWN"}
        verdict.outcomes = [name for name in PRECEDENCE if name in found]
        verdict.outcome = verdict.outcomes[0]

    def _tests(self) -> dict[str, bool]:
        verdict, row = self.verdict, self.row
        hurt = bool(verdict.error_completions)
        denied = self.reclaim["returned"] and self.reclaim["errno"] is not None
        debt = sum(blocks["quarantined"] for blocks in row["blocks"].values())
        return {
            "CORRUPT": bool(verdict.foreign_bytes or verdict.leaked_bytes or verdict.foreign_dma_bytes),
            "FAULT": bool(verdict.absent_bytes),
            "KILL": bool(verdict.killed),
            "HANG": not self.reclaim["returned"] and self._nothing_can_advance(),
            "LEAK": self.succeeded and bool(debt),
            "LOST": bool(verdict.lost_bytes),
            "STALE": bool(verdict.stale_bytes),
            "DENY": denied,
            "REFUSED": row["refused"] is not None,
            "OK+ERR": self.succeeded and hurt,
            "OK": self.succeeded and not hurt and row["refused"] is None,
        }

    def _nothing_can_advance(self) -> bool:
        """S7: neither a timer nor an answer of the engine is outstanding."""
        armed: set[int] = set()
        asked: Counter[str] = Counter()
        for line in self.evidence.events:
            match line.get("type"):
                case "Arm":
                    armed.add(line["timer"])
                case "Disarm" | "TimerFired":
                    armed.discard(line["timer"])
                case "Quiesce" | "Unmap":
                    asked[f"{line['type']}{line['cookie']}"] += 1
                case "Quiesced" | "Unmapped":
                    asked[f"{_ASKED_BY[line['type']]}{line['cookie']}"] -= 1
        if armed or any(count > 0 for count in asked.values()):
            return False
        self._broke("S7", "the reclaim did not return, and nothing is left that could advance it")
        return True

    def _broke(self, rule: str, sentence: str) -> None:
        self.verdict.violated.append([rule, sentence])


def _judged_reclaim(phases: list[Phase]) -> int | None:
    """The run's reclaim: the first that was requested; where it was denied and asked again, the one that succeeded."""
    good = [p.reclaim for p in phases if p.name == "returned" and not p.detail.get("errno")]
    first = [p.reclaim for p in phases if p.name == "requested"]
    return next(iter(good or first), None)


def _since_requested(phases: list[Phase]) -> dict[str, float]:
    """When each step of the reclaim was taken, in microseconds after the broker took the request."""
    return {phase.name: (phase.time - phases[0].time) / 1000 for phase in phases[1:]}


def _epochs(phases: list[Phase], name: str) -> dict[int, int]:
    """Key -> epoch in which a reclaim first took this step with it."""
    epochs: dict[int, int] = {}
    for phase in phases:
        if phase.name == name:
            for key in phase.keys:
                epochs.setdefault(key, phase.epoch)
    return epochs
