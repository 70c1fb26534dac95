"""Ways: a row's scene once more, with one thing different that is worth a look. Each is run once and stands beside the row, under `ways`.

peer-deaf   the peer asked for no events, where the row's own did: what telling peers is worth
o-trunc     the file is opened with O_TRUNC by a program that knows nothing of emu, as most truncates are
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.check.promises import tells_peers
from emu.lab.plan.events import EVENTS

if TYPE_CHECKING:
    from emu.lab.plan.acts import Act
    from emu.lab.plan.spec import RowSpec

PEER_DEAF = "peer-deaf"
MANNERS = frozenset({"prompt", "deaf"})  # of holders whose rows have ways: the others differ by themselves


def peer_of(spec: RowSpec) -> str:
    """The manner of the row's peer: `told` has asked for events, and minds them; `deaf` has not."""
    return "told" if tells_peers(spec.protocol) and spec.way != PEER_DEAF else "deaf"


def ways_of(spec: RowSpec) -> list[str]:
    """The other ways of this row."""
    if spec.reason or spec.holder not in MANNERS:
        return []
    deaf = [PEER_DEAF] if tells_peers(spec.protocol) else []
    return [*deaf, *EVENTS[spec.event].ways.get(spec.backing, {})]


def act_of(spec: RowSpec) -> Act:
    """What the row's event does on its backing, this way."""
    event = EVENTS[spec.event]
    return event.ways.get(spec.backing, {}).get(spec.way, event.acts[spec.backing])
