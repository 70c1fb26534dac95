"""A live run's folder, held against the model and judged: what `emu check` would say, as a list of sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.check.history import History
from emu.check.invariants import judge
from emu.check.validate import validate
from emu.protocols import registry

if TYPE_CHECKING:
    from pathlib import Path

PROTOCOLS = registry.load().protocols


def wrong(node_directory: Path, protocol: str) -> list[str]:
    """Why the first run of a broker that has ended is not one that keeps what the protocol promises."""
    history = History.read(node_directory / "runs" / "1")
    declared = PROTOCOLS[protocol]
    broken = [
        f"{judgement.name}: {breach.sentence}"
        for judgement in judge(history, declared.promises, declared.excepts)
        if judgement.promised
        for breach in judgement.breaches
    ]
    return [*map(str, validate(history, PROTOCOLS)), *broken]


def not_shown(node_directory: Path) -> dict[str, str]:
    """Invariant -> "" where that run could show it, else why not."""
    history = History.read(node_directory / "runs" / "1")
    return {judgement.name: judgement.untested for judgement in judge(history)}
