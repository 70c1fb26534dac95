"""none: pin and free. The bug before 2017, when dax met RDMA without get_user_pages_longterm.

The reclaimer gets its 0 at once, the blocks are free at once, and the DMA goes on into whatever they become.

    start --requested--> apply, free, reply --> end
    start --surprise---> reply -------------> end

It promises nothing of what concerns memory under DMA. The file operations themselves are sound, and what the node keeps for everybody is
kept: a deregistered key is dead, a pin has an owner. (Not S9: DMA goes on into tails and holes as well.)
"""

from emu.core.decision import END, START
from emu.protocols.contract import BACKINGS, Protocol, apply, free, go, reply

PROTOCOL = Protocol(
    name="none",
    summary="free at once, whoever pins it",
    origin="the bug before 2017: pin and free",
    table={
        (START, "requested"): go(apply(), free(), reply(), to=END),
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
        "S3",
        "S5",
        "S6",
        "S7",
        "S10",
        "V3",
        "V9",
        "V11",
        "V13",
        "V15",
        "V17",
        "V19",
        "V22",
        "V24",
        "V25",
    ),
    backings=tuple(
        name for name in BACKINGS if name != "host"
    ),  # a host file's blocks are not ours to free under a pin: real orphans would be needed
    disposal="now",
    loss="none",
)
