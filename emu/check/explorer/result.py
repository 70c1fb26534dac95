"""What one search has found, and the verdict: holds, breach or unknown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from emu.check.model.state import NONE_ADMITTED
from emu.core.decision import CONTRACT

HOLDS, BREACH, UNKNOWN = 0, 1, 2
WORD: Final = {HOLDS: "holds", BREACH: "breach", UNKNOWN: "unknown"}
CHECKED: Final = (  # CONTRACT's invariants that moves (model/judge.py) and the graph are judged by
    *("S1", "S2", "S3", "S4", "S5", "S6", "S7", "S9"),
    *(
        "V1",
        "V3",
        "V4",
        "V9",
        "V10",
        "V11",
        "V12",
        "V13",
        "V14",
        "V15",
        "V19",
        "V20",
        "V21",
        "V22",
        "V23",
        "V24",
        "V25",
    ),
)
HEARD: Final = "heard"  # every notified holder is heard or quiesced
BOUND_BY: Final = {HEARD: "S7"}  # judged for whoever promises that one
DEFECT: Final = f"{CONTRACT}no-defect"  # the core raised


@dataclass(frozen=True)
class Finding:
    """An invariant that does not hold, and the shortest way there. loop: what can go on for ever behind it. untold: why the way is not whole."""

    invariant: str
    sentence: str
    story: tuple[str, ...]
    loop: tuple[str, ...] = ()
    untold: str = ""
    script: dict[str, Any] = field(default_factory=dict, compare=False)


@dataclass
class Result:
    protocol: str
    event: str
    reclaims: tuple[str, ...] = ()
    holders: int = 1
    states: int = 0
    transitions: int = 0
    depth: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    left_out: tuple[str, ...] = ()  # what cannot happen in this world, and might elsewhere
    bound_hit: str = ""  # the option that set the bound
    reductions: tuple[str, ...] = ()
    memory: int = 0  # bytes of the graph
    resident: int = 0  # bytes of the process, at most
    promised: tuple[str, ...] = ()
    breaches: list[Finding] = field(default_factory=list)
    costs: list[Finding] = field(default_factory=list)
    sometimes: dict[str, int] = field(default_factory=dict)
    required: tuple[str, ...] = ()  # guards without which a verdict says nothing
    rows: tuple[tuple[str, str, str], ...] = ()  # of the protocol's table, executed

    @property
    def missing(self) -> list[str]:
        """Guards that no move met."""
        return [guard for guard in self.required if not self.sometimes.get(guard)]

    @property
    def admits(self) -> bool:
        """Whether there is an MR at all. Without any, what rests on one holds for want of it."""
        return NONE_ADMITTED not in self.required

    @property
    def code(self) -> int:
        if self.breaches:
            return BREACH
        return UNKNOWN if self.bound_hit or self.missing else HOLDS

    @property
    def checked(self) -> list[str]:
        """Promises that were judged; nothing is said about S7 behind a bound."""
        return [name for name in CHECKED if name in self.promised and not (self.bound_hit and name == "S7")]

    @property
    def unchecked(self) -> list[str]:
        """Promises that this world cannot judge: a verdict says nothing about them."""
        return [name for name in self.promised if name not in self.checked]

    def note(self, finding: Finding, *, owed: bool) -> None:
        """owed: it had been promised where it broke. Else it is the protocol's cost."""
        (self.breaches if owed else self.costs).append(finding)

    def as_row(self) -> dict[str, Any]:
        names = (
            *("protocol", "event", "reclaims", "holders"),
            *("left_out", "states", "transitions", "depth", "bound_hit", "reductions"),
        )
        plain: dict[str, Any] = {name: getattr(self, name) for name in names}
        return {
            **plain,
            "seconds": round(self.seconds, 3),
            "cpu_seconds": round(self.cpu_seconds, 3),
            "states_per_second": round(self.states / max(self.seconds, 1e-9)),
            "memory": {"graph_bytes": self.memory, "resident_bytes": self.resident},
            "verdict": WORD[self.code],
            "admits": self.admits,
            "checked": self.checked,
            "unchecked": self.unchecked,
            "sometimes": self.sometimes,
            "missing": self.missing,
            "breaches": [vars(finding) for finding in self.breaches],
            "costs": [vars(finding) for finding in self.costs],
        }
