"""mr-revoke: take the MR away. Gunthorpe 2019; dma-buf revoke and the pinned-revocable RDMA import of 2026.

The owner's order of CONTRACT: gate, notify, wait until no operation runs under the keys (quiesce), wait until the
translations are gone (unmap), and only then reuse. No answer of a holder is awaited; there is no deadline.

    start --requested, surprise--> gate, notify MR_REVOKED, quiesce --> fencing
    fencing --quiesced----------> unmap ------------------------------> unmapping
    fencing --quiesce_failed----> arm --------------------------------> refused
    refused --deadline----------> quiesce ----------------------------> fencing
    unmapping --unmapped--------> apply, free, reply -----------------> end
    fencing, unmapping, refused --cancelled--> deny EINTR ------------> end

Hardware that refuses to stop is asked again for ever: never go on as if it had been revoked (V14). The key stays reserved
until its MR is deregistered; both sides' work under it ends in errors. A deferred-unmap importer is waited for in `unmapping`, as long as it
takes: when it has said that it has unmapped.
"""

from emu.core.decision import END, START
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
)

REVOKE = go(gate(), notify("MR_REVOKED"), quiesce(), to="fencing")
INTERRUPTED = go(disarm(), deny("EINTR"), to=END)
RETRY_SECONDS = 0.1

PROTOCOL = Protocol(
    name="mr-revoke",
    aliases=("revoke",),
    summary="revoke the MRs, wait for the hardware, then free",
    origin="Gunthorpe 2019; dma-buf revoke and pinned-revocable RDMA import, merged 2026",
    table={
        (START, "requested"): REVOKE,
        (START, "surprise"): REVOKE,
        ("fencing", "quiesced"): go(unmap(), to="unmapping"),
        ("fencing", "quiesce_failed"): go(arm(RETRY_SECONDS), to="refused"),
        ("fencing", "cancelled"): INTERRUPTED,
        ("refused", "deadline"): go(quiesce(), to="fencing"),
        ("refused", "cancelled"): INTERRUPTED,
        ("unmapping", "unmapped"): go(apply(), free(), reply(), to=END),
        ("unmapping", "cancelled"): INTERRUPTED,
    },
    ignored={"*": ("acknowledged", "unpinned", "holder_lost")},
    impossible={
        START: ("deadline", "quiesced", "quiesce_failed", "unmapped", "cancelled"),
        "fencing": ("requested", "surprise", "deadline", "unmapped"),
        "refused": ("requested", "surprise", "quiesced", "quiesce_failed", "unmapped"),
        "unmapping": ("requested", "surprise", "deadline", "quiesced", "quiesce_failed"),
    },
    promises=(
        "S1",
        "S2",
        "S3",
        "S4",
        "S5",
        "S6",
        "S7",
        "S8",
        "S9",
        "S10",
        "V1",
        "V2",
        "V3",
        "V4",
        "V5",
        "V6",
        "V7",
        "V9",
        "V10",
        "V11",
        "V12",
        "V13",
        "V14",
        "V15",
        "V16",
        "V17",
        "V18",
        "V19",
        "V20",
        "V22",
        "V24",
        "V25",
    ),
    importers=("sync-revocable", "deferred-unmap", "dynamic"),
    disposal="after-unmap",
    loss="mr",
)
