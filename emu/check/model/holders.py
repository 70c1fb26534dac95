"""What holders of the small world do: prepare, register, deregister, acknowledge; and the ways in which they end."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from emu.check.model.shell import MR_REQUESTS, PREPARE, Shell
from emu.check.model.state import SELF_TRUNCATE, Choice, Holder, Mr, with_holder, with_mr
from emu.core.requests import FsLease, FsMark

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from emu.check.model.state import State
    from emu.core.requests import Request

PREPARING: Final[Mapping[str, Request]] = {
    "lease": FsLease("/mnt/a", "shared"),
    "mark": FsMark("/mnt/a", immutable=True),
}
ACCESS: Final = 7


class Holders(Shell):
    """Moves of holderN and openerN."""

    def _holder_moves(self, state: State, number: int) -> Iterator[Choice]:
        holder, who = state.holders[number], f"holder{number + 1}"
        if not holder.session:
            if self.setup.returns:
                yield Choice(f"{who}: comes back", who, partial(self._come_back, state, number))
            return
        free = next((at for at, mr in enumerate(holder.mrs) if mr.state == "idle" and mr.left), None)
        needs = self.protocol.needs if self.protocol.needs in PREPARING else ""
        if needs and not holder.ready and free is not None:
            yield Choice(f"{who}: {needs}", who, partial(self._prepare, state, number))
        if needs and holder.ready != "has":
            free = None
        if free is not None and not any(mr.state == "asked" for mr in holder.mrs):
            yield Choice(f"{who}: reg_mr", who, partial(self._reg_mr, state, number, free))
        for at, mr in enumerate(holder.mrs):
            if mr.state == "has":
                yield Choice(f"{who}: dereg_mr {at + 1}", who, partial(self._dereg_mr, state, number, at))
                if mr.warned:
                    yield Choice(
                        f"{who}: acknowledges {at + 1}", who, partial(self._acknowledge, state, number, at)
                    )
        yield from self._ends(state, number)

    def _ends(self, state: State, number: int) -> Iterator[Choice]:
        """The ways out of a session."""
        holder, who = state.holders[number], f"holder{number + 1}"
        if holder.killed:
            yield Choice(f"{who}: dies of SIGKILL", who, partial(self._die, state, number))
        if holder.dead:
            yield Choice(f"{who}: closes", who, partial(self._hang_up, state, number))
        if not state.crashes:
            return
        yield Choice(f"crash: {who}", "crash", partial(self._lose_holder, state, number))
        if self._openers and not (holder.orphaned or holder.killed):
            yield Choice(
                f"crash: opener{number + 1}, its descriptor lives on",
                "crash",
                partial(self._lose_opener, state, number),
            )

    def _prepare(self, state: State, number: int) -> State:
        """It takes what its registrations need."""
        op = PREPARING[self.protocol.needs]
        return self._step(state, ("ask", state.holders[number].session, PREPARE, op))

    def _reg_mr(self, state: State, number: int, at: int) -> State:
        offset, length = self.setup.range_of_mr(at + 1)
        size = self.judge.facts(state).size
        if size > offset:
            length = min(length, size - offset)
        holder = state.holders[number]
        mr = holder.mrs[at]
        state = with_mr(state, number, at, Mr(mr.left - 1, "asked"))
        request = self._request_of(at, mr.left - 1)
        return self._step(
            state, ("reg_mr", holder.session, request, holder.pd, offset, length, "/mnt/a", ACCESS)
        )

    def _request_of(self, at: int, left: int) -> int:
        """The number of a reg_mr: of MR `at` from 0, of which so many registrations are left."""
        tries = 1 + self.setup.registrations
        return MR_REQUESTS + 4 * (at * tries + tries - 1 - left)

    def _dereg_mr(self, state: State, number: int, at: int) -> State:
        holder = state.holders[number]
        mr = holder.mrs[at]
        state = with_mr(state, number, at, mr._replace(state="letting"))
        return self._step(state, ("dereg_mr", holder.session, self._request_of(at, mr.left) + 1, mr.handle))

    def _acknowledge(self, state: State, number: int, at: int) -> State:
        holder = state.holders[number]
        mr = holder.mrs[at]
        state = with_mr(state, number, at, mr._replace(warned=False))
        return self._step(state, ("ack", holder.session, self._request_of(at, mr.left) + 2, mr.handle))

    def _lose_holder(self, state: State, number: int) -> State:
        self.judge.meet("holder crashed")
        return self._hang_up(state._replace(crashes=state.crashes - 1), number)

    def _die(self, state: State, number: int) -> State:
        self.judge.meet("a holder died of SIGKILL")
        return self._hang_up(state, number)

    def _lose_opener(self, state: State, number: int) -> State:
        """Whoever has the descriptor is the holder from now on."""
        self.judge.meet("an opener ended, and its descriptor lived on")
        holder = state.holders[number]
        ready = (
            "no" if self.protocol.needs == "lease" else holder.ready
        )  # a lease does not follow the descriptor
        state = with_holder(state, number, holder._replace(orphaned=True, ready=ready))
        return self._step(state._replace(crashes=state.crashes - 1), ("ended", holder.session))

    def _hang_up(self, state: State, number: int) -> State:
        holder = state.holders[number]
        mrs = tuple([Mr(mr.left) for mr in holder.mrs])
        state = with_holder(state, number, Holder(0, 0, mrs, holder.lives + 1))
        if number == 0:
            state = self._forsake(state, SELF_TRUNCATE)
        return self._step(state, ("lost", holder.session))

    def _forsake(self, state: State, kind: str) -> State:
        """Whoever asked for it is gone; it may go on for nobody."""
        rows = tuple(
            [
                row._replace(state="lost") if self.setup.kind(at) == kind and row.state == "asked" else row
                for at, row in enumerate(state.reclaimers)
            ]
        )
        return state._replace(reclaimers=rows)

    def _come_back(self, state: State, number: int) -> State:
        return self._open(state, number, "again")
