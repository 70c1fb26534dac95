"""The image of a simulated device is byte for byte what a plain array of bytes would hold."""

import random

from emu.check.simulator.memory import BLOCK, CANARY, Memory, Stamp
from emu.history.stamp import CELL, Cell, encode, scan

STAMP = Stamp(writer=3, ino=7, wr=9, layout=2, namespace=1, shift=-BLOCK)


def plain(image, at, length, stamp):
    """The same, stored into an array: whole cells, cut to what is stored."""
    for start in range(at // CELL * CELL, at + length, CELL):
        cell = encode(
            Cell(stamp.writer, stamp.ino, stamp.wr, stamp.layout, stamp.namespace, start + stamp.shift)
        )
        lo, hi = max(start, at), min(start + CELL, at + length)
        image[lo:hi] = cell[lo - start : hi - start]


def test_a_stamped_block_says_where_each_cell_was_meant_to_lie():
    memory = Memory(3)
    memory.store(BLOCK, BLOCK, STAMP)
    cells = list(scan(memory.render()))
    assert [at for at, _ in cells] == list(range(BLOCK, 2 * BLOCK, CELL))
    assert cells[5][1] == Cell(3, 7, 9, 2, 1, 5 * CELL)


def test_a_copy_holds_the_bytes_of_what_was_copied():
    memory = Memory(3)
    memory.store(0, BLOCK, STAMP._replace(shift=BLOCK))
    memory.write(((100, 50),), bytes(range(50)))
    memory.copy(((0, 2 * BLOCK, BLOCK),))
    image = memory.render()
    assert image[2 * BLOCK :] == image[:BLOCK]
    assert image[100:150] == bytes(range(50))


def test_a_new_namespace_is_full_of_the_canary():
    memory = Memory(1)
    memory.store(0, BLOCK, STAMP)
    memory.replace()
    assert memory.render() == b"CANARY\0\1" * (BLOCK // 8)


def test_any_sequence_of_stores_gives_the_bytes_of_a_plain_array():
    draw = random.Random(1)
    for _ in range(200):
        memory, image = Memory(2), bytearray(2 * BLOCK)
        for wr in range(12):
            at = draw.randrange(2 * BLOCK)
            length = draw.randrange(1, min(300, 2 * BLOCK - at) + 1)
            what = draw.choice(("zero", "stamp", "bytes", "cells"))
            if what == "zero":
                memory.zero(((at, length),))
                image[at : at + length] = bytes(length)
            elif what == "bytes":
                data = draw.randbytes(length)
                memory.write(((at, length // 2), (at + length // 2, length - length // 2)), data)
                image[at : at + length] = data
            else:
                at, length = (at // CELL * CELL, CELL) if what == "cells" else (at, length)
                memory.store(at, length, STAMP._replace(wr=wr, shift=BLOCK))
                plain(image, at, length, STAMP._replace(wr=wr, shift=BLOCK))
        assert memory.render() == bytes(image)


def test_the_canary_shows_through_what_was_stored_over_part_of_it():
    memory = Memory(1)
    memory.replace()
    memory.zero(((10, 20),))
    assert CANARY in memory.cells
    assert memory.render()[:40] == (b"CANARY\0\1" * 5)[:10] + bytes(20) + (b"CANARY\0\1" * 5)[30:40]
