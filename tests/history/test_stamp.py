"""Stamps are found where they are, whole, and only foreign ones count."""

import struct
import zlib

import pytest

from emu.history import stamp
from emu.history.stamp import CELL, Cell

MINE = Cell(writer=7, ino=3, wr=11, layout=2, namespace=1, offset=4096)


def test_a_cell_is_64_bytes_and_comes_back():
    raw = stamp.encode(MINE)
    assert len(raw) == CELL
    assert stamp.decode(raw) == MINE


def test_the_layout_is_the_one_of_the_c_header():
    raw = stamp.encode(MINE)
    head = struct.pack("<8sIIQIIQ", b"EMUSTAMP", 7, 3, 11, 2, 1, 4096)
    assert raw == head + struct.pack("<I", zlib.crc32(head)) * 6


@pytest.mark.parametrize("at", range(CELL))
def test_a_changed_byte_makes_a_cell_invalid(at):
    raw = bytearray(stamp.encode(MINE))
    raw[at] ^= 1
    assert stamp.decode(bytes(raw)) is None


def test_fill_names_the_intended_place_of_each_cell():
    memory = bytearray(256)
    stamp.fill(memory, MINE)
    assert [cell.offset for _, cell in stamp.scan(memory)] == [4096, 4160, 4224, 4288]


def test_fill_refuses_a_part_of_a_cell():
    with pytest.raises(ValueError, match="multiple of 64"):
        stamp.fill(bytearray(100), MINE)


def test_scan_finds_aligned_cells_only_and_stays_in_its_range():
    memory = bytearray(1024)
    for at in (0, 128, 300, 960):
        memory[at : at + CELL] = stamp.encode(MINE)
    assert [at for at, _ in stamp.scan(memory)] == [0, 128, 960]
    assert [at for at, _ in stamp.scan(memory, 64, 1000)] == [128]


@pytest.mark.parametrize(
    ("cell", "foreign"),
    [
        (MINE, False),
        (MINE._replace(layout=9), False),
        (MINE._replace(layout=1), True),
        (MINE._replace(ino=4), True),
    ],
)
def test_foreign_is_another_file_or_an_older_layout(cell, foreign):
    assert stamp.is_foreign(cell, ino=3, since=2) is foreign


def filemap(*extents):
    return {
        "schema": 1,
        "block": 4096,
        "files": [{"path": "/mnt/b", "ino": 3, "size": 8192, "extents": list(extents)}],
    }


def test_foreign_cells_of_an_image_are_those_in_files():
    image = bytearray(4 * 4096)
    stranger = MINE._replace(ino=4)
    for at, cell in ((0, stranger), (4096, stranger), (4160, MINE), (12288, stranger)):
        image[at : at + CELL] = stamp.encode(cell)
    found = list(stamp.foreign_cells(image, filemap([0, 4096, 8192, 2])))
    assert found == [stamp.Foreign("/mnt/b", 4096, stranger)]
    assert [f.position for f in stamp.cells_in_free(image, filemap([0, 4096, 8192, 2]))] == [0, 12288]
    assert list(stamp.free_runs(len(image), filemap([0, 4096, 8192, 2]))) == [(0, 4096), (12288, 4096)]
