"""An act: what is asked under an event and by whom, what must be true of the file afterwards, what changes hands, what follows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from emu.lab.plan.geometry import BESIDE_HOLE, BLOCK, QUARTER, SIZE, WHOLE

Json = dict[str, Any]

BEFORE: Json = {"size": SIZE, "holes": [], "kept": [[0, SIZE]]}
SAME: Json = BEFORE
GONE: Json = {"gone": True, "size": 0, "holes": [], "kept": []}
OPEN: Json = {"size": SIZE, "holes": [], "kept": []}  # as large as before; of its bytes nothing is said
SPOILT: Json = {"size": SIZE, "holes": [], "kept": [[0, QUARTER], [QUARTER + BLOCK, SIZE]]}  # one block of it
SHORT: Json = {"size": QUARTER, "holes": [], "kept": [[0, QUARTER]]}
HOLED: Json = {"size": SIZE, "holes": [list(WHOLE)], "kept": BESIDE_HOLE}
ZEROED: Json = {"size": SIZE, "holes": [], "kept": BESIDE_HOLE}


@dataclass(frozen=True)
class Act:
    """ask: operation and arguments (clients/asks.py); {victim}, {clone}, {spot}, {key}, {device}, {mount}, {buffer} are filled in. by: the client that asks.

    given_back: the stretch of the file whose memory somebody else gets. then: what follows an answer: `take` (a second file over what
    is free), `retake` (a host file's same range anew), `plug` (a new namespace, or NIC), `need` (somebody who could not go on
    without the space), `pressure` (the page goes), `mount` (the same device again), `export` (another buffer), "" (DMA goes on, no more). first: what stands ready before the registration:
    `clone`, `fill`. leaves: the holder ends before anything is asked: `ends` or `hands-over` (its descriptor to another process).
    access: `rw`, or `r` where a registration for writing would be the event itself. spares: what is registered again once the
    victim was taken is still there: the victim's first quarter; else it is another file. device: the whole device goes, so the bystander
    and the spare file are on another. before: what is true of the file where nothing is done. frees: ranges of the file that
    hold no memory behind a success. alone: there is no bystander, since what happens is everybody's. apart: the victim's exporter is a process of its own, which is killed when
    the request has been asked: that it is gone is the event. foreign: the program asks the kernel, which asks the broker, whose guard is on the file.
    """

    ask: Json
    expected: Json = field(default_factory=lambda: OPEN)
    given_back: tuple[int, int] = (0, SIZE)
    by: str = "reclaimer"
    then: str = ""
    first: tuple[str, ...] = ()
    leaves: str = ""
    access: str = "rw"
    spares: bool = False
    device: bool = False
    alone: bool = False
    apart: bool = False
    foreign: bool = False
    frees: tuple[tuple[int, int], ...] = ()
    before: Json = field(default_factory=lambda: BEFORE)


KIND_OF = {
    "stamp": "cow-write", "pressure": "memory-pressure", "buf_move": "move", "buf_revoke": "revoke", "buf_storm": "revoke",
    "buf_gone": "surprise",
    "open_trunc": "foreign",
}  # fmt: skip


def kind_of(ask: Json) -> str:
    """The core's word for what a request takes back: what a protocol promises goes by it."""
    if ask.get("surprise"):
        return "surprise"
    return str(ask["mode"] if ask["op"] == "fallocate" else KIND_OF.get(ask["op"], ask["op"]))


def ask(op: str, **arguments: Any) -> Json:
    return {"op": op, **arguments}
