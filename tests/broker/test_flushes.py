"""Pages written back between turns: every later effect finds them as if it had been done at once."""

from __future__ import annotations

import errno

import pytest

from emu.broker.flushes import Flushes
from emu.broker.memory import BLOCK, PIECE, Memory
from emu.broker.spares import Spares
from emu.broker.worker import Worker
from emu.core import effects as fx
from emu.engine.broker import Engine

DEVICE, CACHE, INO, TOKEN = 1, 2, 7, 40
SIZE = 4 * PIECE
BLOCKS = SIZE // BLOCK


class Scene:
    """A cache full of ones over a device full of zeros, written back from the front to the front."""

    def __init__(self, engine: Engine, memory: Memory) -> None:
        self.engine, self.memory = engine, memory
        self.answers: list[tuple[int, OSError | None]] = []
        self.flushes = Flushes(memory, lambda token, error: self.answers.append((token, error)))
        self.store(b"\1" * SIZE)
        self.flushes.begin(fx.Flush(TOKEN, CACHE, DEVICE, ((0, 0, SIZE),), INO))
        self.flushes.turn()

    def store(self, data: bytes, offset: int = 0) -> None:
        self.engine.cpu_write(self.memory.number(CACHE), offset, data)

    def device(self, block: int) -> int:
        (byte,) = set(self.engine.cpu_read(self.memory.number(DEVICE), block * BLOCK, BLOCK))
        return byte

    def finish(self) -> None:
        while self.flushes.waiting:
            self.flushes.turn()


@pytest.fixture
def scene(tmp_path):
    worker = Worker("worker")
    with Engine() as engine:
        memory = Memory(engine, tmp_path, Spares(worker))
        memory.open_device(DEVICE, "pm0", BLOCKS, [(0, SIZE)])
        memory.open_cache(CACHE, "pm0.cache", BLOCKS)
        yield Scene(engine, memory)
        memory.drop(CACHE)
        memory.drop(DEVICE)
    worker.close()


LAST = BLOCKS - 1
RUNS = ((LAST * BLOCK, BLOCK),)


def test_a_turn_copies_one_piece_and_the_last_is_answered(scene):
    assert (scene.device(PIECE // BLOCK - 1), scene.device(PIECE // BLOCK)) == (1, 0)
    assert scene.answers == []
    scene.flushes.turn()
    scene.flushes.turn()
    assert scene.answers == []
    scene.flushes.turn()
    assert scene.answers == [(TOKEN, None)]
    assert (scene.device(LAST), scene.flushes.waiting) == (1, False)


@pytest.mark.parametrize(
    "effect",
    [
        fx.Release(CACHE, RUNS),
        fx.Store(0, CACHE, RUNS, bytes(BLOCK)),
        fx.Zero(0, CACHE, RUNS),
        fx.Zero(0, DEVICE, RUNS),
        fx.Share(DEVICE, RUNS),
        fx.Load(1, DEVICE, RUNS),
        fx.Fill(DEVICE, CACHE, ((LAST * BLOCK, 0, BLOCK),)),
        fx.Copy(DEVICE, ((LAST * BLOCK, 0, BLOCK),)),
        fx.Flush(0, CACHE, DEVICE, ((LAST * BLOCK, LAST * BLOCK, BLOCK),)),
        fx.MapPages(INO, "pm0.cache", ((0, 0, LAST, 1),), ()),
    ],
    ids=lambda effect: type(effect).__name__,
)
def test_what_an_effect_touches_is_copied_before_it_and_no_more_than_that(scene, effect):
    scene.flushes.meet(effect)
    assert (scene.device(LAST), scene.device(LAST - 1)) == (1, 0)
    scene.store(b"\2" * BLOCK, LAST * BLOCK)  # behind it nothing of this page goes to the device
    scene.finish()
    assert (scene.device(LAST), scene.device(LAST - 1)) == (1, 1)
    assert scene.answers == [(TOKEN, None)]


@pytest.mark.parametrize(
    "effect",
    [
        fx.Load(1, CACHE, RUNS),
        fx.MapPages(INO, "pm0.cache", ((0, 0, BLOCKS, 1),), ((0, 1),)),
        fx.MapPages(INO + 1, "pm0.cache", (), ()),
        fx.Zero(0, DEVICE, ((0, BLOCK),)),
    ],
    ids=lambda effect: type(effect).__name__,
)
def test_an_effect_that_touches_nothing_of_it_hastens_nothing(scene, effect):
    scene.flushes.meet(effect)
    assert scene.device(LAST) == 0


def test_blocks_that_a_step_frees_are_not_written_to_any_more(scene):
    step = [fx.MapPages(INO, "pm0.cache", (), ()), fx.Release(DEVICE, ((PIECE, SIZE - PIECE),))]
    scene.flushes.committed(step)
    for effect in step:
        scene.flushes.meet(effect)
    scene.finish()
    assert scene.device(PIECE // BLOCK) == scene.device(LAST) == 0
    assert scene.answers == [(TOKEN, None)]


@pytest.mark.parametrize("effect", [fx.Offline(DEVICE, "pm0"), fx.Online(3, DEVICE, "pm0", 2)])
def test_a_device_that_goes_away_fails_the_rest(scene, effect):
    scene.flushes.meet(effect)
    scene.finish()
    assert scene.device(LAST) == 0
    ((token, error),) = scene.answers
    assert (token, error.errno) == (TOKEN, errno.ENODEV)


def test_a_device_that_is_gone_already_fails_it(scene):
    scene.memory.offline(DEVICE)
    scene.flushes.turn()
    ((token, error),) = scene.answers
    assert (token, error.errno) == (TOKEN, errno.ENODEV)


def test_what_has_to_be_copied_at_once_serves_others_between_its_pieces(scene):
    served: list[int] = []
    scene.memory.breathe = lambda: served.append(1)
    scene.flushes.meet(fx.Release(CACHE, ((0, SIZE),)))
    assert len(served) == (SIZE - PIECE) // PIECE
