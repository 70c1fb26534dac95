"""Our process and others: limits, memory, and waiting for an end without races."""

from __future__ import annotations

import contextlib
import os
import resource
import select
from pathlib import Path


def raise_descriptor_limit() -> int:
    """RLIMIT_NOFILE's soft limit up to the hard one. Returns it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(
        ValueError, OSError
    ):  # some kernels cap it below the hard limit: keep what there is
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def resident_bytes() -> int:
    """Resident set size of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir()) - 1


def wait_for_end(pid: int, timeout: float) -> bool:
    """Wait until a process (not necessarily a child) has ended; False: it still lives after `timeout` seconds."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(timeout * 1000))
    finally:
        os.close(fd)
