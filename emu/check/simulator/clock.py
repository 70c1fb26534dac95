"""The virtual clock: when what can happen does.

A label gets a due time when it can first be taken, drawn by whose it is; the earliest goes next, and time is what its due time says.
Labels that can no longer be taken are forgotten. Nothing else makes time pass: a run of ten virtual minutes takes as long as its moves.

Whoever is stopped has its moves put off until it goes on; whoever is told that its memory is wanted draws its moves anew. When only
peers have something left to do, they write a little more, so that what they do behind the last reclaim is seen, and the story ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from emu.check.simulator.cast import MANNERS, Stop
from emu.check.simulator.draws import MS, NEVER, US, S, even, spread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from random import Random

    from emu.check.model.state import Choice, State
    from emu.check.simulator.cast import Cast
    from emu.check.simulator.recorder import Recorder

LAST_WORDS: Final = 2  # WRITEs a peer when everybody else is at rest
FIRES: Final = ": timer fires"  # the NIC's: it runs whoever is stopped
DIES: Final = ": dies of SIGKILL"  # which a stopped process does as well
AT_THE_GATE: Final = 0.9  # of WRITEs that would come behind the next reclaim: they come just before it
PREEMPTED: Final = 0.01  # of quanta, and of the shell's steps: whoever does it loses its processor


class Clock:
    """`now`: virtual ns. `next` says which choice is taken, and moves time on."""

    def __init__(self, cast: Cast, draw: Random, recorder: Recorder) -> None:
        self.cast, self.draw, self.recorder = cast, draw, recorder
        self.now = self.steps = 0
        self.stops: dict[str, tuple[int, int]] = {}  # who -> from, until
        self._due: dict[str, int] = {}
        self._told: dict[str, int] = {}
        self._alarmed: dict[str, None] = {}  # told, and has not registered anew
        self._wake: dict[str, int] = {}
        self._gap = 20 * US  # to the next move of anybody but peers
        self._quanta = cast.quanta
        self._think = _think(cast)
        self._freed = 0
        self._delays: dict[str, Callable[[str], int]] = {
            "peer": self._peer,
            "engine": self._engine,
            "shell": self._shell,
            "holder": self._holder,
            "reclaimer": self._reclaimer,
            "timer": self._timer,
            "fault": self._fault,
            "crash": self._crash,
            "taker": self._taker,
            "network": self._network,
        }

    def next(self, choices: Sequence[Choice], state: State) -> Choice | None:
        """The earliest of them; None when nothing will ever happen any more."""
        self._state = state
        self._hurry()
        self._stop_and_go(choices)
        best = self._earliest(choices)
        if best is None:
            return None
        who, _, deed = best.label.partition(": ")
        wakes = 0 if best.label.endswith(DIES) else self._wake.get(who, 0)
        self.now = max(self.now, self._due.pop(best.label), wakes)
        self.recorder.now = self.now
        if deed == "reg_mr":
            self._alarmed.pop(who, None)
        elif deed.startswith("WRITE"):
            self._quanta -= self.cast.setup.blocks - 1
        self.steps += 1
        self._go_on()
        return best

    def _earliest(self, choices: Sequence[Choice]) -> Choice | None:
        known, due = self._due, {}
        best, least, others = None, NEVER, NEVER
        for choice in choices:
            label = choice.label
            at = known.get(label)
            if at is None:
                at = self._first_due(label)
            due[label] = at
            if self._wake and not label.endswith((FIRES, DIES)):
                at = max(at, self._wake.get(label.partition(":")[0], 0))
            if at < least:
                best, least = choice, at
            if at < others and not choice.actor.startswith("peer"):
                others = at
        self._due = due
        if others == NEVER and best is not None and ": WRITE" in best.label:
            return self._last_word(best)
        self._gap = others - self.now if others < NEVER else 20 * US
        return best

    def _last_word(self, best: Choice) -> Choice | None:
        """Only peers have something to do."""
        setup = self.cast.setup
        self._quanta = min(self._quanta, LAST_WORDS * setup.holders * setup.blocks)
        return best if self._quanta > 0 else None

    def _first_due(self, label: str) -> int:
        delay = self._delays[label.split(" ", 1)[0].rstrip("0123456789:")](label)
        return NEVER if delay >= NEVER else self.now + delay

    # ---- stop and go

    def _stop_and_go(self, choices: Iterable[Choice]) -> None:
        for who, stop in self.cast.stops.items():
            if self.steps >= stop.step and who not in self.stops:
                self._stop(who, stop)
        if self.cast.crashes:
            self._crashes(choices)

    def _stop(self, who: str, stop: Stop) -> None:
        until = NEVER if stop.length >= NEVER else self.now + stop.length
        self.stops[who] = (self.now, until)
        self._wake[who] = until
        self.recorder.receipts.stop(who)

    def _go_on(self) -> None:
        for who, until in list(self._wake.items()):
            if until <= self.now:
                del self._wake[who]
                self.recorder.receipts.go_on(who, until)

    def _crashes(self, choices: Iterable[Choice]) -> None:
        """A crash that was put off until its step is due now."""
        for choice in choices:
            if (
                choice.actor == "crash"
                and self._due.get(choice.label) == NEVER
                and self._crash(choice.label) == 0
            ):
                self._due[choice.label] = self.now

    def _hurry(self) -> None:
        """Whoever has been told draws anew."""
        told = self.recorder.receipts.told
        for who, times in told.items():
            if self._told.get(who) != times:
                self._told[who] = times
                self._alarmed[who] = None
                self._due = {label: at for label, at in self._due.items() if not label.startswith(f"{who}:")}

    # ---- delays, by whose move it is

    def _peer(self, label: str) -> int:
        """peerN: WRITE K | timer fires | connects again"""
        who, _, deed = label.partition(": ")
        if deed.startswith("WRITE"):
            return self._write()
        if label.endswith(FIRES):
            fabric = self._state.fabric
            timer = fabric.lines[int(who.removeprefix("peer")) - 1].timer if fabric else ()
            return int(timer[1]) if timer else 0
        return spread(self.draw, (10 * US, 3 * MS))

    def _write(self) -> int:
        """Round and round; some come just before somebody asks for the memory, and what is left for that is kept."""
        each = self.cast.setup.blocks - 1
        asks = [at for at in self.cast.times if at > self.now]
        if self._quanta <= 0:
            return NEVER
        slow = even(self.draw, (0, self._gap // 4)) if self._gap > 1 * MS else 0
        delay = even(self.draw, self._think) + slow
        scarce = self._quanta <= each * self.cast.setup.holders * len(asks)
        if asks and (scarce or (self.now + delay > asks[0] and self.draw.random() < AT_THE_GATE)):
            return max(0, asks[0] - self.now - spread(self.draw, (1 * US, 20 * US * each)))
        return delay

    def _engine(self, label: str) -> int:
        words = label.split()
        if words[2:3] == ["enters"]:
            return even(self.draw, (100, 2 * US))
        if words[2:3] == ["leaves"]:
            return self._slowly((5 * US, 50 * US))
        if words[1] == "installed":
            return spread(self.draw, (1 * US, 100 * US))
        return spread(self.draw, (1 * US, 300 * US))

    def _slowly(self, span: tuple[int, int]) -> int:
        """Now and then somebody else has the processor."""
        if self.draw.random() < PREEMPTED:
            return spread(self.draw, (100 * US, 10 * MS))
        return even(self.draw, span)

    def _shell(self, _label: str) -> int:
        return self._slowly((200, 5 * US))

    def _holder(self, label: str) -> int:
        """holderN: lease | mark | reg_mr | dereg_mr K | acknowledges K | comes back | self-truncate | dies of SIGKILL | closes"""
        who, words = label.split(": ")
        number = int(who.removeprefix("holder"))
        manner = MANNERS[self.cast.holders[number - 1]]
        deed = words.split()[0]
        if deed == "self-truncate":
            return spread(self.draw, (50 * US, 3 * MS))
        if deed == "dies":
            return spread(self.draw, (10 * US, 5 * MS))
        if deed in {"lease", "mark"}:
            return spread(self.draw, (1 * US, 50 * US))
        if deed == "comes":
            return spread(self.draw, (10 * US, 10 * MS))
        if deed == "reg_mr":
            return (
                self._maybe(manner.again) if who in self._alarmed else spread(self.draw, (1 * US, 100 * US))
            )
        span = manner.react if who in self._alarmed else manner.keep
        return self._maybe(span)

    def _maybe(self, span: tuple[int, int] | None) -> int:
        return NEVER if span is None else spread(self.draw, span)

    def _reclaimer(self, label: str) -> int:
        """reclaimerN: KIND | cancel | plug"""
        who, deed = label.split(": ")
        if deed == "cancel":
            return spread(self.draw, (5 * US, 20 * S)) if self.draw.random() < self.cast.cancels else NEVER
        if deed == "plug":
            return spread(self.draw, (10 * US, 10 * MS))
        return max(0, self.cast.times[int(who.removeprefix("reclaimer")) - 1] - self.now)

    def _timer(self, label: str) -> int:
        armed, seconds = self.recorder.timers[int(label.split()[1])]
        return max(0, armed + int(seconds * S) - self.now)

    def _fault(self, _label: str) -> int:
        return even(self.draw, (100, 5 * US)) if self.draw.random() < self.cast.refuses else NEVER

    def _crash(self, label: str) -> int:
        """crash: holderN | crash: openerN, ... | crash: reclaimerN | crash: broker, and its start"""
        who = label.removeprefix("crash: ").split(",")[0]
        if who.startswith("opener"):  # of some who will die, the opener ends half way: no draw of its own
            step = self.cast.crashes.get(who.replace("opener", "holder"), NEVER)
            return 0 if step % 4 == 0 and step // 2 <= self.steps else NEVER
        return 0 if self.cast.crashes.get(who, NEVER) <= self.steps else NEVER

    def _taker(self, _label: str) -> int:
        """Soon after memory has become free, where a late write would find it; or at any time."""
        return spread(self.draw, (100 * US, 20 * MS))

    def _network(self, label: str) -> int:
        deed = label.split()[1]
        if deed == "deliver":
            return spread(self.draw, (300, 5 * US))
        if deed == "heal":
            return spread(self.draw, (10 * US, 10 * MS))
        rare = {"lose": 0.05, "duplicate": 0.03, "partition": 0.02}.get(deed, 0.0)
        return even(self.draw, (100, 10 * US)) if self.draw.random() < rare else NEVER


def _think(cast: Cast) -> tuple[int, int]:
    """Between two WRITEs of a peer: so that half of the quanta have run when the last reclaim is asked for."""
    setup = cast.setup
    quanta = setup.blocks - 1
    writes = max(1, cast.quanta // 2 // quanta)
    mean = cast.times[-1] * setup.holders // writes - quanta * 30 * US
    return (1 * US, max(10 * US, 2 * mean))
