"""A device's memory over time: whose each block was, what pinned it, and where DMA met memory that had changed hands.

    across   the run, from the first registration to the last line of its history
    down     the device's bytes, as far as anybody ever owned them
    boxes    a file's blocks; blocks that were freed; blocks kept from reuse (no file's, not free yet); memory that is absent, or new
    outline  an MR pins these blocks
    strokes  copies that met foreign, freed or absent memory, when they ended, as high as their bytes
    right    foreign bytes in the image when all was over

Read from a run's folder: events.jsonl, oplog-T.bin, filemap.json and the image.
"""

from __future__ import annotations

import json
import mmap
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from emu.history.events import read_events
from emu.history.oplog import Flag, by_time, read_oplogs
from emu.history.oplog import Kind as OpKind
from emu.history.stamp import CELL, cells_in_free, foreign_cells
from emu.report.svg import box, line, picture, text
from emu.report.words import count, span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

Json = dict[str, Any]

BLOCK = 4096
MOST = 400  # dots
WIDTH, LEFT, RIGHT, TOP, HEIGHT = 1080.0, 104.0, 64.0, 12.0, 260.0
TICKS = 6
FREED, KEPT, ABSENT, FRESH = "freed", "kept", "absent", "fresh"
ROLES = ("victim", "taker", "bystander")  # files that a lab's run has; others are drawn alike
MET = (
    (Flag.DST_FOREIGN | Flag.SRC_FOREIGN, "foreign"),
    (Flag.DST_ABSENT | Flag.SRC_ABSENT, "absent"),
    (Flag.DST_FREED | Flag.SRC_FREED, "freed"),
)


class Span(NamedTuple):
    """Blocks from `block` on, in the same hands from `begin` to `end`."""

    block: int
    blocks: int
    begin: int
    end: int
    label: str  # a file's path, FREED, KEPT, ABSENT (unplugged), FRESH (a new namespace), or a key


class Hit(NamedTuple):
    time: int
    offset: int
    bytes: int
    met: str


@dataclass
class Map:
    device: str
    begin: int
    end: int
    owned: list[Span] = field(default_factory=list)
    pins: list[Span] = field(default_factory=list)
    hits: list[Hit] = field(default_factory=list)
    foreign: list[tuple[int, int]] = field(default_factory=list)  # offset, bytes at the end

    @property
    def blocks(self) -> int:
        """As far as anybody ever owned them."""
        return max((s.block + s.blocks for s in (*self.owned, *self.pins)), default=1)


def read(folder: str | Path) -> Map | None:
    """None: the folder has no device of emu's own, or nothing was registered on it."""
    folder = Path(folder)
    try:
        filemap = json.loads((folder / "filemap.json").read_text("utf-8"))
        lines = list(read_events(folder))
        records = list(by_time(read_oplogs(folder)))
    except (OSError, ValueError, KeyError):
        return None
    opened = [e for e in lines if e.get("type") == "OpenDevice" and e["name"] == filemap["device"]]
    if not opened:
        return None
    aperture = opened[-1]["aperture"]
    first = next((e["t"] for e in lines if e.get("type") == "InstallKey" and e["aperture"] == aperture), None)
    if first is None:
        return None
    made = Map(filemap["device"], first, lines[-1]["t"])
    made.owned = _clipped(_owners(lines, made.device, aperture), first)
    made.pins = list(_pins(lines, aperture))
    number = next(
        (e["number"] for e in lines if e.get("type") == "Aperture" and e["aperture"] == aperture), None
    )
    made.hits = _hits(records, number)
    made.foreign = _foreign(folder, filemap)
    return made


def _clipped(spans: Iterable[Span], begin: int) -> list[Span]:
    return [s._replace(begin=max(s.begin, begin)) for s in spans if s.end > begin]


# ---- whose it was


