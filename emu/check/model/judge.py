"""What must hold in the small world, by CONTRACT's names, judged where it can be seen: at a step of the core, at a quantum, at an answer, at rest.

    a step of the core (judge_step)   V1 V11 V12 V13 V15 V21 V23 V24 V25 S8 S9, and the rules of the contract
    a quantum (touch)                 S1 S4 S9 V3 V9 V10 V19
    an effect carried out             V4 V11
    an answer to a reclaimer          S2 S3 V20 V22
    any state                         S2 (no live translation reaches a freed block), S6, S10

What depends on the core's books alone is computed once for each of their states (Facts).
"""

from __future__ import annotations

import errno
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from emu.check.model.engine import blocks_of
from emu.check.model.state import LAYOUT, SELF_TRUNCATE, Finding, Frozen, State
from emu.core import effects as do
from emu.core.decision import CONTRACT
from emu.core.errors import errno_name
from emu.core.memory.keys import KEY_REST
from emu.core.requests import FsReflink
from emu.core.rows import BLOCK
from emu.core.storage import extents
from emu.core.storage.extents import blocks_up

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from emu.check.model.cores import Driver
    from emu.check.model.setup import Setup
    from emu.check.model.state import Key, Op

Books = dict[str, dict[Any, Any]]

DONE: Final = "0"
FILE: Final = "/mnt/a"


class Facts(NamedTuple):
    """What the books of one moment say, in the state's names. owner: block -> path. layout: of /mnt/a, (file block, block) in order."""

    owner: dict[int, str]
    size: int  # of /mnt/a, -1: there is no such file
    layout: tuple[tuple[int, int], ...]
    online: bool
    owned: tuple[int, ...]
    adds_up: str  # or what is wrong
    quiet: frozenset[int]  # keys whose quiesce was confirmed to a reclaim that is under way
    unmapped: frozenset[int]
    revoked: frozenset[int]
    rights: int  # in the table
    shared: frozenset[int]  # blocks of several files


def facts_of(books: Books, blocks: int, of: Callable[[str, int], int]) -> Facts:
    files, mrs = books["files"].values(), books["mrs"]
    owner: dict[int, str] = {}
    for row in sorted(files, key=lambda row: row.path == FILE):  # of a block that a clone has too, /mnt/a
        owner |= {e[1] + at: row.path for e in row.extents for at in range(e[2])}
    mine = next((row for row in files if row.path == FILE), None)
    places = list(owner)
    places += held(books, "quarantine")
    owned = tuple(sorted(places))  # in quarantine a block keeps its generation
    places += held(books, "limbo") + held(books, "free")
    again = {row.key for row in books["tokens"].values() if row.kind == "retargeted"}
    rows = books["reclaims"].values()
    draining = {
        key for row in rows if row.fencing and not row.fenced for key in row.keys if _parked(mrs, key)
    }
    quiet = {
        key
        for row in rows
        if row.fenced
        for key in row.keys
        if key in mrs and (mrs[key].revoked or mrs[key].state == "parked") and key not in again | draining
    }
    return Facts(
        owner,
        -1 if mine is None else mine.size,
        () if mine is None else tuple((e[0] + at, e[1] + at) for e in mine.extents for at in range(e[2])),
        books["devices"]["pm0"].online,
        owned,
        _adds_up(books, places, blocks),
        frozenset(of("key", key) for key in quiet),
        frozenset(of("key", key) for key, row in mrs.items() if row.state in {"unmapped", "absent"}),
        frozenset(of("key", key) for key, row in mrs.items() if row.revoked),
        len(books["rights"]),
        _shared(files) if any(row.origin for row in files) else frozenset(),
    )


def _parked(mrs: Any, key: int) -> bool:
    """By the last reclaim that asked: it may have lived since an earlier one was answered."""
    return key in mrs and mrs[key].state == "parked"


def _shared(files: Collection[Any]) -> frozenset[int]:
    every = [start + n for row in files for _at, start, count, _since in row.extents for n in range(count)]
    return frozenset(block for block, count in Counter(every).items() if count > 1)


def _adds_up(books: Books, places: list[int], blocks: int) -> str:
    """Each block in one place, and the durable record of orphans names those that no reclaim will free."""
    if sorted(places) != list(range(blocks)):
        return f"blocks do not add up: {sorted(places)} of {blocks}"
    kept = {run.start: run.blocks for run in books["quarantine"].values() if not run.reclaim}
    noted = {row.start: row.blocks for row in books["orphans"].values()}
    return "" if kept == noted else f"blocks {noted} are noted as orphans: those that are kept are {kept}"


