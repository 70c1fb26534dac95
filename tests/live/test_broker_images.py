"""A device image that is gone, cut or left out: a start says so, refuses or mends, and never serves other bytes without a word."""

from __future__ import annotations

import os

import pytest
from served import Served, emu

SIZE = 8 << 20
BLOCK = 4096
MOUNT = ("--mount", "/mnt=pm0,dax,protocol=mr-revoke")
OPTIONS = ("--pmem", "pm0=8M", *MOUNT)


@pytest.fixture
def served(tmp_path):
    """A node with two files of a block each, full of 'a' and 'b'."""
    with Served(tmp_path / "n", *OPTIONS) as broker:
        with broker.connect() as node:
            for name in "ab":
                node.call("fs_create", path=f"/mnt/{name}", size=BLOCK)
                node.call("fs_write", path=f"/mnt/{name}", offset=0, data=name.encode() * BLOCK)
        yield broker


def bytes_of(node, name):
    return node.call("fs_read", path=f"/mnt/{name}", offset=0, length=BLOCK).result["data"]


def place_of(node, name):
    ((_, device, _, _),) = node.call("fs_stat", path=f"/mnt/{name}").result["extents"]
    return device


def again(served, *options):
    ended = emu("broker", "--dir", served.directory, *options)
    assert (ended.returncode, ended.stdout) == (64, "")
    return ended.stderr


def test_files_whose_image_is_gone_are_not_served_as_zeros(served):
    image, aside = served.directory / "pm0.img", served.directory / "pm0.bak"
    assert served.end() == 0
    image.rename(aside)
    said = again(served, *OPTIONS)
    assert f"ENOENT: --pmem pm0=8M: {image} is gone, and 2 files are on it (/mnt/a)" in said
    again(served, *OPTIONS, "--ephemeral")
    assert not image.exists()
    aside.rename(image)
    served.start()
    with served.connect() as node:
        assert bytes_of(node, "a") == b"a" * BLOCK


def test_without_files_a_new_image_loses_nothing(tmp_path):
    with Served(tmp_path / "n", *OPTIONS) as served:
        assert served.end() == 0
        (served.directory / "pm0.img").unlink()
        served.start()
        assert served.end() == 0
        assert served.words == ""


@pytest.mark.parametrize("options", [(), ("--pmem", "pm1=4M")])
def test_a_device_that_is_left_out_is_missed(served, options):
    assert served.end() == 0
    assert "EINVAL: the books hold device pm0 with 2 files, and no --pmem names it" in again(served, *options)
    served.start()
    with served.connect() as node:
        assert [device["name"] for device in node.call("fs_ls").result["devices"]] == ["pm0"]


@pytest.mark.parametrize(
    "mount", [(), ("--mount", "/else=pm0,dax"), ("--pmem", "pm1=4M", "--mount", "/mnt=pm1,dax")]
)
def test_files_whose_mount_is_left_out_are_missed(served, mount):
    assert served.end() == 0
    said = again(served, "--pmem", "pm0=8M", *mount)
    assert "EINVAL: device pm0 holds /mnt/a, /mnt/b, which no --mount of this start reaches" in said
    assert "add --mount /mnt=pm0" in said
    served.start()
    with served.connect() as node:
        assert bytes_of(node, "a") == b"a" * BLOCK


def test_a_device_without_files_may_be_mounted_elsewhere_or_not_at_all(tmp_path):
    with Served(tmp_path / "n", *OPTIONS) as served:
        for mount in ((), ("--mount", "/else=pm0,dax")):
            assert served.end() == 0
            served.options = ("--pmem", "pm0=8M", *mount)
            served.start()


def test_the_holder_of_an_mr_can_cut_the_image_and_the_node_comes_back(served):
    with served.connect() as node:
        pd = node.call("alloc_pd").result["handle"]
        mr = node.call("reg_mr", pd=pd, length=BLOCK, access=7, iova=0, backing="dax", path="/mnt/a")
        keeps, loses = sorted("ab", key=lambda name: place_of(node, name))
        os.ftruncate(mr.descriptors[0], place_of(node, loses))
        os.close(mr.descriptors[0])
        left = place_of(node, loses)
    assert served.end() == 0
    served.start()
    with served.connect() as node:
        assert (bytes_of(node, keeps), bytes_of(node, loses)) == (keeps.encode() * BLOCK, bytes(BLOCK))
    assert served.end() == 0
    image = served.directory / "pm0.img"
    assert served.words == (
        f"emu: broker {served.directory}: EUCLEAN: {image} had {left} bytes and has {SIZE} again, as in the books: "
        f"from {left} on all is zeros, lost of /mnt/{loses} ({BLOCK} bytes)\n"
    )
    assert image.stat().st_size == SIZE


def test_an_image_of_no_bytes_has_lost_all(served):
    assert served.end() == 0
    os.truncate(served.directory / "pm0.img", 0)
    served.start()
    assert served.end() == 0
    assert "lost of /mnt/a (4096 bytes), /mnt/b (4096 bytes)\n" in served.words


def test_what_is_too_much_is_cut_off(served):
    assert served.end() == 0
    os.truncate(served.directory / "pm0.img", SIZE + 5)
    served.start()
    with served.connect() as node:
        assert (bytes_of(node, "a"), bytes_of(node, "b")) == (b"a" * BLOCK, b"b" * BLOCK)
    assert served.end() == 0
    assert "what was behind its end was no file's" in served.words
    assert (served.directory / "pm0.img").stat().st_size == SIZE


def test_an_image_that_the_books_do_not_know_is_refused_unless_it_has_the_size(tmp_path):
    tmp_path.chmod(0o700)
    with Served(tmp_path / "n", "--pmem", "pm0=8M") as served:
        assert served.end() == 0
    (tmp_path / "n" / "pm1.img").write_bytes(b"x" * 100)
    said = again(served, "--pmem", "pm0=8M", "--pmem", "pm1=4M")
    assert "EINVAL: --pmem pm1=4M: " in said
    assert "has 100 bytes: give its size" in said
