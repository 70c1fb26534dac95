"""What this version of the node can do: an event is asked for through methods of a context, a backing is registered through some.

A comparison lists no row whose method is not there.
"""

from __future__ import annotations

from importlib.util import find_spec
from inspect import signature

from emu.lab.plan.events import EVENTS
from emu.verbs.fs import Fs
from emu.verbs.mr import MR

# What a backing's registrations, and the taking back of its memory, go through.
FOR_BACKING = {
    "page-cache": ("fs.writeback",),
    "anon": ("fs.pressure",),
    "devdax": ("mr.device",),
    "dmabuf": ("dmabuf",),
}
# Of the methods that events name, those that belong to one backing alone.
ONLY_THERE = {("fs.migrate", "dmabuf"): "dmabuf"}


def lacking(*, event: str = "", backing: str = "") -> list[str]:
    """Methods that are missing for them."""
    wanted = [ONLY_THERE.get((name, backing), name) for name in (EVENTS[event].needs if event else ())]
    return [name for name in (*wanted, *FOR_BACKING.get(backing, ())) if not _is_there(name)]


def _is_there(name: str) -> bool:
    place, _, method = name.rpartition(".")
    if place == "fs":
        return hasattr(Fs, method)
    if name == "signal":  # who holds whom: processes of sessions, and a context that outlives its opener
        return find_spec("emu.clients.heir") is not None
    if place == "mr":
        return method in signature(MR).parameters
    return find_spec(f"emu.verbs.{name}") is not None
