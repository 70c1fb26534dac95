"""kill-context: end the holders' contexts. Kara and Gunthorpe 2019; what uverbs does when its device goes (disassociate).

Every context that pins the range is destroyed: its queue pairs are gone, all its MRs, in the range or not, are quiesced and unmapped,
DEVICE_FATAL tells it, and every later call answers EIO. The process lives, and may open another context. No answer of it is awaited.

    start --requested, pinned--> gate, destroy ---------------> dying
    start --requested, free----> gate, apply, free, reply -----> end
    start --surprise, pinned---> gate, destroy ---------------> dying
    start --surprise, free-----> reply ------------------------> end
    dying --unpinned-----------> apply, free, reply -----------> end
    dying --cancelled----------> deny EINTR -------------------> end      the contexts are destroyed all the same

Hardware that refuses to stop, or to forget, is asked again by the core until it does; before that no pin goes. Peers get no answer of queue pairs
that are gone: retry exceeded. The unit of loss is the context: MRs and queue pairs that have nothing to do with the range go with it.
"""

from emu.core.decision import END, START
from emu.protocols.contract import Protocol, apply, deny, destroy, free, gate, go, reply, when_pinned

DESTROY = go(gate(), destroy(), to="dying")
DONE = go(apply(), free(), reply(), to=END)

PROTOCOL = Protocol(
    name="kill-context",
    summary="destroy every holder's context, free when nothing of it is translated",
    origin="Kara, Gunthorpe 2019; uverbs disassociate",
    table={
        (START, "requested"): when_pinned(DESTROY, go(gate(), apply(), free(), reply(), to=END)),
        (START, "surprise"): when_pinned(DESTROY, go(reply(), to=END)),
        ("dying", "unpinned"): DONE,
        ("dying", "cancelled"): go(deny("EINTR"), to=END),
    },
    ignored={"dying": ("acknowledged", "holder_lost")},
    impossible={
        START: (
            "acknowledged",
            "unpinned",
            "deadline",
            "holder_lost",
            "quiesced",
            "quiesce_failed",
            "unmapped",
            "cancelled",
        ),
        "dying": ("requested", "surprise", "deadline", "quiesced", "quiesce_failed", "unmapped"),
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
        "V3",
        "V4",
        "V9",
        "V10",
        "V11",
        "V12",
        "V13",
        "V14",
        "V15",
        "V17",
        "V19",
        "V20",
        "V22",
        "V24",
        "V25",
    ),
    importers=("sync-revocable",),
    disposal="after-unmap",
    loss="context",
)
