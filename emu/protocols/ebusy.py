"""ebusy: deny while anybody holds it. Ledford and Wilcox 2019; CXL dynamic capacity release 2026.

The check and the act are one decision, so no pin can come between them; where the act takes time (a host file), the gate
keeps pins out until it is done.

    start --requested, pinned--> deny EBUSY ---------------> end
    start --requested, free----> gate, apply, free, reply --> end
    start --surprise-----------> reply --------------------> end

A surprise unplug cannot be denied: the device is gone. The request returns 0, the pins stay, and what they reach once a new
namespace is plugged is the cost of this option: files of others, and new blocks that should be zero (so none of S1, S2, S4, S8, S9, V4, V10,
V14 is promised there).
"""

from emu.core.decision import END, START
from emu.protocols.contract import Protocol, apply, deny, free, gate, go, reply, when_pinned

PROTOCOL = Protocol(
    name="ebusy",
    summary="refuse with EBUSY while an MR pins the range",
    origin="Ledford, Wilcox 2019; CXL DCD release 2026",
    table={
        (START, "requested"): when_pinned(
            go(deny("EBUSY"), to=END),
            go(gate(), apply(), free(), reply(), to=END),
        ),
        (START, "surprise"): go(reply(), to=END),
    },
    impossible={
        "*": (
            "acknowledged",
            "unpinned",
            "deadline",
            "holder_lost",
            "quiesced",
            "quiesce_failed",
            "unmapped",
            "cancelled",
        ),
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
        "V22",
        "V24",
        "V25",
    ),
    excepts={"surprise": ("S1", "S2", "S4", "S8", "S9", "V4", "V10", "V14")},
    disposal="after-unmap",
    loss="none",
)
