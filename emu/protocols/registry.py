"""Which protocols there are: the package's own and those that others installed (entry point group `emu.protocols`).

This is the one module of the room that may look outside (importlib.metadata): protocols and core stay pure, since they are
handed a plain mapping. A protocol that cannot be loaded, or does not meet the contract, is left out, and why is kept in
`Registry.broken`: asking for it by name tells. The package's own must load.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any

from emu.protocols import (
    deferred_free,
    ebusy,
    immutable,
    kill_context,
    kill_process,
    layout_lease,
    lease_signal,
    linux,
    mr_revoke,
    none,
    odp,
    recall_fence,
    refuse,
    retarget,
    virtual_truncate,
    wait,
    wait_fair,
)
from emu.protocols.contract import LARGEST, Malformed, Protocol, check

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

GROUP = "emu.protocols"
BUILT_IN = (
    none.PROTOCOL,
    refuse.PROTOCOL,
    immutable.PROTOCOL,
    wait.PROTOCOL,
    wait_fair.PROTOCOL,
    ebusy.PROTOCOL,
    layout_lease.PROTOCOL,
    mr_revoke.PROTOCOL,
    recall_fence.PROTOCOL,
    deferred_free.PROTOCOL,
    virtual_truncate.PROTOCOL,
    lease_signal.PROTOCOL,
    kill_context.PROTOCOL,
    kill_process.PROTOCOL,
    odp.PROTOCOL,
    retarget.PROTOCOL,
    *linux.PROTOCOLS,
)


class UnknownProtocol(LookupError):
    """No protocol has this name; the sentence lists those that are there."""


@dataclass(frozen=True)
class Registry:
    """protocols: by name and alias. broken: name -> why it could not be loaded."""

    protocols: dict[str, Protocol]
    broken: dict[str, str] = field(default_factory=dict)

    def get(self, name: str) -> Protocol:
        if name in self.protocols:
            return self.protocols[name]
        if name in self.broken:
            raise UnknownProtocol(f"protocol {name!r} cannot be loaded: {self.broken[name]}")
        raise UnknownProtocol(f"protocol {name!r} is unknown: use one of {', '.join(sorted(self.protocols))}")


@dataclass(frozen=True)
class Stranger:
    """A protocol that came in a file of its own, and the text of that file."""

    protocol: Protocol
    file: str
    source: str


def load(
    points: Iterable[metadata.EntryPoint] | None = None,
    strangers: Iterable[Stranger] = (),
    lease_break: float | None = None,
) -> Registry:
    """All protocols. `points` stands in for the installed entry points. A stranger takes its name from whoever has it.

    lease_break: seconds of a rung of lease-signal's ladder, where the node has other ones.
    """
    registry = Registry({}, {})
    for protocol in BUILT_IN:
        add(registry, check(protocol))
    registry.protocols.update(paced(registry.protocols, lease_break))
    found = metadata.entry_points(group=GROUP) if points is None else points
    for point in sorted(found, key=lambda point: (point.name, point.value)):
        if point.name not in registry.protocols:
            add_point(registry, point)
    for stranger in strangers:
        for name in (stranger.protocol.name, *stranger.protocol.aliases):
            registry.broken.pop(name, None)
            registry.protocols[name] = stranger.protocol
    return registry


def paced(known: Mapping[str, Any], lease_break: object) -> dict[str, Any]:
    """The same, where lease-signal is the package's own with rungs of so many seconds, if that is a number."""
    own = known.get(lease_signal.NAME) is lease_signal.PROTOCOL
    number = isinstance(lease_break, int | float) and not isinstance(lease_break, bool)
    if not (own and number and 0 < lease_break < LARGEST):  # type: ignore[operator]
        return dict(known)
    return {**known, lease_signal.NAME: check(lease_signal.protocol(float(lease_break)))}  # type: ignore[arg-type]


def add(registry: Registry, protocol: Protocol) -> None:
    for name in (protocol.name, *protocol.aliases):
        if name in registry.protocols:
            raise Malformed(f"protocol {protocol.name!r}: the name {name!r} is taken: choose another")
        registry.protocols[name] = protocol


def as_protocol(found: Any) -> Protocol:
    if not isinstance(found, Protocol):
        raise Malformed(f"{found!r} is no emu.protocols.contract.Protocol")
    return found


def add_point(registry: Registry, point: metadata.EntryPoint) -> None:
    try:
        add(registry, check(as_protocol(point.load())))
    except Exception as error:  # noqa: BLE001 - a stranger's module may raise anything; it is kept and told
        registry.broken[point.name] = f"{point.value}: {type(error).__name__}: {error}"
