"""The rows of a comparison: every pair is run or has a reason, geometry is sound, and controls must flip what they are for."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
from emu.clients.asks import CALLS

from emu.check import promises
from emu.lab import names
from emu.lab.places import filled_in, places
from emu.lab.plan import (
    QUICK,
    act_of,
    backings_here,
    events_here,
    full,
    not_applicable,
    protocols_here,
    quick,
    rows,
)
from emu.lab.plan.backings import BACKINGS
from emu.lab.plan.controls import (
    CONTROLS,
    DENIES_NOTHING,
    NO_DMA,
    NO_MOVER,
    NO_PIN,
    PROMPT,
    Control,
    controls_for,
    run_of,
)
from emu.lab.plan.events import EVENTS
from emu.lab.plan.geometry import BESIDE_HOLE, BLOCK, CELL, PUNCH_AT, PUNCH_END, SIZE, WHOLE
from emu.lab.plan.manners import MANNERS
from emu.lab.plan.spec import RowSpec
from emu.lab.plan.ways import ways_of
from emu.protocols.contract import Protocol, apply, go, notify, reply
from emu.protocols.registry import Registry

OLD_EVENTS = ("truncate", "punch", "unlink", "unplug", "surprise-unplug")
THREE = ["none", "ebusy", "mr-revoke"]
PAIRS = [(event, backing) for event in EVENTS for backing in BACKINGS]
ACTS = [(event.name, backing, act) for event in EVENTS.values() for backing, act in event.acts.items()]
HOST = Path("/tmp/x")


def test_the_tables_have_the_fixed_names():
    assert tuple(EVENTS) == names.EVENTS
    assert tuple(BACKINGS) == names.BACKINGS
    assert tuple(MANNERS) == names.HOLDERS


def test_every_pair_is_either_run_or_has_a_reason():
    for event, backing in PAIRS:
        reason = EVENTS[event].never.get(backing, "")
        assert (backing in EVENTS[event].acts) != (len(reason) > 30), (event, backing)


def test_the_packages_protocols_come_in_their_fixed_order():
    here = [name for name in protocols_here() if name in names.PROTOCOLS]
    assert here == [name for name in names.PROTOCOLS if name in here]
    assert {"none", "ebusy", "mr-revoke"} <= set(here)


def test_every_row_is_there_once():
    made = list(full(THREE, events_here(), backings_here()))
    assert len(made) == len({spec.label for spec in made})
    manners = {(spec.backing, spec.holder) for spec in made if not spec.reason}
    assert {holder for backing, holder in manners if backing == "dax"} == set(MANNERS)
    elsewhere = {(spec.event, spec.holder) for spec in made if spec.backing != "dax" and not spec.reason}
    assert {holder for event, holder in elsewhere if event != "exit"} == {"prompt"}


def test_a_holder_ends_by_itself_and_by_a_signal_on_every_backing():
    for made in (full(THREE, ["exit"], backings_here()), rows(THREE, ["exit"], backings_here(), None)):
        ends = {(spec.protocol, spec.backing, spec.holder) for spec in made if not spec.reason}
        orderly = {pair[:2] for pair in ends if pair[2] != "dying"}
        assert orderly == {pair[:2] for pair in ends if pair[2] == "dying"} != set()
        assert {backing for _protocol, backing in orderly} == set(backings_here()) - {"anon"}, (
            "a client's own memory goes with it"
        )


def test_manners_of_nobody_are_not_measured():
    made = [spec for spec in full(["refuse"], events_here(), ["dax"]) if not spec.reason]
    assert {spec.holder for spec in made} == {"prompt"}


def test_a_reason_is_told_once_for_a_pair():
    made = [spec for spec in full(THREE, events_here(), backings_here()) if spec.reason]
    assert len(made) == len({(spec.protocol, spec.event, spec.backing, spec.reason) for spec in made})


@pytest.mark.parametrize("holder", ["stopped", "dying"])
def test_who_asks_for_itself_must_be_there_to_ask(holder):
    (spec,) = rows(["none"], ["self-write"], ["dax"], [holder])
    assert spec.reason


@pytest.mark.parametrize("protocol", THREE)
@pytest.mark.parametrize("event", OLD_EVENTS)
def test_what_the_first_node_had_makes_sense_on_dax(protocol, event):
    assert not_applicable(protocol, event, "dax") == ""


@pytest.mark.parametrize("event", ["unlink", "surprise-unplug"])
def test_what_belongs_to_the_host_is_na_there(event):
    assert "belongs to the host" in not_applicable("ebusy", event, "host")


def test_none_is_na_on_the_host_with_its_reason():
    assert "real filesystem" in not_applicable("none", "truncate", "host")


@pytest.mark.parametrize(
    ("actions", "holders"),
    [((apply(), reply()), ["deaf"]), ((notify("MR_REVOKING"), apply(), reply()), ["deaf", "prompt"])],
)
def test_a_prompt_holder_is_run_where_the_table_notifies(monkeypatch, actions, holders):
    made = Protocol("nobody", "", "", {("start", "requested"): go(*actions, to="end")})
    monkeypatch.setattr(promises, "load", lambda **_: Registry({"nobody": made}))
    assert [spec.holder for spec in rows(["nobody"], ["punch"], ["dax"], None)] == holders
    assert [spec.holder for spec in rows(["nobody"], ["punch"], ["host"], None)] == ["deaf"]


def test_holders_that_are_named_are_run_everywhere():
    chosen = list(rows(["none", "ebusy"], ["truncate"], ["dax"], ["prompt"]))
    assert [spec.holder for spec in chosen] == ["prompt", "prompt"]


def test_a_minutes_worth_names_what_there_is():
    for protocol, event, backing, holder in QUICK:
        assert protocol in names.PROTOCOLS
        assert backing in EVENTS[event].acts
        assert holder in MANNERS
    assert {spec.protocol for spec in quick(protocols_here())} >= set(THREE)


@pytest.mark.parametrize(
    ("event", "backing", "holder", "outcomes", "expected"),
    [
        ("truncate", "dax", "deaf", ["CORRUPT", "LOST"], ["no-mover", "no-dma", "fifo", "prompt"]),
        ("truncate", "dax", "slow", ["CORRUPT", "LOST"], ["no-mover"]),
        ("surprise-unplug", "dax", "prompt", ["CORRUPT", "FAULT"], ["no-mover", "no-dma"]),
        ("collapse", "dax", "prompt", ["CORRUPT"], ["no-mover", "no-dma", "fifo"]),
        ("truncate", "page-cache", "prompt", ["CORRUPT"], ["no-mover", "no-dma"]),
        ("truncate", "dax", "prompt", ["DENY"], ["no-pin"]),
        ("truncate", "host", "prompt", ["OK+ERR"], ["no-mover"]),
        ("exit", "dax", "prompt", ["OK+ERR"], ["no-dma"]),
        ("truncate", "dax", "deaf", ["KILL", "OK+ERR"], ["no-mover", "no-pin", "prompt"]),
        ("rnic-unplug", "dax", "prompt", ["KILL", "OK+ERR"], ["no-mover"]),
        ("truncate", "dax", "stopped", ["LEAK", "LOST"], ["no-mover", "no-pin"]),
        ("truncate", "dax", "prompt", ["HANG"], ["no-pin", "let-go"]),
        ("truncate", "dax", "stopped", ["HANG"], ["no-pin"]),
        ("self-write", "dax", "prompt", ["HANG"], ["no-pin"]),
        ("truncate", "dax", "prompt", ["OK"], []),
        ("truncate", "dax", "prompt", ["REFUSED"], []),
    ],
)
def test_controls_follow_from_the_outcome(event, backing, holder, outcomes, expected):
    spec = RowSpec("p", event, backing, holder)
    assert [control.name for control in controls_for(spec, outcomes)] == expected


@pytest.mark.parametrize("outcome", ["CORRUPT", "HANG", "KILL", "LEAK", "LOST", "DENY", "STALE", "FAULT"])
def test_every_outcome_that_accuses_has_a_control_of_the_comparisons_own(outcome):
    for event, backing, _act in ACTS:
        for holder in names.HOLDERS:
            made = controls_for(RowSpec("p", event, backing, holder), [outcome])
            assert any(outcome in control.flips and control.must for control in made), (event, backing)


PLAIN = Control("")
DIFFERENCE = {
    "no-mover": {"asked"}, "no-pin": {"pinned"}, "no-dma": {"dma"}, "fifo": {"options"}, "let-go": {"lets_go"}, "prompt": set(),
    "none": {"pinned", "protocol"},
}  # fmt: skip
JUDGING = {"name", "flips", "brings", "must", "into_freed"}


@pytest.mark.parametrize("control", CONTROLS.values(), ids=list(CONTROLS))
def test_a_control_differs_in_one_thing(control):
    ways = {field.name for field in fields(Control)} - JUDGING
    assert {way for way in ways if getattr(control, way) != getattr(PLAIN, way)} == DIFFERENCE[control.name]


def test_rows_share_the_runs_of_their_controls():
    def made(event, holder, control):
        return run_of(RowSpec("p", event, "dax", holder), control)

    assert made("truncate", "slow", NO_PIN) == made("truncate", "deaf", NO_PIN)
    assert made("truncate", "slow", NO_MOVER) == made("punch", "prompt", NO_MOVER)
    assert made("truncate", "deaf", NO_MOVER) != made("cow-write", "deaf", NO_MOVER)
    assert made("truncate", "prompt", NO_DMA) != made("truncate", "deaf", NO_DMA)
    assert run_of(RowSpec("p", "truncate", "dax", "prompt"), NO_DMA, told=False) == made(
        "truncate", "deaf", NO_DMA
    )
    assert made("truncate", "deaf", PROMPT)[1] == RowSpec("p", "truncate", "dax", "prompt").label
    assert made("unplug", "deaf", DENIES_NOTHING) == run_of(RowSpec("none", "unplug", "dax", "deaf"), NO_PIN)


def test_without_a_pin_there_is_other_memory_for_the_peer():
    for event, backing, act in ACTS:
        files = places(RowSpec("p", event, backing, "deaf"), HOST, elsewhere=True).files
        victim, other = files["victim"], files["elsewhere"]
        assert other["length"] == victim["length"], (event, backing)
        assert (other["path"], other["offset"]) != (victim["path"], victim["offset"]) or backing == "anon"
        assert not act.device or other["path"].startswith("/other"), (event, backing)


@pytest.mark.parametrize("event", ["punch", "zero"])
@pytest.mark.parametrize("backing", ["dax", "page-cache"])
def test_a_range_begins_and_ends_in_the_middle_of_a_block_and_its_neighbours_stay(event, backing):
    act = EVENTS[event].acts[backing]
    start, end = act.ask["offset"], act.ask["offset"] + act.ask["length"]
    assert (start, end) == (PUNCH_AT, PUNCH_END)
    assert 0 not in {start % BLOCK, end % BLOCK, start % CELL, end % CELL}
    assert start < WHOLE[0] < WHOLE[1] < end
    assert act.given_back == WHOLE, "only whole blocks change hands"
    assert act.expected["kept"] == BESIDE_HOLE
    (_, before), (behind, _) = BESIDE_HOLE
    assert start - CELL < before <= start
    assert end <= behind < end + CELL


def test_what_is_given_back_and_what_is_kept_do_not_overlap():
    for event, backing, act in ACTS:
        start, end = act.given_back
        assert 0 <= start <= end <= SIZE, (event, backing)
        if act.then in {"take", "need", "retake"} and act.expected["kept"] != [[0, SIZE]]:
            assert start < end, (event, backing)
            assert all(high <= start or low >= end for low, high in act.expected["kept"]), (event, backing)


def test_the_bystander_is_never_in_the_range():
    for event, backing, act in ACTS:
        files = places(RowSpec("p", event, backing, "deaf"), HOST).files
        assert files["bystander"]["path"] != files["victim"]["path"], (event, backing)
        if act.device:
            assert files["bystander"]["path"].startswith("/other"), (event, backing)
            assert files["spare"]["path"].startswith("/other"), (event, backing)


def test_every_request_can_be_asked_for():
    for event, backing, _act in ACTS:
        spec = RowSpec("p", event, backing, "deaf")
        made = filled_in(act_of(spec).ask, places(spec, HOST).files, 4)
        assert made["op"] in CALLS, (event, backing)
        assert not any("{" in str(value) for value in made.values()), (event, backing)


@pytest.mark.parametrize(
    ("kernel", "here"),
    [("linux-6.1", False), ("linux-6.12", False), ("linux-6.18", False), ("linux-7.3", True)],
)
def test_a_nic_that_a_kernel_does_not_take_away_makes_no_row_of_it(kernel, here):
    reason = not_applicable(kernel, "rnic-unplug", "anon")
    assert (reason == "") == here, reason


def test_a_program_that_knows_nothing_of_emu_truncates_a_host_file_too():
    (spec,) = rows(["mr-revoke"], ["truncate"], ["host"], ["prompt"])
    assert ways_of(spec) == ["o-trunc"]
    act = act_of(replace(spec, way="o-trunc"))
    assert (act.foreign, act.ask["op"], act_of(spec).foreign) == (True, "open_trunc", False)
    assert places(replace(spec, way="o-trunc"), HOST).files["victim"]["guard"], (
        "or nobody would be told of it"
    )


def test_only_rows_that_are_run_have_other_ways():
    for spec in full(["recall-fence", "none"], events_here(), backings_here()):
        ways = ways_of(spec)
        assert not (ways and spec.reason)
        assert ("peer-deaf" in ways) == (
            not spec.reason and spec.protocol == "recall-fence" and spec.holder in {"prompt", "deaf"}
        )


def test_where_none_cannot_serve_the_control_is_one_that_can():
    alike, label = run_of(RowSpec("wait", "truncate", "host", "deaf"), DENIES_NOTHING)
    assert (alike.protocol, label) == ("mr-revoke", "mr-revoke-truncate-host-control-no-pin")
