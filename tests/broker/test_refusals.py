"""Refusals of hardware on demand: how often, of what, and for how long."""

import errno

import pytest

from emu.broker.refusals import CAN, Refusals
from emu.core import effects as fx
from emu.wire.errors import Malformed

FENCE = fx.FenceRight(1, 2, (256,))


@pytest.fixture
def refusals():
    return Refusals()


def refused(refusals, effect):
    try:
        refusals.meet(effect)
    except OSError as error:
        return error.errno
    return 0


def test_the_next_ones_of_a_kind_are_refused_and_no_more(refusals):
    refusals.arm(1, "FenceRight", 2, "ENXIO")
    assert [refused(refusals, FENCE) for _ in range(3)] == [errno.ENXIO, errno.ENXIO, 0]


def test_others_are_left_alone(refusals):
    refusals.arm(1, "FenceRight", 1, "EIO")
    assert refused(refusals, fx.Quiesce(1, (256,))) == 0
    assert refused(refusals, fx.RemoveKey(256)) == 0


def test_none_takes_it_back(refusals):
    refusals.arm(1, "Quiesce", 5, "EIO")
    refusals.arm(1, "Quiesce", 0, "EIO")
    assert refused(refusals, fx.Quiesce(1, ())) == 0


def test_it_ends_with_who_asked(refusals):
    refusals.arm(1, "Quiesce", 5, "EIO")
    refusals.arm(2, "Unmap", 5, "EIO")
    refusals.lost(1)
    assert refused(refusals, fx.Quiesce(1, ())) == 0
    assert refused(refusals, fx.Unmap(1, ())) == errno.EIO


@pytest.mark.parametrize(
    ("effect", "count", "name", "says"),
    [("Reply", 1, "EIO", "FenceRight"), ("Quiesce", -1, "EIO", "count"), ("Quiesce", 1, "oops", "unknown"), ("Quiesce", 1, "EPERMIT", "unknown")],
)  # fmt: skip
def test_nonsense_is_named(refusals, effect, count, name, says):
    with pytest.raises(Malformed, match=says):
        refusals.arm(1, effect, count, name)


def test_only_what_has_an_answer_of_its_own_can_be_refused():
    assert set(CAN) == {"Quiesce", "Unmap", "FenceRight", "InstallKey"}
