"""Files on mounts: what can be created, read and written, and what is refused."""

from __future__ import annotations

import errno

import pytest

from emu.core import effects as fx
from emu.core import events as ev
from emu.core import requests as rq
from emu.core.storage import files

BLOCK = 4096


def test_a_new_file_is_allocated_and_zeroed_before_the_commit(node):
    request = node.send(rq.FsCreate("/mnt/a", 3 * BLOCK - 1))
    (allocate,) = node.of(fx.Allocate)
    assert allocate.before_commit
    assert allocate.runs == ((0, 3 * BLOCK),)
    assert node.answer(request).result["size"] == 3 * BLOCK - 1
    assert node.stat()["extents"] == [[0, 0, 3 * BLOCK, 1]]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("", "ENOENT"),
        ("mnt/a", "EINVAL"),
        ("/mnt/../a", "EINVAL"),
        ("/mnt/./a", "EINVAL"),
        ("/mnt//a", "EINVAL"),
        ("/mnt/", "EINVAL"),
        ("/mnt/a\0b", "EINVAL"),
        ("/mnt/" + "a" * 256, "ENAMETOOLONG"),
        ("/mnt/" + "a/" * 2100 + "b", "ENAMETOOLONG"),
        ("/mnt", "ENOENT"),
        ("/mntx/a", "ENOENT"),
        ("/other/a", "ENOENT"),
    ],
)
def test_bad_paths(node, path, name):
    assert node.refused(rq.FsCreate(path, 1))[0] == name
    assert node.refused(rq.FsTruncate(path, 0))[0] == name


@pytest.mark.parametrize("size", [-1, 1 << 63, 1 << 70])
def test_bad_sizes(node, size):
    assert node.refused(rq.FsCreate("/mnt/a", size))[0] == "EINVAL"


def test_create_refuses_an_existing_name_and_a_full_device(node):
    node.file(blocks=60)
    assert node.refused(rq.FsCreate("/mnt/a", 1))[0] == "EEXIST"
    code, sentence = node.refused(rq.FsCreate("/mnt/b", 5 * BLOCK))
    assert (code, "5 blocks wanted, 4 free" in sentence) == ("ENOSPC", True)
    assert node.refused(rq.FsCreate("/mnt/b", 1000 * BLOCK))[0] == "ENOSPC"
    assert node.blocks() == {"total": 64, "free": 4, "owned": 60, "quarantined": 0, "orphaned": 0}


def test_a_missing_file_is_enoent(node):
    for op in (
        rq.FsStat("/mnt/a"),
        rq.FsRead("/mnt/a", 0, 1),
        rq.FsWrite("/mnt/a", 0, b"x"),
        rq.FsTruncate("/mnt/a", 0),
        rq.FsPunch("/mnt/a", 0, 1),
        rq.FsUnlink("/mnt/a"),
        rq.FsUnplug("/mnt/a"),
        rq.FsLs("/mnt/a"),
    ):
        assert node.refused(op)[0] == "ENOENT"


def test_write_extends_fills_holes_and_counts_layouts(node):
    node.file(blocks=1)
    assert node.ask(rq.FsWrite("/mnt/a", 3 * BLOCK + 10, b"hello")) == {"written": 5}
    (store,) = node.of(fx.Store)
    assert store.runs == ((BLOCK + 10, 5),)
    assert store.data == b"hello"
    stat = node.stat()
    assert (stat["size"], stat["layout"], stat["blocks"]) == (3 * BLOCK + 15, 2, 2)
    assert stat["extents"] == [[0, 0, BLOCK, 1], [3 * BLOCK, BLOCK, BLOCK, 2]]


def test_write_over_two_extents_is_stored_in_order(node):
    node.file("/mnt/a", 1)
    node.file("/mnt/b", 1)
    node.ask(rq.FsWrite("/mnt/a", BLOCK - 2, b"abcd"))
    assert node.of(fx.Store)[-1].runs == ((BLOCK - 2, 2), (2 * BLOCK, 2))


def test_an_empty_write_does_nothing(node):
    node.file(blocks=1)
    assert node.ask(rq.FsWrite("/mnt/a", 1 << 40, b"")) == {"written": 0}
    assert node.stat()["size"] == BLOCK


def test_a_write_that_finds_no_space_changes_nothing(node):
    node.file(blocks=63)
    assert node.refused(rq.FsWrite("/mnt/a", 70 * BLOCK, b"x" * (2 * BLOCK)))[0] == "ENOSPC"
    assert node.stat()["size"] == 63 * BLOCK


