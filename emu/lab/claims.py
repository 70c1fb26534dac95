"""What the authors of each protocol, or its critics, claim it does: data, in our own words, from the thread of 2019 and what followed.

A claim is compared with a measurement by `agrees`. Three kinds of claim:

- `all`: every outcome named must have been measured (CORRUPT by FAULT, say);
- `any`: the outcome is one of those named (in time, else ...);
- `cannot`: the protocol has no answer to this event; agreed when the measurement shows no safe end (OK, OK+ERR, DENY).

A claim speaks of the backings in `on`, and of no others: the thread was about files on dax, and where a device goes about its raw memory too. That the memory of who is gone
can be had goes for all.

`by` names who said it; "inferred" marks what we concluded ourselves and nobody wrote. Where nobody claims there is no entry, and an entry
without outcomes is an open question: both give `agrees` null. `wait-fair` is ours, and the table of claims has no row for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

from emu.lab import names

SAFE_ENDS = frozenset({"OK", "OK+ERR", "DENY", "REFUSED"})


class Claim(NamedTuple):
    """`text` is what is printed; `outcomes` what is compared, by `kind`."""

    text: str
    by: str
    outcomes: tuple[str, ...] = ()
    kind: str = "any"
    only: tuple[str, ...] = ()  # events of the column that it speaks of; () for all
    on: tuple[str, ...] = ()  # backings; () for those of the column


# The columns of the claims table, and the events that each speaks of.
COLUMNS = {
    "shrink": ("truncate", "punch"),
    "fallocate": ("collapse", "insert", "zero"),
    "move": ("cow-write", "migrate"),
    "unplug": ("unplug",),
    "surprise": ("surprise-unplug",),
    "leave": ("exit", "fd-pass"),
    "enospc": ("enospc",),
}

DAX = ("dax",)
DEVICE = ("dax", "devdax")  # a device that goes takes mounted files and raw memory alike
BACKINGS = {column: DEVICE if column in {"unplug", "surprise"} else DAX for column in COLUMNS}


def _plain(by: str, *outcomes: str) -> Claim:
    return Claim(", ".join(outcomes), by, outcomes)


def _both(by: str, *outcomes: str) -> Claim:
    return Claim(", ".join(outcomes), by, outcomes, "all")


def _cannot(text: str, by: str = "inferred") -> Claim:
    return Claim(text, by, (), "cannot")


def _open(text: str, by: str) -> Claim:
    return Claim(text, by, (), "open")


# The memory can be had once its holder is gone. That the peer of somebody who is gone gets errors is nobody's objection.
AT_EXIT = Claim("OK at exit", "inferred", ("OK", "OK+ERR"), only=("exit",), on=names.BACKINGS)

CLAIMS: dict[str, dict[str, Claim]] = {
    "none": {
        "shrink": _plain("Wilcox", "CORRUPT"),
        "fallocate": _plain("inferred", "CORRUPT"),
        "move": _plain("inferred", "CORRUPT"),
        "unplug": _both("inferred", "FAULT", "CORRUPT"),
        "surprise": _both("inferred", "FAULT", "CORRUPT"),
        "leave": AT_EXIT,
        "enospc": _plain("inferred", "CORRUPT"),
    },
    "refuse": {
        "shrink": Claim(
            "OK, REFUSED", "Williams", ("REFUSED",)
        ),  # what succeeds because nobody could register it
        "fallocate": _plain("inferred", "OK", "REFUSED"),
        "move": _plain("inferred", "OK", "REFUSED"),
        "unplug": _plain("inferred", "OK", "REFUSED"),
        "surprise": _plain("inferred", "OK", "REFUSED"),
        "leave": _open("not applicable: nobody holds anything", "inferred"),
        "enospc": _plain("inferred", "OK", "REFUSED"),
    },
    "immutable": {
        "shrink": _plain("Chinner, Kara", "DENY"),
        "fallocate": _plain("inferred", "DENY"),
        "move": _plain("inferred", "DENY"),
        "unplug": _cannot("not handled"),
        "surprise": _cannot("not handled"),
        "leave": _open("the flag outlives its holder", "inferred"),
        "enospc": _plain("inferred", "DENY"),
    },
    "wait": {
        "shrink": _plain("Chinner", "HANG"),
        "fallocate": _plain("Chinner", "HANG"),
        "move": Claim("HANG, and that is unacceptable", "Chinner", ("HANG",)),
        "unplug": _plain("inferred", "HANG"),
        "surprise": _plain("Ruan", "HANG"),
        "leave": AT_EXIT,
        "enospc": _plain("inferred", "HANG"),
    },
    "ebusy": {
        "shrink": _plain("Ledford, Wilcox", "DENY"),
        "fallocate": _plain("inferred", "DENY"),
        "move": Claim("DENY, and that is unacceptable", "Chinner", ("DENY",)),
        "unplug": Claim("DENY; the device asks again", "CXL DCD", ("DENY",)),
        "surprise": _cannot("no answer: a removal cannot fail", "Williams"),
        "leave": _open("the holder is invisible", "inferred"),
        "enospc": _plain("Williams", "DENY"),
    },
    "layout-lease": {
        "shrink": _plain("Weiny, Kara", "DENY"),
        "fallocate": _plain("inferred", "DENY"),
        "move": _open("the holder's own write breaks its lease", "Wilcox"),
        "unplug": _open("an open question", "nobody"),
        "surprise": _open("an open question", "nobody"),
        "leave": _open("unresolved", "Chinner, Gunthorpe"),
        "enospc": Claim("DENY, until an admin ends the holder", "inferred", ("DENY",)),
    },
    "lease-signal": {
        "shrink": Claim("OK in time, else KILL", "Weiny", ("OK", "KILL")),
        "fallocate": _plain("inferred", "OK"),
        "move": Claim("OK, as long as it is rare", "Gunthorpe", ("OK",)),
        "unplug": Claim("OK, though Wilcox says that it needs a revoke", "inferred", ("OK",)),
        "surprise": _cannot("too slow"),
        "leave": _open("the signal reaches the wrong process", "Chinner"),
        "enospc": Claim("OK after the deadline", "inferred", ("OK", "KILL")),
    },
    "recall-fence": {
        "shrink": _plain("Chinner", "OK"),
        "fallocate": _plain("inferred", "OK"),
        "move": _plain("inferred", "OK"),
        "unplug": _plain("inferred", "OK"),
        "surprise": _cannot("can only fence"),
        "leave": _open("fenced by the client's key", "inferred"),
        "enospc": Claim(
            "OK after the fence", "inferred", ("OK",)
        ),  # as for truncate: whom errors reach is a finding
    },
    "odp": {
        "shrink": _plain("all", "OK"),
        "fallocate": _plain("inferred", "OK"),
        "move": Claim("OK, and the only one that suits reflink", "inferred", ("OK",)),
        "unplug": _plain("inferred", "OK"),
        "surprise": _plain("inferred", "OK+ERR"),
        "leave": _plain("inferred", "OK"),
        "enospc": _plain("inferred", "OK"),
    },
    "mr-revoke": {
        "shrink": _plain("Moroni", "OK+ERR"),
        "fallocate": _plain("inferred", "OK+ERR"),
        "move": Claim("OK+ERR: every move ends the MR", "inferred", ("OK+ERR",)),
        "unplug": _plain("inferred", "OK+ERR"),
        "surprise": Claim("OK+ERR, else the device is reset", "inferred", ("OK+ERR",)),
        "leave": Claim("OK: a deregistration is a revoke", "inferred", ("OK", "OK+ERR")),
        "enospc": _plain("inferred", "OK+ERR"),
    },
    "kill-context": {
        "shrink": Claim("OK+ERR, more than was needed", "inferred", ("OK+ERR",)),
        "fallocate": _plain("inferred", "OK+ERR"),
        "move": Claim("OK+ERR, too violent", "inferred", ("OK+ERR",)),
        "unplug": _plain("inferred", "OK+ERR"),
        "surprise": _plain("inferred", "OK+ERR"),
        "leave": _open("goes by the descriptor", "inferred"),
        "enospc": _plain("inferred", "OK+ERR"),
    },
    "kill-process": {
        "shrink": Claim("KILL, if the right process is found", "Williams", ("KILL",)),
        "fallocate": _plain("inferred", "KILL"),
        "move": Claim("KILL, too violent", "inferred", ("KILL",)),
        "unplug": _plain("inferred", "KILL"),
        "surprise": _open("finds those who map it, no others", "inferred"),
        "leave": _open("a survivor keeps the pin", "Gunthorpe"),
        "enospc": _plain("inferred", "KILL"),
    },
    "deferred-free": {
        "shrink": _both("Williams", "LEAK", "LOST"),
        "fallocate": _plain("inferred", "LEAK"),
        "move": _plain("inferred", "STALE"),
        "unplug": _cannot("not handled"),
        "surprise": _cannot("not handled"),
        "leave": AT_EXIT,
        "enospc": _plain("Williams", "LEAK"),
    },
    "virtual-truncate": {
        "shrink": Claim("LEAK: a success that is undone", "Williams", ("LEAK",)),
        "fallocate": _open("an open question", "nobody"),
        "move": _plain("inferred", "STALE"),
        "unplug": _cannot("not handled"),
        "surprise": _cannot("not handled"),
        "leave": AT_EXIT,
        "enospc": _plain("inferred", "LEAK"),
    },
    "retarget": {column: _plain("inferred", "OK" if column == "leave" else "LOST") for column in COLUMNS},
}


def claim_for(protocol: str, event: str, backing: str = "dax") -> Claim | None:
    """What is claimed of this protocol under this event on this backing, or None where nobody claims."""
    column = next((name for name, events in COLUMNS.items() if event in events), None)
    claim = CLAIMS.get(protocol, {}).get(column) if column else None
    if column is None or claim is None or (claim.only and event not in claim.only):
        return None
    if backing not in (claim.on or BACKINGS[column]):
        return None
    if event == "exit" and claim.outcomes == ("OK",):
        return claim._replace(outcomes=AT_EXIT.outcomes)
    return claim


def source_of(claim: Claim | None) -> str | None:
    """Where it was said; None of what nobody wrote."""
    if claim is None or claim.by in {"inferred", "nobody"}:
        return None
    said = dict.fromkeys(SOURCES.get(name, THREAD) for name in claim.by.split(", "))
    return "; ".join(said)


THREAD = (
    "[LSF/MM TOPIC] least bad options for longterm-GUP usage by RDMA, linux-rdma and linux-mm, February 2019"
)
SOURCES = {
    "Weiny": "layout-lease patch series, April to August 2019",
    "CXL DCD": "CXL dynamic capacity, release of extents, 2026",
    "Moroni": "RDMA pinned-revocable dma-buf import, 2026",
    "Ruan": "work on removal of pmem devices, after 2019",
}

# Claims are about a holder that lives and keeps its registration until somebody makes it let go.
NOT_MEANT = frozenset({"slow", "reregister", "dying"})


def agrees(claim: Claim | None, outcomes: Sequence[str], holder: str = "deaf") -> bool | None:
    """Whether the measured outcomes are what was claimed; None where there is nothing to compare."""
    measured = set(outcomes)
    if claim is None or holder in NOT_MEANT or claim.kind == "open" or measured & {"UNKNOWN", "N/A"}:
        return None
    if claim.kind == "cannot":
        return not measured <= SAFE_ENDS
    if claim.kind == "all":
        return set(claim.outcomes) <= measured
    return bool(outcomes) and outcomes[0] in claim.outcomes
