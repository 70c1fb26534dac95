"""Large preparations: what the new owner finds, and that others are served in between."""

from __future__ import annotations

import errno
import os
import select

import pytest

from emu.broker import memory as module
from emu.broker import spares
from emu.broker.memory import BLOCK, LARGE, PIECE, Memory
from emu.broker.spares import Later, Spares
from emu.broker.worker import Worker
from emu.engine.broker import Engine
from emu.history.stamp import CANARY

BLOCKS = (16 << 20) // BLOCK
SIZE = BLOCKS * BLOCK


@pytest.fixture
def engine():
    with Engine() as engine:
        yield engine


@pytest.fixture
def worker():
    worker = Worker("worker")
    yield worker
    worker.close()


@pytest.fixture
def memory(engine, tmp_path, worker):
    memory = Memory(engine, tmp_path, Spares(worker))
    memory.open_device(1, "pm0", BLOCKS, ())
    yield memory
    memory.drop(1)


@pytest.fixture(params=["zero_range", "write_zeros", "stores"])
def zeros(request, monkeypatch):
    """By the filesystem where it can, by writes where it cannot, by stores at last."""
    if request.param != "zero_range":
        monkeypatch.setattr(module, "zero_range", lambda *_: False)
    if request.param == "stores":
        monkeypatch.setattr(module, "write_zeros", lambda *_: False)


def generations(tmp_path):
    raw = (tmp_path / "pm0.gen").read_bytes()
    return [int.from_bytes(raw[at : at + 4], "little") for at in range(0, len(raw), 4)]


@pytest.mark.usefixtures("zeros")
@pytest.mark.parametrize("length", [BLOCK, LARGE, 3 * PIECE - BLOCK])
def test_allocated_blocks_are_zero_of_the_next_generation_and_nothing_else_is_touched(
    engine, memory, tmp_path, length
):
    number, at = memory.number(1), 2 * BLOCK
    engine.cpu_write(number, 0, b"\xee" * SIZE)
    before = generations(tmp_path)
    memory.allocate(1, [(at, length)])
    assert engine.cpu_read(number, at, length) == bytes(length)
    assert os.pread(memory.descriptor(1), length, at) == bytes(length)
    assert engine.cpu_read(number, 0, at) == b"\xee" * at
    assert engine.cpu_read(number, at + length, SIZE - at - length) == b"\xee" * (SIZE - at - length)
    first, last = at // BLOCK, (at + length) // BLOCK
    taken = range(first, last)
    assert generations(tmp_path) == [g + (block in taken) for block, g in enumerate(before)]
    assert (tmp_path / "pm0.img").stat().st_blocks * 512 >= SIZE


@pytest.mark.usefixtures("zeros")
def test_others_are_served_between_the_pieces_of_a_large_allocation(memory):
    served = []
    memory.breathe = lambda: served.append(1)
    memory.allocate(1, [(0, 3 * PIECE)])
    assert len(served) == 3


def test_an_allocation_in_a_truncated_image_fails(memory):
    os.ftruncate(memory.descriptor(1), PIECE)
    with pytest.raises(OSError):
        memory.allocate(1, [(0, 2 * PIECE)])


def finish(worker):
    assert select.select([worker.fileno()], [], [], 60)[0]
    worker.finish()


def test_a_namespace_is_made_ahead_and_taken_once(memory, worker, tmp_path):
    resumed = []
    with pytest.raises(Later) as first:
        memory.prepare_online(1, "pm0", 2)
    first.value.then(lambda: resumed.append(1))
    with pytest.raises(Later) as second:
        memory.prepare_online(1, "pm0", 2)
    second.value.then(lambda: resumed.append(2))
    assert resumed == []
    finish(worker)
    assert resumed == [1, 2]
    memory.prepare_online(1, "pm0", 2)
    assert (tmp_path / "pm0.img.new-2").read_bytes() == CANARY * (SIZE // len(CANARY))
    memory.offline(1)
    memory.online(1, "pm0", 2)
    assert not list(tmp_path.glob("*.new*"))
    with pytest.raises(Later):
        memory.prepare_online(1, "pm0", 2)
    finish(worker)


def test_a_namespace_without_space_is_refused_leaves_nothing_and_is_tried_again(
    memory, worker, tmp_path, monkeypatch
):
    def full(path, _size):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patch:
        patch.setattr(spares, "open_sized", full)
        with pytest.raises(Later):
            memory.prepare_online(1, "pm0", 2)
        finish(worker)
    with pytest.raises(OSError, match="no space"):
        memory.prepare_online(1, "pm0", 2)
    assert not list(tmp_path.glob("*.new*"))
    with pytest.raises(Later):
        memory.prepare_online(1, "pm0", 2)
    finish(worker)
    memory.prepare_online(1, "pm0", 2)
