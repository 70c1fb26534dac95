"""What must hold in the explorer's world, by CONTRACT's names: S1 and S2 at every move, S3 at an error, S6 at rest."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from emu.check.model.state import BLOCKS, SIZE, Op, State
from emu.core.errors import errno_name
from emu.core.rows import BLOCK

if TYPE_CHECKING:
    from emu.core.machine import Core


class Judge:
    """Collects what broke and which guards were met since the last `begin`. It sees states, and the core's books in them."""

    def __init__(self, core: Core, kind: str) -> None:
        self.core, self.kind = core, kind
        self.begin()

    def begin(self) -> None:
        self.broken: list[tuple[str, str]] = []
        self.met: list[str] = []

    def breaks(self, finding: tuple[str, str]) -> None:
        self.broken.append(finding)

    def meet(self, guard: str) -> None:
        self.met.append(guard)

    def judge(self, state: State) -> None:
        if state.reclaimer == "0":
            self.no_stale_translation(state)
        if not state.todo:
            self.add_up(state)

    def touch(self, state: State, op: Op) -> None:
        if state.absent:
            self.meet("DMA to absent memory")
        elif state.gens[op.block] != op.gen or op.gen % 2:
            now = state.gens[op.block]
            self.breaks(("S1", f"a quantum ran on block {op.block}: translated at {op.gen}, now {now}"))

    def no_stale_translation(self, state: State) -> None:
        owner = self.owners(state)
        for key in state.keys:
            for block in key.blocks:
                if owner.get(block) != "/mnt/a" or self.kind.endswith("unplug"):
                    who = owner.get(block, "nobody")
                    self.breaks(
                        (
                            "S2",
                            f"the reclaim succeeded, and key {key.key} translates to block {block} of {who}",
                        )
                    )
                    return

    def books(self, state: State) -> dict[str, dict[Any, Any]]:
        return {book.name: rows for book, rows in zip(self.core.books.all, state.core.snapshot, strict=True)}

    def owners(self, state: State) -> dict[int, str]:
        return {
            extent[1] + at: row.path
            for row in self.books(state)["files"].values()
            for extent in row.extents
            for at in range(extent[2])
        }

    def add_up(self, state: State) -> None:
        """S6: every block is in exactly one place, and its generation says which."""
        books = self.books(state)
        places = [
            block
            for row in books["files"].values()
            for e in row.extents
            for block in range(e[1], e[1] + e[2])
        ]
        owned = sorted(places)
        for name in ("free", "limbo", "quarantine"):
            places += [
                block for run in books[name].values() for block in range(run.start, run.start + run.blocks)
            ]
        if sorted(places) != list(range(BLOCKS)):
            self.breaks(("S6", f"blocks do not add up: {sorted(places)} of {BLOCKS}"))
        online = books["devices"]["pm0"].online
        if online and [at for at, gen in enumerate(state.gens) if gen % 2 == 0] != owned:
            self.breaks(("S6", f"generations {state.gens} do not say that {owned} are owned"))

    def returned(self, state: State, code: int) -> State:
        """S2 and S3 at the moment of the answer."""
        if code:
            self.meet("the reclaim was interrupted" if code == errno.EINTR else "the reclaim was refused")
            if not self.old_layout(state):
                self.breaks(("S3", f"the reclaim failed with {errno_name(code)}, and changed the file"))
        else:
            self.meet("the reclaim succeeded")
            self.core.restore(state.core.snapshot)
            if not self.new_layout():
                self.breaks(("S2", "the reclaim succeeded, and its change is not there"))
        return state._replace(reclaimer=errno_name(code) if code else "0")

    def old_layout(self, state: State) -> bool:
        books = self.books(state)
        row = next((row for row in books["files"].values() if row.path == "/mnt/a"), None)
        online = books["devices"]["pm0"].online
        return row is not None and online and row.size == SIZE and [e[1:3] for e in row.extents] == [(0, 2)]

    def new_layout(self) -> bool:
        books = self.core.books
        ino = books.file_at.first("/mnt/a")
        if self.kind.endswith("unplug"):
            return not books.devices["pm0"].online
        if self.kind == "unlink":
            return ino is None
        row = books.files[ino] if ino is not None else None
        size = BLOCK // 2 if self.kind == "truncate" else SIZE
        return row is not None and row.size == size and all(e[0] + e[2] <= 1 for e in row.extents)
