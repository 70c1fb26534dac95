"""Who owes a move, by its label.

    strongly fair    the shell (each effect of its queue), each peer's operation in the engine (a quantum that may enter, one that must
                     leave), the engine's answers by kind, timers, whoever was sent a SIGKILL: whoever is able to move again and again does move again and again
    owe nothing      clients: holders, reclaimers, peers that may WRITE, takers
    never owed       faults, crashes, the network's losses and its heals

A way that is fair in this sense and on which a reclaim stays under way is a breach of S7; a state in which nobody owes anything is such
a way too: everybody may stay as he is.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

NOBODY: Final = 0
OWED: Final = re.compile(
    r"(?P<shell>shell:)|engine: (?P<peer>peer\d+)\b(?P<mr>.*? of MR \d+)?|engine: (?P<answer>[a-z]+)|(?P<timer>timer) "
    r"|network: (?P<net>deliver)|(?P<killed>holder\d+): dies"
)
WHOSE: Final = re.compile(r"(peer|holder)(\d+)")


class Classes:
    """Fairness classes as small numbers, given in order of appearance; 0: nobody owes the move."""

    def __init__(self) -> None:
        self.names: list[str] = [""]
        self._of_label: dict[str, int] = {}

    def of(self, label: str) -> int:
        known = self._of_label.get(label)
        if known is None:
            known = self._of_label[label] = self._number(class_of(label))
        return known

    def _number(self, name: str) -> int:
        if not name:
            return NOBODY
        if name not in self.names:
            self.names.append(name)
        return self.names.index(name)

    def kind(self, klass: int) -> str:
        """Its name without the number of a holder: the same for all that are alike."""
        return WHOSE.sub(r"\1", self.names[klass])

    def turned(self, order: Sequence[int]) -> list[int]:
        """Class -> class when holder n + 1 is called order[n] + 1."""
        return [
            self._number(WHOSE.sub(lambda m: f"{m[1]}{order[int(m[2]) - 1] + 1}", name))
            for name in list(self.names)
        ]


def class_of(label: str) -> str:
    """Its fairness class, "" if nobody owes it."""
    found = OWED.match(label)
    if found is None:
        return ""
    return " ".join(part.strip() for part in found.groups() if part)


__all__ = ["NOBODY", "Classes", "class_of"]
