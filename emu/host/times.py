"""The one scale that all protocol and transport timers share."""

from __future__ import annotations

import os

LEAST, MOST = 1e-6, 1e6


def time_scale() -> float:
    """$EMU_TIME_SCALE, 1 without it or when it is empty. Raises ValueError for what is no number from LEAST to MOST."""
    text = os.environ.get("EMU_TIME_SCALE", "").strip() or "1"
    try:
        scale = float(text)
    except ValueError:
        scale = 0.0
    if not LEAST <= scale <= MOST:  # nan neither
        raise ValueError(
            f"EMU_TIME_SCALE={text[:64]}: expected a number from {LEAST:g} to {MOST:g}, as 0.1 or 10"
        )
    return scale


def scaled(seconds: float) -> float:
    """The real seconds of a timer."""
    return seconds * time_scale()


def patience(seconds: float) -> float:
    """A limit that only something broken exceeds: slower timers stretch it, faster ones do not shorten it."""
    return seconds * max(1.0, time_scale())
