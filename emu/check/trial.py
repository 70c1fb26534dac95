"""`python -m emu.check.trial FILE SECONDS`: a stranger's protocol, loaded and asked everything, where it can harm nobody (stranger.try_out).

Before each thing it does it says on stdout what that is, so that whoever started it knows where it hung or died; "done" is its last word.
It ends by SIGXCPU when the stranger has used SECONDS of processor time.
What the file prints is not heard. Answers are not judged here: the core does that, with the story that leads there.
"""

from __future__ import annotations

import math
import os
import resource
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from emu.check.stranger import DONE, MEMORY, RAISED, Unusable, load_protocol
from emu.core.decision import EVENTS, KINDS, START, Decision, Facts
from emu.protocols.contract import phases

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.protocols.contract import Protocol

BYTES: Final = 4 << 30  # of address space
MOST: Final = 200  # phases that are asked about
FACTS: Final = tuple(
    Facts(kind, pins, holders, own, leased, "dax", marked)
    for kind in KINDS
    for pins, holders, own in ((0, 0, False), (1, 1, False), (2, 1, True), (2, 2, False))
    for leased, marked in ((False, False), (True, False), (False, True))
)


def main(file: str, seconds: int) -> int:
    voice = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    used = math.ceil(time.process_time()) + seconds  # our own imports are not its doing
    resource.setrlimit(resource.RLIMIT_CPU, (used, used + 1))

    def say(words: str) -> None:
        os.write(voice, f"{words}\n".encode("utf-8", "replace"))

    doing = "loading it"
    try:
        say(doing)
        protocol = load_protocol(file)
        for doing, phase, event in questions(protocol):
            say(doing)
            ask(protocol, phase, event)
    except MemoryError:
        say(f"{MEMORY} {doing}")
    except Unusable:
        say(DONE)  # it is told again where it is loaded for use
    except KeyboardInterrupt:
        say(f"{RAISED}KeyboardInterrupt")
    else:
        say(DONE)
    os._exit(0)  # whatever it left running


def questions(protocol: Protocol) -> Iterator[tuple[str, str, str]]:
    """(in words, phase, event): of the table's phases, and of those that answers lead to."""
    known: dict[str, None] = dict.fromkeys((START, *phases(protocol)))
    asked = 0
    while asked < min(len(known), MOST):
        phase = list(known)[asked]
        asked += 1
        for event in EVENTS:
            yield f"deciding {event} in phase {phase[:80]}", phase, event
            for to in reached(protocol, phase, event):
                known[to] = None


def reached(protocol: Protocol, phase: str, event: str) -> list[str]:
    found = answers(protocol, phase, event)
    return [answer.phase for answer in found if type(answer) is Decision and type(answer.phase) is str]


def ask(protocol: Protocol, phase: str, event: str) -> None:
    """Twice, as whoever drives it will."""
    for _answer in answers(protocol, phase, event):
        pass


def answers(protocol: Protocol, phase: str, event: str) -> Iterator[Any]:
    """Up to the first that it raises in place of: a fault that whoever drives it names. Eating up the memory is told here."""
    for facts in FACTS:
        try:
            answer = protocol.decide(phase, event, facts)
        except MemoryError:
            raise
        except BaseException:  # noqa: BLE001 - a stranger's code may raise anything
            return
        yield answer


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
