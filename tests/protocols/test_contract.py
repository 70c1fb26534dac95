"""The contract: declarations are checked at load, the registry, and what the built-in protocols declare."""

from __future__ import annotations

import dataclasses
from importlib import metadata

import pytest

from emu.core.decision import END, EVENTS, START, Facts
from emu.core.errors import ProtocolBroke
from emu.protocols import contract, registry
from emu.protocols.contract import (
    Action,
    Malformed,
    Protocol,
    apply,
    arm,
    deny,
    free,
    gate,
    go,
    reply,
    when,
    when_pinned,
)
from emu.protocols.runner import arm_of, arms

LOADED = registry.load()
GO_ON = go(apply(), free(), reply(), to=END)
STUCK = {(START, "requested"): go(gate(), to="stuck"), ("stuck", "cancelled"): go(deny("EINTR"), to=END)}
ALL = sorted({protocol.name for protocol in LOADED.protocols.values()})


def make(**change):
    surprised = {(START, "surprise"): go(reply(), to=END)}
    values = {
        "name": "own",
        "summary": "a test's",
        "origin": "a test",
        "table": {(START, "requested"): go(apply(), free(), reply(), to=END)},
        "ignored": {"*": tuple(EVENTS)},
        **change,
    }
    return Protocol(**{**values, "table": {**surprised, **values["table"]}})


def test_a_sound_declaration_is_given_back():
    protocol = make()
    assert contract.check(protocol) is protocol


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"promises": ("S11",)}, "S11"),
        ({"importers": ("everybody",)}, "everybody"),
        ({"backings": ("paper",)}, "paper"),
        ({"disposal": "burn"}, "burn"),
        ({"loss": "face"}, "face"),
        ({"excepts": {"tidy": ("S1",)}}, "tidy"),
        ({"refuses": {"paper": "EFAULT"}}, "paper"),
        ({"refuses": {"dax": "ENOSUCH"}}, "ENOSUCH"),
        ({"refuses": ("dax",)}, "refuses must be"),
        ({"needs": "money"}, "money"),
        ({"needs": 1}, "needs must be"),
        ({"on_demand": 1}, "on_demand must be"),
        ({"queues_pins": "yes"}, "queues_pins must be"),
        ({"table": {(START, "requested"): go(apply(), free("burn"), reply(), to=END)}}, "burn"),
        ({"table": {(START, "requested"): contract.Choice("late", GO_ON, GO_ON)}}, "late"),
        (
            {"table": {(START, "requested"): when("own", when("own", GO_ON, GO_ON), GO_ON)}},
            "the answer is known",
        ),
        ({"table": {(START, "requested"): when("own", GO_ON, "else")}}, "'else'"),
        ({"table": {(START, "requested"): when("kind=tuncate", GO_ON, GO_ON)}}, "kind=truncate|punch"),
        ({"table": {(START, "requested"): when("backing=", GO_ON, GO_ON)}}, "backing=dax|page-cache"),
        ({"table": {(START, "rain"): go(reply(), to=END)}}, "rain"),
        ({"table": {(START, "requested"): go(Action("pray"), to=END)}}, "pray"),
        ({"table": {(START, "requested"): go(gate(), to="limbo")}}, "limbo"),
        ({"table": STUCK, "ignored": {}}, "acknowledged"),
        ({"table": STUCK, "ignored": {"elsewhere": tuple(EVENTS)}}, "acknowledged"),
    ],
)
def test_what_is_wrong_is_named(change, word):
    with pytest.raises(Malformed, match=word):
        contract.check(make(**change))


@pytest.mark.parametrize("event", ["requested", "surprise"])
def test_a_protocol_must_answer_both_ways_to_begin(event):
    table = {key: rule for key, rule in make().table.items() if key != (START, event)}
    with pytest.raises(Malformed, match=event):
        contract.check(dataclasses.replace(make(), table=table))


def test_both_branches_of_a_choice_are_looked_at():
    table = {(START, "requested"): when_pinned(go(deny("EBUSY"), to=END), go(arm(1), to="later"))}
    with pytest.raises(Malformed, match="later"):
        contract.check(make(table=table))


def test_the_runner_decides_ignores_and_breaks():
    table = {(START, "requested"): when_pinned(go(deny("EBUSY"), to=END), go(reply(), to=END))}
    protocol = make(
        table=table, ignored={START: ("unpinned",), "*": ("deadline",)}, impossible={"*": tuple(EVENTS)}
    )
    assert protocol.decide(START, "requested", Facts("truncate", 1, 1)).actions[0].verb == "deny"
    assert protocol.decide(START, "requested", Facts("truncate", 0, 0)).actions[0].verb == "reply"
    assert protocol.decide(START, "unpinned", Facts("truncate", 0, 0)) is None
    assert protocol.decide(START, "deadline", Facts("truncate", 0, 0)) is None
    with pytest.raises(ProtocolBroke, match="total"):
        protocol.decide(START, "unmapped", Facts("truncate", 0, 0))


