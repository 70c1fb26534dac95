"""Which rows a comparison has, what each does to the file, and which controls must flip it. No process is started here.

A row is one (protocol, event, backing, holder). Pairs that make no sense are rows too: N/A, with the reason.

    file      0        256K                 768K      1M
    truncate  |  kept  |         given back           |
    punch     |  kept  |     given back     |  kept   |
    unlink    |             given back                |
    unplug    the whole device, or on `host` the whole file
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from emu.check.promises import installed, tells_holders
from emu.lab import names
from emu.lab.node import OTHER_MOUNT, VICTIM_DEVICE, VICTIM_MOUNT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from emu.check.verdict import Verdict

Json = dict[str, Any]

SIZE = 1 << 20
QUARTER = SIZE // 4
WRITE = SIZE  # bytes of a WRITE: the engine must have more to do than Python can ask for, or it would be idle at the gate
READ = QUARTER  # and of a READ, whose result Python looks at
DEPTH = 2048  # WRITEs outstanding: work for longer than a loaded machine keeps Python waiting
READS = 4  # READs outstanding: few, since looking at what they bring takes Python longer than the engine needs to bring it
ROUND = 192  # completions between two steps of a run
BESIDE = 64 << 10  # bytes of the bystander's file

ORPHANS = "`none` frees blocks under the DMA: on a host file the real filesystem owns the blocks and keeps its own count"
NOT_OURS = {
    "unlink": "the name of a host file belongs to the host: emu cannot stand between unlink and its blocks",
    "surprise-unplug": "the device below a host file belongs to the host",
}


@dataclass(frozen=True)
class RowSpec:
    """What is to be measured. `reason`: why it is not (N/A)."""

    protocol: str
    event: str
    backing: str
    holder: str
    reason: str = ""

    @property
    def label(self) -> str:
        return f"{self.protocol}-{self.event}-{self.backing}-{self.holder}"


@dataclass(frozen=True)
class Control:
    """What is done differently in a control run, and how it must end: anything else shows nothing, UNKNOWN least of all."""

    name: str
    ends: tuple[str, ...] = ()
    dma: bool = True
    pinned: bool = True
    options: tuple[str, ...] = ()
    into_freed: bool = False  # its DMA must be seen in freed blocks

    def objection(self, verdict: Verdict) -> str:
        """Why this verdict is not the end that was called for; empty if it is."""
        if verdict.outcome not in self.ends:
            return self.misses(verdict.outcome) + "".join(f" ({why})" for why in verdict.why)
        if self.into_freed and ("CORRUPT" in verdict.outcomes or not verdict.freed_bytes):
            return (
                f"the control {self.name} ended in {verdict.outcome}, but not by DMA into freed blocks alone"
            )
        return ""

    def misses(self, outcome: str) -> str:
        """The sentence about an outcome that is not among its ends; empty if it is."""
        if outcome in self.ends:
            return ""
        return f"the control {self.name} ended in {outcome}, and counts only if it ends in {' or '.join(self.ends)}"


NO_DMA = Control("no-dma", ("OK",), dma=False)
NO_PIN = Control("no-pin", ("OK",), dma=False, pinned=False)
FIFO = Control("fifo", ("LOST", "STALE"), options=("--allocator=fifo",), into_freed=True)
CONTROLS = {control.name: control for control in (NO_DMA, NO_PIN, FIFO)}


def controls_for(spec: RowSpec, outcomes: Iterable[str]) -> list[Control]:
    """The controls that must change this outcome.

    Idle peers corrupt nothing and get no errors; a file that nobody has registered can be taken back; an allocator that reuses
    freed blocks last leaves stale DMA in free blocks. A row of a prompt holder shares the controls of the deaf one.
    """
    found = set(outcomes)
    if "CORRUPT" in found:
        blocks_reused = spec.backing == "dax" and spec.event in {"truncate", "punch", "unlink"}
        return [NO_DMA, FIFO] if blocks_reused else [NO_DMA]
    if "DENY" in found:
        return [NO_PIN]
    return [NO_DMA] if found & {"OK+ERR", "FAULT", "LOST", "STALE"} else []


def protocols_here() -> list[str]:
    """Installed protocols: the package's own, in INTERFACE's order, then those of others."""
    found = set(installed())
    return [name for name in names.PROTOCOLS if name in found] + sorted(found - set(names.PROTOCOLS))


def not_applicable(protocol: str, event: str, backing: str) -> str:
    """Why this makes no sense; empty if it does."""
    if backing != "host":
        return ""
    return NOT_OURS.get(event, "") or (ORPHANS if protocol == "none" else "")


def rows(
    protocols: Iterable[str], events: Iterable[str], backings: Iterable[str], holders: Iterable[str] | None
) -> Iterator[RowSpec]:
    """All rows; holders None: deaf everywhere, and prompt where the protocol tells its holders anything."""
    events = list(events)
    protocols = list(protocols)
    for backing in backings:
        for protocol in protocols:
            for event in events:
                reason = not_applicable(protocol, event, backing)
                manners = ["deaf"] if reason else list(holders or _fitting(protocol, backing))
                for holder in manners:
                    yield RowSpec(protocol, event, backing, holder, reason)


def _fitting(protocol: str, backing: str) -> list[str]:
    """Where a protocol tells its holders nothing, a prompt one does what a deaf one does."""
    return ["deaf", "prompt"] if tells_holders(protocol) and backing != "host" else ["deaf"]


# ---- what an event does


@dataclass(frozen=True)
class Act:
    """One event's arguments, what must be true of the file afterwards, and what changes hands."""

    arguments: Json
    expected: Json
    given_back: tuple[int, int]


