"""layout-lease: who registers has a lease on the file's layout, which nobody breaks while it is pinned. Weiny, August 2019.

    fs_lease PATH shared|exclusive   belongs to the process that opened the context, and ends with it
    reg_mr                           EPERM without a lease

    start --requested, pinned, leased ------------> deny ETXTBSY -------------------------> end
    start --requested, pinned, not leased, own ---> gate, apply, free at once, reply -----> end
    start --requested, pinned, not leased, not own> (as mainline) ------------------------> waiting
    start --requested, free ----------------------> gate, break leases, apply, free, reply> end
    waiting --unpinned----------------------------> gate, break leases, apply, free, reply> end
    waiting --cancelled---------------------------> deny EINTR ---------------------------> end
    start --surprise------------------------------> reply --------------------------------> end

`leased`: by somebody else than who asks. A lease that nobody has pinned under is broken: who had it is told LEASE_BROKEN, and nothing stops.
The only owner's own truncate and punch skip the break, as its writes do in the proposal: nothing then stands between them and the blocks
under its own MRs (Wilcox), which are freed while the DMA goes on. And a lease does not follow a descriptor that is passed on (Chinner): when
the opener ends the lease is gone, the pin is not, and a reclaim waits for it, as mainline's does. So what others do keeps the promises below
only as long as no owner reclaims its own file: none of S1, S2, S4, S8, S9, V4, V10, V14, V20 is promised. Nor a bound (S7): it is
there while the lease is, and the lease may go first.
"""

from emu.core.decision import END, START
from emu.protocols.contract import (
    Protocol,
    apply,
    break_leases,
    deny,
    free,
    gate,
    go,
    reply,
    when,
    when_pinned,
)

DONE = go(gate(), break_leases(), apply(), free(), reply(), to=END)
UNDER_ITSELF = go(gate(), apply(), free("now"), reply(), to=END)

PROTOCOL = Protocol(
    name="layout-lease",
    summary="refuse with ETXTBSY while a lease is held and the range is pinned",
    origin="Weiny, August 2019: exclusive layout lease",
    table={
        (START, "requested"): when_pinned(
            when("leased", go(deny("ETXTBSY"), to=END), when("own", UNDER_ITSELF, go(to="waiting"))), DONE
        ),
        (START, "surprise"): go(reply(), to=END),
        ("waiting", "unpinned"): DONE,
        ("waiting", "cancelled"): go(deny("EINTR"), to=END),
    },
    ignored={"waiting": ("acknowledged", "holder_lost")},
    promises=(
        "S3",
        "S5",
        "S6",
        "S10",
        "V1",
        "V3",
        "V9",
        "V11",
        "V13",
        "V15",
        "V19",
        "V22",
        "V24",
        "V25",
    ),
    backings=("dax", "page-cache"),
    needs="lease",
    loss="none",
)
