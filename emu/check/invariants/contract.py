"""V1 to V25 of the revoke contract, in order. Each is one function over a history; its module says what it reads.

gate.py       V1 V2 V12 V22         importers.py  V5 V6 V7 V8
waits.py      V3 V4 V9 V18 V20      hardware.py   V14 V21
keys.py       V10 V11 V13 V15 V19   owners.py     V16 V17 V23 V24 V25
"""

from __future__ import annotations

from emu.check.invariants import gate, hardware, importers, issue, keys, owners, turns, waits

INVARIANTS = tuple(
    sorted(
        (
            invariant
            for module in (gate, waits, keys, issue, importers, hardware, turns, owners)
            for invariant in module.INVARIANTS
        ),
        key=lambda invariant: int(invariant.name[1:]),
    )
)
