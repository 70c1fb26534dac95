"""kill-process: end the holders. Williams on the thread; what kill on unbind does today.

SIGKILL to the process that opened each holder's context; its end closes the door, the node takes its MRs down, and with the last pin the
memory is free. No answer of the holder is awaited, and none is possible.

    start --requested, pinned--> gate, signal SIGKILL ----> dying
    start --requested, free----> gate, apply, free, reply --> end
    start --surprise, pinned---> gate, signal SIGKILL ----> dying
    start --surprise, free-----> reply ---------------------> end
    dying --unpinned-----------> apply, free, reply --------> end
    dying --cancelled----------> deny EINTR ----------------> end      the processes are gone all the same

Whoever cannot be signalled is refused at registration. But the signal goes to who *opened* the context: one who was handed its descriptor lives on
with it, and with its pins, and so does a process that cannot die. Then the reclaim hangs; so neither S7 nor V17 is promised. The gate keeps new pins
out; DMA goes on until the process is gone.
"""

from emu.core.decision import END, START
from emu.protocols.contract import Protocol, apply, deny, free, gate, go, reply, signal, when_pinned

KILL = go(gate(), signal("SIGKILL"), to="dying")
DONE = go(apply(), free(), reply(), to=END)

PROTOCOL = Protocol(
    name="kill-process",
    summary="SIGKILL to every holder, free when their pins are gone",
    origin="Williams 2019; kill on unbind",
    table={
        (START, "requested"): when_pinned(KILL, go(gate(), apply(), free(), reply(), to=END)),
        (START, "surprise"): when_pinned(KILL, go(reply(), to=END)),
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
        "S8",
        "S9",
        "S10",
        "V1",
        "V3",
        "V4",
        "V9",
        "V10",
        "V11",
        "V13",
        "V14",
        "V15",
        "V19",
        "V20",
        "V22",
        "V24",
        "V25",
    ),
    disposal="after-unmap",
    loss="process",
    needs="signal",
)
