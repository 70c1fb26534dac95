"""deferred-free: take it from the file now, give it to nobody until the last pin is gone. Hellwig 2017; busy extents, orphans.

    start --requested--> gate, apply, free (what is pinned is kept), reply --> end
    start --surprise---> reply ----------------------------------------------> end

The reclaimer gets its 0 at once and the DMA goes on, into blocks that are no file's: nobody's memory is touched, and what is written there
is lost without a word. The space is not free either, whatever was answered: ENOSPC is real until the last unpin. Blocks that are kept
stand in the durable book `orphans` until they go, so a crash leaks none.

Unplug is not handled: the device goes from under the pins.
"""

from emu.core.decision import END, START
from emu.protocols.contract import BACKINGS, Protocol, apply, free, gate, go, reply

PROTOCOL = Protocol(
    name="deferred-free",
    summary="free at once what nobody pins, the rest at its last unpin",
    origin="Hellwig 2017, Gunthorpe: busy extents, orphans",
    table={
        (START, "requested"): go(gate(), apply(), free(), reply(), to=END),
        (START, "surprise"): go(reply(), to=END),
    },
    promises=(
        "S1", "S2", "S3", "S5", "S6", "S7", "S8", "S9", "S10",
        "V1", "V3", "V4", "V9", "V10", "V11", "V13", "V14", "V15", "V17", "V19", "V22", "V24", "V25",
    ),
    excepts={
        "unplug": ("S1", "S2", "S8", "S9", "V4", "V10", "V14"),
        "surprise": ("S1", "S2", "S8", "S9", "V4", "V10", "V14"),
        "reflink": ("S1", "S8", "V10"),  # blocks that two files share cannot be set aside for a pin
        "cow-write": ("S1", "S8", "V10"),  # nor those that are left to the other file
    },
    backings=tuple(name for name in BACKINGS if name != "host"),  # a host file's blocks are the host's to keep
    disposal="keep",
    loss="none",
)  # fmt: skip
