"""How large everything is that a run works on.

file      0        256K                 768K      1M
truncate  |  kept  |         given back           |
punch     |  kept  |.    given back    .|  kept   |
unlink    |             given back                |

A punch begins in the middle of a block, of a cell even, and so it ends: the dots are what the CPU zeroes in place while DMA goes on. What lies
beside them in the same blocks stays, and the whole blocks between them change hands.
"""

from __future__ import annotations

SIZE = 1 << 20
QUARTER = SIZE // 4
WRITE = SIZE  # bytes of a WRITE: the engine must have more to do than Python can ask for, or it would be idle at the gate
READ = QUARTER  # and of a READ, whose result Python looks at
DEPTH = 2048  # WRITEs outstanding: work for longer than a loaded machine keeps Python waiting
READS = 4  # READs outstanding: few, since looking at what they bring takes Python longer than the engine needs to bring it
READS_ALONE = 1024  # where nobody writes the engine must have enough to do with READs, of the whole file each
LOOKS_ALONE = 16  # and of so many Python looks at one: else it would be the engine that waits
ROUND = 192  # completions between two steps of a run
BESIDE = 64 << 10  # bytes of the bystander's file
BLOCK = 4096
CELL = 64  # bytes of a stamp: what is kept is looked at cell by cell
PUNCH_AT, PUNCH_END = QUARTER + 1000, 3 * QUARTER - 1500
WHOLE = (
    -(-PUNCH_AT // BLOCK) * BLOCK,
    PUNCH_END // BLOCK * BLOCK,
)  # the blocks of it that nobody else has a byte in
BESIDE_HOLE = [[0, PUNCH_AT // CELL * CELL], [-(-PUNCH_END // CELL) * CELL, SIZE]]
