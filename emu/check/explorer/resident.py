"""How much memory this process has, as the kernel counts it."""

from __future__ import annotations

import resource
from pathlib import Path

STATM = Path("/proc/self/statm")


def resident() -> int:
    """Bytes that are resident now; where /proc is not there, the most that ever were."""
    try:
        return int(STATM.read_text("ascii").split()[1]) * resource.getpagesize()
    except (OSError, IndexError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