@pytest.mark.parametrize(
    ("pins", "own", "leased", "verb", "way"),
    [
        (0, False, False, "apply", "free"),
        (0, False, True, "apply", "free"),
        (1, False, True, "arm", "pinned and leased"),
        (1, True, True, "arm", "pinned and leased"),
        (2, True, False, "reply", "pinned and not leased and own"),
        (2, False, False, "deny", "pinned and not leased and not own"),
    ],
)
def test_facts_are_asked_in_the_order_of_the_choices(pins, own, leased, verb, way):
    denied, later = go(deny("EBUSY"), to=END), go(arm(1), to="later")
    entry = when("pinned", when("leased", later, when("own", go(reply(), to=END), denied)), GO_ON)
    protocol = make(table={(START, "requested"): entry, ("later", "deadline"): denied})
    assert contract.problems(protocol) == []
    facts = Facts("truncate", pins, pins, own, leased, "dax")
    assert protocol.decide(START, "requested", facts).actions[0].verb == verb
    assert arm_of(entry, facts) == way
    assert way in [words for words, _rule in arms(entry)]


def test_what_it_may_free_names_every_disposal():
    table = {(START, "requested"): when_pinned(go(apply(), free("keep"), reply(), to=END), GO_ON)}
    assert contract.disposals(make(table=table)) == ("after-unmap", "keep")


@pytest.mark.parametrize("name", ALL)
def test_the_built_in_protocols_meet_the_contract(name):
    protocol = LOADED.get(name)
    assert contract.problems(protocol) == []
    assert protocol.summary
    assert protocol.origin
    with pytest.raises(dataclasses.FrozenInstanceError):
        protocol.name = "other"


def test_what_is_not_promised_for_a_kind():
    ebusy = LOADED.get("ebusy")
    assert "S1" in ebusy.promised("truncate")
    assert not {"S1", "S2", "S4", "S8", "S9"} & set(ebusy.promised("surprise"))
    assert "S3" in ebusy.promised("surprise")


@pytest.mark.parametrize("kind", ["truncate", "punch", "unlink", "unplug", "surprise"])
@pytest.mark.parametrize("protocol", registry.BUILT_IN, ids=lambda protocol: protocol.name)
def test_who_lets_dma_reach_blocks_that_changed_hands_promises_nothing_that_it_spoils(protocol, kind):
    promised = set(protocol.promised(kind))
    assert "S1" in promised or not {"S2", "S4", "S8", "S9"} & promised


# ---- registry


def point(name, value):
    return metadata.EntryPoint(name, value, registry.GROUP)


def test_revoke_is_an_alias():
    assert LOADED.get("revoke") is LOADED.get("mr-revoke")


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(registry.UnknownProtocol, match=", ".join(sorted(LOADED.protocols))):
        LOADED.get("prayer")


def test_an_installed_protocol_is_found(monkeypatch):
    monkeypatch.setattr("emu.protocols.none.OTHER", make(), raising=False)
    loaded = registry.load([point("own", "emu.protocols.none:OTHER")])
    assert loaded.get("own").name == "own"
    assert loaded.broken == {}


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("no.such.module:PROTOCOL", "no.such"),
        ("emu.protocols.none:MISSING", "MISSING"),
        ("emu.protocols.none:END", "no emu.protocols.contract.Protocol"),
        ("emu.protocols.ebusy:PROTOCOL", "taken"),
    ],
)
def test_one_that_cannot_be_loaded_is_left_out_and_told_when_asked_for(value, word):
    loaded = registry.load([point("own", value)])
    assert sorted(loaded.protocols) == sorted(LOADED.protocols)
    with pytest.raises(registry.UnknownProtocol, match=word):
        loaded.get("own")


def test_one_that_does_not_meet_the_contract_is_left_out(monkeypatch):
    monkeypatch.setattr("emu.protocols.none.OTHER", make(table=STUCK, ignored={}), raising=False)
    assert "not decided" in registry.load([point("own", "emu.protocols.none:OTHER")]).broken["own"]


def test_nobody_can_take_a_built_in_name():
    loaded = registry.load([point("none", "emu.protocols.ebusy:PROTOCOL")])
    assert loaded.get("none").name == "none"


def test_a_row_may_ask_for_the_kind_and_for_the_memory():
    entry = when("kind=unplug", go(deny("EBUSY"), to=END), when("backing=dax", go(reply(), to=END), GO_ON))
    protocol = make(table={(START, "requested"): entry})
    assert contract.problems(protocol) == []

    def verbs(kind, backing):
        return [
            a.verb for a in protocol.decide(START, "requested", Facts(kind, 1, 1, backing=backing)).actions
        ]

    assert verbs("unplug", "anon") == ["deny"]
    assert verbs("punch", "dax") == ["reply"]
    assert verbs("punch", "anon") == [action.verb for action in GO_ON.actions]


def test_what_cannot_come_need_not_be_listed():
    """Nothing comes at the start but the request; an answer follows its verb; the request comes once."""
    table = {
        (START, "requested"): go(gate(), arm(1), to="waiting"),
        ("waiting", "deadline"): GO_ON,
        ("waiting", "cancelled"): go(deny("EINTR"), to=END),
    }
    brief = make(table=table, ignored={"waiting": ("acknowledged", "unpinned", "holder_lost")})
    assert contract.problems(brief) == []
    with pytest.raises(ProtocolBroke, match="unmapped in phase waiting"):
        brief.decide("waiting", "unmapped", Facts("truncate", 1, 1))
    again = {**table, ("waiting", "cancelled"): go(to=START)}
    assert any(
        "'deadline' in phase 'start'" in problem
        for problem in contract.problems(make(table=again, ignored={}))
    )