def test_read_stops_at_the_end_and_shows_holes_as_zero(node):
    node.file(blocks=1)
    node.ask(rq.FsTruncate("/mnt/a", 3 * BLOCK))
    assert node.ask(rq.FsRead("/mnt/a", BLOCK - 4, 100 * BLOCK)) == {"data": b"\0" * (2 * BLOCK + 4)}
    (load,) = node.of(fx.Load)
    assert load.pieces == ((BLOCK - 4, 4), (-1, 2 * BLOCK))
    assert node.ask(rq.FsRead("/mnt/a", 3 * BLOCK, 10)) == {"data": b""}


@pytest.mark.parametrize(
    ("offset", "length"), [(-1, 1), (0, -1), (1 << 63, 1), (0, 1 << 63), (0, (16 << 20) + 1)]
)
def test_bad_spans(node, offset, length):
    node.file(blocks=1)
    assert node.refused(rq.FsRead("/mnt/a", offset, length))[0] == "EINVAL"


def test_io_that_the_memory_refuses_fails_with_its_errno(node):
    node.file(blocks=1)
    read, write = node.send(rq.FsRead("/mnt/a", 0, 1)), node.send(rq.FsWrite("/mnt/a", 0, b"x"))
    for answer in node.waiting:
        node.step(ev.Answered(answer.token, errno.ENODEV))
    assert (node.answer(read).errno, node.answer(read).definite) == (errno.ENODEV, True)
    assert (node.answer(write).errno, node.answer(write).definite) == (errno.ENODEV, False)


def test_growing_is_no_reclaim_and_the_same_size_is_nothing(node):
    node.file(blocks=1)
    node.ask(rq.FsTruncate("/mnt/a", BLOCK))
    assert node.stat()["layout"] == 1
    node.ask(rq.FsTruncate("/mnt/a", 10 * BLOCK))
    assert (node.stat()["size"], node.stat()["layout"], node.stat()["blocks"]) == (10 * BLOCK, 2, 1)
    assert node.phases() == []


def test_ls_lists_files_devices_and_mounts(node):
    node.file("/mnt/a", 2)
    node.file("/mnt/d/b", 1)
    node.mr("/mnt/a", length=BLOCK)
    listed = node.ask(rq.FsLs())
    assert [(row["path"], row["blocks"], row["pins"]) for row in listed["files"]] == [
        ("/mnt/a", 2, 1),
        ("/mnt/d/b", 1, 0),
    ]
    assert [row["name"] for row in listed["devices"]] == ["pm0", "pm1"]
    assert [row["path"] for row in listed["mounts"]] == ["/cold", "/mnt", "anon", "dmabuf", "host"]
    assert [row["path"] for row in node.ask(rq.FsLs("/mnt/d/b"))["files"]] == ["/mnt/d/b"]
    assert node.ask(rq.FsLs("/cold/"))["files"] == []
    assert node.refused(rq.FsLs("cold"))[0] == "EINVAL"


def pages(node, **fields):
    """The paths on each page of a listing."""
    found, behind = [], None
    while behind != 0:
        page = node.ask(rq.FsLs(**fields, after=behind or 0))
        found.append([row["path"] for row in page["files"]])
        behind = page["next"]
    return found


def test_ls_answers_in_pages(node):
    names = [f"/mnt/{at:03}" for at in range(rq.LS_FILES + 10)]
    for name in names:
        node.ask(rq.FsCreate(name, 0))
    assert pages(node) == [names[: rq.LS_FILES], names[rq.LS_FILES :]]
    assert pages(node, limit=100) == [names[:100], names[100:200], names[200:]]
    assert pages(node, limit=133) == [names[:133], names[133:]]
    first = node.ask(rq.FsLs(limit=2))
    for name in names[1:4]:
        node.ask(rq.FsUnlink(name))
    node.ask(rq.FsCreate("/mnt/new", 0))
    second = node.ask(rq.FsLs(limit=2, after=first["next"]))
    assert [row["path"] for row in second["files"]] == names[4:6]
    assert pages(node)[-1][-1] == "/mnt/new"
    for wrong in ({"limit": 0}, {"limit": rq.LS_FILES + 1}, {"after": -1}):
        assert node.refused(rq.FsLs(**wrong))[0] == "EINVAL"


