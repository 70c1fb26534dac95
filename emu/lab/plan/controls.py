"""Controls: what is done differently in a run so that the outcome must flip, and how that run must end. Anything else shows nothing.

no-dma   the peer is connected and idle: nobody can corrupt, fault, lose, or get an error
no-pin   the holder has let go, of lease and mark too, and the peer is idle: the memory can be had without anybody's consent
fifo     the allocator reuses freed blocks last: stale DMA lands in free blocks
none     where no-pin is denied too, it is not the pin that is refused: the same with the protocol that denies nothing
let-go   a holder that lets go a moment after the event: what waits for ever for a deaf one returns
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from emu.check.verdict import Verdict
    from emu.lab.plan.spec import RowSpec

WIDE_LOSS = frozenset(
    {"context", "process", "device"}
)  # whoever loses one of these loses its bystander with it


@dataclass(frozen=True)
class Control:
    """What is done differently in a control run, and how it must end: anything else shows nothing, UNKNOWN least of all."""

    name: str
    ends: tuple[str, ...] = ()
    dma: bool = True
    pinned: bool = True
    options: tuple[str, ...] = ()
    into_freed: bool = False  # its DMA must be seen in freed blocks
    lets_go: bool = False
    protocol: str = ""  # in place of the row's

    def objection(self, verdict: Verdict) -> str:
        """Why this verdict is not the end that was called for; empty if it is."""
        if verdict.outcome not in self.ends:
            return self.misses(verdict.outcome) + "".join(f" ({why})" for why in verdict.why)
        if self.into_freed and ("CORRUPT" in verdict.outcomes or not verdict.freed_bytes):
            return (
                f"the control {self.name} ended in {verdict.outcome}, but not by DMA into freed blocks alone"
            )
        return ""

    def misses(self, outcome: str) -> str:
        """The sentence about an outcome that is not among its ends; empty if it is."""
        if outcome in self.ends:
            return ""
        return f"the control {self.name} ended in {outcome}, and counts only if it ends in {' or '.join(self.ends)}"


NO_DMA = Control("no-dma", ("OK",), dma=False)
NO_PIN = Control("no-pin", ("OK",), dma=False, pinned=False)
FIFO = Control("fifo", ("LOST", "STALE"), options=("--allocator=fifo",), into_freed=True)
DENIES_NOTHING = Control("none", ("OK",), dma=False, pinned=False, protocol="none")
LET_GO = Control("let-go", ("OK", "OK+ERR", "HANG"), lets_go=True)  # HANG: see rows.py
CONTROLS: Mapping[str, Control] = {
    control.name: control for control in (NO_DMA, NO_PIN, FIFO, DENIES_NOTHING, LET_GO)
}

REUSES_BLOCKS = frozenset(
    {"truncate", "punch", "unlink", "collapse", "zero"}
)  # by a taker, of the same allocator


def controls_for(spec: RowSpec, outcomes: Iterable[str], loss: str = "none") -> list[Control]:
    """The controls that must change this outcome. `loss`: what the protocol declares that a holder loses.

    Idle peers corrupt nothing and get no errors; memory that nobody has registered can be taken back; an allocator that reuses
    freed blocks last leaves stale DMA in free blocks. Rows of all manners share the controls of the deaf one.
    """
    found = set(outcomes)
    if found & {"KILL", "LEAK"}:
        return [NO_PIN]
    if "CORRUPT" in found:
        return [NO_DMA, FIFO] if spec.backing == "dax" and spec.event in REUSES_BLOCKS else [NO_DMA]
    if "HANG" in found:  # who waits for itself cannot let go
        return [NO_PIN if spec.event == "self-write" else LET_GO]
    if "DENY" in found:
        return [NO_PIN]
    if spec.event == "rnic-unplug" and found <= {"OK", "OK+ERR", "REFUSED"}:
        return []  # who is there at all loses the NIC, used or not
    if found & {"OK+ERR", "FAULT", "LOST", "STALE"}:
        keeps = spec.holder in {
            "deaf",
            "prompt",
        }  # as the holder of the control; what another lets go of, a deaf one may not
        return [NO_DMA if keeps and loss not in WIDE_LOSS else NO_PIN]
    return []
