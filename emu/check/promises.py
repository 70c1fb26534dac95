"""What installed protocols promise, so that what a run broke can be told apart from what it merely cost.

Protocols of strangers, given by file on the command line, count as installed once they were introduced to this process.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from emu.core.decision import CONTRACT, unserved
from emu.protocols.contract import actions_of, declaration
from emu.protocols.registry import Registry, load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.protocols.contract import Protocol
    from emu.protocols.registry import Stranger

STRANGERS: dict[str, Stranger] = {}  # by name: those that this process was given

KINDS = {"surprise-unplug": "surprise"}  # the core's word for the event, where it differs
ALSO = {
    "writeback": ("memory-pressure",)
}  # what such a run asks for besides: what was written back is then dropped as clean


def introduce(stranger: Stranger) -> None:
    STRANGERS[stranger.protocol.name] = stranger


def known() -> Registry:
    return load(strangers=STRANGERS.values())


def file_of(protocol: str) -> str:
    """The file that a stranger's protocol came in; "" for one that is installed."""
    return STRANGERS[protocol].file if protocol in STRANGERS else ""


def files() -> list[str]:
    """Of all strangers."""
    return [stranger.file for stranger in STRANGERS.values()]


def sources() -> dict[str, str]:
    """Of all strangers: by name, the digest of the file's text."""
    return {
        name: hashlib.sha256(stranger.source.encode()).hexdigest() for name, stranger in STRANGERS.items()
    }


def installed() -> list[str]:
    """Protocols that can be run, each under its own name (not its aliases)."""
    return sorted({protocol.name for protocol in known().protocols.values()})


def runnable() -> dict[str, Protocol]:
    """Protocols by name, aliases too."""
    return known().protocols


def promised(protocol: str, event: str) -> tuple[str, ...]:
    """Invariants that the protocol says it keeps under this event. Raises UnknownProtocol."""
    found = known().get(protocol)
    others = [found.promised(kind) for kind in ALSO.get(event, ())]
    return tuple(
        name for name in found.promised(KINDS.get(event, event)) if all(name in other for other in others)
    )


def declared(protocol: str) -> dict[str, object]:
    """All that it declares, as a run's meta.json holds it. Raises UnknownProtocol."""
    return declaration(known().get(protocol))


def serves(protocol: str, backing: str) -> bool:
    """Whether it can take memory of this backing back. Raises UnknownProtocol."""
    return not unserved(known().get(protocol), backing)


def refuses(protocol: str, backing: str) -> bool:
    """Whether every registration of such memory is refused: nobody holds anything, whatever its manner. Raises UnknownProtocol."""
    return backing in known().get(protocol).refuses


def tells_holders(protocol: str) -> bool:
    """Whether any rule of it notifies holders: else a prompt one does what a deaf one does. Raises UnknownProtocol."""
    return any(action.verb == "notify" for action in actions_of(known().get(protocol)))


def tells_peers(protocol: str) -> bool:
    """Whether any rule of it notifies who has the key: else a peer that hears does what a deaf one does. Raises UnknownProtocol."""
    return any(action.verb == "notify_peers" for action in actions_of(known().get(protocol)))


def is_breach(rule: str, promises: Sequence[str]) -> bool:
    """Whether breaking the rule is more than a cost: it was promised, or it is one that the core holds every protocol to."""
    return rule in promises or rule.startswith(CONTRACT)
