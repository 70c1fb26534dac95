"""What reclaimers of the small world do: ask, interrupt, crash, plug again; and the taker, who creates a file."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from emu.check.model.judge import DONE
from emu.check.model.naming import RECLAIMER, TAKER
from emu.check.model.shell import CANCEL, PLUG, RECLAIM, SELF, TAKE, Shell
from emu.check.model.state import Choice, Reclaimer, with_reclaimer
from emu.core.requests import FsCreate, FsPlug

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.check.model.state import State


class Reclaimers(Shell):
    """Moves of reclaimerN and of the taker."""

    def _reclaimer_moves(self, state: State, number: int) -> Iterator[Choice]:
        row, own = state.reclaimers[number], self.setup.of_holder(number)
        who = "holder1" if own else f"reclaimer{number + 1}"
        if row.state == "new" and not (own and not state.holders[0].session):
            yield Choice(f"{who}: {self.setup.reclaims[number]}", who, partial(self._reclaim, state, number))
        if own:
            return
        if row.state == "asked" and not row.cancel and self.setup.cancels:
            yield Choice(f"{who}: cancel", who, partial(self._cancel, state, number))
        if row.state == DONE and self.setup.kind(number) == "surprise-unplug" and not row.plug:
            yield Choice(f"{who}: plug", who, partial(self._plug, state, number))
        if row.state == "asked" and state.crashes:
            yield Choice(f"crash: {who}", "crash", partial(self._lose_reclaimer, state, number))

    def _session_of(self, state: State, number: int) -> int:
        return state.holders[0].session if self.setup.of_holder(number) else RECLAIMER + number

    def _reclaim(self, state: State, number: int) -> State:
        if any(op is not None for op in state.ops):
            self.judge.meet("DMA in flight when the reclaim began")
        row = state.reclaimers[number]
        own = self.setup.of_holder(number)
        if not (own or row.open):
            state = self._do(state, ("opened", RECLAIMER + number, f"reclaimer{number + 1}", False))
        state = with_reclaimer(state, number, Reclaimer("asked"))
        request = SELF + number if own else RECLAIM
        return self._step(state, ("ask", self._session_of(state, number), request, self.setup.asks(number)))

    def _cancel(self, state: State, number: int) -> State:
        state = with_reclaimer(state, number, state.reclaimers[number]._replace(cancel=True))
        return self._step(state, ("cancel", RECLAIMER + number, CANCEL, RECLAIM))

    def _plug(self, state: State, number: int) -> State:
        if not state.reclaimers[number].open:
            state = self._do(state, ("opened", RECLAIMER + number, f"reclaimer{number + 1}", False))
        state = with_reclaimer(state, number, state.reclaimers[number]._replace(plug=True, open=True))
        return self._step(state, ("ask", RECLAIMER + number, PLUG, FsPlug("pm0")))

    def _lose_reclaimer(self, state: State, number: int) -> State:
        self.judge.meet("reclaimer crashed")
        state = with_reclaimer(state, number, Reclaimer("lost", open=False))
        return self._step(state._replace(crashes=state.crashes - 1), ("lost", RECLAIMER + number))

    def _take(self, state: State) -> State:
        return self._step(state._replace(taker=True), ("ask", TAKER, TAKE, FsCreate("/mnt/b", 4096)))
