"""Contexts that are destroyed while their doors stay open: kill-context, and the removal of the NIC. As uverbs disassociates one.

    destroy: dead -> DEVICE_FATAL -> EndQp each, one quiesce for all its MRs -> unmapped (asked again until it is)

What asks the NIC for something answers EIO from then on; what gives back answers 0, so the rows of queue pairs and MRs stay until the client
gives them back or hangs up. Files are no NIC's: requests about them go on. A peer whose queue pair is gone gets no answer.

    unplug emu0: every context is destroyed, and the request answered when the last of them is; until `plug` new ones are refused (ENODEV)
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from emu.core import queues
from emu.core.asking import alive, answer, refuse, reply
from emu.core.effects import Notify, Phase
from emu.core.memory import parking, teardown
from emu.core.reclaims import scope
from emu.core.requests import (
    AllocPd,
    CreateCq,
    CreateQp,
    ModifyQp,
    QueryDevice,
    QueryQp,
    RegMr,
)
from emu.core.rows import NIC, Nic

if TYPE_CHECKING:
    from emu.core.books import Books
    from emu.core.decision import Action
    from emu.core.events import Requested
    from emu.core.requests import FsPlug, FsUnplug

# What asks the NIC for something; everything else gives back, or is about files.
ASKING: Final = (QueryDevice, AllocPd, RegMr, CreateCq, CreateQp, ModifyQp, QueryQp)
FATAL: Final = "DEVICE_FATAL"
KIND: Final = "rnic-unplug"


def check(b: Books, event: Requested) -> None:
    """Refuse what a dead context, or one without a NIC, cannot do. Raises Refused."""
    if not isinstance(event.op, ASKING):
        return
    if b.sessions[event.session].dead:
        refuse(errno.EIO, "the context was destroyed: close it and open another one")
    if NIC in b.nics:
        refuse(errno.ENODEV, f"{NIC} is unplugged: plug it first (emu fs plug {NIC}), and open a new context")


def do_destroy(b: Books, number: int, _action: Action) -> bool:
    """The contexts of all that pin the range now; `unpinned` comes when the last of them translates nothing any more."""
    row = b.reclaims[number]
    keys = scope.pinned(b, row)
    for session in dict.fromkeys(b.mrs[key].session for key in keys):
        destroy(b, session)
    scope.phase(b, number, "destroyed")
    return False


def destroy(b: Books, session: int) -> None:
    row = b.sessions[session]
    if row.dead or row.dying:
        return
    b.sessions.put(session, row._replace(dead=True))
    b.emit(Notify(session, FATAL, {"destroyed": True}))
    for handle in b.qps_of.of(session):
        qp = b.qps[handle]
        if qp.made and not qp.ending:
            queues.end_qp(b, handle)
    parking.context_destroyed(b, session)
    keys = b.mrs_of.of(session)
    for key in keys:
        _revoke(b, key)
    teardown.take_out(b, tuple(keys), session)


def _revoke(b: Books, key: int) -> None:
    """Without a key there is no translation yet: taking it back is all there is to do."""
    row = b.mrs[key]
    b.mrs.put(key, row._replace(revoked=True, state="unmapped" if row.state == "pinned" else row.state))
    if row.state == "pinned":
        b.went.append((key, row))


# ---- the NIC


def is_nic(name: str) -> bool:
    return name == NIC


def unplug(b: Books, event: Requested, _op: FsUnplug) -> None:
    if NIC in b.nics:
        refuse(errno.ENODEV, f"device {NIC} is unplugged already: plug it first (emu fs plug {NIC})")
    sessions = [session for session in b.sessions if b.sessions[session].door]
    keys = tuple(key for session in sessions for key in b.mrs_of.of(session))
    number = b.number("reclaim")  # the history tells it like one: who was at work, and when it was answered
    b.nics.put(NIC, Nic(event.session, event.request, number))
    b.emit(Phase(number, "requested", keys, {"kind": KIND}))
    b.emit(Phase(number, "gated", keys))  # nobody registers without a NIC
    for session in sessions:
        destroy(b, session)
    b.emit(Phase(number, "destroyed", keys))


def plug(b: Books, event: Requested, _op: FsPlug) -> None:
    """For contexts that are opened from now on; those that were destroyed stay so."""
    if NIC not in b.nics:
        refuse(errno.EBUSY, f"device {NIC} is plugged: unplug it first")
    if b.nics[NIC].request:
        refuse(errno.EBUSY, f"device {NIC} is being unplugged: try again when that is answered")
    b.nics.drop(NIC)
    reply(b, event)


def sweep(b: Books) -> None:
    """Answer the unplug when nothing of any destroyed context is under way. Called at the end of every step."""
    if NIC not in b.nics or not b.nics[NIC].request:
        return
    row = b.nics[NIC]
    if _ending(b):
        return
    b.nics.put(NIC, Nic())
    b.emit(Phase(row.number, "returned", (), {"errno": 0}))
    b.emit(Phase(row.number, "ended"))
    if alive(b, row.session):
        answer(b, row.session, row.request)


def _ending(b: Books) -> bool:
    dead = [session for session in b.sessions if b.sessions[session].dead]
    kept = any(row.keep for _number, row in b.teardowns.items())
    return kept or any(
        b.qps[handle].ending and not b.qps[handle].ended for s in dead for handle in b.qps_of.of(s)
    )
