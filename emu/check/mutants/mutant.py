"""What a mutant is; and how a part of the core is exchanged while a changed core takes a step."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from emu.check.model.engine import Engine
from emu.core.machine import Core
from emu.protocols import mr_revoke

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from emu.check.model.setup import Setup
    from emu.core.effects import Effect
    from emu.core.events import Event
    from emu.protocols.contract import Protocol

OURS = "ours"


@dataclass(frozen=True)
class Mutant:
    """One bug. `sentence`: what goes wrong. `source`: the row of CONTRACT's last table, or OURS. `changes`: what is different, in words.

    `right`: of a wrong protocol, the one that it should have been.
    Hunted in `setup`, until the invariant `caught_by` is reported, which the protocol promises (or every protocol must keep).
    """

    name: str
    sentence: str
    source: str
    changes: str
    setup: Setup
    caught_by: str
    protocol: Protocol = mr_revoke.PROTOCOL
    core: type[Core] = Core
    engine: type[Engine] = Engine
    right: Protocol = mr_revoke.PROTOCOL

    @property
    def control(self) -> Protocol:
        """What must not be caught in the same setup: the same protocol in the right core and engine, or the right protocol."""
        return self.right if self.part == "protocol" else self.protocol

    @property
    def part(self) -> str:
        """What is wrong: the protocol, the core, or the engine."""
        if self.core is not Core:
            return "core"
        return "engine" if self.engine is not Engine else "protocol"


class Patch(NamedTuple):
    """`owner` (a module, or a table) has `to` under `name` while it is applied."""

    owner: Any
    name: Any
    to: Any


@contextmanager
def applied(patches: Sequence[Patch]) -> Iterator[None]:
    before = [_exchange(patch) for patch in patches]
    try:
        yield
    finally:
        for patch, was in zip(reversed(patches), reversed(before), strict=True):
            _exchange(patch._replace(to=was))


def _exchange(patch: Patch) -> Any:
    if isinstance(patch.owner, dict):
        was = patch.owner[patch.name]
        patch.owner[patch.name] = patch.to
    else:
        was = getattr(patch.owner, patch.name)
        setattr(patch.owner, patch.name, patch.to)
    return was


def mutated(*patches: Patch) -> type[Core]:
    """A core that works with these parts exchanged: in its own steps only, others are as they were."""

    class Mutated(Core):
        def step(self, event: Event) -> tuple[Effect, ...]:
            with applied(patches):
                return super().step(event)

        def committed(self) -> None:
            with applied(patches):
                super().committed()

    return Mutated
