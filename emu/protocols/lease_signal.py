"""lease-signal: break the lease, and mean it. Weiny, April 2019, on the pattern of fcntl leases.

Whoever registers has a layout lease. A reclaim breaks it: the holders are told and get SIGIO; who has not let go after the lease-break time gets
SIGBUS, after another SIGKILL, and then has a last one to be gone.

    start --requested, pinned--> gate, notify MR_REVOKING, signal SIGIO, arm --> asked
    start --requested, free----> gate, break leases, apply, free, reply ------> end
    start --surprise-----------> the same, or reply if nothing is pinned: nobody lets go faster because the memory is gone
    asked --deadline-----------> signal SIGBUS, arm --------------------------> warned
    warned --deadline----------> signal SIGKILL, arm -------------------------> killed
    killed --deadline----------> break leases, apply, free, reply ------------> end    somebody else has the descriptor
    any --unpinned-------------> disarm, break leases, apply, free, reply ----> end
    any --cancelled------------> disarm, deny EINTR --------------------------> end

The ladder ends, so S7 is promised. Signals go to who *opened* the context. One who was handed its descriptor is neither told nor killed: at the end of
the ladder its blocks are no file's and stay out of use until its last pin is gone (disposal `keep`), and what its peers write there
succeeds and is nowhere. So S4, V12, V18 and V20 are not promised; and at an unplug, where nothing can be kept, what it reaches in the
namespace that is plugged next is the cost as well (none of S1, S2, S8, S9, V4, V10, V14 there).

SIGIO and SIGBUS end a process that has no handler for them: the first rung kills whoever took a lease and did not read on. (emu.verbs.breaks.)

The time is the node's: `emu broker --lease-break SECONDS` (Linux: /proc/sys/fs/lease-break-time, 45), scaled by EMU_TIME_SCALE as all timers.
"""

from emu.core.decision import END, START
from emu.protocols.contract import (
    Protocol,
    apply,
    arm,
    break_leases,
    deny,
    disarm,
    free,
    gate,
    go,
    notify,
    reply,
    signal,
    when_pinned,
)

NAME = "lease-signal"
SECONDS = 2.0  # a rung

FREE = go(gate(), break_leases(), apply(), free(), reply(), to=END)
LET_GO = go(disarm(), break_leases(), apply(), free(), reply(), to=END)
INTERRUPTED = go(disarm(), deny("EINTR"), to=END)
RUNGS = ("asked", "warned", "killed")


def protocol(seconds: float = SECONDS) -> Protocol:
    """With a lease-break time of so many seconds."""
    asked = go(gate(), notify("MR_REVOKING", seconds), signal("SIGIO"), arm(seconds), to="asked")
    return Protocol(
        name=NAME,
        summary="SIGIO, then SIGBUS, then SIGKILL to every holder, a lease-break time each",
        origin="Weiny, April 2019; fcntl leases",
        table={
            (START, "requested"): when_pinned(asked, FREE),
            (START, "surprise"): when_pinned(asked, go(reply(), to=END)),
            ("asked", "deadline"): go(signal("SIGBUS"), arm(seconds), to="warned"),
            ("warned", "deadline"): go(signal("SIGKILL"), arm(seconds), to="killed"),
            ("killed", "deadline"): go(break_leases(), apply(), free(), reply(), to=END),
            **{(rung, "unpinned"): LET_GO for rung in RUNGS},
            **{(rung, "cancelled"): INTERRUPTED for rung in RUNGS},
        },
        ignored=dict.fromkeys(RUNGS, ("acknowledged", "holder_lost")),
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
            **dict.fromkeys(RUNGS, ("requested", "surprise", "quiesced", "quiesce_failed", "unmapped")),
        },
        promises=(
            "S1",
            "S2",
            "S3",
            "S5",
            "S6",
            "S7",
            "S8",
            "S9",
            "S10",
            "V1",
            "V2",
            "V3",
            "V4",
            "V9",
            "V10",
            "V11",
            "V13",
            "V14",
            "V15",
            "V17",
            "V19",
            "V22",
            "V24",
            "V25",
        ),
        excepts=dict.fromkeys(("unplug", "surprise"), ("S1", "S2", "S8", "S9", "V4", "V10", "V14")),
        disposal="keep",
        loss="process",
        needs="lease",
    )


PROTOCOL = protocol()
