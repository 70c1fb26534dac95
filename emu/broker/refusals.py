"""Hardware that refuses, on demand: the next effects of a kind are not carried out, and answered with an errno.

Only effects that have an answer of their own can be refused: Quiesce, Unmap, FenceRight, InstallKey. What is refused has not been done at
all: operations under the keys go on, as with hardware that did not listen. A refusal belongs to the session that asked for it and ends with
it. The history has an EffectFailed for each, as for every effect that failed behind its commit.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from emu.core import effects as fx
from emu.wire.errors import Malformed

if TYPE_CHECKING:
    from emu.core.effects import Effect

CAN: Final = {kind.__name__: kind for kind in (fx.Quiesce, fx.Unmap, fx.FenceRight, fx.InstallKey)}
MOST: Final = 1 << 32


@dataclass(slots=True)
class Refusal:
    session: int
    left: int
    errno: int


class Refusals:
    """One for each kind of effect at a time; a new one takes the place of the old."""

    def __init__(self) -> None:
        self._armed: dict[type[Effect], Refusal] = {}

    def arm(self, session: int, effect: str, count: int, name: str) -> None:
        """`count` times from now on; 0: no more. Raises Malformed."""
        if effect not in CAN:
            raise Malformed(errno.EINVAL, f"{effect[:64]!r} cannot be refused: use {', '.join(CAN)}")
        number = getattr(errno, name, None) if name.startswith("E") else None
        if not isinstance(number, int):
            raise Malformed(errno.EINVAL, f"errno {name[:64]!r} is unknown: use EIO and its like")
        if not 0 <= count < MOST:
            raise Malformed(errno.EINVAL, "count is a number from 0 to 2^32 - 1")
        if count:
            self._armed[CAN[effect]] = Refusal(session, count, number)
        else:
            self._armed.pop(CAN[effect], None)

    def meet(self, effect: Effect) -> None:
        """An effect is about to be carried out. Raises OSError in its place."""
        refusal = self._armed.get(type(effect))
        if refusal is None:
            return
        refusal.left -= 1
        if not refusal.left:
            del self._armed[type(effect)]
        raise OSError(refusal.errno, f"{type(effect).__name__} is refused on demand")

    def lost(self, session: int) -> None:
        self._armed = {kind: one for kind, one in self._armed.items() if one.session != session}