def held(books: Books, name: str) -> list[int]:
    """Blocks that one of the books of runs has."""
    return [block for run in books[name].values() for block in range(run.start, run.start + run.blocks)]


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
        """V14: the hardware has refused, so nothing more counts as stopped or gone."""
        was, now = self.facts(before), self.facts(after)
        if len(now.quiet) > len(was.quiet) or len(now.unmapped) > len(was.unmapped):
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


def judge_step(
    before: Books, after: Books, made: tuple[do.Effect, ...], protocol: str
) -> tuple[tuple[Finding, ...], tuple[str, ...]]:
    """What one step of the core shows, in the core's own numbers. Books that the step left alone may be the same object before and behind."""
    broken: list[Finding] = []
    changed = {name for name, rows in after.items() if rows is not before[name]}
    met: list[str] = []
    for effect in made:
        if isinstance(effect, do.Phase):
            if effect.detail.get("rule"):
                broken.append(
                    (
                        f"{CONTRACT}{effect.detail['rule']}",
                        f"{effect.detail.get('sentence', protocol)}: its reclaim ended with EPROTO",
                    )
                )
            if effect.phase in {"unmapped", "retargeted"} and effect.keys:
                met.append("an MR was revoked")
    broken += ungated(before, after, made)
    if changed & {"mrs", "sessions"}:
        broken += registered(before, after)
    if "mrs" in changed or any(isinstance(effect, do.Notify) for effect in made):
        broken += revoked(before, after, made)
    if changed & {"mrs", "keys"}:
        broken += rested(before, after)
    if changed & {"rights", "fences"}:
        broken += dropped(before, after, made)
    if "files" in changed:
        broken += tails(before, after, made)
    if any(
        isinstance(effect, do.Phase) and effect.phase == "returned" and not effect.detail["errno"]
        for effect in made
    ):
        broken += lost_revokes(after)
    return tuple(broken), tuple(met)


def dropped(before: Books, after: Books, made: tuple[do.Effect, ...]) -> list[Finding]:
    """V21: a right leaves the table when it was given back, or when a fence of it that was outstanding has been answered; and it is said."""
    answered = {
        row.right
        for fence, row in before["fences"].items()
        if not row.failed and fence not in after["fences"]
    }
    gone = {right: row for right, row in before["rights"].items() if right not in after["rights"]}
    found = [
        ("V21", f"right {right} left the table, and was neither given back nor fenced")
        for right, row in gone.items()
        if not row.returning and right not in answered
    ]
    said = {effect.right for effect in made if isinstance(effect, do.DropRight)}
    return found + [
        ("V21", f"right {right} left the table, and nobody said so") for right in gone.keys() - said
    ]


TAKING: Final = frozenset({"notified", "destroyed", "fencing", "unmapping", "applying", "applied", "freed"})
DONE_TO_MEMORY: Final = frozenset({"applying", "applied", "freed"})


def ungated(before: Books, after: Books, made: tuple[do.Effect, ...]) -> list[Finding]:
    """V1: whoever takes the range from others, and lets go of the core before it has ended, has closed a gate first."""
    shut = {number for number, row in before["reclaims"].items() if row.gated}
    for effect in made:
        if not isinstance(effect, do.Phase) or effect.reclaim not in after["reclaims"]:
            continue
        if effect.phase == "gated":
            shut.add(effect.reclaim)
        acts = effect.phase in DONE_TO_MEMORY or (effect.phase in TAKING and effect.keys)
        if acts and effect.reclaim not in shut:
            told = f"reclaim {effect.reclaim} took the range from others in several steps, and closed no gate"
            return [("V1", told)]
    return []


