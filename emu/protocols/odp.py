"""odp: on-demand paging. mlx5 since 2014, rxe since 2025; the mmu notifier's way.

Whoever registers a file's memory here is a dynamic importer: it pins nothing for good. A reclaim drains the hardware, drops the translation
and goes on. Nobody is told: the next access faults, waits, and resolves to what the file has then, or fails past its end.

    start --requested, surprise--> gate, quiesce (drain) --> draining
    draining --quiesced----------> unmap ------------------> unmapping
    draining --quiesce_failed----> arm --------------------> refused
    refused --deadline-----------> quiesce ----------------> draining
    unmapping --unmapped---------> apply, free, reply -----> end
    draining, unmapping, refused --cancelled--> deny EINTR -> end

Work under a drained key waits in its queue pair until the gate is up, so a reclaim costs its users time and no error. After an unplug the fault
has nothing to resolve to, and the access fails. An interrupted reclaim has taken nothing: the next fault maps the same memory again.
"""

from emu.core.decision import END, START
from emu.protocols.contract import (
    Protocol,
    apply,
    arm,
    deny,
    disarm,
    free,
    gate,
    go,
    quiesce,
    reply,
    unmap,
)

DRAIN = go(gate(), quiesce(), to="draining")
INTERRUPTED = go(disarm(), deny("EINTR"), to=END)
RETRY_SECONDS = 0.1

PROTOCOL = Protocol(
    name="odp",
    summary="drain, drop the translation; the next access faults",
    origin="on-demand paging: mlx5, rxe",
    table={
        (START, "requested"): DRAIN,
        (START, "surprise"): DRAIN,
        ("draining", "quiesced"): go(unmap(), to="unmapping"),
        ("draining", "quiesce_failed"): go(arm(RETRY_SECONDS), to="refused"),
        ("draining", "cancelled"): INTERRUPTED,
        ("refused", "deadline"): go(quiesce(), to="draining"),
        ("refused", "cancelled"): INTERRUPTED,
        ("unmapping", "unmapped"): go(apply(), free(), reply(), to=END),
        ("unmapping", "cancelled"): INTERRUPTED,
    },
    ignored={"*": ("acknowledged", "unpinned", "holder_lost")},
    impossible={
        START: ("deadline", "quiesced", "quiesce_failed", "unmapped", "cancelled"),
        "draining": ("requested", "surprise", "deadline", "unmapped"),
        "refused": ("requested", "surprise", "quiesced", "quiesce_failed", "unmapped"),
        "unmapping": ("requested", "surprise", "deadline", "quiesced", "quiesce_failed"),
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
        "V6",
        "V7",
        "V8",
        "V9",
        "V10",
        "V11",
        "V12",
        "V13",
        "V14",
        "V15",
        "V16",
        "V17",
        "V18",
        "V19",
        "V20",
        "V22",
        "V24",
        "V25",
    ),
    importers=("dynamic",),
    on_demand=True,
    disposal="after-unmap",
    loss="none",
)
