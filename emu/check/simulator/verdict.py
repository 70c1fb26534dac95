"""What a run is worth: the invariants of its history, and what the world saw break, put together.

An invariant that was promised and is broken is a breach; not promised and broken it is the protocol's cost; rules of the contract
(`contract:...`) are promised by everybody.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from emu.check.explorer.search import promise_kind
from emu.check.invariants import judge
from emu.check.shown import lacking
from emu.core.decision import CONTRACT

if TYPE_CHECKING:
    from emu.check.simulator.run import Run


@dataclass(frozen=True)
class Broken:
    """One invariant that a run broke: how it is told, and whether it was promised. by: "history" or "world"."""

    invariant: str
    sentence: str
    promised: bool
    by: str
    lines: tuple[int, ...] = ()
    records: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Verdict:
    """Of one run. kept: invariants that its history could show and did not break. lacking: why nothing is known where nothing broke."""

    broken: tuple[Broken, ...]
    kept: tuple[str, ...]
    untested: dict[str, str] = field(default_factory=dict)
    lacking: tuple[str, ...] = ()

    @property
    def word(self) -> str:
        return "breach" if self.breaches else "unknown" if self.lacking else "holds"

    @property
    def breaches(self) -> tuple[Broken, ...]:
        return tuple(found for found in self.broken if found.promised)

    @property
    def costs(self) -> tuple[Broken, ...]:
        return tuple(found for found in self.broken if not found.promised)

    def as_json(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "verdict": self.word,
            "why": list(self.lacking) if self.word == "unknown" else [],
            "breaches": [vars(found) for found in self.breaches],
            "costs": [vars(found) for found in self.costs],
            "kept": list(self.kept),
            "untested": self.untested,
        }


def verdict_of(run: Run) -> Verdict:
    """By all invariants and by the world; what both have found is told by the history, but for the rules of the contract."""
    history, protocol = run.history, run.protocol
    judgements = judge(history, protocol.promises, protocol.excepts)
    broken = {
        found.name: Broken(
            found.name, found.breaches[0].sentence, found.promised or found.name.startswith(CONTRACT), "history",
            found.breaches[0].lines, found.breaches[0].records,
        )
        for found in judgements
        if found.breaches
    }  # fmt: skip
    for name, found in run.found.items():
        owed = _owed(run, name, found.step)
        told = Broken(name, f"{found.sentence} (step {found.step + 1})", owed, "world")
        if name not in broken or name.startswith(CONTRACT):  # the world knows what the protocol said
            broken[name] = told
    kept = tuple(found.name for found in judgements if found.verdict == "kept" and found.name not in broken)
    untested = {found.name: found.untested for found in judgements if found.verdict == "untested"}
    why = tuple(lacking(history, judgements))
    return Verdict(tuple(broken[name] for name in sorted(broken)), kept, untested, why)


def _owed(run: Run, name: str, step: int) -> bool:
    """What the world saw break is laid at nobody: spared is what broke once an excepted reclaim had been asked for."""
    if name.startswith(CONTRACT):
        return True
    asked = (label.partition(": ") for label in run.labels[: step + 1])
    kinds = {promise_kind(what.split()[0]) for who, _, what in asked if who.startswith("reclaimer")}
    return name in run.protocol.promises and all(name in run.protocol.promised(kind) for kind in kinds)
