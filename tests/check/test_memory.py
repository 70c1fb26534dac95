"""The judges' counts of stamps are made in C: they are those of emu.history.stamp, cell by cell."""

import random

import pytest

from emu.check.memory import BLOCK, foreign_by_file, misplaced_cells
from emu.history.stamp import CELL, Cell, cells_in_free, decode, encode, foreign_cells

BLOCKS = 8


@pytest.fixture(params=range(20))
def world(request):
    """An image full of cells: whole and damaged ones, of several files, layouts and places; and whose memory it is."""
    rng = random.Random(request.param)
    image = bytearray(BLOCKS * BLOCK)
    for at in range(0, len(image), CELL):
        cell = Cell(1, rng.choice((3, 4, 5)), at, rng.choice((1, 2, 3)), 1, rng.choice((at, at, 0)))
        image[at : at + CELL] = encode(cell)
        if rng.random() < 0.2:
            image[at + rng.randrange(CELL)] ^= 1 << rng.randrange(8)
    blocks = rng.sample(range(BLOCKS), 6)
    files = [
        {"path": f"/mnt/{ino}", "ino": ino, "size": 2 * BLOCK, "origin": origin,
         "extents": [[n * BLOCK, block * BLOCK, BLOCK, rng.choice((1, 2, 3))] for n, block in enumerate(mine)]}
        for ino, origin, mine in ((3, 3, blocks[:2]), (4, 3, blocks[2:4]), (6, 0, blocks[4:]))
    ]  # fmt: skip
    return bytes(image), {"files": files, "replaced": rng.random() < 0.5}


def test_foreign_bytes_are_the_foreign_cells(world):
    image, filemap = world
    cells = [*foreign_cells(image, filemap), *(cells_in_free(image, filemap) if filemap["replaced"] else ())]
    expected = {}
    for cell in {cell.position: cell for cell in cells}.values():
        expected[cell.path] = expected.get(cell.path, 0) + CELL
    assert expected
    assert foreign_by_file(image, filemap) == expected


@pytest.mark.parametrize("span", [(0, 2 * BLOCK), (64, 4096), (100, 5000), (4000, 9000)])
def test_misplaced_cells_are_those_that_do_not_say_where_they_are(world, span):
    image, filemap = world
    file = filemap["files"][0]
    start, end = span
    wrong = 0
    for offset, at, size, _ in file["extents"]:
        for place in range(max(start, offset), min(end, offset + size), CELL):
            cell = decode(image[at + place - offset :][:CELL])
            wrong += cell is None or (cell.ino, cell.offset) != (file["ino"], place)
    wrong += max(0, end - max(start, 2 * BLOCK)) // CELL
    assert misplaced_cells(image, file, [span]) == wrong


def test_an_image_that_ends_early_has_no_cells_there(world):
    image, filemap = world
    file = {**filemap["files"][0], "extents": [[0, len(image) - CELL, BLOCK, 1]]}
    assert misplaced_cells(image, file, [(0, BLOCK)]) >= BLOCK // CELL - 1
    assert foreign_by_file(image[:100], {"files": [file]}) == {}
