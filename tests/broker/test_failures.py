"""Effects that fail behind their commit: each is answered with its errno, or at least written down and counted."""

from __future__ import annotations

import errno

import pytest

from emu.broker.effects import Effects
from emu.core import effects as fx
from emu.core.events import Answered, KeyInstalled, Quiesced, Unmapped

RUNS = ((0, 8),)


class Broken:
    """Engine, memory and files of which nothing works; the record remembers."""

    def __init__(self):
        self.lines = []

    def __getattr__(self, name):
        def fails(*_args, **_values):
            raise OSError(errno.ENOMEM, f"{name}: no memory")

        return fails

    def effect(self, effect):
        pass

    def shell(self, name, **values):
        self.lines.append((name, values["effect"], values["errno"]))


@pytest.fixture
def broken():
    return Broken()


@pytest.fixture
def said():
    return []


@pytest.fixture
def effects(broken, said):
    return Effects(broken, broken, broken, broken, broken, broken, said.append, broken)


@pytest.mark.parametrize(
    ("effect", "answer"),
    [
        (fx.Quiesce(7, (1,)), Quiesced(7, errno.ENOMEM)),
        (fx.Unmap(7, (1,)), Unmapped(7, errno.ENOMEM)),
        (fx.InstallKey(7, 1, 7, 0, 1, 0, 8, RUNS), KeyInstalled(7, errno.ENOMEM)),
        (fx.Zero(7, 1, RUNS), Answered(7, errno.ENOMEM)),
        (fx.Store(7, 1, RUNS, b"x" * 8), Answered(7, errno.ENOMEM)),
        (fx.Online(7, 1, "pm0", 2), Answered(7, errno.ENOMEM)),
        (fx.Offline(1, "pm0", 7), Answered(7, errno.ENOMEM)),
    ],
)
def test_the_failure_is_the_answer(effects, broken, said, effect, answer):
    effects.carry_out(effect)
    (got,) = said
    assert type(got) is type(answer)
    assert got.errno == answer.errno
    assert 7 in {getattr(got, name, None) for name in ("cookie", "token", "key")}
    assert broken.lines == [("EffectFailed", type(effect).__name__, errno.ENOMEM)]


@pytest.mark.parametrize("effect", [fx.Release(1, RUNS), fx.Offline(1, "pm0"), fx.RemoveKey(3), fx.EndCq(2)])
def test_what_has_no_answer_is_written_down_counted_and_said_aloud(effects, broken, said, effect, capfd):
    effects.carry_out(effect)
    assert said == []
    assert effects.failures == 1
    assert broken.lines == [("EffectFailed", type(effect).__name__, errno.ENOMEM)]
    assert f"{type(effect).__name__} failed" in capfd.readouterr().err


@pytest.mark.parametrize("effect", [fx.Allocate(1, RUNS), fx.Blank(1, RUNS)])
def test_before_the_commit_a_failure_stops_the_step(effects, effect):
    with pytest.raises(OSError, match="no memory"):
        effects.carry_out(effect)
