"""What must hold in the small world, by CONTRACT's names, judged where it can be seen: at a step of the core, at a quantum, at an answer, at rest.

    a step of the core (judge_step.py) V1 V11 V12 V13 V15 V21 V23 V24 V25 S8 S9, and the rules of the contract
    a quantum (touch)                  S1 S4 S9 V3 V9 V10 V19
    an effect carried out              V4 V11
    an answer to a reclaimer           S2 S3 V20 V22
    any state                          S2 (no live translation reaches a freed block), S6, S10

What depends on the core's books alone is computed once for each of their states (facts.py).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Final

from emu.check.model.engine import blocks_of
from emu.check.model.facts import FILE, Facts, facts_of
from emu.check.model.state import LAYOUT, SELF_TRUNCATE, Finding, Frozen, State
from emu.core.errors import errno_name
from emu.core.requests import FsReflink
from emu.core.rows import BLOCK
from emu.core.storage.extents import blocks_up

if TYPE_CHECKING:
    from emu.check.model.cores import Driver
    from emu.check.model.setup import Setup
    from emu.check.model.state import Key, Op

DONE: Final = "0"


class Judge:
    """Collects what broke and which guards were met since the last `begin`."""

    def __init__(self, driver: Driver, setup: Setup) -> None:
        self.driver, self.setup = driver, setup
        self._sums: dict[tuple[Frozen, tuple[int, ...]], Finding | None] = {}
        self.begin()

    def begin(self) -> None:
        self.broken: list[Finding] = []
        self.met: list[str] = []

    def breaks(self, invariant: str, sentence: str) -> None:
        self.broken.append((invariant, sentence))

    def meet(self, guard: str) -> None:
        self.met.append(guard)

    def facts(self, state: State) -> Facts:
        core = state.core
        if core.facts is None:
            core.facts = facts_of(
                self.driver.books(core.snapshot), self.setup.blocks, self.driver.naming(core)
            )
        return core.facts  # type: ignore[no-any-return]

    # ---- a state

    def judge(self, state: State) -> None:
        self.no_stale_translation(state)
        self.no_change_behind_an_error(state)
        if not state.todo:
            self.add_up(state)

    def no_stale_translation(self, state: State) -> None:
        """S2: a reclaim has succeeded, and no live translation reaches what was freed, or is another file's by now. What is kept under a pin is
        not free.
        """
        answers = [row.state for row in state.reclaimers]
        if not state.keys or DONE not in answers or "asked" in answers:  # whoever is at work may yet unmap it
            return
        facts = self.facts(state)
        for key in state.keys:
            for block in key.blocks:
                if not 0 <= block < len(state.gens):
                    continue  # no memory, or nobody's
                if (
                    facts.online
                    and not state.absent
                    and facts.owner.get(block, FILE) == FILE
                    and block in facts.owned
                ):
                    continue  # the file's, or kept: nobody's, and not free
                if facts.owner.get(block) != FILE or not facts.online or state.absent:
                    if self.driver.books(state.core.snapshot)["reclaims"]:
                        return  # whoever asked may be gone: the reclaim goes on for nobody
                    who = facts.owner.get(block, "nobody")
                    self.breaks(
                        "S2", f"the reclaim succeeded, and key {key.key} translates to block {block} of {who}"
                    )
                    return

    def no_change_behind_an_error(self, state: State) -> None:
        """S3, later: whoever asked was told that nothing has changed, and now it has."""
        told = [row.state for row in state.reclaimers if row.state != "new"]
        if told and not any(word in {DONE, "asked", "lost"} for word in told):
            self.unchanged(state, told[0])

    def unchanged(self, state: State, told: str) -> None:
        lives = self.setup.returns and state.crashes < self.setup.crashes
        if lives or self.is_whole(state):
            return
        self.breaks("S3", f"the reclaim failed with {told}, and changed the file")
        if told == "EINTR":
            self.breaks("V22", "the reclaim was interrupted, and took something all the same")

    def refused(self, before: State, after: State) -> None:
        """V14: the hardware has refused, so nothing more counts as stopped or gone; but for keys of a client that another fence has shut out."""
        was, now = self.facts(before), self.facts(after)
        stopped = len(now.quiet - now.outside) > len(was.quiet - was.outside)
        if stopped or len(now.unmapped) > len(was.unmapped):
            self.breaks("V14", "the hardware refused, and its keys count as revoked all the same")
        if now.rights < was.rights:
            self.breaks("V21", "a fence failed, and the right has left the table all the same")

    def add_up(self, state: State) -> None:
        """S6: every block is in exactly one place, and its generation says which."""
        where = (state.core, state.gens)
        if where not in self._sums:
            self._sums[where] = self._add_up(state)
        found = self._sums[where]
        if found is not None:
            self.broken.append(found)

    def _add_up(self, state: State) -> Finding | None:
        facts = self.facts(state)
        if facts.adds_up:
            return ("S6", facts.adds_up)
        even = tuple(at for at, gen in enumerate(state.gens) if gen % 2 == 0)
        if facts.online and even != facts.owned:
            return ("S6", f"generations {state.gens} do not say that {list(facts.owned)} are owned")
        return None

    # ---- a quantum

    def touch(self, state: State, op: Op) -> Op:
        """A quantum of this operation is about to move its first byte, or has just moved its last."""
        if op.block >= len(state.gens):
            self.meet("DMA to the scratch page")
            self.behind_the_fence(self.facts(state), op)
            return op._replace(spoilt=True)
        if state.absent:
            self.meet("DMA to absent memory")
            return op._replace(spoilt=True) if op.late else op
        now, facts = state.gens[op.block], self.facts(state)
        if now != op.gen or now % 2:
            self.breaks("S1", f"a quantum ran on block {op.block}: translated at {op.gen}, now {now}")
            if op.key in facts.revoked:
                self.breaks(
                    "V10", f"key {op.key} was revoked, and its use reached block {op.block} and was no error"
                )
            if now % 2 == 0 and op.block not in facts.shared:  # shared, it has what it held
                self.breaks("S9", f"a quantum wrote to block {op.block}, which was new and should be zero")
        elif facts.owner.get(op.block, FILE) != FILE:
            self.breaks("S1", f"a quantum ran on block {op.block}, which is {facts.owner[op.block]}'s")
        self.behind_the_fence(facts, op)
        if facts.owner.get(op.block) != FILE:
            return op._replace(spoilt=True)
        return op

    def behind_the_fence(self, facts: Facts, op: Op) -> None:
        """V3, V9: every operation here is a write, and every importer sync-revocable."""
        gone = op.key in facts.unmapped
        if gone:
            self.breaks("V3", f"a quantum ran under key {op.key}, whose translation was gone")
        elif op.key in facts.quiet:
            self.breaks("V3", f"a quantum wrote under key {op.key}, behind the fence")
        if gone or op.key in facts.quiet:
            self.breaks("V9", f"a quantum ran under key {op.key}, whose quiesce was confirmed")

    def entered(self, state: State, op: Op, key: Key | None) -> Op:
        if key is None or key.state != "live" or op.key in self.facts(state).quiet:
            self.breaks("V19", f"key {op.key} was taken back, and a use of it did not fail")
        return self.touch(state, op)

    def completed(self, op: Op, status: str, left: int = 0) -> None:
        """left: quanta that were not carried out."""
        if status == "SUCCESS" and op.spoilt:
            self.breaks("S4", "a WRITE completed with success, and ran on memory that was the file's no more")
        if status == "SUCCESS" and left:
            self.breaks("S4", f"a WRITE completed with success, and {left} of {op.quanta} quanta did not run")
        self.meet("a WRITE succeeded" if status == "SUCCESS" else "a WRITE failed")

    # ---- an effect that is carried out

    def carried_out(self, state: State, effect: tuple[Any, ...]) -> None:
        if effect[0] in {"release", "allocate"}:
            self.given_away(state, effect[1])
        elif effect[0] == "install" and any(key.key == effect[1] for key in state.keys):
            self.breaks("V11", f"key {effect[1]} was issued again before it was deregistered")

    def given_away(self, state: State, blocks: tuple[int, ...]) -> None:
        """V4: only behind both waits."""
        for key in state.keys:
            for block, gen in zip(key.blocks, key.gens, strict=True):
                if block in blocks and gen == state.gens[block]:
                    self.breaks("V4", f"block {block} was given away while key {key.key} translated to it")
                    return
        for op in state.ops:
            if op is not None and op.inside and op.block in blocks and op.gen == state.gens[op.block]:
                self.breaks("V4", f"block {op.block} was given away while a quantum ran on it")
                return

    # ---- answers

    def returned(self, state: State, number: int, code: int) -> str:
        """S2 and S3 at the moment of the answer. Reclaimer `number` from 0; the word for its answer."""
        kind = self.setup.kind(number)
        if code:
            self.meet("the reclaim was interrupted" if code == errno.EINTR else "the reclaim was refused")
            self.failed(state, number, code)
        else:
            self.meet("the reclaim succeeded")
            if not self.is_there(state, number):
                self.breaks("S2", f"the {kind} succeeded, and its change is not there")
            self.nobody_left(state, kind)
        return errno_name(code) if code else DONE

    def failed(self, state: State, number: int, code: int) -> None:
        """S3, where nobody else can have changed the file: no other reclaim, nor what an earlier life of the broker has left."""
        if all(row.state == "new" for at, row in enumerate(state.reclaimers) if at != number):
            self.unchanged(state, errno_name(code))

    def nobody_left(self, state: State, kind: str) -> None:
        """V20: everybody the reclaim met has lost its translation."""
        facts = self.facts(state)
        for key in state.keys:
            there = [block for block in key.blocks if 0 <= block < len(state.gens)]
            if any(facts.owner.get(block) != FILE for block in there) or (there and kind.endswith("unplug")):
                self.breaks("V20", f"the {kind} succeeded, and key {key.key} was not unmapped")
                return

    def is_whole(self, state: State) -> bool:
        facts, blocks = self.facts(state), self.setup.size // BLOCK
        return (
            facts.online
            and facts.size == self.setup.size
            and facts.layout == tuple((at, at) for at in range(blocks))
        )

    def is_there(self, state: State, number: int) -> bool:
        """Is the change of this reclaim there? Another may have gone further."""
        facts, kind, op = self.facts(state), self.setup.kind(number), self.setup.asks(number)
        if kind.endswith("unplug"):
            return not facts.online
        if kind == "unlink":
            return facts.size < 0
        if facts.size < 0 or not facts.online:
            return True
        if kind in {"truncate", SELF_TRUNCATE}:
            size = op.size  # type: ignore[attr-defined]
            alone = all(
                self.setup.kind(at) not in {"truncate", SELF_TRUNCATE}
                for at in range(len(state.reclaimers))
                if at != number
            )
            return (facts.size == size or not alone) and all(
                at < blocks_up(facts.size) for at, _block in facts.layout
            )
        if kind in LAYOUT:
            return self._is_laid_out(state, number)
        lo, hi = blocks_up(op.offset), (op.offset + op.length) // BLOCK  # type: ignore[attr-defined]
        coming = self.coming(state)
        return not any(lo <= at < hi and block not in coming for at, block in facts.layout)

    def coming(self, state: State) -> frozenset[int]:
        """Blocks of MRs that are being installed: one that had waited behind a punch fills its hole in the step that ends it."""
        mrs = self.driver.books(state.core.snapshot)["mrs"].values()
        runs = [row.runs for row in mrs if row.state == "installing" and not row.revoked]
        return frozenset(block for found in runs for block in blocks_of(found))

    def _is_laid_out(self, state: State, number: int) -> bool:
        """Where others reclaim beside it nothing is said: they may have gone further."""
        facts, kind, op = self.facts(state), self.setup.kind(number), self.setup.asks(number)
        if isinstance(op, FsReflink):
            return any(row.path == op.to for row in self.driver.books(state.core.snapshot)["files"].values())
        if len(state.reclaimers) > 1:
            return True
        blocks = self.setup.size // BLOCK
        if kind == "collapse":
            return facts.layout == tuple((at, at + 1) for at in range(blocks - 1))
        moved = {1} if kind == "zero" else set(range(blocks))
        return (
            all((block != at) == (at in moved) for at, block in facts.layout) and len(facts.layout) == blocks
        )
