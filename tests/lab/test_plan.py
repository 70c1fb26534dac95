"""The rows of a comparison, their geometry, and the controls that must flip them."""

import pytest

from emu.check import promises
from emu.lab import names
from emu.lab.plan import ACTS, SIZE, RowSpec, controls_for, files_for, protocols_here, rows, whole_device
from emu.protocols.contract import Protocol, apply, go, notify, reply
from emu.protocols.registry import Registry

ALL = list(rows(["none", "ebusy", "mr-revoke"], names.EVENTS_HERE, names.BACKINGS_HERE, None))


def reason(protocol, event, backing):
    return next(s.reason for s in ALL if (s.protocol, s.event, s.backing) == (protocol, event, backing))


def test_the_three_protocols_are_installed_in_their_fixed_order():
    assert [name for name in protocols_here() if name in names.PROTOCOLS] == ["none", "ebusy", "mr-revoke"]


def test_every_row_is_there_once():
    assert len(ALL) == len(set(ALL)) == 15 + 5 + 15


@pytest.mark.parametrize("event", names.EVENTS_HERE)
def test_everything_makes_sense_on_dax(event):
    assert all(reason(protocol, event, "dax") == "" for protocol in ("none", "ebusy", "mr-revoke"))


@pytest.mark.parametrize("protocol", ["none", "ebusy", "mr-revoke"])
@pytest.mark.parametrize("event", ["unlink", "surprise-unplug"])
def test_what_belongs_to_the_host_is_na_there(protocol, event):
    assert "belongs to the host" in reason(protocol, event, "host")


def test_none_is_na_on_the_host_with_its_reason():
    assert "real filesystem" in reason("none", "truncate", "host")


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


@pytest.mark.parametrize(
    ("event", "backing", "outcomes", "expected"),
    [
        ("truncate", "dax", ["CORRUPT", "LOST"], ["no-dma", "fifo"]),
        ("surprise-unplug", "dax", ["CORRUPT", "FAULT"], ["no-dma"]),
        ("truncate", "dax", ["DENY"], ["no-pin"]),
        ("truncate", "host", ["OK+ERR"], ["no-dma"]),
        ("truncate", "dax", ["OK"], []),
    ],
)
def test_controls_follow_from_the_outcome(event, backing, outcomes, expected):
    spec = RowSpec("p", event, backing, "deaf")
    assert [control.name for control in controls_for(spec, outcomes)] == expected


@pytest.mark.parametrize("event", ACTS)
def test_what_is_given_back_and_what_is_kept_do_not_overlap(event):
    start, end = ACTS[event].given_back
    assert 0 <= start < end <= SIZE
    assert all(high <= start or low >= end for low, high in ACTS[event].expected["kept"])


@pytest.mark.parametrize("spec", [spec for spec in ALL if not spec.reason], ids=lambda spec: spec.label)
def test_the_bystander_is_never_in_the_range(spec):
    files = files_for(spec, "/tmp/x")
    assert files["bystander"]["path"] != files["victim"]["path"]
    if whole_device(spec):
        assert files["bystander"]["path"].startswith("/other/")
        assert files["spare"]["path"].startswith("/other/")
