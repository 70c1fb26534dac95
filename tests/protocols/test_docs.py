"""docs/protocols.md: its example is run, and its tables agree with the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from emu.check.explorer.search import HOLDS, explore
from emu.check.model.state import KINDS
from emu.core.decision import DISPOSALS, EVENTS, RULES, VERBS
from emu.protocols.contract import Protocol, check

PAGE = (Path(__file__).parents[2] / "docs" / "protocols.md").read_text(encoding="utf-8")


def example(change=lambda text: text) -> Protocol:
    (text,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    space: dict[str, object] = {}
    exec(compile(change(text), "docs/protocols.md", "exec"), space)
    protocol = space["PROTOCOL"]
    assert isinstance(protocol, Protocol)
    return check(protocol)


def test_the_example_is_ten_to_forty_lines():
    (text,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert 10 <= len(text.strip().splitlines()) <= 40


@pytest.mark.parametrize("event", KINDS)
def test_the_example_keeps_its_promises(event):
    result = explore(example(), event)
    assert (result.breaches, result.costs, result.missing) == ([], [], [])
    assert result.code == HOLDS


def test_the_change_that_the_page_proposes_is_caught():
    def hasty(text):
        assert "do.apply(), do.free(), do.notify" in text
        text = text.replace(
            'go(do.apply(), do.free(), do.notify("MR_REVOKED"), do.reply(), to=END)', "go(do.reply(), to=END)"
        )
        return text.replace(
            'go(do.unmap(), to="unmapping")', 'go(do.apply(), do.free(), do.unmap(), to="unmapping")'
        )

    broken = explore(example(hasty), "truncate").breaches
    assert [finding.invariant for finding in broken] == ["contract:free-after-unmap"]


def first_column(title: str) -> list[str]:
    table = PAGE[PAGE.index(title) :].split("\n\n", 1)[0]
    return re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)


def test_the_tables_of_the_page_are_complete():
    assert sorted(first_column("| event |")) == sorted(EVENTS)
    assert first_column("| rule |") == list(RULES)
    assert first_column("| disposal |") == list(DISPOSALS)
    actions = " ".join(re.findall(r"`(\w+)\(", PAGE))
    assert set(VERBS) <= set(actions.split())
