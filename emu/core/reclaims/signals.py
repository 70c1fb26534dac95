"""Signals to the processes that hold memory: the one who opened a context is signalled, whoever has its door by now.

The shell has a pidfd of each opener and says so (`signalable`); once that process has ended (`orphaned`) there is nobody to signal, though a
survivor with the passed descriptor keeps the session, and its pins. A signal is told to nobody else and awaits no answer: what comes of it
are sessions that end, and pins that go.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from emu.core.asking import alive, refuse
from emu.core.decision import NEEDS
from emu.core.effects import Signal
from emu.core.reclaims import scope

if TYPE_CHECKING:
    from collections.abc import Mapping

    from emu.core.books import Books
    from emu.core.decision import Action

# As on Linux: SIGIO tells, SIGBUS warns, SIGKILL ends.
SIGNALS: Mapping[str, int] = {"SIGIO": 29, "SIGBUS": 7, "SIGKILL": 9, "SIGTERM": 15}
PHASE: Final = "signalled"


def reachable(b: Books, session: int) -> bool:
    """Can a signal reach who opened it?"""
    row = b.sessions.get(session)
    return row is not None and alive(b, session) and row.signalable and not row.orphaned


def admit(b: Books, session: int, protocol: str) -> None:
    """Refuse a registration whose protocol has to be able to signal who holds it. Raises Refused."""
    if b.protocols[protocol].needs == "signal" and not reachable(b, session):
        refuse(errno.EPERM, f"reg_mr: {NEEDS['signal']}")


def do_signal(b: Books, number: int, action: Action) -> bool:
    """To each session that pins the range now, once."""
    row = b.reclaims[number]
    signal = SIGNALS.get(action.text)
    if signal is None:
        raise scope.broke(row, "known-answer", f"signal({action.text!r:.40}): there are {', '.join(SIGNALS)}")
    holders = dict.fromkeys(b.mrs[key].session for key in scope.pinned(b, row))
    told = [session for session in holders if reachable(b, session)]
    for session in told:
        b.emit(Signal(session, signal))
    scope.phase(b, number, PHASE, {"signal": action.text, "sessions": told})
    return False