def registered(before: Books, after: Books) -> list[Finding]:
    """V1: behind a gate nobody registers the range. V23: nor does anybody overtake a reclaim that waits. V24: every pin has an owner."""
    found: list[Finding] = []
    for key, row in after["mrs"].items():
        if key not in before["mrs"]:
            waited = [
                p for p in before["parked"].values() if (p.session, p.request) == (row.session, row.request)
            ]
            for number, reclaim in before["reclaims"].items():
                if number not in after["reclaims"] or not meets(after, row.runs, reclaim):
                    continue
                if reclaim.gated:
                    found.append(("V1", f"MR {key} was registered behind the gate of reclaim {number}"))
                behind = not waited or number in waited[0].behind
                if behind and not reclaim.returned:
                    found.append(
                        ("V23", f"MR {key} came behind reclaim {number}, which waits, and was pinned")
                    )
        if row.session not in after["sessions"]:
            found.append(("V24", f"MR {key} pins memory, and its session is gone"))
    return found


def meets(books: Books, runs: tuple[do.Run, ...], reclaim: Any) -> bool:
    """Does a reclaim take a byte of these runs?"""
    if reclaim.device:
        return True
    file = books["files"].get(reclaim.ino)
    if file is None:
        return False
    taken = (
        extents.runs(file.extents, reclaim.lo, min(reclaim.hi, file.size) - reclaim.lo)
        if reclaim.lo < file.size
        else ()
    )
    return any(at < to + count and to < at + size for at, size in runs for to, count in taken)


def lost_revokes(books: Books) -> list[Finding]:
    """V12: a reclaim has succeeded, and none that was being installed meanwhile is left out."""
    owned = {e[1] + at for row in books["files"].values() for e in row.extents for at in range(e[2])}
    return [
        ("V12", f"the reclaim succeeded, and MR {key}, which was being installed, was not revoked")
        for key, row in books["mrs"].items()
        if row.state == "installing" and not row.revoked and not owned.issuperset(blocks_of(row.runs))
    ]


def tails(before: Books, after: Books, made: tuple[do.Effect, ...]) -> list[Finding]:
    """S9: what is past the end of a file is blanked before it can be read."""
    found: list[Finding] = []
    for ino, row in before["files"].items():
        now = after["files"].get(ino)
        if now is None or now.size <= row.size:
            continue
        end = min(now.size, blocks_up(row.size) * BLOCK)
        shown = extents.runs(now.extents, row.size, end - row.size) if row.size < end else ()
        blanked = [run for effect in made if isinstance(effect, do.Blank) for run in effect.runs]
        if any(run not in blanked for run in shown):
            found.append(
                (
                    "S9",
                    f"{row.path} grew from {row.size} to {now.size} bytes, and what was past its end can be read",
                )
            )
    return found


def revoked(before: Books, after: Books, made: tuple[do.Effect, ...]) -> list[Finding]:
    """V13: told once. V15: a revoke is never taken back. V25: it is told to whom the MR belongs."""
    found: list[Finding] = []
    for effect in made:
        row = before["mrs"].get(effect.fields.get("mr")) if isinstance(effect, do.Notify) else None
        if row is not None and isinstance(effect, do.Notify) and effect.session != row.session:
            sentence = f"{effect.name} of MR {effect.fields['mr']} went to session {effect.session}, which does not have it"
            found.append(("V25", sentence))
    told = [
        effect.fields["mr"]
        for effect in made
        if isinstance(effect, do.Notify) and effect.name == "MR_REVOKED" and "mr" in effect.fields
    ]
    for key in dict.fromkeys(told):
        known = before["mrs"].get(key)
        if told.count(key) > 1 or (known is not None and known.told):
            found.append(("V13", f"the revoke of MR {key} was delivered twice"))
    for key, row in before["mrs"].items():
        now = after["mrs"].get(key)
        if now is not None and (
            (row.revoked and not now.revoked) or (row.state == "unmapped" and now.state != "unmapped")
        ):
            found.append(("V15", f"the revoke of MR {key} was taken back"))
    return found


def rested(before: Books, after: Books) -> list[Finding]:
    """V11: a key comes to rest when its MR is gone, with its next generation, and is issued again when enough others have."""
    found: list[Finding] = []
    resting = before["keys"]
    for place, key in after["keys"].items():
        if place in resting:
            continue
        if any(key >> 8 == other >> 8 for other in after["mrs"]):
            found.append(("V11", f"key {key:#x} was put to rest, and its MR is still there"))
        if key in before["mrs"]:
            found.append(("V11", f"key {key:#x} was put to rest with the generation that it had"))
    if len(resting) < KEY_REST:
        early = [key for key in after["mrs"] if key not in before["mrs"] and key in resting.values()]
        found += [("V11", f"key {key:#x} was issued again, and only {len(resting)} rest") for key in early]
    return found
