"""Which rows of a protocol's table a search has executed; and whether the protocol answers alike when it is asked alike.

`Watched` stands in for the protocol in the core. It notes each (phase, event) that was decided, with the arm where the row has two, and
compares each answer with the one that it gave to the same question before: a protocol keeps no state, so a difference is the breach
`contract:deterministic`, and the core ends the reclaim with EPROTO as for any other rule.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.check.model.state import KINDS
from emu.core.decision import START
from emu.core.errors import ProtocolBroke
from emu.core.reclaims.reclaim import well_formed
from emu.protocols.runner import Path, arm_of, paths, words_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from emu.core.decision import Decision, Facts
    from emu.protocols.contract import Protocol


BACKING = "dax"
WORLD_KINDS = frozenset("surprise" if kind == "surprise-unplug" else kind for kind in KINDS)


class Watched:
    """A protocol as the core sees it, with `rows`: (phase, event, arm) that were decided; arm is "pinned", "free", "pinned and leased" or ""."""

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol
        self.name, self.promises, self.importers = protocol.name, protocol.promises, protocol.importers
        self.backings, self.disposal = protocol.backings, protocol.disposal
        self.refuses, self.needs = protocol.refuses, protocol.needs
        self.on_demand, self.queues_pins = protocol.on_demand, protocol.queues_pins
        self.fences, self.switches, self.table = protocol.fences, protocol.switches, protocol.table
        self.rows: dict[tuple[str, str, str], int] = {}
        self._said: dict[tuple[str, str, Facts], Decision | None] = {}

    def decide(self, phase: str, event: str, facts: Facts) -> Decision | None:
        asked = (phase, event, facts)
        answer = self.protocol.decide(phase, event, facts)
        again = self.protocol.decide(phase, event, facts)
        if answer is not None and not well_formed(answer):
            return answer  # the core looks at nonsense, and names it
        if answer != again or self._said.setdefault(asked, answer) != answer:
            raise ProtocolBroke(
                self.name, "deterministic", f"{event} in phase {phase}: two answers to one question ({facts})"
            )
        entry = self.protocol.table.get((phase, event))
        if entry is not None:
            arm = arm_of(entry, facts)
            self.rows[phase, event, arm] = self.rows.get((phase, event, arm), 0) + 1
        return answer


def rows_of(protocol: Protocol) -> Iterator[tuple[str, str, str]]:
    """All that Watched could note of this table in the small world, whose memory is dax and which knows some kinds of reclaim only."""
    elsewhere = _reached(protocol, lambda _fact, _holds: True) - _reached(protocol, _possible)
    for (phase, event), entry in protocol.table.items():
        for path, _rule in paths(entry):
            if (
                phase not in elsewhere
                and all(_possible(*fact) for fact in path)
                and _met_here(protocol, phase, path)
            ):
                yield phase, event, words_of(path)


def _met_here(protocol: Protocol, phase: str, path: Path) -> bool:
    """Not what needs an MR, under one that admits none; nor MRs of an earlier protocol: under one that needs a mark, what is pinned is marked,
    and nobody clears it (EBUSY).
    """
    if BACKING in protocol.refuses:
        return phase == START and ("pinned", True) not in path
    return protocol.needs != "mark" or not {("pinned", True), ("marked", False)} <= set(path)


def leads_to(protocol: Protocol, first: str) -> set[str]:
    """Phases that the table can lead to, in the small world, from this event at the start."""
    return _reached(protocol, _possible, first) - {START}


def _reached(protocol: Protocol, possible: Callable[[str, bool], bool], first: str = "") -> set[str]:
    found, left = {START}, [START]
    while left:
        phase = left.pop()
        for (here, event), entry in protocol.table.items():
            if here == phase and (not first or phase != START or event == first):
                ways = {
                    rule.to
                    for path, rule in paths(entry)
                    if all(possible(fact, holds) for fact, holds in path)
                }
                left += sorted(ways - found)
                found |= ways
    return found


def _possible(fact: str, holds: bool) -> bool:
    """Whether a reclaim of the small world can meet this."""
    name, _, value = fact.partition("=")
    if name == "backing":
        return holds == (value == BACKING)
    return not (name == "kind" and holds) or value in WORLD_KINDS


def named(row: tuple[str, str, str]) -> str:
    """A row for people: `start/requested (pinned)`."""
    phase, event, arm = row
    return f"{phase}/{event} ({arm})" if arm else f"{phase}/{event}"
