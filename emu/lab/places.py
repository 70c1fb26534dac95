"""The names of a run's memory: the victim, the bystander, what is registered once the victim was taken; and what an act's words stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from emu.lab.node import OTHER_DEVICE, OTHER_MOUNT, VICTIM_DEVICE, VICTIM_MOUNT
from emu.lab.plan import act_of
from emu.lab.plan.backings import BACKINGS
from emu.lab.plan.geometry import BESIDE, QUARTER, SIZE

if TYPE_CHECKING:
    from pathlib import Path

    from emu.lab.plan.acts import Act
    from emu.lab.plan.spec import RowSpec

Json = dict[str, Any]

KINDS = {
    "dax": "file",
    "page-cache": "file",
    "host": "host",
    "anon": "memory",
    "devdax": "raw",
    "dmabuf": "buffer",
}
MOUNTS = {
    "host": "host",
    "anon": "anon",
    "dmabuf": "dmabuf",
}  # pseudo-mounts, each with a protocol of its own


@dataclass(frozen=True)
class Places:
    """files: by role, as the holder takes them. mount: whose protocol rules the victim. device: whose memory is looked at; "" for none."""

    files: dict[str, Json]
    mount: str
    device: str

    @property
    def victim(self) -> str:
        return str(self.files["victim"]["path"])


def places(spec: RowSpec, host: Path, *, elsewhere: bool = False) -> Places:
    """host: folder for host files. elsewhere: other memory as large as the victim, for a control whose victim nobody holds."""
    act, kind = act_of(spec), KINDS[spec.backing]
    first = {"file": VICTIM_MOUNT, "host": str(host), "raw": VICTIM_MOUNT}.get(kind, "")
    other = OTHER_MOUNT if kind == "raw" or (kind == "file" and act.device) else first
    memory = BACKINGS[spec.backing].memory
    device = {"device": VICTIM_DEVICE, "pages": VICTIM_DEVICE, "host": "host"}.get(memory, "")
    return Places(_files(kind, first, other, act, elsewhere), MOUNTS.get(spec.backing, VICTIM_MOUNT), device)


def _files(kind: str, first: str, other: str, act: Act, elsewhere: bool) -> dict[str, Json]:
    def memory(role: str, place: str, size: int, length: int, offset: int = 0) -> Json:
        path = place if kind == "raw" else f"{place}/{role}" if place else role
        return {"kind": kind, "path": path, "size": size, "length": length, "offset": offset}

    remains = act.spares and kind in {"file", "host"}
    spare = (
        memory("victim", first, SIZE, QUARTER)
        if remains
        else memory("spare", other, QUARTER, QUARTER, SIZE if kind == "raw" else 0)
    )
    return {
        "victim": {**memory("victim", first, SIZE, SIZE), "clone": f"{first}/clone", "guard": act.foreign},
        "bystander": memory("bystander", other, BESIDE, BESIDE),
        "spare": spare,
        **({"elsewhere": memory("elsewhere", other, SIZE, SIZE, 2 * SIZE if kind == "raw" else 0)} if elsewhere else {}),
    }  # fmt: skip


def filled_in(ask: Json, files: dict[str, Json], writer: int, key: int = 0) -> Json:
    """The act's request, with this run's names. key: of the victim, where memory has no other name."""
    words = {
        "victim": files["victim"]["path"], "clone": files["victim"]["clone"], "buffer": files["victim"]["path"],
        "device": VICTIM_DEVICE, "mount": VICTIM_MOUNT, "other": OTHER_DEVICE, "key": key,
    }  # fmt: skip
    found = {name: value.format(**words) if isinstance(value, str) else value for name, value in ask.items()}
    return {**found, "writer": writer} if ask["op"] == "stamp" else found
