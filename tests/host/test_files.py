"""Files whose space is really there, zeros, and errors that name their file."""

from __future__ import annotations

import errno
import os

import pytest

from emu.host.files import named, open_sized, write_zeros, zero_range

SIZE = 64 << 10


def test_a_new_file_has_its_space_and_an_old_one_keeps_its_bytes(tmp_path):
    path = tmp_path / "a"
    os.close(open_sized(path, SIZE))
    assert path.stat().st_size == SIZE
    assert path.stat().st_blocks * 512 >= SIZE
    path.write_bytes(b"x" * SIZE)
    os.close(open_sized(path, SIZE))
    assert path.read_bytes() == b"x" * SIZE


def test_a_file_of_another_size_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"x")
    with pytest.raises(FileExistsError, match="has 1 bytes"):
        open_sized(path, SIZE)
    assert path.read_bytes() == b"x"


def test_space_that_runs_out_leaves_no_half_file_and_is_said_with_its_name(tmp_path, monkeypatch):
    def half(fd, _offset, size):
        os.ftruncate(fd, size // 2)
        raise OSError(errno.ENOSPC, "no space")

    path = tmp_path / "a"
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", half)
        with pytest.raises(OSError, match=f"{SIZE} bytes cannot be had") as caught:
            open_sized(path, SIZE)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    assert path.stat().st_size == 0
    os.close(open_sized(path, SIZE))


def test_a_range_past_the_end_is_not_zeroed(tmp_path):
    fd = open_sized(tmp_path / "a", SIZE)
    assert not zero_range(fd, SIZE // 2, SIZE)
    assert not write_zeros(fd, SIZE // 2, SIZE)
    assert os.fstat(fd).st_size == SIZE
    os.close(fd)


def test_an_error_without_a_file_gets_one_and_another_keeps_its_own(tmp_path):
    with pytest.raises(OSError) as caught, named(tmp_path):
        raise OSError(errno.EIO, "broken")
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(tmp_path))
    with pytest.raises(FileNotFoundError) as caught, named(tmp_path):
        (tmp_path / "none").read_bytes()
    assert caught.value.filename == str(tmp_path / "none")
