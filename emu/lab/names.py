"""The names of a comparison: protocols, events, backings, holders, outcomes. INTERFACE names, fixed.

Each list is complete; emu/lab/plan says which of them this version can run. A name that is known and not here is answered with a sentence,
a name that is unknown with the list of those that are known.
"""

from __future__ import annotations

PROTOCOLS = (
    "none", "refuse", "immutable", "wait", "wait-fair", "ebusy", "layout-lease", "lease-signal", "recall-fence", "odp",
    "mr-revoke", "kill-context", "kill-process", "deferred-free", "virtual-truncate", "retarget",
    "linux-6.1", "linux-6.12", "linux-6.18", "linux-7.3",
)  # fmt: skip
ALIASES = {"revoke": "mr-revoke"}

EVENTS = (
    "truncate", "punch", "collapse", "insert", "zero", "unlink", "reflink", "cow-write", "migrate", "writeback",
    "memory-pressure", "unplug", "surprise-unplug", "rnic-unplug", "umount", "exit", "fd-pass", "poison",
    "revoke-storm", "enospc", "self-write",
)  # fmt: skip
BACKINGS = ("dax", "page-cache", "anon", "host", "devdax", "dmabuf")
HOLDERS = ("prompt", "slow", "deaf", "reregister", "stopped", "dying", "blocker")

# In order of precedence: a row's outcome is the first that applies.
OUTCOMES = ("CORRUPT", "FAULT", "KILL", "HANG", "LEAK", "LOST", "STALE", "DENY", "REFUSED", "OK+ERR", "OK")
BESIDE = ("UNKNOWN", "N/A")


def first_of(outcomes: set[str]) -> str:
    """The outcome that goes before all others of the set."""
    return next((name for name in OUTCOMES + BESIDE if name in outcomes), "UNKNOWN")
