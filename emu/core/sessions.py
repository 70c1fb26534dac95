"""Contexts: opened, lost, and taken down in order.

    lost -> its reclaims cancelled or orphaned -> EndQp each, one quiesce for all its MRs -> unmapped, removed
         -> (nothing in flight any more) EndCq each, PDs, EndSession

A lost session is `dying` until the last answer has come; nothing is sent to it meanwhile, and its number is not used again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.core import queues
from emu.core.effects import EndCq, EndSession
from emu.core.memory import exporters, parking, teardown
from emu.core.reclaims import reclaim
from emu.core.rows import Session
from emu.core.storage import leases

if TYPE_CHECKING:
    from emu.core.books import Books
    from emu.core.events import OwnerEnded, SessionLost, SessionOpened


def opened(b: Books, event: SessionOpened) -> None:
    if event.session in b.sessions or event.session <= 0:
        raise ValueError(
            f"session {event.session} exists already or is not positive: number sessions from 1, once"
        )
    row = Session(event.name[:255], event.door, event.wants, signalable=event.signalable)
    b.sessions.put(event.session, row)


def owner_ended(b: Books, event: OwnerEnded) -> None:
    """The door lives on in other hands: the session stays, with all it holds."""
    row = b.sessions.get(event.session)
    if row is not None and not row.dying:
        b.sessions.put(event.session, row._replace(orphaned=True))
        leases.owner_gone(b, event.session)


def lost(b: Books, event: SessionLost) -> None:
    row = b.sessions.get(event.session)
    if row is None or row.dying:
        return
    b.sessions.put(event.session, row._replace(dying=True))
    leases.owner_gone(b, event.session)
    parking.session_lost(b, event.session)
    reclaim.session_lost(b, event.session)
    exporters.exporter_lost(b, event.session)
    for handle in b.qps_of.of(event.session):
        qp = b.qps[handle]
        if qp.made and not qp.ending:
            queues.end_qp(b, handle)
        elif qp.ended:
            b.qps.drop(handle)
    keys = tuple(key for key in b.mrs_of.of(event.session) if teardown.settled(b.mrs[key]))
    teardown.tear_down(b, keys, event.session)


def sweep(b: Books) -> None:
    """End the dying sessions that nothing holds any more. Called at the end of every step."""
    for session in b.dying.of(True):
        if b.qps_of.has(session) or b.mrs_of.has(session) or b.tokens_of.has(session):
            continue
        for handle in b.cqs_of.of(session):
            b.emit(EndCq(b.cqs[handle].number))
            b.cqs.drop(handle)
        for handle in b.pds_of.of(session):
            b.pds.drop(handle)
        b.sessions.drop(session)
        b.emit(EndSession(session))