class _Owners:
    """Blocks of one device while the lines are read; `spans` as they end."""

    def __init__(self) -> None:
        self.files: dict[Any, tuple[str, list[list[int]]]] = {}
        self.loose: dict[int, str] = {}  # blocks that were a file's once: KEPT, then FREED
        self.open: dict[tuple[int, int, str], int] = {}
        self.spans: list[Span] = []
        self.absent = False

    def commit(self, delta: Iterable[Any], device: str) -> bool:
        before = self._held()
        changed = False
        for book, key, row in delta:
            if book != "files":
                continue
            changed = True
            self.files.pop(key, None)
            if row and row[1] == device:
                self.files[key] = (row[0], row[3])
        now = self._held()
        for block in before.keys() - now.keys():
            self.loose.setdefault(block, KEPT)
        return changed

    def release(self, runs: Iterable[list[int]]) -> None:
        for at, size in runs:
            self.loose.update(dict.fromkeys(range(at // BLOCK, (at + size) // BLOCK), FREED))

    def _held(self) -> dict[int, str]:
        return {
            block: path
            for path, extents in self.files.values()
            for _file, start, blocks, _since in extents
            for block in range(start, start + blocks)
        }

    def unplugged(self) -> None:
        self.absent = True

    def plugged(self) -> None:
        """A new namespace: what files there were are dropped in the same step."""
        self.absent, known = False, [*self.loose, *self._held()]
        self.loose = dict.fromkeys(known, FRESH)

    def draw(self, time: int) -> None:
        """Close what has changed, open what is new."""
        held = self._held()
        for block in held:
            self.loose.pop(block, None)
        now = {**self.loose, **held}
        if self.absent:
            now = dict.fromkeys(now, ABSENT)
        runs = {(first, size, label) for first, size, label in _runs(now)}
        for key in [key for key in self.open if key not in runs]:
            self.spans.append(Span(key[0], key[1], self.open.pop(key), time, key[2]))
        for key in runs - self.open.keys():
            self.open[key] = time


def _runs(blocks: Mapping[int, str]) -> Iterator[tuple[int, int, str]]:
    """(first block, blocks, label) of neighbours with one label."""
    for _, members in groupby(
        enumerate(sorted(blocks)), key=lambda pair: (pair[1] - pair[0], blocks[pair[1]])
    ):
        found = [block for _, block in members]
        yield found[0], len(found), blocks[found[0]]


TURNS: Mapping[str, Callable[[_Owners, Json], None]] = {
    "Release": lambda owners, entry: owners.release(entry["runs"]),
    "Offline": lambda owners, _entry: owners.unplugged(),
    "Online": lambda owners, _entry: owners.plugged(),
}


def _owners(lines: list[Json], device: str, aperture: int) -> list[Span]:
    owners = _Owners()
    for entry in lines:
        kind = str(entry.get("type"))
        if kind in {"Commit", "Loaded"} and "delta" in entry:
            if owners.commit(entry["delta"], device):
                owners.draw(entry["t"])
        elif kind in TURNS and entry["aperture"] == aperture:
            TURNS[kind](owners, entry)
            owners.draw(entry["t"])
    owners.files, owners.loose = {}, {}
    owners.draw(lines[-1]["t"])
    return owners.spans


# ---- who pinned it, and what DMA met


def _pins(lines: list[Json], aperture: int) -> Iterator[Span]:
    """From InstallKey (or a Remap) to the answer of the key's Unmap, or to its removal."""
    held: dict[int, tuple[int, list[list[int]]]] = {}
    asked: dict[int, list[int]] = {}
    for entry in lines:
        kind, time = entry.get("type"), entry.get("t", 0)
        ends: list[int] = []
        if kind == "Unmap":
            asked[entry["cookie"]] = entry["keys"]
        elif kind == "Unmapped" and not entry["errno"]:
            ends = asked.pop(entry["cookie"], [])
        elif kind in {"RemoveKey", "Remap", "InstallKey"}:
            ends = [entry["key"]]
        for key in ends:
            yield from _pin(key, held.pop(key, None), time)
        if kind in {"InstallKey", "Remap"} and entry["aperture"] == aperture:
            held[entry["key"]] = (time, entry["extents"])
    for key, pin in held.items():
        yield from _pin(key, pin, lines[-1]["t"])


def _pin(key: int, pin: tuple[int, list[list[int]]] | None, end: int) -> Iterator[Span]:
    for at, size in pin[1] if pin else ():
        if pin and at >= 0:
            yield Span(at // BLOCK, -(-size // BLOCK), pin[0], end, f"key {key:#x}")


def _hits(records: Iterable[Any], number: int | None) -> list[Hit]:
    """At most MOST, spread over the run."""
    found = [hit for record in records if record.kind == OpKind.QUANTUM for hit in _hit(record, number)]
    return found[:: -(-len(found) // MOST) or 1]


def _hit(record: Any, number: int | None) -> Iterator[Hit]:
    met = next((word for mask, word in MET if record.flags & mask), "")
    sides = {record.src_aperture: record.src_offset, record.dst_aperture: record.dst_offset}
    if met and number in sides:
        yield Hit(record.time_last, sides[number], record.bytes, met)


def _foreign(folder: Path, filemap: Json) -> list[tuple[int, int]]:
    """Runs of foreign cells in the image, neighbours in a block joined."""
    path = folder / filemap.get("image", f"{filemap['device']}.img")
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as image:
            cells = {cell.position for cell in foreign_cells(image, filemap)}
            if filemap.get("replaced"):
                cells |= {cell.position for cell in cells_in_free(image, filemap)}
    except (OSError, ValueError):
        return []
    blocks = sorted({position // BLOCK for position in cells})
    return [
        (first * BLOCK, CELL * sum(first <= position // BLOCK < first + size for position in cells))
        for first, size, _label in _runs(dict.fromkeys(blocks, "foreign"))
    ]


# ---- the picture


def draw(made: Map) -> str:
    length, blocks = max(1, made.end - made.begin), made.blocks

    def x(time: int) -> float:
        return LEFT + min(1.0, max(0.0, (time - made.begin) / length)) * (WIDTH - LEFT - RIGHT)

    def y(block: float) -> float:
        return TOP + min(1.0, block / blocks) * HEIGHT

    parts = _frame(made, x, y)
    for s in made.owned:
        tip = f"{s.label}: blocks {s.block} to {s.block + s.blocks - 1}, {span((s.end - s.begin) / 1000)}"
        parts.append(
            box(
                x(s.begin),
                y(s.block),
                max(1.0, x(s.end) - x(s.begin)),
                y(s.block + s.blocks) - y(s.block),
                f"own {_shade(s.label)}",
                tip,
            )
        )
    for s in made.pins:
        tip = f"{s.label} pins blocks {s.block} to {s.block + s.blocks - 1}, {span((s.end - s.begin) / 1000)}"
        parts.append(
            box(
                x(s.begin),
                y(s.block),
                max(1.0, x(s.end) - x(s.begin)),
                y(s.block + s.blocks) - y(s.block),
                "pin",
                tip,
            )
        )
    for h in made.hits:
        tall = max(2.0, y((h.offset + h.bytes) / BLOCK) - y(h.offset / BLOCK))
        parts.append(
            box(
                x(h.time) - 0.8,
                y(h.offset / BLOCK),
                1.6,
                tall,
                f"bar {h.met}",
                f"{h.bytes} bytes in {h.met} memory",
            )
        )
    for offset, size in made.foreign:
        tall = max(2.0, y((offset + max(size, BLOCK)) / BLOCK) - y(offset / BLOCK))
        parts.append(
            box(
                WIDTH - RIGHT + 8,
                y(offset / BLOCK),
                10,
                tall,
                "bar foreign",
                f"{count(size)} foreign bytes at the end",
            )
        )
    if made.foreign:
        parts.append(text(WIDTH - RIGHT + 24, TOP + 10, "foreign", "note"))
    return picture(WIDTH, TOP + HEIGHT + 26, f"Memory of device {made.device} over time", parts)


def _frame(made: Map, x: Any, y: Any) -> list[str]:
    parts = []
    for i in range(TICKS + 1):
        time = made.begin + (made.end - made.begin) * i // TICKS
        parts += [
            line(x(time), TOP, x(time), TOP + HEIGHT, "grid"),
            text(x(time), TOP + HEIGHT + 16, span((time - made.begin) / 1000), "axis", "middle"),
        ]
    for i in range(5):
        block = made.blocks * i / 4
        parts.append(text(LEFT - 12, y(block) + 4, f"{block * BLOCK / 1024:,.0f} KiB", "axis", "end"))
    return parts


def _shade(label: str) -> str:
    if label in {FREED, KEPT, ABSENT, FRESH}:
        return label
    return next((role for role in ROLES if label.endswith(f"/{role}")), "other")


def key() -> tuple[tuple[str, str], ...]:
    """(CSS class, words) of what the picture shows."""
    return (
        ("own victim", "the victim file"), ("own taker", "the file that got it next"), ("own bystander", "other files"),
        ("own freed", "freed"), ("own kept", "no file's, kept from reuse"), ("own absent", "unplugged"), ("own fresh", "a new namespace"),
        ("pin", "pinned by an MR"), ("bar foreign", "a copy into, or bytes left in, foreign or absent memory"), ("bar freed", "into freed memory"),
    )  # fmt: skip
