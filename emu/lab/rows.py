"""From runs to a row of the result: one dict with INTERFACE's keys, and what is said about it in words.

Several runs of a row are several verdicts. The row shows the worst of them, with that run's figures and evidence; `outcomes` lists all
that any run showed, `reclaim_us` is over all runs. Harm that was seen was seen; where none was, one unknown run makes the row unknown,
since that run may have been the one. A control that does not end as it must means that the row measured the emulator, not the
protocol: the row is then unknown too. So it is with what a row accuses a protocol of, and none of its controls flips: `unflipped`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from emu.check.promises import is_breach
from emu.check.verdict import PRECEDENCE, Verdict
from emu.lab.claims import agrees, claim_for, source_of
from emu.lab.plan.controls import ACCUSES, CONTROLS, FLIPPED
from emu.lab.plan.ways import peer_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from emu.lab.plan.controls import Control
    from emu.lab.plan.spec import RowSpec

Json = dict[str, Any]

FROM_VERDICT = (
    "foreign_bytes", "leaked_bytes", "foreign_dma_bytes", "freed_bytes", "lost_bytes", "stale_bytes", "absent_bytes",
    "absent_before_answer_bytes", "dma_bytes", "dma_at_gate", "error_completions", "qps_lost", "collateral", "killed",
    "innocent_killed", "notified", "notified_before_loss", "recovery_us", "blocked_us", "enospc_failures",
    "enospc_wait_us", "phases_us", "model",
)  # fmt: skip
OF_A_WAY = (
    "foreign_bytes", "foreign_dma_bytes", "freed_bytes", "lost_bytes", "stale_bytes", "dma_at_gate", "error_completions", "qps_lost",
    "recovery_us", "violated",
)  # fmt: skip
NEEDS_FOR_P99 = 100
NO_WAYS: Mapping[str, Sequence[str]] = MappingProxyType({})
NOTES = {  # control -> what it may end in as the row did, and what that says
    "let-go": {"HANG": "the control let-go ended in HANG too: it is no holder that is waited for"},
    "no-pin": {
        "DENY": "the control no-pin ended in DENY too: pinned or not, it is refused",
        "HANG": "the control no-pin ended in HANG too: pinned or not, it is not answered",
    },
}
HARM = PRECEDENCE[: PRECEDENCE.index("DENY")]  # what counts although another run is unknown
WORST_FIRST = (*HARM, "UNKNOWN", *(name for name in PRECEDENCE if name not in {*HARM, "UNKNOWN"}))


@dataclass(frozen=True)
class RunResult:
    """One run: its verdict, and how long the reclaim took (None if it did not return).

    failed_tries: why it, or a try before it, showed nothing.
    """

    verdict: Verdict
    folder: Path | None
    errno: str | None = None
    returned: bool = False
    retries: int | None = None  # how often a refused reclaim was asked again; None: not known
    reclaim_us: float | None = None
    failed_tries: tuple[str, ...] = ()
    denied: int | None = None  # answers that were refusals; None: the last one tells
    died: Json | None = None  # the holder, when it died under the event: {"since_us", "within"}
    moved: int | None = None  # operations of the peer, on what it was given, that went well


@dataclass
class RowResult:
    """controls: the outcome of each; ended: all outcomes of it; objections: what speaks against one of them, by its name."""

    spec: RowSpec
    seed: int
    runs: list[RunResult] = field(default_factory=list)
    controls: dict[str, str] = field(default_factory=dict)
    ended: dict[str, list[str]] = field(default_factory=dict)
    objections: dict[str, str] = field(default_factory=dict)
    time_scale: float = 1.0  # of the protocol's timers in these runs
    failed_tries: list[str] = field(default_factory=list)  # of its controls
    ways: dict[str, RunResult] = field(default_factory=dict)  # one run each

    def controlled(self, control: Control, run: RunResult) -> None:
        """One control's run, which is good for what it showed."""
        self.controls[control.name] = run.verdict.outcome
        self.ended[control.name] = run.verdict.outcomes
        if objection := control.objection(run.verdict, self.seen, run.moved):
            self.objections[control.name] = objection
        self.failed_tries += [f"control {control.name}: {why}" for why in run.failed_tries]

    @property
    def worst(self) -> RunResult:
        return min(self.runs, key=lambda run: WORST_FIRST.index(run.verdict.outcome))

    @property
    def seen(self) -> list[str]:
        """All that any run showed."""
        found = {name for run in self.runs for name in run.verdict.outcomes}
        return [name for name in PRECEDENCE if name in found]

    @property
    def outcomes(self) -> list[str]:
        """The same, and UNKNOWN behind it when controls show that it may mean nothing."""
        doubtful = ["UNKNOWN"] if self.doubts and "UNKNOWN" not in self.seen else []
        return self.seen + doubtful

    @property
    def flipped(self) -> dict[str, list[str]]:
        """What was seen, and the controls that did not show it."""
        return {name: self._flip(name) for name in self.seen if name in FLIPPED}

    def _flip(self, outcome: str) -> list[str]:
        return [
            name
            for name, end in self.controls.items()
            if outcome in CONTROLS[name].flips
            and not {outcome, "UNKNOWN"} & set(self.ended.get(name, [end]))
            and name not in self.objections
        ]

    @property
    def unflipped(self) -> list[str]:
        """What the row accuses its protocol of, and no control flips."""
        return [name for name, controls in self.flipped.items() if name in ACCUSES and not controls]

    @property
    def doubts(self) -> list[str]:
        """What speaks against this row: controls that show nothing, or the same; outcomes that none flips."""
        excused = {name for name in NOTES if self._excused(name)}
        objections = [sentence for name, sentence in self.objections.items() if name not in excused]
        return objections + [f"no control flips {name}" for name in self.unflipped if not objections]

    def _excused(self, control: str) -> bool:
        """A denial or a hang that needs no pin is one all the same, once another protocol has answered the same request with success; and a
        hang that letting go does not break, once the request returns where nobody holds anything, or under another protocol.
        """
        end = self.controls.get(control, "")
        return end in NOTES[control] and end == self.seen[0] and bool(self._flip(end))

    @property
    def reasons(self) -> list[str]:
        """Why it is unknown, or what else must be known of it, each once."""
        whys = [why for run in self.runs for why in run.verdict.why]
        notes = [words[self.controls[name]] for name, words in NOTES.items() if self._excused(name)]
        return list(dict.fromkeys([*whys, *self.doubts, *notes]))

    @property
    def needs_no_pin(self) -> bool:
        """Whether nobody's pin is why it was denied, or not answered."""
        return self.seen[:1] in (["DENY"], ["HANG"]) and self.controls.get("no-pin") == self.seen[0]

    def as_json(self, promises: Sequence[str], by_way: Mapping[str, Sequence[str]] = NO_WAYS) -> Json:
        """promises: of the row's kind of reclaim; by_way: those of its ways."""
        spec = self.spec
        row: Json = {
            "protocol": spec.protocol,
            "event": spec.event,
            "backing": spec.backing,
            "holder": spec.holder,
            "seed": self.seed,
            "runs": len(self.runs),
        }
        if not self.runs:
            return row | self._not_applicable() | claimed(spec, None)
        return row | self._measured(promises, by_way) | claimed(spec, self.outcomes)

    def _measured(self, promises: Sequence[str], by_way: Mapping[str, Sequence[str]]) -> Json:
        worst, verdict = self.worst, self.worst.verdict
        return {
            "outcome": "UNKNOWN" if self.doubts else verdict.outcome,
            "outcomes": self.outcomes,
            "reason": "; ".join(self.reasons) or None,
            "errno": worst.errno,
            **{name: getattr(verdict, name) for name in FROM_VERDICT},
            "reclaim_us": spread([run.reclaim_us for run in self.runs if run.reclaim_us is not None]),
            "returned": sum(run.returned for run in self.runs),
            "denied": sum(
                int(run.errno is not None) if run.denied is None else run.denied for run in self.runs
            ),
            "retries": self._retries(),
            "space_debt_byte_s": getattr(verdict, "space_debt_byte_s", None),
            "goodput_ratio": None,
            "time_scale": self.time_scale,
            "violated": verdict.violated,
            "breaches": breaches(self.runs, promises) + self._of_ways(by_way),
            "unchecked": unchecked(self.runs, promises),
            "controls": self.controls,
            "flipped": self.flipped,
            "unflipped": self.unflipped,
            "unknown_runs": sum(
                run.verdict.outcome == "UNKNOWN" for run in (*self.runs, *self.ways.values())
            ),
            "failed_tries": self._tries(),
            "evidence": str(worst.folder) if worst.folder else None,
            "peer": peer_of(self.spec),
            "holder_died": worst.died,
            "ways": {name: way_json(run) for name, run in self.ways.items()},
        }

    def _of_ways(self, by_way: Mapping[str, Sequence[str]]) -> list[list[str]]:
        """Promises that were broken in another way of the scene, which the sentence names."""
        return [
            [rule, f"{name}: {sentence}"]
            for name, run in self.ways.items()
            for rule, sentence in breaches([run], by_way.get(name, ()))
        ]

    def _retries(self) -> int | None:
        counts = [run.retries for run in self.runs if run.retries is not None]
        return sum(counts) if counts else None

    def _tries(self) -> list[str]:
        named = [(f"run {n}", run) for n, run in enumerate(self.runs, 1)]
        named += [(f"way {name}", run) for name, run in self.ways.items()]
        return [f"{name}: {why}" for name, run in named for why in run.failed_tries] + self.failed_tries

    def _not_applicable(self) -> Json:
        empty: Json = dict.fromkeys(FROM_VERDICT)
        return {
            "outcome": "N/A", "outcomes": ["N/A"], "reason": self.spec.reason, "errno": None, **empty, "error_completions": {}, "phases_us": {},
            "reclaim_us": None, "returned": None, "denied": None, "retries": None, "space_debt_byte_s": None,
            "goodput_ratio": None, "time_scale": None, "violated": [], "breaches": [], "unchecked": [], "controls": {}, "flipped": {}, "unflipped": [], "unknown_runs": 0, "failed_tries": [], "evidence": None,
            "peer": None, "holder_died": None, "ways": {},
        }  # fmt: skip


