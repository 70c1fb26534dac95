"""immutable: the file's layout stays as it is while it is marked. Chinner, Kara 2019; udmabuf's sealed memfd.

    fs_mark PATH on            a durable mark; refused unless the file is fully allocated and shares no block
    reg_mr                     EPERM unless the file is marked
    start --requested, marked ----------> deny EPERM ----------------> end      pinned or not
    start --requested, not marked, pinned-> deny EBUSY ---------------> end      pins of an earlier protocol
    start --requested, not marked, free -> gate, apply, free, reply --> end
    start --surprise--------------------> reply ----------------------> end

Write-back and umount leave the layout as it is: a mark denies neither, and they go as where nothing is marked.

The mark outlives its holder, and the broker: nothing is freed until somebody clears it. Whoever may use the node may clear it, but not under a pin
(EBUSY): the MRs rest on it, and clearing it under them would give the next truncate their blocks. So a holder that never deregisters denies for
ever, as under ebusy, and one that has gone denies until somebody clears its mark. A marked file does not grow either (EPERM).

Hot-unplug is not what a mark is about: an orderly one is denied like every change; after a surprise the pins stay and what they reach once a new
namespace is plugged is the cost of this option (so none of S1, S2, S4, S8, S9, V4, V10, V14 is promised there).
"""

from emu.core.decision import END, START
from emu.protocols.contract import Protocol, apply, deny, free, gate, go, reply, when, when_pinned

AT_ONCE = go(gate(), apply(), free(), reply(), to=END)
ORDINARY = when_pinned(go(deny("EBUSY"), to=END), AT_ONCE)

PROTOCOL = Protocol(
    name="immutable",
    summary="refuse every change of a marked file with EPERM",
    origin="Chinner, Kara 2019; udmabuf's sealed memfd",
    table={
        (START, "requested"): when(
            "marked",
            when("kind=writeback", ORDINARY, when("kind=umount", ORDINARY, go(deny("EPERM"), to=END))),
            ORDINARY,
        ),
        (START, "surprise"): go(reply(), to=END),
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
    backings=("dax", "page-cache"),
    needs="mark",
    loss="none",
)
