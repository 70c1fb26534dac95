"""Rows that the core can never ask for are not counted against a protocol."""

from __future__ import annotations

from wrong_protocols import INTERRUPTED, wrong

from emu.check.explorer.result import HOLDS, UNKNOWN, Result
from emu.check.explorer.search import events_of, explore, left_out, setup_of, unreached
from emu.check.model.state import KINDS, NONE_ADMITTED, SELF_TRUNCATE, WANTING
from emu.cli.explore import lines_of, pair_of
from emu.core.decision import END, START
from emu.protocols import registry
from emu.protocols.contract import apply, free, gate, go, quiesce, reply, unmap, when

AT_ONCE = go(gate(), apply(), free(), reply(), to=END)
ROWS = {
    ("fencing", "quiesced"): go(unmap(), to="unmapping"),
    ("fencing", "cancelled"): INTERRUPTED,
    ("unmapping", "unmapped"): go(apply(), free(), reply(), to=END),
    ("unmapping", "cancelled"): INTERRUPTED,
}


def left_of(requested, rows):
    table = {
        (START, "requested"): requested,
        (START, "surprise"): go(gate(), quiesce(), to="fencing"),
        **rows,
    }
    return {row[:2] for row in unreached(wrong("rows", table, importers=("sync-revocable",), loss="mr"), [])}


def test_a_surprise_that_nobody_can_cancel_leaves_no_row_unreached():
    assert left_of(AT_ONCE, ROWS) == {
        (START, "requested"), (START, "surprise"), ("fencing", "quiesced"), ("unmapping", "unmapped"),
    }  # fmt: skip


def test_phases_behind_a_request_and_phases_behind_nothing_are_counted():
    fenced = go(gate(), quiesce(), to="fencing")
    assert ("fencing", "cancelled") in left_of(fenced, ROWS)
    assert ("never", "cancelled") in left_of(AT_ONCE, {**ROWS, ("never", "cancelled"): INTERRUPTED})


def test_what_only_other_memory_or_other_kinds_lead_to_is_not_counted_in_a_world_that_has_neither():
    elsewhere = when(
        "kind=umount", go(gate(), quiesce(), to="leaving"), when("backing=dax", AT_ONCE, AT_ONCE)
    )
    rows = {**ROWS, ("leaving", "quiesced"): AT_ONCE, ("leaving", "cancelled"): INTERRUPTED}
    left = left_of(elsewhere, rows)
    assert not {row for row in left if row[0] == "leaving"}
    assert (START, "requested") in left, "the way of dax memory is there to be met"


def test_a_verdict_says_what_was_left_out():
    found = left_out(pair_of("truncate"))
    assert found == ("crashes", "refusals of the hardware")
    line = lines_of(Result("mine", "truncate", left_out=found, holders=2))[0]
    assert line.startswith(
        "mine truncate with 2 holders, without crashes and refusals of the hardware: holds"
    )
    assert not left_out(setup_of("truncate"))


def test_a_protocol_that_admits_no_mr_holds_for_want_of_any_and_says_so():
    for name in ("refuse", "linux-6.12", "linux-7.3"):
        protocol = registry.load().get(name)
        results = [explore(protocol, event) for event in events_of(protocol)]
        assert [result.code for result in results] == [HOLDS] * len(KINDS)
        assert not any(result.admits for result in results)
        assert all(f"  {WANTING}" in lines_of(result) for result in results)
        assert unreached(protocol, results) == []


def test_a_refusal_that_nobody_met_is_unknown():
    result = explore(registry.load().get("refuse"), "punch")
    result.sometimes.pop(NONE_ADMITTED)
    assert (result.missing, result.code) == ([NONE_ADMITTED], UNKNOWN)


def test_who_asks_whose_the_pins_are_is_asked_by_an_owner_too():
    protocol = registry.load().get("layout-lease")
    assert events_of(protocol) == (*KINDS, SELF_TRUNCATE)
    asked = ("start", "requested", "pinned and not leased and own")
    assert asked not in unreached(protocol, [explore(protocol, SELF_TRUNCATE)])
    assert events_of(registry.load().get("wait")) == KINDS


def test_pins_without_a_mark_are_those_of_an_earlier_protocol():
    rows = {row[2] for row in unreached(registry.load().get("immutable"), [])}
    assert rows == {"marked and not writeback and not umount", "not marked and free", ""}