def claimed(spec: RowSpec, outcomes: Sequence[str] | None) -> Json:
    """What is claimed of a row, by whom and where, and whether what was measured (None: nothing) agrees."""
    claim = claim_for(spec.protocol, spec.event, spec.backing)
    return {
        "claimed": claim.text if claim else None,
        "claimed_by": claim.by if claim else None,
        "claimed_in": source_of(claim),
        "agrees": agrees(claim, outcomes, spec.holder) if outcomes else None,
    }


def way_json(run: RunResult) -> Json:
    """What a row says of another way of its scene."""
    return {
        "outcome": run.verdict.outcome,
        "outcomes": run.verdict.outcomes,
        "reason": "; ".join(run.verdict.why) or None,
        "errno": run.errno,
        "reclaim_us": run.reclaim_us,
        **{name: getattr(run.verdict, name) for name in OF_A_WAY},
        "evidence": str(run.folder) if run.folder else None,
    }


def breaches(runs: Iterable[RunResult], promises: Sequence[str]) -> list[list[str]]:
    """Rules that were broken and had been promised, or are everybody's (`contract:`), each once."""
    found: dict[str, str] = {}
    for run in runs:
        for rule, sentence in run.verdict.violated:
            if is_breach(rule, promises):
                found.setdefault(rule, sentence)
    return [[rule, sentence] for rule, sentence in found.items()]


def unchecked(runs: Iterable[RunResult], promises: Sequence[str]) -> list[str]:
    """Rules that were promised, and that nothing in these runs would have shown to be broken."""
    checked = {rule for run in runs for rule in run.verdict.checked}
    return [rule for rule in promises if rule not in checked]


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
    """0: every protocol kept what it promised; 1: a breach; 2: a row whose outcome is unknown, or that had a run which showed nothing."""
    if any(row["breaches"] for row in rows):
        return 1
    return 2 if any(row["outcome"] == "UNKNOWN" or row["unknown_runs"] for row in rows) else 0
