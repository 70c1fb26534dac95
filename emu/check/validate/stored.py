"""The memory at the end, held against the engine's log: a block that stamped WRITEs filled, and nobody else had reason to touch, has stamps.

A block is looked at if a single WRITE that ended well, and whose writer noted which bytes of the file it was for, covered all of it; if its
file has had it ever since the key was registered, at that offset (a collapse or insert of it was never asked for); and if whatever else was moved there was stamped for that file as well. Behind that
key's installation no CPU may have been at it (Store, Zero, Blank), and nobody may have given it away or replaced the device. A client's own
stores are in no journal: only in a simulated run, and in a lab's, does whoever stores to a mapping stamp what he stores. Elsewhere
nothing is said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from emu.check.memory import BLOCK, misplaced_cells
from emu.history.journal import Kind
from emu.history.oplog import Flag
from emu.history.oplog import Kind as OpKind
from emu.history.stamp import CELL

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from emu.check.history import History
    from emu.history.journal import Record
    from emu.history.oplog import OpRecord

Json = dict[str, Any]
WRITES = (0, 1)
OTHER = ~int(Flag.EPOCH_MOVED)  # than flags that are no matter here
HANDLED = frozenset({"Allocate", "Share", "Poison", "Release", "Blank", "Zero", "Store"})
REPLACED = frozenset({"Offline", "Online"})
Where = tuple[int, int]  # of the log: thread, seq


class Post(NamedTuple):
    """What a writer noted of a request, and whether it saw it succeed."""

    noted: Record
    good: bool


def stored(history: History) -> Iterator[str]:
    """Blocks of the image that lack what the log says was stored there."""
    device = history.filemap.get("device")
    opened = [line for line in history.of("OpenDevice") if line["name"] == device]
    ours = history.meta.get("source") == "simulated" or history.row
    if not (ours and history.image and len(opened) == 1 and len(history.of("Loaded")) == 1):
        return
    reading = _Reading(history, opened[0]["aperture"])
    moved = _moved(history)
    for file in history.filemap["files"]:
        for extent in file["extents"] if file["ino"] not in moved else ():
            for at in range(0, extent[2], BLOCK):
                where = reading.filled(file["ino"], extent[1] + at, extent[0] + at)
                start, end = extent[0] + at, min(extent[0] + at + BLOCK, file["size"] // CELL * CELL)
                if (
                    where
                    and start < end
                    and misplaced_cells(history.image, file, [(start, end)]) * CELL == end - start
                ):
                    yield (
                        f"bytes {start} to {end} of {file['path']} hold nothing of what was stored there: the engine wrote them last in "
                        f"oplog-{where[0]}.bin, record {where[1]}"
                    )


def _moved(history: History) -> set[int]:
    """Files whose blocks may lie at another offset than when they were written to."""
    return {
        line["detail"].get("ino", 0)
        for line in history.of("Phase")
        if line["phase"] == "requested" and line["detail"].get("kind") in {"collapse", "insert"}
    }


class _Reading:
    """Who may have been at which block of the device."""

    def __init__(self, history: History, aperture: int) -> None:
        self.history = history
        self.keys = _lives(history, aperture)
        self.posts, self.meant = _posts(history)
        self.handled = _handled(history, aperture)
        self.whole: dict[int, list[tuple[Where, OpRecord]]] = {}  # block -> WRITEs that covered it
        self.users: dict[
            int, set[tuple[int, int]]
        ] = {}  # block -> (queue pair, key) of whatever may have written there
        self.spoilt: set[int] = set()
        self.summed: set[tuple[tuple[int, int], int]] = (
            set()
        )  # whose sums, under which line, are among the users
        self.under: dict[int, set[int]] = {}  # line that installed a key -> its blocks
        for thread, record in history.records():
            if record.bytes:
                self._record(thread, record)

    def _record(self, thread: int, record: OpRecord) -> None:
        key = record.rkey if record.opcode in WRITES else record.lkey
        life = self._life(key, record.op_epoch)
        if life is None:
            return
        sum_, flags = record.kind != OpKind.QUANTUM, record.flags & OTHER
        blocks = self._under(life) if sum_ else _blocks([[record.dst_offset, record.bytes]])
        user = record.qp_num, key
        if not sum_ or (user, life["n"]) not in self.summed:
            for block in blocks:
                self.users.setdefault(block, set()).add(user)
        if sum_:
            self.summed.add((user, life["n"]))
        else:
            for block in range(-(-record.dst_offset // BLOCK), (record.dst_offset + record.bytes) // BLOCK):
                self.whole.setdefault(block, []).append(((thread, record.seq), record))
        if flags or record.opcode not in WRITES:
            self.spoilt |= blocks

    def _under(self, life: Json) -> set[int]:
        """All blocks of a key: its sums come by the thousand."""
        if life["n"] not in self.under:
            self.under[life["n"]] = _blocks(life["extents"])
        return self.under[life["n"]]

    def _life(self, key: int, epoch: int) -> Json | None:
        return next((line for line in reversed(self.keys.get(key, [])) if line["epoch"] <= epoch), None)

    def filled(self, ino: int, position: int, offset: int) -> Where | None:
        """The WRITE that covered this block of the device for this offset of the file, if only stamps of the file can be there."""
        block = position // BLOCK
        if block in self.spoilt or any(self.meant.get(user) != {ino} for user in self.users.get(block, ())):
            return None
        for where, record in reversed(self.whole.get(block, [])):
            life, post = (
                self._life(record.rkey, record.op_epoch),
                self.posts.get((record.qp_num, record.wr_id)),
            )
            if life is None or post is None or record.status or not post.good:
                continue
            if (
                life["n"] > self.handled.get(block, -1)
                and life["n"] > self.handled.get(-1, -1)
                and _covers(post.noted, offset)
            ):
                return where
        return None


def _blocks(runs: Iterable[list[int]]) -> set[int]:
    return {block for at, size in runs for block in range(at // BLOCK, -(-(at + size) // BLOCK))}


def _lives(history: History, aperture: int) -> dict[int, list[Json]]:
    """Key -> lines that installed it over this device. A key that was once somebody else's too is told by its epoch."""
    found: dict[int, list[Json]] = {}
    for line in history.of("InstallKey", "Remap"):
        if line["aperture"] == aperture:
            there = [run for run in line["extents"] if run[0] >= 0]
            found.setdefault(line["key"], []).append({**line, "extents": there})
    return found


