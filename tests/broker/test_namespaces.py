"""A new namespace of a device: prepared, committed, shown; whatever fails leaves no file behind, whoever is killed loses nothing."""

from __future__ import annotations

import errno
import os

import pytest

from emu.broker import memory as module
from emu.broker import spares
from emu.broker.memory import BLOCK, Memory
from emu.broker.spares import Spares
from emu.engine.broker import Engine
from emu.history.stamp import CANARY

BLOCKS = 16
SIZE = BLOCKS * BLOCK


@pytest.fixture
def engine():
    with Engine() as engine:
        yield engine


class AtOnce:
    """A worker that has done its job when it is given one."""

    stopping = False

    def do(self, job, then):
        try:
            job()
        except OSError as error:
            then(error)
        else:
            then(None)


def memory_of(engine, tmp_path):
    return Memory(engine, tmp_path, Spares(AtOnce()))


@pytest.fixture
def memory(engine, tmp_path):
    memory = memory_of(engine, tmp_path)
    memory.open_device(1, "pm0", BLOCKS, ())
    yield memory
    memory.drop(1)


def files(tmp_path):
    return sorted(path.name for path in tmp_path.iterdir())


def canary(tmp_path, name="pm0.img"):
    return (tmp_path / name).read_bytes() == CANARY * (SIZE // len(CANARY))


@pytest.mark.parametrize(("room", "step"), [(spares, "open_sized"), (module, "_write_table")])
def test_a_preparation_that_finds_no_space_leaves_nothing(memory, tmp_path, monkeypatch, room, step):
    before = files(tmp_path)

    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(room, step, full)
        with pytest.raises(OSError, match="full"):
            memory.prepare_online(1, "pm0", 2)
    assert files(tmp_path) == before
    memory.prepare_online(1, "pm0", 2)
    memory.online(1, "pm0", 2)
    assert canary(tmp_path)


def test_a_preparation_that_is_taken_back_leaves_nothing(memory, tmp_path):
    before = files(tmp_path)
    memory.prepare_online(1, "pm0", 2)
    assert files(tmp_path) != before
    memory.discard_prepared("pm0")
    assert files(tmp_path) == before


def test_a_namespace_that_cannot_be_mapped_leaves_nothing_in_the_way_of_the_next(
    memory, engine, tmp_path, monkeypatch
):
    memory.prepare_online(1, "pm0", 2)

    def no_memory(*_):
        raise OSError(errno.ENOMEM, "no memory")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "aperture_swap", no_memory)
        with pytest.raises(OSError, match="no memory"):
            memory.online(1, "pm0", 2)
    assert not [name for name in files(tmp_path) if ".new" in name]
    memory.prepare_online(1, "pm0", 3)
    memory.online(1, "pm0", 3)
    assert canary(tmp_path)
    assert engine.cpu_read(memory.number(1), 0, len(CANARY)) == CANARY


def test_a_start_removes_what_was_never_committed(engine, tmp_path):
    for name in ("pm0.img.new-2", "pm0.gen.new-2", "pm0.img.new-9", "pm0.img.new"):
        (tmp_path / name).write_bytes(b"half")
    memory = memory_of(engine, tmp_path)
    memory.open_device(1, "pm0", BLOCKS, (), 1)
    assert files(tmp_path) == ["pm0.gen", "pm0.img"]


@pytest.mark.parametrize("done", [0, 1, 2])
def test_a_start_finishes_what_was_committed(memory, engine, tmp_path, done):
    """Killed behind the commit, before any of the renames, or between two of them."""
    os.pwrite(memory.descriptor(1), b"old", 0)
    memory.prepare_online(1, "pm0", 2)
    if done:
        (tmp_path / "pm0.img").rename(tmp_path / "pm0.img.gone-1")
    if done > 1:
        (tmp_path / "pm0.img.new-2").rename(tmp_path / "pm0.img")
    again = memory_of(engine, tmp_path)
    again.open_device(2, "pm0", BLOCKS, (), 2)
    assert files(tmp_path) == ["pm0.gen", "pm0.img", "pm0.img.gone-1"]
    assert canary(tmp_path)
    assert engine.cpu_read(again.number(2), 0, len(CANARY)) == CANARY
    assert (tmp_path / "pm0.img.gone-1").read_bytes()[:3] == b"old"


def test_files_of_others_beside_the_image_stay_and_do_no_harm(memory, tmp_path):
    for name in ("pm0.img.gone-backup", "pm0.img.gone-", "pm0.img.new-backup"):
        (tmp_path / name).write_bytes(b"mine")
    for namespace in (2, 3, 4, 5):
        memory.prepare_online(1, "pm0", namespace)
        memory.online(1, "pm0", namespace)
    kept = [name for name in files(tmp_path) if "gone" in name or "new" in name]
    assert kept == [
        "pm0.img.gone-", "pm0.img.gone-3", "pm0.img.gone-4", "pm0.img.gone-backup", "pm0.img.new-backup",
    ]  # fmt: skip
