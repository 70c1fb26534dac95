"""Wrong protocols that several tests share."""

from __future__ import annotations

from emu.core.decision import END, EVENTS, START
from emu.protocols import contract
from emu.protocols.contract import (
    Protocol,
    apply,
    arm,
    deny,
    disarm,
    free,
    gate,
    go,
    notify,
    quiesce,
    reply,
    unmap,
    when_pinned,
)

DONE = (apply(), free(), reply())
AT_ONCE = go(gate(), *DONE, to=END)
INTERRUPTED = go(disarm(), deny("EINTR"), to=END)


def wrong(name, table, **more):
    """It promises what it does not keep."""
    table = {(START, "surprise"): go(reply(), to=END), **table}
    settings = {"promises": ("S1", "S2", "S3", "S6", "S7"), "disposal": "now", **more}
    found = Protocol(
        name=name, summary="wrong", origin="a test", table=table, ignored={"*": tuple(EVENTS)}, **settings
    )
    return contract.check(found)


WAITING = wrong(
    "waiting",
    {
        (START, "requested"): when_pinned(go(gate(), to="waiting"), AT_ONCE),
        ("waiting", "unpinned"): go(*DONE, to=END),
        ("waiting", "cancelled"): INTERRUPTED,
    },
    disposal="after-unmap",
)

POLLING = wrong(
    "polling",
    {
        (START, "requested"): when_pinned(go(gate(), arm(1.0), to="waiting"), AT_ONCE),
        ("waiting", "deadline"): when_pinned(go(arm(1.0), to="waiting"), go(*DONE, to=END)),
        ("waiting", "cancelled"): INTERRUPTED,
    },
    disposal="after-unmap",
)

ASKING = wrong(
    "asking",
    {
        (START, "requested"): when_pinned(go(gate(), notify("MR_REVOKING"), to="waiting"), AT_ONCE),
        ("waiting", "unpinned"): go(*DONE, to=END),
        ("waiting", "cancelled"): INTERRUPTED,
    },
    disposal="after-unmap",
)

IMPATIENT = wrong(  # the lease is removed at the timeout, the DMA not stopped
    "impatient",
    {
        (START, "requested"): when_pinned(go(gate(), notify("MR_REVOKING"), arm(1.0), to="waiting"), AT_ONCE),
        ("waiting", "unpinned"): go(disarm(), *DONE, to=END),
        ("waiting", "deadline"): go(*DONE, to=END),
        ("waiting", "cancelled"): INTERRUPTED,
    },
)

PATIENT = wrong(  # right, in spite of the folder that it lives in: ask first, then revoke
    "patient",
    {
        (START, "requested"): when_pinned(go(gate(), notify("MR_REVOKING"), arm(1.0), to="waiting"), AT_ONCE),
        ("waiting", "unpinned"): go(disarm(), *DONE, to=END),
        ("waiting", "deadline"): go(quiesce(), to="fencing"),
        ("waiting", "cancelled"): INTERRUPTED,
        ("fencing", "quiesced"): go(unmap(), to="unmapping"),
        ("fencing", "quiesce_failed"): go(quiesce(), to="fencing"),
        ("unmapping", "unmapped"): go(*DONE, to=END),
    },
    disposal="after-unmap",
)

NO_QUIESCE = wrong("no-quiesce", {(START, "requested"): AT_ONCE})
NO_UNMAP = wrong(
    "no-unmap",
    {
        (START, "requested"): go(gate(), quiesce(), to="fencing"),
        ("fencing", "quiesced"): go(*DONE, to=END),
    },
)
CHECK_THEN_ACT = wrong(
    "check-then-act",
    {
        (START, "requested"): when_pinned(go(deny("EBUSY"), to=END), go(arm(1.0), to="checked")),
        ("checked", "deadline"): go(*DONE, to=END),
    },
)

ALL = (WAITING, POLLING, ASKING, IMPATIENT, PATIENT, NO_QUIESCE, NO_UNMAP, CHECK_THEN_ACT)
