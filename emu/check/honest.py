"""A protocol that is asked everything twice, and not waited for without end: whoever drives strangers' protocols asks them through this.

Protocols are pure (docs/protocols.md): the same phase, event and facts give the same decision, soon. One that answers differently the
second time remembers, guesses or looks at something, and breaks the rule `deterministic`; one that is still thinking after `PATIENCE`
seconds of processor time breaks `bounded`. Both end the reclaim as every broken rule does (emu.core.reclaims.reclaim).
"""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from emu.core.errors import ProtocolBroke
from emu.core.reclaims.reclaim import well_formed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.core.decision import Deciding, Decision, Facts

DETERMINISTIC: Final = "deterministic"
BOUNDED: Final = "bounded"
PATIENCE: Final = 0.25  # seconds of processor time for one decision; a table's takes microseconds


class _Thinking(BaseException):
    """Raised in the middle of a decision that has no end. No protocol catches it by catching Exception."""


class Honest:
    """Everything else is the protocol's own. `bounded`: stop it when it does not answer (where signals are: in the main thread)."""

    def __init__(self, protocol: Deciding, *, bounded: bool = False) -> None:
        self._protocol = protocol
        self._bounded = bounded

    def __getattr__(self, name: str) -> Any:
        return getattr(self._protocol, name)

    def decide(self, phase: str, event: str, facts: Facts) -> Decision | None:
        if not self._bounded or threading.current_thread() is not threading.main_thread():
            return self._twice(phase, event, facts)
        try:
            with _patience():
                return self._twice(phase, event, facts)
        except _Thinking:
            told = f"{event} in phase {phase} was not decided within {PATIENCE:g} s of processor time"
            raise ProtocolBroke(self._protocol.name, BOUNDED, told) from None

    def _twice(self, phase: str, event: str, facts: Facts) -> Decision | None:
        first = self._asked(phase, event, facts)
        second = self._asked(phase, event, facts)
        for answer in (first, second):
            if answer is not None and not well_formed(answer):
                return answer  # the core looks at nonsense, and names it
        if first != second:
            told = f"{event} in phase {phase} was decided as {first!r}, and then as {second!r}"
            raise ProtocolBroke(self._protocol.name, DETERMINISTIC, told)
        return first

    def _asked(self, phase: str, event: str, facts: Facts) -> Decision | None:
        """Ctrl-C is a person's; one that comes again when the question does is the protocol's."""
        try:
            return self._protocol.decide(phase, event, facts)
        except KeyboardInterrupt:
            try:
                self._protocol.decide(phase, event, facts)
            except KeyboardInterrupt:
                told = f"{event} in phase {phase}: it raised KeyboardInterrupt"
                raise ProtocolBroke(self._protocol.name, "no-raise", told) from None
            raise


@contextmanager
def _patience() -> Iterator[None]:
    def enough(_number: int, _frame: object) -> None:
        raise _Thinking

    before = signal.signal(signal.SIGVTALRM, enough)
    signal.setitimer(signal.ITIMER_VIRTUAL, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
