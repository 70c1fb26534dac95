"""What Linux does today, as four of the rows: 6.1, 6.12, 6.18 and 7.3. They are the yardstick, nobody's proposal.

A kernel is not one option but several, chosen by whose memory it is. Recorded on real kernels (xfs and ext4 on emulated pmem, tmpfs, device-dax,
Soft-RoCE), November 2026:

    registration            6.1          6.12         6.18         7.3
    fsdax                   EOPNOTSUPP   EOPNOTSUPP   EOPNOTSUPP   EOPNOTSUPP      as `refuse`
    page cache, to write    ok           EFAULT       EFAULT       EFAULT          as `refuse` from 6.12 on
    tmpfs, anon, devdax     ok           ok           ok           ok
    on demand               EINVAL       EOPNOTSUPP   ok           ok              as `odp`, fsdax too

    truncate, punch, ... under a pin      0 at once; the pages are nobody's until the last unpin            as `deferred-free`
    the same under an MR on demand        0 once the hardware has drained; the next access faults           as `odp`
    unplug, umount under a filesystem     EBUSY, pinned or not (unplug), while somebody has it open (umount)  as `ebusy`
    unplug of device-dax                  does not wait for the pin: the next WRITE crashes the kernel      as `none`
    memory pressure                       pinned pages cannot be taken                                      as `ebusy`
    move, revoke of a dma-buf             refused while a pinned importer has it; from 7.3 on as `mr-revoke`
    removal of the NIC                    waits until the process closes its device; on 7.3 contexts are destroyed

The last of these is no protocol's: this node's NIC goes as on 7.3, so a comparison leaves the other three rows out.

tmpfs is the page cache of a mount that is not written back (`--mount /MNT=DEV,tmpfs`). What a kernel promises it has written down nowhere: the rows
declare only what every one of these options keeps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.core.decision import END, START
from emu.protocols.contract import (
    BACKINGS,
    Protocol,
    apply,
    arm,
    deny,
    disarm,
    free,
    gate,
    go,
    notify,
    quiesce,
    reply,
    unmap,
    when,
    when_pinned,
)

if TYPE_CHECKING:
    from emu.protocols.runner import Choice, Rule

RETRY_SECONDS = 0.1
TAKEN = (apply(), free(), reply())
GONE = go(*TAKEN, to=END)
INTERRUPTED = go(disarm(), deny("EINTR"), to=END)
BUSY = go(deny("EBUSY"), to=END)
BUSY_IF_PINNED = when_pinned(BUSY, go(gate(), *TAKEN, to=END))


def _requested(file: Rule, pressure: Rule | Choice, buffer: Rule | Choice) -> Choice:
    """file, pressure, buffer: what becomes of a file's memory, of memory that is short, of a dma-buf."""
    unplug = when("backing=devdax", go(gate(), apply(), free("now"), reply(), to=END), BUSY)
    files = when(
        "kind=unplug",
        unplug,
        when("kind=umount", BUSY_IF_PINNED, when("kind=memory-pressure", pressure, file)),
    )
    return when("backing=dmabuf", buffer, files)


def linux(version: str, refuses: dict[str, str], *, on_demand: bool, revokes: bool) -> Protocol:
    """One kernel. on_demand: MRs on demand are drained. revokes: so are importers of a dma-buf."""
    file = go(gate(), quiesce("dynamic"), to="draining") if on_demand else go(gate(), *TAKEN, to=END)
    dynamic = go(gate(), quiesce("dynamic"), to="draining")  # whose importer asked to be told of moves
    pinned_only = dynamic if on_demand else BUSY_IF_PINNED
    buffer = go(gate(), notify("MR_REVOKED"), quiesce(), to="draining") if revokes else pinned_only
    last = when_pinned(BUSY, GONE)
    draining: dict[tuple[str, str], Rule | Choice] = {
        ("draining", "quiesced"): go(unmap(), to="unmapping"),
        ("draining", "quiesce_failed"): go(arm(RETRY_SECONDS), to="refused"),
        ("draining", "cancelled"): INTERRUPTED,
        ("refused", "deadline"): when(
            "backing=dmabuf",
            go(quiesce("" if revokes else "dynamic"), to="draining"),
            go(quiesce("dynamic"), to="draining"),
        ),
        ("refused", "cancelled"): INTERRUPTED,
        ("unmapping", "unmapped"): when(
            "kind=memory-pressure", last, GONE if revokes else when("backing=dmabuf", last, GONE)
        ),
        ("unmapping", "cancelled"): INTERRUPTED,
    }
    return Protocol(
        name=f"linux-{version}",
        summary=f"what Linux {version} does with each kind of memory",
        origin=f"measured on Linux {version}, November 2026",
        table={
            (START, "requested"): _requested(file, file if on_demand else BUSY_IF_PINNED, buffer),
            (START, "surprise"): go(reply(), to=END),
            **(draining if on_demand or revokes else {}),
        },
        ignored=dict.fromkeys(("draining", "refused", "unmapping"), ("acknowledged", "unpinned", "holder_lost")),
        impossible={
            "draining": ("deadline", "unmapped"),
            "refused": ("quiesced", "quiesce_failed", "unmapped"),
            "unmapping": ("deadline", "quiesced", "quiesce_failed"),
        },
        promises=("S3", "S5", "S6", "S7", "S10", "V3", "V9", "V11", "V13", "V15", "V17", "V19", "V22", "V24", "V25"),
        importers=("sync-revocable", "deferred-unmap", *(("dynamic",) if on_demand else ()), "non-revocable"),
        backings=tuple(name for name in BACKINGS if name != "host"),
        refuses=refuses,
        disposal="keep",
        loss="mr" if revokes else "none",
    )  # fmt: skip


FSDAX = {"dax": "EOPNOTSUPP"}
TRACKED = {**FSDAX, "page-cache:write": "EFAULT"}

LINUX_6_1 = linux("6.1", {**FSDAX, "on-demand": "EINVAL"}, on_demand=False, revokes=False)
LINUX_6_12 = linux("6.12", {**TRACKED, "on-demand": "EOPNOTSUPP"}, on_demand=False, revokes=False)
LINUX_6_18 = linux("6.18", TRACKED, on_demand=True, revokes=False)
LINUX_7_3 = linux("7.3", TRACKED, on_demand=True, revokes=True)
PROTOCOLS = (LINUX_6_1, LINUX_6_12, LINUX_6_18, LINUX_7_3)
