"""Whom a mount's protocol admits: what a registration meets before anything is pinned.

refuses    memory of this kind is not pinned at all (`backing`, or `backing:write`: not with LOCAL_WRITE, tmpfs apart); `on-demand`: nor mapped on demand
on_demand  MRs of the mount's files are of the class dynamic, as are those that ask for it by IBV_ACCESS_ON_DEMAND
importers  classes whose memory the protocol can take back
needs      what whoever registers must have done first (decision.NEEDS)
"""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from emu.core import asking
from emu.core.asking import refuse
from emu.core.decision import NEEDS
from emu.core.reclaims import signals
from emu.core.storage import leases

if TYPE_CHECKING:
    from emu.core.books import Books
    from emu.core.events import Requested
    from emu.core.requests import RegMr

LOCAL_WRITE: Final = 1
ON_DEMAND: Final = 1 << 6


def classed(b: Books, op: RegMr, mount: str) -> RegMr:
    """With the class of importer that it is here: dynamic, where it is asked for on demand, or the protocol gives memory in no other way."""
    on_demand = op.access & ON_DEMAND or b.protocols[b.mounts[mount].protocol].on_demand
    return replace(op, importer="dynamic") if on_demand else op


def admit(b: Books, event: Requested, op: RegMr, mount: str, ino: int = 0) -> None:
    """ino: the file, on a mount that has files. Raises Refused."""
    _check_refused(b, op, mount)
    _check_importer(b, op, mount)
    _check_needs(b, event, mount, ino)


def _check_refused(b: Books, op: RegMr, mount: str) -> None:
    name, backing = b.mounts[mount].protocol, asking.backing_of(b, mount)
    refuses = b.protocols[name].refuses
    if op.importer == "dynamic":  # it pins nothing: what is refused to pins is not refused to it
        if "on-demand" in refuses:
            refuse(getattr(errno, refuses["on-demand"]), f"protocol {name} knows no MR on demand")
        return
    if backing in refuses:
        refuse(getattr(errno, refuses[backing]), f"protocol {name} admits no MR over {backing} memory")
    tracked = not b.mounts[mount].tmpfs
    if op.access & LOCAL_WRITE and tracked and f"{backing}:write" in refuses:
        refuse(
            getattr(errno, refuses[f"{backing}:write"]),
            f"protocol {name} admits no MR that writes to {backing} memory: register it for reading only",
        )


def _check_importer(b: Books, op: RegMr, mount: str) -> None:
    name = b.mounts[mount].protocol
    accepted = b.protocols[name].importers
    if op.importer not in accepted:
        refuse(
            errno.EOPNOTSUPP,
            f"protocol {name} cannot take memory back from a {op.importer} importer: use {', '.join(accepted)}",
        )


def _check_needs(b: Books, event: Requested, mount: str, ino: int) -> None:
    name = b.mounts[mount].protocol
    needs = b.protocols[name].needs
    marked = ino in b.files and b.files[ino].marked
    leased = leases.of(b, event.session, ino) is not None
    if (needs == "mark" and not marked) or (needs == "lease" and not leased):
        refuse(errno.EPERM, f"protocol {name}: {NEEDS[needs]}")
    if needs == "mark" and ino in b.files:
        leases.check_whole(b, ino, b.files[ino])
    signals.admit(b, event.session, name)
