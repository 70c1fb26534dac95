"""From runs to a row of the result: one dict with INTERFACE's keys, and what is said about it in words.

Several runs of a row are several verdicts. The row shows the worst of them by precedence, with that run's figures and evidence;
`outcomes` lists all that any run showed, `reclaim_us` is over all runs. A control that does not flip the outcome means that the row
measured the emulator, not the protocol: the row is then unknown.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from emu.check.verdict import PRECEDENCE, Verdict
from emu.lab.claims import agrees, claim_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from emu.lab.plan import RowSpec

Json = dict[str, Any]

FROM_VERDICT = (
    "foreign_bytes", "leaked_bytes", "foreign_dma_bytes", "freed_bytes", "lost_bytes", "stale_bytes", "absent_bytes",
    "absent_before_answer_bytes", "dma_bytes", "dma_at_gate", "error_completions", "qps_lost", "collateral", "killed",
    "innocent_killed", "notified", "notified_before_loss", "recovery_us", "phases_us",
)  # fmt: skip
NEEDS_FOR_P99 = 100


@dataclass(frozen=True)
class RunResult:
    """One run: its verdict, and how long the reclaim took (None if it did not return)."""

    verdict: Verdict
    folder: Path | None
    errno: str | None = None
    returned: bool = False
    retries: int = 0
    reclaim_us: float | None = None


@dataclass
class RowResult:
    spec: RowSpec
    seed: int
    runs: list[RunResult] = field(default_factory=list)
    controls: dict[str, str] = field(default_factory=dict)

    @property
    def worst(self) -> RunResult:
        return min(self.runs, key=lambda run: PRECEDENCE.index(run.verdict.outcome))

    @property
    def outcomes(self) -> list[str]:
        """All that any run showed; unknown only as far as nothing else is."""
        found = {name for run in self.runs for name in run.verdict.outcomes}
        if self.unflipped:
            found.add("UNKNOWN")
        return [name for name in PRECEDENCE if name in found]

    @property
    def unflipped(self) -> list[str]:
        """Controls that ended as the row did."""
        return [name for name, outcome in self.controls.items() if outcome == self.worst.verdict.outcome]

    def as_json(self, promises: Sequence[str]) -> Json:
        spec = self.spec
        claim = claim_for(spec.protocol, spec.event)
        row: Json = {
            "protocol": spec.protocol,
            "event": spec.event,
            "backing": spec.backing,
            "holder": spec.holder,
            "seed": self.seed,
            "runs": len(self.runs),
        }
        claimed = {"claimed": claim.text if claim else None, "claimed_by": claim.by if claim else None}
        if not self.runs:
            return row | self._not_applicable() | claimed | {"agrees": None}
        return row | self._measured(promises) | claimed | {"agrees": agrees(claim, self.outcomes)}

    def _measured(self, promises: Sequence[str]) -> Json:
        worst, verdict = self.worst, self.worst.verdict
        unknown = bool(self.unflipped) or verdict.outcome == "UNKNOWN"
        why = [
            *verdict.why,
            *(f"the control {name} ended in {self.controls[name]} too" for name in self.unflipped),
        ]
        return {
            "outcome": "UNKNOWN" if unknown else verdict.outcome,
            "outcomes": self.outcomes,
            "reason": "; ".join(why) or None,
            "errno": worst.errno,
            **{name: getattr(verdict, name) for name in FROM_VERDICT},
            "reclaim_us": spread([run.reclaim_us for run in self.runs if run.reclaim_us is not None]),
            "returned": sum(run.returned for run in self.runs),
            "denied": sum(run.errno is not None for run in self.runs),
            "retries": sum(run.retries for run in self.runs),
            "space_debt_byte_s": None,
            "goodput_ratio": None,
            "violated": verdict.violated,
            "breaches": breaches(self.runs, promises),
            "controls": self.controls,
            "evidence": str(worst.folder) if worst.folder else None,
        }

    def _not_applicable(self) -> Json:
        empty: Json = dict.fromkeys(FROM_VERDICT)
        return {
            "outcome": "N/A", "outcomes": ["N/A"], "reason": self.spec.reason, "errno": None, **empty, "error_completions": {}, "phases_us": {},
            "reclaim_us": None, "returned": None, "denied": None, "retries": None, "space_debt_byte_s": None,
            "goodput_ratio": None, "violated": [], "breaches": [], "controls": {}, "evidence": None,
        }  # fmt: skip


def breaches(runs: Iterable[RunResult], promises: Sequence[str]) -> list[list[str]]:
    """Rules that were promised and broken, each once."""
    found: dict[str, str] = {}
    for run in runs:
        for rule, sentence in run.verdict.violated:
            if rule in promises:
                found.setdefault(rule, sentence)
    return [[rule, sentence] for rule, sentence in found.items()]


def spread(values: Sequence[float]) -> Json | None:
    """Median, 99th percentile (with at least a hundred values) and maximum, nearest rank."""
    if not values:
        return None
    ordered = sorted(values)
    p99 = ordered[math.ceil(0.99 * len(ordered)) - 1] if len(ordered) >= NEEDS_FOR_P99 else None
    return {
        "p50": ordered[math.ceil(0.5 * len(ordered)) - 1],
        "p99": p99,
        "max": ordered[-1],
        "n": len(ordered),
    }


def exit_code(rows: Sequence[Json]) -> int:
    """0: every protocol kept what it promised; 1: a breach; 2: a row whose outcome is unknown."""
    if any(row["breaches"] for row in rows):
        return 1
    return 2 if any(row["outcome"] == "UNKNOWN" for row in rows) else 0
