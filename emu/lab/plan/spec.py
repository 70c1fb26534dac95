"""A row: one (protocol, event, backing, holder), or the reason why it makes no sense."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RowSpec:
    """What is to be measured. `reason`: why it is not (N/A). `way`: another way of the same scene (ways.py); "" for the row itself."""

    protocol: str
    event: str
    backing: str
    holder: str
    reason: str = ""
    way: str = ""

    @property
    def label(self) -> str:
        return f"{self.protocol}-{self.event}-{self.backing}-{self.holder}"
