"""virtual-truncate: say yes, and let the file keep what is pinned. Lameter 2019: a truncate that an extending write follows at once.

    start --requested, pinned--> gate, pretend, free, reply --> end
    start --requested, free----> gate, apply, free, reply ----> end
    start --surprise-----------> reply -----------------------> end

The reclaimer gets its 0 at once, and finds the file as long as it is pinned: whoever pins the tail writes there, so it is as long again. What
nobody pins in the range really goes; what is pinned stays the file's, is never freed under the pin, and the DMA goes on into it. That the
change is there (S2) cannot be promised, and the space that was answered for is not free.

Its author speaks of truncate. The rest we decide as his argument goes:
    punch     the same: a hole that a write fills again at once, where it is pinned; and so is zero
    unlink    the name goes, as of any file that is in use; the nameless inode's pinned blocks stay until their last unpin (orphans). What is
              written there can be found by nobody (S4)
    whatever else moves or replaces blocks is carried out, and what is pinned of the old ones is kept: the holder works on old data
    unplug    not handled: the device goes from under the pins
"""

from emu.core.decision import END, START
from emu.protocols.contract import BACKINGS, Protocol, apply, free, gate, go, pretend, reply, when_pinned

PROTOCOL = Protocol(
    name="virtual-truncate",
    summary="answer 0, and let the file keep what is pinned",
    origin="Lameter 2019: a truncate followed at once by an extending write",
    table={
        (START, "requested"): when_pinned(
            go(gate(), pretend(), free(), reply(), to=END),
            go(gate(), apply(), free(), reply(), to=END),
        ),
        (START, "surprise"): go(reply(), to=END),
    },
    promises=(
        "S1", "S3", "S4", "S5", "S6", "S7", "S8", "S9", "S10",
        "V1", "V3", "V4", "V9", "V10", "V11", "V12", "V13", "V14", "V15", "V17", "V19", "V20", "V22", "V24", "V25",
    ),
    excepts={
        "punch": ("S9",),  # an edge in a block that is pinned is not zeroed
        "zero": ("S9",),
        "unlink": ("S4", "V12", "V20"),
        "collapse": ("S4", "V12", "V20"),  # what moves, and what is cut out, is not where its writer meant it
        "insert": ("S4",),
        "migrate": ("S4", "V12", "V20"),
        "memory-pressure": ("S4", "V12", "V20"),  # pinned pages leave their file, and are written to
        "umount": ("S4", "V20"),  # of a mount with a page cache: so do they there
        "reflink": ("S1", "S8", "V10"),  # whoever pinned the file writes into its clone as well
        "cow-write": ("S1", "S4", "S8", "V10", "V12", "V20"),
        "poison": ("S4", "V12", "V20"),  # a block that is not there is nobody's to write to
        "unplug": ("S1", "S4", "S8", "S9", "V4", "V10", "V14", "V20"),
        "surprise": ("S1", "S4", "S8", "S9", "V4", "V10", "V14", "V20"),
    },
    backings=tuple(name for name in BACKINGS if name != "host"),  # a host file is cut by the host, whole
    disposal="keep",
    loss="none",
)  # fmt: skip
