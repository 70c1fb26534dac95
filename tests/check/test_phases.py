"""Rules of the contract that the order of the history's lines keeps or breaks, each by one line in the wrong place."""

import pytest

from emu.check.verdict import judge

KEY, OTHER = 0x101, 0x202
BLOCK = 4096
INSTALL = {"kind": "effect", "type": "InstallKey", "key": KEY, "aperture": 1, "extents": [[0, 4 * BLOCK]]}
QUIESCE = {"kind": "effect", "type": "Quiesce", "cookie": 1, "keys": [KEY]}
QUIESCED = {"kind": "event", "type": "Quiesced", "cookie": 1, "errno": 0}
UNMAP = {"kind": "effect", "type": "Unmap", "cookie": 2, "keys": [KEY]}
UNMAPPED = {"kind": "event", "type": "Unmapped", "cookie": 2}
REMOVE = {"kind": "effect", "type": "RemoveKey", "key": KEY}
RELEASE = {"kind": "effect", "type": "Release", "aperture": 1, "runs": [[BLOCK, 3 * BLOCK]]}
OPENED = {"kind": "event", "type": "SessionOpened", "session": 1, "name": "holder", "wants": True}
TARGET = {"kind": "truncate", "path": "/mnt/victim", "ino": 7, "lo": BLOCK, "hi": 1 << 63}


def registration(key, offset, length, path="/mnt/victim", request=7):
    return [
        {"kind": "event", "type": "Requested", "session": 1, "request": request, "host": None,
         "op": {"type": "RegMr", "path": path, "offset": offset, "length": length}},
        {"kind": "effect", "type": "Reply", "session": 1, "request": request, "result": {"lkey": key, "device": "pm0"}},
    ]  # fmt: skip


ASKED, ANSWERED = registration(KEY, 0, 4 * BLOCK)


@pytest.fixture
def history(world):
    """A revoke with all its lines, in their order."""
    world.phases[0] = ("requested", 10, TARGET, 2)
    world.lines = {
        "requested": [OPENED, ASKED, INSTALL, ANSWERED],
        "fenced": [QUIESCE, QUIESCED],
        "unmapped": [UNMAP, UNMAPPED],
        "freed": [RELEASE],
    }
    return world


def broken(world):
    return {rule for rule, _ in judge(world.write()).violated}


def without(world, *names):
    world.phases = [phase for phase in world.phases if phase[0] not in names]
    for name in names:
        world.lines.pop(name, None)
    return world


def test_a_revoke_in_its_order_breaks_nothing(history):
    assert broken(history) == set()


def test_freeing_before_the_fence_and_the_unmap_breaks_v4_and_v18(history):
    assert broken(without(history, "fenced", "unmapped")) == {"V4", "V18"}


def test_freeing_before_the_unmap_breaks_v4(history):
    order = ["requested", "gated", "fenced", "applied", "freed", "returned", "unmapped", "ended"]
    history.phases.sort(key=lambda phase: order.index(phase[0]))
    assert broken(history) == {"V4", "V18"}


def test_freeing_under_a_key_that_is_no_part_of_the_reclaim_breaks_v4(history):
    history.lines["requested"] = [*history.lines["requested"], {**INSTALL, "key": OTHER}]
    assert broken(history) == {"V4"}


def test_blocks_elsewhere_are_freed_under_whatever_key(history):
    elsewhere = {**INSTALL, "key": OTHER, "extents": [[0, BLOCK]]}
    history.lines["requested"] = [*history.lines["requested"], elsewhere]
    assert broken(history) == set()


def test_pins_that_went_by_themselves_need_no_fence(history):
    history.lines["gated"] = [QUIESCE, QUIESCED, UNMAP, UNMAPPED, REMOVE]
    assert broken(without(history, "fenced", "unmapped")) == set()


def test_a_new_namespace_under_a_mapped_key_breaks_v4(history):
    history.lines["returned"] = [
        {**INSTALL, "key": OTHER},
        {"kind": "effect", "type": "Online", "aperture": 1},
    ]
    assert broken(history) == {"V4"}


def test_an_orderly_unplug_of_mapped_memory_breaks_v4(history):
    history.phases[0] = ("requested", 10, {"kind": "unplug", "device": "pm0"}, 2)
    history.lines.pop("freed")
    assert broken(without(history, "fenced", "unmapped", "freed")) == {"V4", "V18"}


def test_an_unmap_that_was_over_before_the_fence_breaks_v18(history):
    order = ["requested", "gated", "unmapped", "fenced", "applied", "freed", "returned", "ended"]
    history.phases.sort(key=lambda phase: order.index(phase[0]))
    assert broken(history) == {"V18"}


def test_an_unmap_said_to_be_over_that_was_not_breaks_v20(history):
    history.lines["unmapped"] = [UNMAP]
    assert broken(history) == {"V20", "V4"}


@pytest.mark.parametrize("name", ["applied", "freed"])
@pytest.mark.parametrize("errno", [4, 16])
def test_a_refused_or_interrupted_reclaim_that_took_a_step_breaks_v22(world, name, errno):
    world.denied().phases[1:2] = [(name, 11, {}, 0), ("returned", 12, {"errno": errno}, 0)]
    assert "V22" in broken(world)


@pytest.mark.parametrize(
    ("before", "breaks"), [("applied", {"V1"}), ("unmapped", {"V1"}), ("gated", set()), (None, set())]
)
def test_a_registration_between_gate_and_end_breaks_v1(history, before, breaks):
    asked, answered = registration(OTHER, 2 * BLOCK, BLOCK, request=8)
    lines = [asked, {**INSTALL, "key": OTHER, "aperture": 2}, answered]
    if before:
        history.lines[before] = [*history.lines.get(before, []), *lines]
    else:
        history.extra_lines = lines
    assert broken(history) == breaks


@pytest.mark.parametrize("place", [(0, BLOCK, "/mnt/victim"), (2 * BLOCK, BLOCK, "/mnt/other")])
def test_a_registration_outside_the_range_may_come_at_any_time(history, place):
    offset, length, path = place
    asked, answered = registration(OTHER, offset, length, path, 8)
    history.lines["applied"] = [asked, {**INSTALL, "key": OTHER, "aperture": 2}, answered]
    assert broken(history) == set()


def test_a_key_issued_again_before_it_was_removed_breaks_v11(history):
    history.extra_lines = [INSTALL]
    assert broken(history) == {"V11"}


def test_a_registration_that_loses_a_revoke_breaks_v12(history):
    history.phases.insert(2, ("fencing", 11, {}, 2))
    history.lines["requested"] = [OPENED, ASKED, INSTALL]
    history.lines["fenced"] = [QUIESCE, QUIESCED, ANSWERED]
    assert broken(history) == {"V12"}


def test_a_revoke_told_once_is_well(history):
    told = {"kind": "effect", "type": "Notify", "session": 1, "name": "MR_REVOKED", "fields": {"mr": KEY}}
    history.lines["gated"] = [told]
    assert broken(history) == set()


def test_a_revoke_told_twice_by_the_broker_breaks_v13(history):
    told = {"kind": "effect", "type": "Notify", "session": 1, "name": "MR_REVOKED", "fields": {"mr": KEY}}
    history.lines["gated"] = [told, told]
    assert broken(history) == {"V13"}
