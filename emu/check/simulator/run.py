"""One run of the small world from its beginning to its end, chosen by a clock or told by a script; and its history.

    run = simulate(subject, seed)       a seed's cast on the virtual clock
    run = replay(subject, script)       the steps of a script; one that cannot be taken raises CannotReplay, or is left out (`lenient`)

A run is the same in whichever process it is made: nothing but the seed, or the script, and the protocol decides. `run.history` renders the
memory; `run.found` has what the world saw break, each invariant once, with the step. `Subject` says what is run: a protocol, which may be a
stranger's (then a decision that does not end is stopped), in the core and engine that are right, or in a mutant's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from random import Random
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import emu
from emu.check.honest import Honest
from emu.check.model.world import World
from emu.check.simulator.cast import draw_cast
from emu.check.simulator.clock import FIRES, Clock
from emu.check.simulator.recorder import Recorder
from emu.check.simulator.script import Script
from emu.check.workers import unheard
from emu.history import journal, oplog
from emu.protocols.contract import declaration

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from emu.check.history import History
    from emu.check.model.setup import Setup
    from emu.check.model.state import Choice, Move, State
    from emu.check.mutants.mutant import Mutant
    from emu.check.simulator.cast import Cast
    from emu.protocols.contract import Protocol

MOST: Final = 4_000  # steps of a seed's run; one that has more is cut off there
NEAR: Final = 8  # labels that an error names
ITSELF: Final = (
    "shell:",
    "engine:",
    "timer",
    "network:",
)  # with the NIC's timers: what happens without anybody's help


class CannotReplay(ValueError):
    """A step of a script that cannot be taken where it stands; the sentence names it, and what can."""


class Subject(NamedTuple):
    """What is run."""

    protocol: Protocol
    strange: bool = False
    mutant: Mutant | None = None


class Found(NamedTuple):
    """What broke, and at which step (from 0)."""

    invariant: str
    sentence: str
    step: int


@dataclass
class Run:
    """setup, labels, times: what happened. met: `sometimes` guards and how often."""

    subject: Subject
    setup: Setup
    recorder: Recorder
    seed: int | None = None
    cast: Cast | None = None
    labels: list[str] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    stops: dict[str, tuple[int, int]] = field(default_factory=dict)
    found: dict[str, Found] = field(default_factory=dict)
    met: dict[str, int] = field(default_factory=dict)
    cut: bool = False

    @property
    def protocol(self) -> Protocol:
        return self.subject.protocol

    @property
    def events(self) -> int:
        """Lines and quanta."""
        return len(self.recorder.lines) + len(self.recorder.records)

    @cached_property
    def history(self) -> History:
        return self.recorder.history(self.meta())

    def meta(self) -> dict[str, Any]:
        """Who ran, the same wherever it ran."""
        return {
            "schema": 1,
            "source": "simulated",
            "emu": emu.__version__,
            "formats": {"events": 1, "oplog": oplog.VERSION, "journal": journal.VERSION},
            "declared": declaration(self.protocol),
            "seed": self.seed,
            "setup": self.setup.as_json(),
            "manners": list(self.cast.holders) if self.cast else None,
            "whole": True,
        }

    def script(self, protocol: str | dict[str, str], breaks: Found | None = None) -> Script:
        """All its steps. protocol: how a replay finds it."""
        told = {"invariant": breaks.invariant, "sentence": breaks.sentence} if breaks else None
        mutant = self.subject.mutant.name if self.subject.mutant else None
        steps, times = tuple(self.labels), tuple(self.times)
        return Script(protocol, self.setup, steps, times, dict(self.stops), mutant, told)

    def end(self, choices: Sequence[Choice]) -> None:
        """S7: when nothing is left that happens by itself, every reclaim has ended."""
        waiting = self.recorder.under_way
        if waiting and not any(
            choice.label.startswith(ITSELF) or choice.label.endswith(FIRES) for choice in choices
        ):
            told = f"nothing is left that could advance reclaim {min(waiting)}, and it has not ended"
            self.found.setdefault("S7", Found("S7", told, len(self.labels) - 1))

    def note(self, move: Move, time: int) -> None:
        at = len(self.labels)
        self.labels.append(move.label)
        self.times.append(time)
        for invariant, sentence in move.broken:
            self.found.setdefault(invariant, Found(invariant, sentence, at))
        for guard in move.met:
            self.met[guard] = self.met.get(guard, 0) + 1


class Stage:
    """The world, its tape, and the recorder: what a clock and a script have in common."""

    def __init__(self, subject: Subject, setup: Setup) -> None:
        mutant, protocol = subject.mutant, Honest(subject.protocol, bounded=subject.strange)
        parts = (mutant.core, mutant.engine()) if mutant else ()
        self.world = World(protocol, setup, *parts, direct=True)
        self.tape: list[tuple[Any, ...]] = []
        self.world.tape = self.tape
        self.recorder = Recorder(setup.blocks)
        self.state: State = self.world.start()
        self._took()

    def choices(self) -> list[Choice]:
        return list(self.world.choices(self.state))

    def take(self, choice: Choice) -> Move:
        move = self.world.take(choice)
        self.state = move.state
        self._took()
        return move

    def finish(self) -> list[Choice]:
        """The shell carries out what it still has of the last step, then quanta that run come to their end: no history ends within one.

        What can happen then.
        """
        choices = self.choices()
        for begun in (_is_shells, _ends_a_quantum):
            while left := [choice for choice in choices if begun(choice)]:
                self.take(left[0])
                choices = self.choices()
        return choices

    def _took(self) -> None:
        self.recorder.take(self.tape, self.state)
        self.tape.clear()


def _is_shells(choice: Choice) -> bool:
    return choice.actor == "shell"


def _ends_a_quantum(choice: Choice) -> bool:
    return (
        choice.actor.startswith("peer") and choice.label.startswith("engine: ") and " leaves " in choice.label
    )


def simulate(subject: Subject, seed: int) -> Run:
    """The seed's story, from the beginning until nothing can happen any more."""
    with unheard():
        return _simulated(subject, seed)


