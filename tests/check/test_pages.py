"""A file with a page cache is judged as its readers see it: pages where it has some, else the device."""

from __future__ import annotations

from emu.check.history import History
from emu.check.memory import foreign_bytes, victim
from emu.history.stamp import Cell, fill

BLOCK = 4096


def stamped(ino, offset, layout=1, blocks=1):
    memory = bytearray(blocks * BLOCK)
    fill(memory, Cell(1, ino, 7, layout, 1, offset))
    return bytes(memory)


def history(device, pages, files, **more):
    filemap = {"image": "pm0.img", "pages": "pm0.cache.img", "replaced": False, "files": files, **more}
    return History(filemap=filemap, image=device, pages=pages)


def file(extents, pages, size=2 * BLOCK, ino=1):
    return {"path": "/mnt/a", "ino": ino, "size": size, "extents": extents, "pages": pages}


def test_a_page_covers_what_the_device_has():
    device = stamped(1, 0) + bytes(BLOCK)  # the second block was never written back
    pages = bytes(BLOCK) + stamped(1, BLOCK)
    one = history(device, pages, [file([[0, 0, 2 * BLOCK, 1]], [[BLOCK, BLOCK, BLOCK, 1]])])
    wanted = {"size": 2 * BLOCK, "holes": [], "kept": [[0, 2 * BLOCK]]}
    assert list(victim(*one.seen, "/mnt/a", wanted)) == []
    assert list(victim(one.image, one.filemap, "/mnt/a", wanted)) != []


def test_a_page_of_another_files_bytes_is_foreign_and_a_page_of_nobody_is_not_looked_at():
    pages = stamped(2, 0) + stamped(3, 0)
    one = history(stamped(1, 0, blocks=2), pages, [file([[0, 0, 2 * BLOCK, 1]], [[0, 0, BLOCK, 1]])])
    assert foreign_bytes(*one.seen) == BLOCK


def test_what_lies_beneath_a_page_is_the_files_own():
    """In a namespace that was plugged in later, stamps in free blocks are foreign; those beneath pages are no free blocks."""
    one = history(
        stamped(1, 0), stamped(1, 0) + stamped(9, 0), [file([[0, 0, BLOCK, 1]], [[0, 0, BLOCK, 1]], BLOCK)], replaced=True
    )  # fmt: skip
    assert foreign_bytes(*one.seen) == 0


def test_pages_in_the_middle_cut_the_devices_extents():
    layout = file([[0, 0, 4 * BLOCK, 1]], [[BLOCK, 0, BLOCK, 2], [3 * BLOCK, BLOCK, BLOCK, 3]], 4 * BLOCK)
    _image, filemap = history(bytes(4 * BLOCK), bytes(2 * BLOCK), [layout]).seen
    base = 4 * BLOCK
    assert filemap["files"][0]["extents"] == [
        [0, 0, BLOCK, 1],
        [BLOCK, base, BLOCK, 2],
        [2 * BLOCK, 2 * BLOCK, BLOCK, 1],
        [3 * BLOCK, base + BLOCK, BLOCK, 3],
    ]


def test_without_a_page_cache_nothing_is_put_together():
    one = History(filemap={"image": "pm0.img", "files": []}, image=b"x")
    assert one.seen == (b"x", one.filemap)
