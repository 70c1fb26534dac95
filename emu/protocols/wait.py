"""wait: until the last pin is gone, however long that takes. `dax_layout_busy_page`, Linux 4.18.

    start --requested, surprise, pinned--> (nothing) ------------------> waiting
    start --requested, surprise, free ---> gate, apply, free, reply ---> end
    waiting --unpinned-------------------> gate, apply, free, reply ---> end
    waiting --cancelled------------------> deny EINTR -----------------> end

There is no gate while it waits, as mainline drops its lock while it sleeps: new pins may come in, and a stream of them keeps it waiting for ever.
The last unpin and the act are one step, so no pin comes between them. An interrupted request has changed nothing. Nobody is asked to let go, and
nothing ends the wait but the holders: it promises no bound (S7), and needs them (V17).

A surprise unplug waits as well: until the pins are gone no new namespace can be plugged, so nobody meets what they reach.
"""

from emu.core.decision import END, START
from emu.protocols.contract import Protocol, apply, deny, free, gate, go, reply, when_pinned

DONE = go(gate(), apply(), free(), reply(), to=END)
BEGIN = when_pinned(go(to="waiting"), DONE)

PROTOCOL = Protocol(
    name="wait",
    summary="wait until nothing pins the range, then free",
    origin="dax_layout_busy_page, Linux 4.18",
    table={
        (START, "requested"): BEGIN,
        (START, "surprise"): BEGIN,
        ("waiting", "unpinned"): DONE,
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
        "V24",
        "V25",
    ),
    loss="none",
)
