"""The catalogue of mutants is whole, named, and hunted by invariants that its protocols promise."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from emu.check.explorer.result import CHECKED
from emu.check.explorer.search import promised
from emu.check.invariants import INVARIANTS
from emu.check.mutants.catalogue import CONTRACT_TABLE, FURTHER, MUTANTS, UnknownMutant, find
from emu.check.mutants.mutant import OURS, Patch, applied
from emu.check.mutants.protocols import SOUND
from emu.core.decision import CONTRACT, RULES
from emu.protocols.contract import check

PAGE = (Path(__file__).parents[3] / "docs" / "mutants.md").read_text(encoding="utf-8")
ROWS = 15  # of the contract's last table


def test_every_bug_of_the_contract_has_a_mutant_and_there_are_ten_more():
    sources = dict.fromkeys(mutant.source for mutant in CONTRACT_TABLE)
    assert len(sources) == ROWS
    assert OURS not in sources
    assert len(FURTHER) >= 10
    assert {mutant.source for mutant in FURTHER} == {OURS}


def test_whatever_the_explorer_says_it_checks_has_caught_a_mutant():
    """No exceptions: an invariant that nothing wrong has ever broken here is not called checked."""
    assert set(CHECKED) <= {mutant.caught_by for mutant in MUTANTS}


def test_names_are_unique_and_found():
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    assert all(find(mutant.name) is mutant for mutant in MUTANTS)
    with pytest.raises(UnknownMutant, match="free-under-dma"):
        find("nobody")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_a_protocol_that_loads_and_promises_what_must_catch_it(mutant):
    check(mutant.protocol)
    known = {invariant.name for invariant in INVARIANTS} | {f"{CONTRACT}{rule}" for rule in RULES}
    assert mutant.caught_by in known | {"contract:no-defect"}
    assert mutant.caught_by.startswith(CONTRACT) or mutant.caught_by in promised(
        mutant.protocol, mutant.setup
    )
    assert mutant.sentence
    assert mutant.changes.startswith(mutant.part)


def test_sound_protocols_load():
    for protocol in SOUND:
        check(protocol)


def test_what_was_exchanged_comes_back_whatever_happens():
    table = {"a": 1}
    with applied([Patch(table, "a", 2), Patch(table, "a", 3)]):
        assert table == {"a": 3}
    assert table == {"a": 1}
    with pytest.raises(KeyError), applied([Patch(table, "a", 2)]):
        table["b"]
    assert table == {"a": 1}


def test_the_page_lists_them_all():
    listed = re.findall(r"^\| `([a-z-]+)` \|", PAGE, re.MULTILINE)
    assert listed == [mutant.name for mutant in MUTANTS]
