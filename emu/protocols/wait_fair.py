"""wait-fair: as `wait`, and who comes behind the reclaim waits behind it. Ours: what mainline's wait would be with a queue.

    start --requested, surprise, pinned--> gate ----------------------> waiting
    start --requested, surprise, free ---> gate, apply, free, reply --> end
    waiting --unpinned-------------------> apply, free, reply --------> end
    waiting --cancelled------------------> deny EINTR ----------------> end

The gate is there from the first moment, and a registration that meets it is parked: it goes on (or is refused, as when the file has become
too short) once the reclaim has ended or was interrupted. So a stream of short pins cannot starve a reclaim (V23); a holder that never lets go
still can, and now every newcomer with it. A holder that waits for its own truncate waits for itself: EINTR is the way out.
"""

from emu.core.decision import END, START
from emu.protocols.contract import Protocol, apply, deny, free, gate, go, reply, when_pinned

BEGIN = when_pinned(go(gate(), to="waiting"), go(gate(), apply(), free(), reply(), to=END))

PROTOCOL = Protocol(
    name="wait-fair",
    summary="wait until nothing pins the range, with newcomers queued behind",
    origin="ours: wait with a queue",
    table={
        (START, "requested"): BEGIN,
        (START, "surprise"): BEGIN,
        ("waiting", "unpinned"): go(apply(), free(), reply(), to=END),
        ("waiting", "cancelled"): go(deny("EINTR"), to=END),
    },
    ignored={"waiting": ("acknowledged", "holder_lost")},
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
        "V12",
        "V13",
        "V14",
        "V15",
        "V19",
        "V20",
        "V22",
        "V23",
        "V24",
        "V25",
    ),
    queues_pins=True,
    loss="none",
)
