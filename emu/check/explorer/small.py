"""The small world (emu.check.model) as the explorer walks it: space.py's questions, answered from its state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.check.explorer.graph import HOLDERS_FROM
from emu.check.explorer.reduction import forced
from emu.check.explorer.result import HEARD
from emu.check.model.engine import Engine
from emu.check.model.world import World
from emu.core.machine import Core
from emu.protocols.contract import rules_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from emu.check.explorer.symmetry import Orders
    from emu.check.model.setup import Setup
    from emu.check.model.state import Choice, Frozen, Holder, Move, State
    from emu.core.decision import Deciding

ORPHAN = HOLDERS_FROM - 1  # the bit of a reclaim that nobody waits for


class Small:
    """A World behind space.py's methods. linear: its numbers are the core's own, for stories."""

    def __init__(
        self,
        protocol: Deciding,
        setup: Setup,
        core: Callable[..., Core] | None,
        orders: Orders,
        engine: Engine | None = None,
        *,
        linear: bool = False,
    ) -> None:
        self.setup, self.orders = setup, orders
        self.world = World(protocol, setup, core or Core, engine, direct=linear)
        self._plain = type(self.world.engine) is Engine
        self._plain_core = type(self.world.core) is Core
        self._switches = _switches(protocol)
        self._orphans: dict[Frozen, bool] = {}
        self._reclaims = self.world.driver.names_of_books.index("reclaims")

    def start(self) -> State:
        return self.world.start()

    def choices(self, state: State) -> Sequence[Choice]:
        return list(self.world.choices(state))

    def forced(self, state: State, choices: Sequence[Choice]) -> int:
        if not self._plain:
            return -1
        return forced(
            state, choices, returns=self.setup.returns, stale=self._plain_core, switches=self._switches
        )

    def take(self, choice: Choice) -> Move:
        return self.world.take(choice)

    def least(self, state: State) -> tuple[bytes, int]:
        if len(self.orders) == 1:
            return self.world.canonical(state), 0
        form, order = self.world.least(state)
        return form, self.orders.number[order]

    def exact(self, state: State) -> bytes:
        return self.world.canonical(state)

    def owed(self, state: State) -> int:
        if not state.alive:
            return 0
        bits = 0
        for number, row in enumerate(state.reclaimers):
            if row.state == "asked":
                bits |= 1 << number
        if self._orphaned(state.core):
            bits |= 1 << ORPHAN
        for number, holder in enumerate(state.holders):
            told = (
                any(mr.warned for mr in holder.mrs) and not holder.orphaned
            )  # else whoever was told has ended
            if told and self._unheard(state, holder):
                bits |= 1 << (HOLDERS_FROM + number)
        return bits

    def _orphaned(self, core: Frozen) -> bool:
        """Does a reclaim go on that nobody waits for: it was answered already, or whoever asked is gone?"""
        known = self._orphans.get(core)
        if known is None:
            rows = core.snapshot[self._reclaims].values()
            known = self._orphans[core] = any(not row.session or row.returned for row in rows)
        return known

    def _unheard(self, state: State, holder: Holder) -> bool:
        """Told MR_REVOKING for a key that still works, and whoever asked is still waiting, or was told that he has it."""
        answers = {row.state for row in state.reclaimers if row.state != "new"}
        if "asked" not in answers and answers != {"0"}:
            return False
        live = {key.key for key in state.keys if key.state == "live"}
        return any(mr.warned and mr.state == "has" and mr.handle in live for mr in holder.mrs)

    def never(self, bit: int) -> tuple[str, str]:
        if bit >= HOLDERS_FROM:
            return HEARD, f"holder {bit - HOLDERS_FROM + 1} was notified, and is never heard nor quiesced"
        if bit == ORPHAN:
            return (
                "S7",
                "a reclaim that nobody waits for (it was answered, or whoever asked is gone) never ends",
            )
        return "S7", f"the {self.setup.reclaims[bit]} of reclaimer {bit + 1} never ends"


def _switches(protocol: Deciding) -> bool:
    """May keys that it has fenced live again?"""
    table = getattr(protocol, "table", None)
    if table is None:
        return True
    return any(
        action.verb == "retarget"
        for entry in table.values()
        for rule in rules_of(entry)
        for action in rule.actions
    )
