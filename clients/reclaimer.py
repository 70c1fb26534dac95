"""The reclaimer: wants memory back, by whatever request it is told (asks.py), and says what the answer was and when.

It asks and waits for as long as the answer takes. A refused request is asked again as often as it was told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emu.clients.asks import asked
from emu.clients.observer import Observer

if TYPE_CHECKING:
    from emu.clients.talk import Command


class Reclaimer(Observer):
    """`do_ask` answers when the node has; a note `asked` goes before the first request."""

    name = "reclaimer"

    def do_ask(self, *, ask: Command, retries: int, until_enough: bool = False, **_: Any) -> Command:
        """until_enough: at least `retries` times, and until the lab says that nobody is to let go any more (its next command)."""
        enough = self.talk.waiting if until_enough else None
        return asked(self.ctx, ask, retries, lambda: self.talk.note("asked"), enough)


if __name__ == "__main__":
    Reclaimer().main()