BEFORE: Json = {"size": SIZE, "holes": [], "kept": [[0, SIZE]]}
_GONE: Json = {"gone": True, "size": 0, "holes": [], "kept": []}
ACTS = {
    "truncate": Act(
        {"size": QUARTER}, {"size": QUARTER, "holes": [], "kept": [[0, QUARTER]]}, (QUARTER, SIZE)
    ),
    "punch": Act(
        {"offset": QUARTER, "length": 2 * QUARTER},
        {"size": SIZE, "holes": [[QUARTER, 3 * QUARTER]], "kept": [[0, QUARTER], [3 * QUARTER, SIZE]]},
        (QUARTER, 3 * QUARTER),
    ),
    "unlink": Act({}, _GONE, (0, SIZE)),
    "unplug": Act({}, _GONE, (0, SIZE)),
    "surprise-unplug": Act({}, _GONE, (0, SIZE)),
}
# On a host file a hole is the kernel's business, and an unplug takes the file from its users, not from its owner.
HOST_EXPECTED: dict[str, Json] = {
    "truncate": ACTS["truncate"].expected,
    "punch": {**ACTS["punch"].expected, "holes": []},
    "unplug": {"size": SIZE, "holes": [], "kept": []},
}


def whole_device(spec: RowSpec) -> bool:
    return spec.backing == "dax" and spec.event in {"unplug", "surprise-unplug"}


def files_for(spec: RowSpec, host: str) -> dict[str, Json]:
    """The holder's three files: the victim, the bystander, and what is registered once the victim was taken.

    host: folder for host files.
    """
    if spec.backing == "host":
        return _files(f"{host}/victim", f"{host}/bystander", f"{host}/spare", spec, on_host=True)
    beside = OTHER_MOUNT if whole_device(spec) else VICTIM_MOUNT
    return _files(f"{VICTIM_MOUNT}/victim", f"{beside}/bystander", f"{beside}/spare", spec, on_host=False)


def _files(victim: str, bystander: str, spare: str, spec: RowSpec, *, on_host: bool) -> dict[str, Json]:
    def file(path: str, size: int, length: int) -> Json:
        return {"path": path, "size": size, "length": length, "offset": 0, "host": on_host}

    remains = spec.event in {"truncate", "punch"}
    return {
        "victim": file(victim, SIZE, SIZE),
        "bystander": file(bystander, BESIDE, BESIDE),
        "spare": file(victim if remains else spare, SIZE if remains else QUARTER, QUARTER),
    }


def device_of(spec: RowSpec) -> str:
    return "host" if spec.backing == "host" else VICTIM_DEVICE
