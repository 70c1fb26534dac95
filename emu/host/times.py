"""The one scale that all protocol and transport timers share."""

from __future__ import annotations

import math
import os


def time_scale() -> float:
    """$EMU_TIME_SCALE, 1 without it. Raises ValueError for what is no positive number."""
    text = os.environ.get("EMU_TIME_SCALE") or "1"
    try:
        scale = float(text)
    except ValueError:
        scale = math.nan
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"EMU_TIME_SCALE={text}: expected a positive number, as 0.1 or 10")
    return scale


def scaled(seconds: float) -> float:
    """The real seconds of a timer."""
    return seconds * time_scale()
