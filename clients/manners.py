"""What a holder does when its memory is wanted back, as its manner says: the decisions, apart from the verbs that carry them out.

A *notice* is an event MR_REVOKING or MR_REVOKED of the victim, a recall, or SIGIO. The lab tells some manners that the event is now (`told`): nobody
else could. `due` is when a holder does something of its own accord, on the monotonic clock; None: never.

A prompt holder whose peer is told too (`awaits_peer`) lets go when the peer has said that it is done, or when half of the time that the notice
gives has passed. One that is dying dies at the notice.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

LEAST = 0.001
ROUND = 0.04  # seconds between two registrations of one that blocks
AFTER = {"slow": 0.5, "reregister": ROUND, "blocker": ROUND}  # seconds from the event to the first deed


class Deed(Enum):
    NOTHING = "nothing"
    LET_GO = "let go"  # and register what is left
    COME_BACK = "come back"  # let go, and register the same again
    ANOTHER = "another"  # one more registration of the same, and the one before it goes
    DIE = "die"


@dataclass
class Manners:
    """One holder's. `now` is what the clock says at the call."""

    manner: str
    due: float | None = None
    done: bool = False
    awaits_peer: bool = False
    peer_is_done: bool = False
    knows: bool = False  # it has had a notice
    blocked: bool = False  # one that blocks has done so at least once

    def rest_in(self, now: float) -> float:
        """Seconds until the next deed that somebody may wait for; 0: there is none. One that blocks goes on for ever, and once shows it."""
        if self.due is None or self.blocked:
            return 0.0
        return max(self.due - now, LEAST)

    def noticed(self, now: float, seconds: float = 0.0) -> Deed:
        """Somebody wants the memory. seconds: how long the notice gives for it, 0 if it does not say."""
        self.knows = True
        if self.manner == "dying":
            return Deed.DIE
        if self.manner == "prompt" and not self.done:
            if self.awaits_peer and seconds and not self.peer_is_done:
                self.due = now + seconds / 2
                return Deed.NOTHING
            return self._once(Deed.LET_GO)
        if self.manner == "reregister" and not self.done:
            return self._once(Deed.COME_BACK)
        self._begin(now)
        return Deed.NOTHING

    def peer_done(self) -> Deed:
        """The peer posts no more, and what it had posted has completed."""
        self.peer_is_done = True
        if self.manner == "prompt" and self.knows and not self.done:
            return self._once(Deed.LET_GO)
        return Deed.NOTHING

    def told(self, now: float) -> Deed:
        """The lab says that the event is now. The request is on its way, and is to meet the registration as it is."""
        self._begin(now)
        return Deed.NOTHING

    def woken(self, now: float) -> Deed:
        """The time has come, perhaps."""
        if self.due is None or now < self.due:
            return Deed.NOTHING
        if self.manner == "blocker":
            self.due, self.blocked = now + ROUND, True
            return Deed.ANOTHER
        self.due = None
        return self._once(Deed.COME_BACK if self.manner == "reregister" else Deed.LET_GO)

    def _begin(self, now: float) -> None:
        wait = AFTER.get(self.manner)
        if wait is not None and self.due is None and not self.done:
            self.due = now + wait

    def _once(self, deed: Deed) -> Deed:
        self.done, self.due = True, None
        return deed