def test_a_page_of_long_names_is_short(node):
    names = [f"/mnt/{'d' * 200 + '/'}{'d' * 200 + '/'}{at:03}" for at in range(200)]
    for name in names:
        node.ask(rq.FsCreate(name, 0))
    found = pages(node)
    assert [name for page in found for name in page] == names
    assert len(found) > 2
    assert all(sum(map(len, page)) <= rq.LS_BYTES // 2 + len(names[0]) for page in found)


def test_a_page_looks_at_so_many_files_whether_it_lists_them_or_not(node, monkeypatch):
    monkeypatch.setattr(files, "LS_WORK", 4)
    for name in ("/mnt/x/1", "/cold/1", "/cold/2", "/cold/3", "/cold/4", "/cold/5", "/mnt/x/2", "/cold/6"):
        node.ask(rq.FsCreate(name, 0))
    assert pages(node, path="/mnt/x") == [["/mnt/x/1"], ["/mnt/x/2"]]
    assert pages(node, path="/mnt/x/1") == [["/mnt/x/1"], []]
    node.ask(rq.FsUnlink("/mnt/x/1"))
    node.ask(rq.FsUnlink("/mnt/x/2"))
    (page,) = [node.ask(rq.FsLs("/mnt/x"))]
    assert page["files"] == []
    assert node.refused(rq.FsLs("/mnt/x", after=page["next"]))[0] == "ENOENT"


@pytest.mark.parametrize(
    "grow", [rq.FsTruncate("/mnt/a", 9 * BLOCK), rq.FsWrite("/mnt/a", 2 * BLOCK + 7, b"x")]
)
def test_what_is_past_the_end_is_zero_before_the_commit_that_lets_it_be_read(node, grow):
    node.file(blocks=4)
    node.ask(rq.FsTruncate("/mnt/a", BLOCK + 100))
    node.effects.clear()
    node.ask(grow)
    (blank,) = node.of(fx.Blank)
    assert blank.before_commit
    assert blank.runs == ((BLOCK + 100, BLOCK - 100),)


def test_growth_within_the_last_block_blanks_what_becomes_readable(node):
    node.ask(rq.FsCreate("/mnt/a", 100))
    node.ask(rq.FsWrite("/mnt/a", 150, b"x" * 50))
    assert node.of(fx.Blank) == [fx.Blank(1, ((100, 100),))]
    node.ask(rq.FsTruncate("/mnt/a", BLOCK))
    node.effects.clear()
    node.ask(rq.FsTruncate("/mnt/a", 2 * BLOCK))
    assert node.of(fx.Blank) == [], "a file that ends with a block has no tail"


def restarted(make_node, node):
    """Another life, from the durable rows alone."""
    again = make_node(bare=True)
    again.core.load(node.core.durable())
    return again


def test_edges_of_a_hole_that_may_not_be_zero_are_zeroed_at_a_restart(make_node, node):
    node.file(blocks=4)
    request = node.send(rq.FsPunch("/mnt/a", 100, 2 * BLOCK))
    (zero,) = node.of(fx.Zero)
    assert node.answer(request) is None, "not before they are zero"
    again = restarted(make_node, node)
    made = again.step(ev.DeviceAdded("pm0", 64))
    assert [(type(effect), effect.runs) for effect in made[1:]] == [(fx.Blank, zero.runs)]
    assert len(again.books.zeroing) == 0
    node.go()
    assert isinstance(node.answer(request), fx.Reply)
    assert len(node.books.zeroing) == 0
    assert restarted(make_node, node).step(ev.DeviceAdded("pm0", 64))[1:] == ()


def test_edges_on_a_device_that_is_unplugged_at_the_restart_are_forgotten(make_node, node):
    node.file(blocks=4)
    node.send(rq.FsPunch("/mnt/a", 100, 2 * BLOCK))
    node.send(rq.FsUnplug("pm0", surprise=True), 2)
    again = restarted(make_node, node)
    made = again.step(ev.DeviceAdded("pm0", 64))
    assert [type(effect) for effect in made] == [fx.OpenDevice, fx.Offline]
    assert len(again.books.zeroing) == 0


def test_what_is_written_onto_the_edges_meanwhile_outlives_a_restart(make_node, node):
    node.file(blocks=4)
    node.send(rq.FsPunch("/mnt/a", 100, 10))
    node.send(rq.FsWrite("/mnt/a", 200, b"elsewhere"), 2)
    assert len(node.books.zeroing) == 1
    node.send(rq.FsWrite("/mnt/a", 105, b"x"), 2)
    assert restarted(make_node, node).step(ev.DeviceAdded("pm0", 64))[1:] == ()
    node.go()
    assert node.quiet()


def test_two_holes_at_once_are_noted_apart(node):
    node.file(blocks=4)
    first, second = (node.send(rq.FsPunch("/mnt/a", at, 10), 2) for at in (100, 300))
    assert sorted(row.runs for _number, row in node.books.zeroing.items()) == [((100, 10),), ((300, 10),)]
    node.go()
    assert isinstance(node.answer(first), fx.Reply)
    assert isinstance(node.answer(second), fx.Reply)
    assert len(node.books.zeroing) == 0


def test_edges_that_could_not_be_zeroed_are_no_success(node):
    node.file(blocks=4)
    request = node.send(rq.FsPunch("/mnt/a", 100, 2 * BLOCK))
    (zero,) = node.of(fx.Zero)
    node.step(ev.Answered(zero.token, errno.EIO))
    answer = node.answer(request)
    assert (answer.errno, answer.definite) == (errno.EIO, False)
    assert "punch again" in answer.sentence
    assert node.quiet()
    assert len(node.books.zeroing) == 0


def test_truncate_frees_whole_blocks(node):
    node.file(blocks=4)
    node.ask(rq.FsTruncate("/mnt/a", BLOCK + 100))
    assert node.of(fx.Release) == [fx.Release(1, ((2 * BLOCK, 2 * BLOCK),))]
    stat = node.stat()
    assert (stat["size"], stat["layout"], stat["extents"]) == (BLOCK + 100, 2, [[0, 0, 2 * BLOCK, 1]])
    assert node.blocks()["free"] == 62


@pytest.mark.parametrize(
    ("offset", "length", "freed", "zeroed"),
    [
        (BLOCK, BLOCK, [(BLOCK, BLOCK)], []),
        (100, 50, [], [(100, 50)]),
        (100, 2 * BLOCK, [(BLOCK, BLOCK)], [(100, BLOCK - 100), (2 * BLOCK, 100)]),
        (BLOCK - 1, 2, [], [(BLOCK - 1, 1), (BLOCK, 1)]),
        (3 * BLOCK + 1, 1 << 40, [], [(3 * BLOCK + 1, BLOCK - 1)]),
        (2 * BLOCK, 4 * BLOCK, [(2 * BLOCK, 2 * BLOCK)], []),
        (0, 10, [], [(0, 10)]),
    ],
)
def test_punch_frees_whole_blocks_and_zeroes_the_edges(node, offset, length, freed, zeroed):
    node.file(blocks=4)
    node.ask(rq.FsPunch("/mnt/a", offset, length))
    assert [run for effect in node.of(fx.Release) for run in effect.runs] == freed
    assert [run for effect in node.of(fx.Zero) for run in effect.runs] == zeroed
    assert (node.stat()["size"], node.stat()["layout"]) == (4 * BLOCK, 2)


def test_punch_frees_the_last_partial_block_when_it_reaches_the_end(node):
    node.ask(rq.FsCreate("/mnt/a", BLOCK + 10))
    node.ask(rq.FsPunch("/mnt/a", BLOCK, 10))
    assert node.stat()["blocks"] == 1


def test_punch_behind_the_end_is_nothing(node):
    node.file(blocks=1)
    node.ask(rq.FsPunch("/mnt/a", BLOCK, 10))
    assert node.stat()["layout"] == 1
    assert node.refused(rq.FsPunch("/mnt/a", 0, 0))[0] == "EINVAL"


def test_a_hole_that_is_filled_again_says_since_when(node):
    node.file(blocks=2)
    node.ask(rq.FsPunch("/mnt/a", 0, BLOCK))
    node.ask(rq.FsWrite("/mnt/a", 0, b"x"))
    assert node.stat()["extents"] == [[0, 0, BLOCK, 2], [BLOCK, BLOCK, BLOCK, 1]]


def test_unlink_frees_everything_and_the_name(node):
    node.file(blocks=4)
    node.ask(rq.FsUnlink("/mnt/a"))
    assert node.blocks()["free"] == 64
    assert node.file(blocks=1) == 2, "an inode number is not used again"


def test_a_file_of_many_pieces_fills_holes_across_them(node):
    for name in "abcd":
        node.file(f"/mnt/{name}", 16)
    for name in "ac":
        node.ask(rq.FsTruncate(f"/mnt/{name}", BLOCK * 15))
    node.ask(rq.FsCreate("/mnt/e", 2 * BLOCK))
    assert [extent[1] // BLOCK for extent in node.stat("/mnt/e")["extents"]] == [47, 15]
    node.ask(rq.FsUnlink("/mnt/b"))
    node.ask(rq.FsPunch("/mnt/d", BLOCK, BLOCK))
    node.ask(rq.FsPunch("/mnt/d", 3 * BLOCK, BLOCK))
    node.ask(rq.FsUnlink("/mnt/e"))
    node.ask(rq.FsUnlink("/mnt/a"))
    node.ask(rq.FsWrite("/mnt/d", 0, b"x" * (5 * BLOCK)))
    assert node.stat("/mnt/d")["blocks"] == 16
    assert sum(count for _at, count in node.of(fx.Store)[-1].runs) == 5 * BLOCK
