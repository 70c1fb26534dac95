"""docs/invariants.md has every invariant in its words, and every line that only later protocols will write is read by a function."""

import re
from pathlib import Path

import pytest

from emu.check.invariants import INVARIANTS
from emu.protocols.contract import PROMISES

ROOT = Path(__file__).parents[3]
DOCS = (ROOT / "docs" / "invariants.md").read_text("utf-8")
ROWS = dict(re.findall(r"^\| ([SV]\d+) \| ([^|]+?) \|", DOCS, re.MULTILINE))


def test_there_are_35_each_once_and_in_order():
    assert tuple(invariant.name for invariant in INVARIANTS) == PROMISES


@pytest.mark.parametrize("invariant", INVARIANTS, ids=[invariant.name for invariant in INVARIANTS])
def test_the_table_says_it_in_the_same_words(invariant):
    assert ROWS.get(invariant.name) == invariant.title


def test_the_lines_of_later_protocols_are_read():
    code = "".join(path.read_text("utf-8") for path in (ROOT / "emu" / "check" / "invariants").glob("*.py"))
    table = DOCS.split("## Lines that later protocols write")[1].split("## What is promised")[0]
    names = {
        name
        for line in table.splitlines()
        if line.startswith("|")
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    assert {"Restore", "Remap", "DropRight", "Holds"} <= names
    assert not {
        name
        for name in names
        if f'"{name}"' not in code and f'"{name.lower()}"' not in code and name != "Phase"
    }
