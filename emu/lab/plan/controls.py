"""Controls: runs that differ from a row's in exactly one thing, and must not show what the row showed. Anything else shows nothing.

no-mover  nobody asks for the memory; DMA goes on as before, and whoever wants space takes what is free without that
no-pin    the holder has given the memory back, lease and mark too; DMA goes on as before, through another MR of the same holder
no-dma    the peer is connected and idle
fifo      the allocator reuses freed blocks last: stale DMA lands in free blocks
let-go    the holder (or heir) lets go a moment after the request
prompt    a holder who lets go at the notice, in place of a deaf one: the comparison's own row, run once
none      no-pin under the protocol that answers everything with success: where no-pin is denied too, or hangs, it is not the pin. On memory that `none`
          cannot serve, under mr-revoke, to which memory without a pin is as free

Manners begin with the event, and are manners of who holds the memory: without a mover, or without a pin, there are none. So those two are one run for
rows of all manners; the first is one for all events that set the same scene. no-dma, fifo and let-go keep the row's holder (a prompt one, whom the protocol
tells nothing, is a deaf one), and are made where that is deaf or prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from emu.check.promises import serves
from emu.lab.plan.events import EVENTS
from emu.lab.plan.spec import RowSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from emu.check.verdict import Verdict
    from emu.lab.plan.acts import Act

DATA = frozenset({"CORRUPT", "FAULT", "LOST", "STALE"})  # what DMA does
HELD = frozenset({"KILL", "HANG", "LEAK", "DENY"})  # what comes of a pin
ACCUSES = DATA | HELD  # what a row must have a control for
FLIPPED = ACCUSES | {"OK+ERR"}
IDLE = frozenset({"take", "need", "export"})  # what follows an event, and needs none
PLAIN = ("deaf", "prompt")


@dataclass(frozen=True)
class Control:
    """What is done differently. flips: outcomes of a row that this run must not show (must false: may, it is a row like any other); brings: harm that
    it may show although the row did not.
    """

    name: str
    flips: frozenset[str] = frozenset()
    brings: frozenset[str] = frozenset()
    must: bool = True
    asked: bool = True
    dma: bool = True
    pinned: bool = True
    options: tuple[str, ...] = ()
    into_freed: bool = False  # its DMA must be seen in freed blocks
    lets_go: bool = False
    protocol: str = ""  # in place of the row's

    def objection(self, verdict: Verdict, seen: Iterable[str], moved: int | None = None) -> str:
        """Why this verdict shows nothing about a row with these outcomes, or speaks against it; empty if it does neither. moved: operations of the
        peer that went well, None where that is not known.
        """
        found, known = set(verdict.outcomes), set(seen)
        if not self.must:
            return ""
        if "UNKNOWN" in found:
            return f"the control {self.name} ended in UNKNOWN" + "".join(f" ({why})" for why in verdict.why)
        if also := [name for name in verdict.outcomes if name in self.flips & known & ACCUSES]:
            return f"the control {self.name} ended in {also[0]} too"
        if new := [name for name in verdict.outcomes if name in ACCUSES - known - self.brings]:
            return f"the control {self.name} ended in {new[0]}, which the row did not show"
        if self.into_freed and not verdict.freed_bytes:
            return (
                f"the control {self.name} ended in {verdict.outcome}, but not by DMA into freed blocks alone"
            )
        if self.dma and moved == 0 and "REFUSED" not in found:
            return f"in the control {self.name} no operation of the peer's went well: more was done differently than it says"
        return ""


NO_MOVER = Control("no-mover", DATA | {"OK+ERR", "KILL"}, asked=False)
NO_PIN = Control("no-pin", FLIPPED, pinned=False)
NO_DMA = Control("no-dma", DATA | {"OK+ERR"}, dma=False)
FIFO = Control("fifo", frozenset({"CORRUPT"}), DATA, options=("--allocator=fifo",), into_freed=True)
LET_GO = Control("let-go", frozenset({"HANG"}), lets_go=True)
PROMPT = Control("prompt", ACCUSES, must=False)
SERVES_ALL = "mr-revoke"
DENIES_NOTHING = Control("none", frozenset({"DENY", "HANG"}), pinned=False, protocol="none")
CONTROLS: Mapping[str, Control] = {
    control.name: control for control in (NO_MOVER, NO_PIN, NO_DMA, FIFO, LET_GO, PROMPT, DENIES_NOTHING)
}

REUSES_BLOCKS = frozenset(
    {"truncate", "punch", "unlink", "collapse", "zero"}
)  # by a taker, of the same allocator


def controls_for(spec: RowSpec, outcomes: Iterable[str], *, told: bool = True) -> list[Control]:
    """The controls that this row's outcomes are held against. told: whether the protocol tells its holders anything."""
    found, ends = set(outcomes), EVENTS[spec.event].acts[spec.backing].leaves == "ends"
    plain = spec.holder in PLAIN
    wanted = {
        # whose holder has ended gets errors, asked for or not; and who is there at all loses the NIC, with a pin or without
        NO_MOVER: found & DATA or ("OK+ERR" in found and not ends) or _nic_kills(spec, found),
        NO_PIN: found & HELD and not _nic_kills(spec, found),
        NO_DMA: (plain and found & DATA) or ("OK+ERR" in found and ends),
        FIFO: plain and "CORRUPT" in found and spec.backing == "dax" and spec.event in REUSES_BLOCKS,
        LET_GO: plain
        and "HANG" in found
        and spec.event != "self-write",  # who waits for itself cannot let go
        PROMPT: told and spec.holder == "deaf" and found & ACCUSES,
    }
    return [control for control, applies in wanted.items() if applies]


def _nic_kills(spec: RowSpec, found: set[str]) -> bool:
    return spec.event == "rnic-unplug" and "KILL" in found


def run_of(spec: RowSpec, control: Control, *, told: bool = True) -> tuple[RowSpec, str]:
    """What is run as this control of the row, and its folder: rows that share both share the run."""
    protocol, event, holder = control.protocol or spec.protocol, spec.event, "deaf"
    if control.protocol and not serves(protocol, spec.backing):
        protocol = SERVES_ALL
    if control is PROMPT:
        alike = RowSpec(protocol, event, spec.backing, "prompt")
        return alike, alike.label
    if not control.asked:
        event = scene_of(event, spec.backing)
    elif control.pinned and told and spec.holder == "prompt":
        holder = "prompt"
    name = NO_PIN.name if control is DENIES_NOTHING else control.name
    more = "" if holder == "deaf" else f"-{holder}"
    return RowSpec(
        protocol, event, spec.backing, holder
    ), f"{protocol}-{event}-{spec.backing}-control-{name}{more}"


def scene_of(event: str, backing: str) -> str:
    """The first event that sets the same scene on this backing: without a mover they are one."""
    mine = _scene(EVENTS[event].acts[backing])
    return next(
        name
        for name, other in EVENTS.items()
        if backing in other.acts and _scene(other.acts[backing]) == mine
    )


def _scene(act: Act) -> tuple[object, ...]:
    """What there is before anybody asks. (Of a bystander, at rest where all is everybody's, an event is the only enemy.)"""
    return act.first, act.leaves, act.access, act.device, act.then == "need"