def _simulated(subject: Subject, seed: int) -> Run:
    draw = Random(seed)
    cast = draw_cast(draw)
    stage = Stage(subject, cast.setup)
    run = Run(subject, cast.setup, stage.recorder, seed, cast)
    clock = Clock(cast, draw, stage.recorder)
    while len(run.labels) < MOST:
        choice = clock.next(stage.choices(), stage.state)
        if choice is None:
            break
        run.note(stage.take(choice), clock.now)
    run.cut = len(run.labels) >= MOST
    run.stops = clock.stops
    run.end(stage.choices())
    return run


def replay(subject: Subject, script: Script, *, lenient: bool = False) -> Run:
    """The script's steps. lenient: those that cannot be taken are left out. Raises CannotReplay."""
    with unheard():
        return _replayed(subject, script, lenient=lenient)


def _replayed(subject: Subject, script: Script, *, lenient: bool) -> Run:
    stage = Stage(subject, script.setup)
    run = Run(subject, script.setup, stage.recorder, stops=dict(script.stops))
    stopped = _Stopped(script, stage.recorder)
    for at, label in enumerate(script.steps):
        choices = stage.choices()
        choice = next((choice for choice in choices if choice.label == label), None)
        if choice is None and lenient:
            choice = alike(label, choices)
        if choice is None:
            if lenient:
                continue
            raise CannotReplay(_sentence(at, label, choices))
        now = stage.recorder.now = script.time(at)
        stopped.until(now)
        run.note(stage.take(choice), now)
    run.end(stage.finish())
    return run


class _Stopped:
    """Who takes no receipts, as the script says."""

    def __init__(self, script: Script, recorder: Recorder) -> None:
        self._receipts = recorder.receipts
        ends = [(end, "go_on", who) for who, (_start, end) in script.stops.items()]
        begins = [(start, "stop", who) for who, (start, _end) in script.stops.items()]
        self._due = sorted([*begins, *ends])

    def until(self, now: int) -> None:
        while self._due and self._due[0][0] <= now:
            time, what, who = self._due.pop(0)
            if what == "stop":
                self._receipts.stop(who)
            else:
                self._receipts.go_on(who, time)


def shape(label: str) -> str:
    """The label without the numbers that the core gives: two with the same shape say the same of different things."""
    words = label.split()
    if words[0] == "shell:":
        return f"shell: {words[1]}"
    if words[0] in {"engine:", "fault:", "timer"} and not words[1].startswith("peer"):
        return " ".join(word for word in words if not word.isdigit())
    return label


def alike(label: str, choices: Iterable[Choice]) -> Choice | None:
    """The one choice that says the same with other numbers; None if there are several."""
    wanted = shape(label)
    found = [choice for choice in choices if shape(choice.label) == wanted]
    return found[0] if len(found) == 1 else None


def _sentence(at: int, label: str, choices: list[Choice]) -> str:
    labels = [choice.label for choice in choices]
    near = ", ".join(repr(other) for other in labels[:NEAR]) or "nothing: the story is over"
    more = f", and {len(labels) - NEAR} more" if len(labels) > NEAR else ""
    return f"step {at + 1}, {label!r}, cannot be taken there; what can: {near}{more}"
