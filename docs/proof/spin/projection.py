"""One tuple for what both sides know of a state. Equal tuples mean the same to safety; nothing in it is a number that one side made up.

    alive       the broker has not crashed
    faults      crashes and refusals that are left
    holder      session, what it knows of its MR (idle, asked, has, letting), how often it has registered
    reclaimer   new, asked, its answer ("0", EINTR), lost; and whether it has interrupted its request
    taker       whether it has asked for its file
    blocks      of each: who owns it ("a", "b", "."), and the parity of its generation; and whether a was cut
    reclaim     phase; nobody waits for it; an answer of the engine is awaited; its timer, and the core's, are armed
    mrs         everything that is or was an MR, in no order: see MR
    operation   the peer's: quantum, of how many; whether it is within it; then whether it was translated right; whether one ran on memory not a's
    pending     what the engine has yet to say to the reclaim, or to nobody any more; and whether it waits for the peer's quantum
    work        what the shell has yet to do, in order, and for whom
    timers      how many are armed

An MR (MR): its row in the books (state, registration unanswered, revoked, told), its end (somebody waits for it, it is asked again when a timer rings),
its key in the engine (live or fenced, and of each block whether it is translated right), who refers to it (h the holder, o the operation, r the
reclaim), what the engine has yet to say to it, and what the shell has yet to do to it. Of these a tuple is made though none has a name in it, since
which MR came first decides nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from emu.check.model.state import State
    from emu.check.model.world import World

Projection = tuple[Any, ...]
Mr = dict[str, Any]
Effect = tuple[Any, ...]

FIELDS: Final = (
    "alive",
    "faults",
    "holder",
    "reclaimer",
    "taker",
    "blocks",
    "reclaim",
    "mrs",
    "operation",
    "pending",
    "work",
    "timers",
)
FILES: Final = {"/mnt/a": "a", "/mnt/b": "b"}
MRS: Final = (0, 1)  # in Spin: by registration
TO_RECLAIM: Final = 2
TO_TAKER: Final = 3
ANSWERS: Final = {"fresh": "new", "asked": "asked", "done": "0", "interrupted": "EINTR", "lost": "lost"}
NO_MR: Final[Mr] = {"row": None, "end": None, "key": None, "refs": "", "pending": (), "work": ()}


def _mrs(found: Iterable[Mr]) -> Projection:
    """What is known of each, in no order; without those of whom nothing is left."""
    rows = [tuple(mr.values()) for mr in found if any(mr[part] for part in ("row", "key", "refs"))]
    return tuple(sorted(rows, key=repr))


# ---- emu's state


class Emu:
    """The books by the names that the state has for them."""

    def __init__(self, world: World, state: State) -> None:
        self.setup, self.state = world.setup, state
        self.books = world.driver.books(state.core.snapshot)
        self.name = world.driver.naming(state.core)
        self.mr_of_cookie: dict[int, int] = {}
        self.reclaim_cookies: set[int] = set()
        for cookie, row in self.books["cookies"].items():
            number = self.name("cookie", cookie)
            if row.reclaim:
                self.reclaim_cookies.add(number)
            else:
                (key,) = self.books["teardowns"][row.teardown].keys
                self.mr_of_cookie[number] = self.name("key", key)

    def projected(self) -> Projection:
        state = self.state
        (holder,), (asker,) = state.holders, state.reclaimers
        (mr,) = holder.mrs
        return (
            state.alive,
            (state.crashes, state.refusals),
            (holder.session > 0, mr.state, 1 + self.setup.registrations - mr.left),
            (asker.state, asker.cancel),
            state.taker,
            self.blocks(),
            self.reclaim(),
            _mrs(self.mrs().values()),
            self.operation(),
            self.pending(),
            tuple(self.work_of(effect) for effect in state.todo),
            len(state.timers),
        )

    def beside(self) -> Projection:
        """What emu tells apart and the projection does not: the order in which cookies were issued, and how often the holder was lost."""
        mrs, cookies = self.mrs(), []
        for cookie, row in sorted(self.books["cookies"].items()):
            number = self.name("cookie", cookie)
            cookies.append("reclaim" if row.reclaim else tuple(mrs[self.mr_of_cookie[number]].values()))
        return tuple(cookies), tuple(holder.lives for holder in self.state.holders)

    def blocks(self) -> Projection:
        owner = ["."] * len(self.state.gens)
        for file in self.books["files"].values():
            for _at, start, count, _since in file.extents:
                owner[start : start + count] = FILES[file.path] * count
        whole = next(file.size for file in self.books["files"].values() if FILES[file.path] == "a")
        return "".join(owner), tuple(gen % 2 for gen in self.state.gens), whole != self.setup.size

    def reclaim(self) -> Projection | None:
        for row in self.books["reclaims"].values():
            return row.phase, not row.session, row.cookie > 0, row.timer > 0, row.again > 0
        return None

    def mrs(self) -> dict[int, Mr]:
        state = self.state
        found: dict[int, Mr] = {}

        def of(key: int) -> Mr:
            return found.setdefault(key, dict(NO_MR))

        for number, row in self.books["mrs"].items():
            of(self.name("key", number))["row"] = (row.state, row.request > 0, row.revoked, row.told)
        for row in self.books["teardowns"].values():
            (key,) = row.keys
            of(self.name("key", key))["end"] = (row.request > 0, row.again > 0)
        for key in state.keys:
            right = tuple(state.gens[block] == gen for block, gen in zip(key.blocks, key.gens, strict=True))
            of(key.key)["key"] = (key.state, right)
        self.referred(of)
        for answer in state.answers:
            key = answer.number if answer.name == "installed" else self.mr_of_cookie.get(answer.number)
            if key is not None:
                of(key)["pending"] += ((answer.name, bool(answer.waits)),)
        for effect in state.todo:
            for key in self.keys_in(effect):
                of(key)["work"] += (self.work_of(effect),)
        return found

    def referred(self, of: Callable[[int], Mr]) -> None:
        ((mr,),) = [holder.mrs for holder in self.state.holders]
        if mr.handle:
            of(mr.handle)["refs"] += "h"
        (op,) = self.state.ops
        if op is not None:
            of(op.key)["refs"] += "o"
        for row in self.books["reclaims"].values():
            for key in row.keys:
                of(self.name("key", key))["refs"] += "r"

    def keys_in(self, effect: Effect) -> tuple[int, ...]:
        if effect[0] in {"install", "remove"}:
            return (effect[1],)
        return tuple(effect[2]) if effect[0] in {"quiesce", "unmap"} else ()

    def work_of(self, effect: Effect) -> Projection:
        kind = effect[0]
        if kind in {"quiesce", "unmap"}:
            return kind, self.addressee(effect[1])
        if kind in {"release", "allocate"}:
            return kind, effect[1]
        if kind == "answer":
            _kind, session, _request, code, _handle, _is_key = effect
            return (
                kind,
                "holder" if session < 100_000 else "reclaimer" if session < 200_000 else "taker",
                code == 0,
            )
        return (kind,)

    def addressee(self, cookie: int) -> str:
        return (
            "reclaim" if cookie in self.reclaim_cookies else "mr" if cookie in self.mr_of_cookie else "nobody"
        )

    def operation(self) -> Projection | None:
        (op,) = self.state.ops
        if op is None:
            return None
        right = op.inside and self.state.gens[op.block] == op.gen
        return op.quantum, op.quanta, op.inside, right, op.spoilt

    def pending(self) -> Projection:
        found = [
            (answer.name, self.addressee(answer.number), bool(answer.waits))
            for answer in self.state.answers
            if answer.name != "installed" and answer.number not in self.mr_of_cookie
        ]
        return tuple(sorted(found))


# ---- Spin's state: a line of told.h


def of_spin(line: str, names: Mapping[int, str]) -> Projection:
    return Spin(line, names).projected()


class Spin:
    def __init__(self, line: str, names: Mapping[int, str]) -> None:
        self.names = names
        self.all: dict[str, list[int]] = {}
        for word in line.split():
            name, _is, values = word.partition("=")
            self.all[name] = [int(value) for value in values.split(",") if value]

    def __getattr__(self, name: str) -> int:
        (value,) = self.all[name]
        return value

    def called(self, name: str) -> str:
        return self.names.get(getattr(self, name), "")

    def queue(self, name: str) -> list[tuple[str, int, int]]:
        numbers = self.all[name]
        threes = zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True)
        return [(self.names[kind], which, to) for kind, which, to in threes]

    def projected(self) -> Projection:
        return (
            not self.down,
            (self.crashes, self.refusals),
            (bool(self.up), self.called("mem"), self.tries),
            (ANSWERS[self.called("wish")], bool(self.cancelled)),
            bool(self.taken),
            (
                "".join(".ab"[who] for who in self.all["owner"]),
                tuple(gen % 2 for gen in self.all["gen"]),
                bool(self.cut),
            ),
            self.reclaim(),
            _mrs([self.mr(number) for number in MRS]),
            self.operation(),
            self.pending_left(),
            tuple(self.work_of(*message) for message in self.queue("work")),
            self.armed + self.patience + sum(self.all[f"mr{number}"][6] for number in MRS),
        )

    def reclaim(self) -> Projection | None:
        if not self.phase:
            return None
        flags = (self.orphan, self.awaited, self.armed, self.patience)
        return self.called("phase"), *map(bool, flags)

    def mr(self, number: int) -> Mr:
        state, asking, revoked, told, ending, wanted, again = self.all[f"mr{number}"]
        key, blocks, *gens = self.all[f"key{number}"]
        found = dict(NO_MR)
        if state:
            found["row"] = (self.names[state], bool(asking), bool(revoked), bool(told))
        if ending:
            found["end"] = (bool(wanted), bool(again))
        if key:
            found["key"] = (self.names[key], tuple(self.all["gen"][at] == gens[at] for at in range(blocks)))
        found["refs"] = self.refs(number)
        found["pending"] = tuple(
            (what, bool(wait)) for what, to, wait in self.queue("pending") if to == number
        )
        found["work"] = tuple(
            self.work_of(*message) for message in self.queue("work") if number in self.mrs_in(*message)
        )
        return found

    def refs(self, number: int) -> str:
        has = self.called("mem") in {"has", "letting"} and self.which == number
        operation = self.busy and self.under == number
        return "h" * bool(has) + "o" * bool(operation) + "r" * (self.mine >> number & 1)

    def mrs_in(self, kind: str, number: int, _to: int) -> Collection[int]:
        if kind in {"install", "remove"}:
            return (number,)
        return [mr for mr in MRS if number >> mr & 1] if kind in {"quiesce", "unmap"} else ()

    def work_of(self, kind: str, number: int, to: int) -> Projection:
        if kind in {"quiesce", "unmap"}:
            return kind, "mr" if to in MRS else "reclaim" if self.awaited else "nobody"
        if kind in {"release", "allocate"}:
            return kind, (number,)
        if kind == "answer":
            who = {TO_RECLAIM: "reclaimer", TO_TAKER: "taker"}.get(to, "holder")
            return kind, who, self.names[number] == "done"
        return (kind,)

    def operation(self) -> Projection | None:
        if not self.busy:
            return None
        right = bool(self.inside) and self.all["gen"][self.at] == self.seen
        return self.at, self.quanta, bool(self.inside), right, bool(self.spoilt)

    def pending_left(self) -> Projection:
        to = "reclaim" if self.awaited else "nobody"
        found = [(what, to, bool(wait)) for what, who, wait in self.queue("pending") if who == TO_RECLAIM]
        return tuple(sorted(found))
