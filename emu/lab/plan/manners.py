"""The manners of holders: what the lab does for each of them, beside what clients/holder.py does by itself.

prompt      lets go at the notice, registers what is left, hands the new key over
slow        the same, half a second later; without a notice, half a second after the event
deaf        takes no notice
reregister  lets go at the notice, or at the event where none comes, and is back at once with the same range
stopped     SIGSTOP before the event, SIGCONT at the end
dying       kill -9 as soon as the event has been asked for
blocker     unprivileged, and wants to block as long as it can: registers again and again, never answers, never lets go of the last pin
"""

from __future__ import annotations

from dataclasses import dataclass

from emu.lab import names


@dataclass(frozen=True)
class Manner:
    """told: the lab tells it that the event is now. retries: how often a denied reclaimer asks again; where the holder will never let go,
    once is enough to see that the answer stays. lets_go: sooner or later, so a denied reclaimer goes on until it has.
    """

    name: str
    told: bool = False
    stop: bool = False
    kill: bool = False
    retries: int = 12
    lets_go: bool = False


MANNERS = {
    manner.name: manner
    for manner in (
        Manner("prompt", lets_go=True),
        Manner("slow", told=True, retries=20, lets_go=True),
        Manner("deaf", retries=1),
        Manner("reregister", told=True),
        Manner("stopped", stop=True, retries=1),
        Manner("dying", kill=True, lets_go=True),
        Manner("blocker", told=True),
    )
}

assert tuple(MANNERS) == names.HOLDERS