def _posts(history: History) -> tuple[dict[tuple[int, int], Post], dict[tuple[int, int], set[int]]]:
    """(queue pair, request) -> its note, where one alone has that number; (queue pair, key) -> files that were meant, 0: without stamps."""
    posts: dict[tuple[int, int], Post] = {}
    meant: dict[tuple[int, int], set[int]] = {}
    twice = set()
    for journal in history.journals.values():
        for note in journal.of(Kind.POSTED):
            name = note.qp_num, note.wr_id
            if name in posts:
                twice.add(name)
            posts[name] = Post(note, name in journal.good)
            stamped = (
                note.ino if note.opcode in WRITES and not (note.length % CELL or note.offset % CELL) else 0
            )
            if note.opcode in WRITES:
                meant.setdefault((note.qp_num, note.key), set()).add(stamped)
    return {name: post for name, post in posts.items() if name not in twice}, meant


def _handled(history: History, aperture: int) -> dict[int, int]:
    """Block -> the last line that gave it to somebody else, or let a CPU at it; -1: of the whole device."""
    found: dict[int, int] = {}
    for line in history.of(*HANDLED, *REPLACED):
        if line["type"] in REPLACED and line["aperture"] == aperture:
            found[-1] = line["n"]
        for at, size in line["runs"] if line["type"] in HANDLED and line["aperture"] == aperture else ():
            found.update((block, line["n"]) for block in range(at // BLOCK, -(-(at + size) // BLOCK)))
    return found


def _covers(noted: Record, offset: int) -> bool:
    return bool(noted.offset <= offset and offset + BLOCK <= noted.offset + noted.length)
