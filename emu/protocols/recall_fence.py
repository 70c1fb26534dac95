"""recall-fence: ask for it back, and who does not give it back is fenced off the storage. pNFS layout recall, SCSI fencing.

Whoever registers is granted a right: a row in the storage's table, on (session, file). A reclaim recalls it, from the holder and from the
peers that are known to be connected to it; giving back is deregistering. At the deadline the storage fences the client: nothing of it is
carried out any more, on that whole storage, whatever file it is for (so the unit of loss is the context). Only behind the storage's
confirmation does the right leave the table, and only then the translations go and the blocks are freed.

    start --requested, pinned--> gate, notify MR_REVOKING, notify_peers, arm --> recalled
    start --requested, free----> gate, apply, free, reply ---------------------> end
    start --surprise-----------> gate, notify MR_REVOKED, notify_peers, fence -> fencing
    recalled --unpinned--------> apply, free, reply ---------------------------> end
    recalled --deadline--------> notify MR_REVOKED, fence ---------------------> fencing
    fencing --fence_confirmed--> unmap ----------------------------------------> unmapping
    fencing --fence_failed-----> arm ------------------------------------------> refused
    refused --deadline---------> fence ----------------------------------------> fencing
    unmapping --unmapped-------> apply, free, reply ---------------------------> end
    recalled, unmapping --cancelled--> deny EINTR -----------------------------> end
    fencing, refused --cancelled-----> deny EINTR -----------------------------> abandoned, disowned

A fence that fails keeps the right and is tried again for ever: the storage may still carry out what that client has sent. So a reclaim whose
asker has interrupted it is answered at once, and goes on fencing all the same (abandoned): half a fence is none. It applies nothing then.
It needs no answer of a holder (V17), and it ends as soon as the hardware confirms (S7); hardware that never does makes it wait for ever, and the
blocks stay.
"""

from emu.core.decision import END, START
from emu.protocols.contract import (
    Protocol,
    apply,
    arm,
    deny,
    disarm,
    fence,
    free,
    gate,
    go,
    notify,
    notify_peers,
    reply,
    unmap,
    when_pinned,
)

RECALL_SECONDS = 2.0  # a client that hears of it and lets go needs milliseconds; servers wait for a lease time, tens of seconds
RETRY_SECONDS = 0.1

RECALL = go(
    gate(),
    notify("MR_REVOKING", RECALL_SECONDS),
    notify_peers("MR_REVOKING", RECALL_SECONDS),
    arm(RECALL_SECONDS),
    to="recalled",
)
TAKE = go(gate(), apply(), free(), reply(), to=END)
GIVEN_BACK = go(disarm(), apply(), free(), reply(), to=END)
AGAIN = go(fence(), to="fencing")
STILL = ("acknowledged", "unpinned", "holder_lost")

PROTOCOL = Protocol(
    name="recall-fence",
    summary="recall the right, and fence the client that does not give it back",
    origin="pNFS layout recall (RFC 5661), SCSI fencing (RFC 8154), hardened 2025-26",
    table={
        (START, "requested"): when_pinned(RECALL, TAKE),
        (START, "surprise"): go(
            gate(), notify("MR_REVOKED"), notify_peers("MR_REVOKED"), fence(), to="fencing"
        ),
        ("recalled", "unpinned"): GIVEN_BACK,
        ("recalled", "deadline"): go(notify("MR_REVOKED"), fence(), to="fencing"),
        ("recalled", "cancelled"): go(disarm(), deny("EINTR"), to=END),
        ("fencing", "fence_confirmed"): go(unmap(), to="unmapping"),
        ("fencing", "fence_failed"): go(arm(RETRY_SECONDS), to="refused"),
        ("fencing", "cancelled"): go(deny("EINTR"), to="abandoned"),
        ("refused", "deadline"): AGAIN,
        ("refused", "cancelled"): go(deny("EINTR"), to="disowned"),
        ("unmapping", "unmapped"): go(apply(), free(), reply(), to=END),
        ("unmapping", "cancelled"): go(deny("EINTR"), to=END),
        ("abandoned", "fence_confirmed"): go(to=END),
        ("abandoned", "fence_failed"): go(arm(RETRY_SECONDS), to="disowned"),
        ("disowned", "deadline"): go(fence(), to="abandoned"),
    },
    ignored={
        "recalled": ("acknowledged", "holder_lost"),
        "fencing": STILL,
        "refused": STILL,
        "unmapping": STILL,
        "abandoned": (*STILL, "cancelled"),
        "disowned": (*STILL, "cancelled"),
    },
    impossible={
        "recalled": ("unmapped", "fence_confirmed", "fence_failed"),
        "fencing": ("deadline", "unmapped"),
        "refused": ("unmapped", "fence_confirmed", "fence_failed"),
        "unmapping": ("deadline", "fence_confirmed", "fence_failed"),
        "abandoned": ("deadline", "unmapped"),
        "disowned": ("unmapped", "fence_confirmed", "fence_failed"),
    },
    promises=(
        "S1", "S2", "S3", "S4", "S5", "S6", "S7", "S8", "S9", "S10",
        "V1", "V2", "V3", "V4", "V6", "V7", "V9", "V10", "V11", "V12", "V13", "V14", "V15", "V16", "V17", "V18", "V19",
        "V20", "V21", "V22", "V24", "V25",
    ),
    importers=("sync-revocable",),
    disposal="after-unmap",
    loss="context",
)  # fmt: skip
