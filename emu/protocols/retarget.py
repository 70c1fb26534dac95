"""retarget: send the DMA elsewhere. The control case; the null MR, zapped mappings.

The keys are parked (what comes under them waits), where they led into the range they lead to a scratch page from then on, and who waited goes
on: the holder's MR works, the peer sees success, and what it writes is nowhere. Only the pages of the range are switched, not the MR.

    start --requested, surprise--> gate, quiesce ------------> stopping
    stopping --quiesced----------> retarget -----------------> switching
    stopping --quiesce_failed----> arm ----------------------> refused
    refused --deadline-----------> quiesce ------------------> stopping
    switching --retargeted-------> apply, free, reply -------> end
    stopping, refused --cancelled--> deny EINTR -------------> end

What was parked when the request is interrupted goes on where it led. The switch itself needs nobody and is over at once: an interruption that comes
then is too late. No S4 (the data is lost), no V15 (its keys come back, so V10, V19 and V20 have nothing to say about them), no V18 (it waits
once, and switches).
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
    quiesce,
    reply,
    retarget,
)

STOP = go(gate(), quiesce(), to="stopping")
INTERRUPTED = go(disarm(), deny("EINTR"), to=END)
RETRY_SECONDS = 0.1

PROTOCOL = Protocol(
    name="retarget",
    summary="switch the range's pages to a scratch page; the MRs work on, the data is lost",
    origin="control case; the null MR, zapped mappings",
    table={
        (START, "requested"): STOP,
        (START, "surprise"): STOP,
        ("stopping", "quiesced"): go(retarget(), to="switching"),
        ("stopping", "quiesce_failed"): go(arm(RETRY_SECONDS), to="refused"),
        ("stopping", "cancelled"): INTERRUPTED,
        ("refused", "deadline"): go(quiesce(), to="stopping"),
        ("refused", "cancelled"): INTERRUPTED,
        ("switching", "retargeted"): go(apply(), free(), reply(), to=END),
    },
    ignored={"*": ("acknowledged", "unpinned", "holder_lost"), "switching": ("cancelled",)},
    impossible={
        START: ("deadline", "quiesced", "quiesce_failed", "retargeted", "cancelled"),
        "stopping": ("requested", "surprise", "deadline", "retargeted"),
        "refused": ("requested", "surprise", "quiesced", "quiesce_failed", "retargeted"),
        "switching": ("requested", "surprise", "deadline", "quiesced", "quiesce_failed"),
    },
    promises=(
        "S1",
        "S2",
        "S3",
        "S5",
        "S6",
        "S7",
        "S8",
        "S9",
        "S10",
        "V1",
        "V3",
        "V4",
        "V9",
        "V11",
        "V12",
        "V13",
        "V14",
        "V17",
        "V22",
        "V24",
        "V25",
    ),
    importers=("sync-revocable",),
    backings=("dax", "page-cache", "devdax", "dmabuf"),
    disposal="after-unmap",
    loss="page",
)
