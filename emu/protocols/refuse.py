"""refuse: admit no MR that could be in the way. Williams 2017; mainline today, for fs-dax and for long-term pins that write.

    reg_mr over dax, device-dax                 EOPNOTSUPP
    reg_mr over page cache, host file, writing  EFAULT
    reg_mr on demand, whatever the memory       EOPNOTSUPP   nothing here ever drains it

    start --requested, surprise--> gate, apply, free (what is pinned: kept), reply --> end

So a reclaim finds nobody who writes, and goes through at once. MRs that only read page cache or a host file are admitted, as Linux does: what
they have pinned is kept out of use until they let go, so they read what the file was (their translations outlive the reclaim: no V20). Linux
admits device-dax, and crashes when it is unbound under an MR: what cannot be taken back is refused here.
"""

from emu.core.decision import END, START
from emu.protocols.contract import Protocol, apply, free, gate, go, reply

NOW = go(gate(), apply(), free("keep"), reply(), to=END)

PROTOCOL = Protocol(
    name="refuse",
    summary="refuse the registration, so that nothing is in the way",
    origin="Williams 2017; mainline today for fs-dax, and for long-term write pins of dirty-tracked files",
    table={(START, "requested"): NOW, (START, "surprise"): NOW},
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
    importers=("sync-revocable", "deferred-unmap", "non-revocable"),
    backings=("dax", "page-cache", "anon", "host", "devdax"),
    refuses={
        "dax": "EOPNOTSUPP",
        "devdax": "EOPNOTSUPP",
        "page-cache:write": "EFAULT",
        "host:write": "EFAULT",
        "on-demand": "EOPNOTSUPP",
    },
    loss="none",
)
