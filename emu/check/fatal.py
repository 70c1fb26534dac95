"""Contexts that a history destroyed while their doors were open: what was posted to their queue pairs completes no more."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emu.check.history import History

FATAL = "DEVICE_FATAL"


def swallowed(history: History) -> set[int]:
    """Queue pairs, by number, that ended with their context."""
    found: set[int] = set()
    owners: dict[int, int] = {}
    dead: set[int] = set()
    for line in history.of("Reply", "EndQp", "Notify", "Loaded"):
        if line["type"] == "Loaded":
            owners, dead = {}, set()
        elif line["type"] == "Notify":
            dead |= {line["session"]} if line["name"] == FATAL else set()
        elif line["type"] == "EndQp":
            found |= {line["qp_num"]} if owners.get(line["qp_num"]) in dead else set()
        elif "qp_num" in line["result"]:
            owners[line["result"]["qp_num"]] = line["session"]
    return found
