"""What meta.json says was promised, held against the protocol that the mounts ran and against what that one declares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emu.check.validate.refusal import Refusal
from emu.protocols.contract import Protocol, declaration

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from emu.check.history import History
    from emu.core.decision import Deciding


def declared(history: History, protocols: Mapping[str, Deciding]) -> list[Refusal]:
    said = history.meta.get("declared")
    return [Refusal("meta.json", why) for why in _wrong(history, protocols, said)] if said else []


def _wrong(history: History, protocols: Mapping[str, Deciding], said: dict[str, Any]) -> Iterator[str]:
    name = _name(protocols, said["protocol"])
    ran = {_name(protocols, line["protocol"]) for line in history.of("MountAdded")}
    if ran and ran != {name}:
        yield f"it declares {name}, the mounts ran {' and '.join(sorted(ran))}"
        return
    protocol = protocols.get(name)
    if isinstance(protocol, Protocol):
        for field, value in declaration(protocol).items():
            if field != "protocol" and _plain(said.get(field)) != _plain(value):
                yield f"it declares {field} {said.get(field)!r:.80}: those of {name} are {value!r:.80}"


def _name(protocols: Mapping[str, Deciding], name: str) -> str:
    """Its own name, where this is an alias."""
    return str(getattr(protocols.get(name), "name", name))


def _plain(value: Any) -> Any:
    """Order says nothing in a list of names."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return sorted(map(str, value)) if isinstance(value, list | tuple) else value
