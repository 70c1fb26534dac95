"""State diagrams: drawn from the table that runs, in docs/protocols.md and for anybody's file."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
from pathlib import Path

import pytest

from emu.cli import main
from emu.core.decision import END, START
from emu.protocols.contract import check, deny, free, go, notify, when_pinned
from emu.protocols.listing import listing
from emu.protocols.registry import BUILT_IN
from emu.report.statechart import mermaid

DOCS = Path(__file__).parents[2] / "docs"
ARROW = re.compile(r"    (\[\*\]|\w+) --> (\[\*\]|\w+)(?:: ([^:;#%\n]+))?")


def script():
    spec = importlib.util.spec_from_file_location("emu_docs_diagrams", DOCS / "diagrams.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def arrows(text):
    """(from, to, label) of each line; nothing else may stand there."""
    head, *lines = text.splitlines()
    assert head == "stateDiagram-v2"
    found = [ARROW.fullmatch(line) for line in lines if not re.fullmatch(r'    state "[^"]*" as \w+', line)]
    assert all(found), text
    return [one.groups() for one in found]


def test_the_diagrams_of_the_page_are_those_of_the_tables():
    page = (DOCS / "protocols.md").read_text("utf-8")
    assert page == script().current(page), "run: make diagrams"
    assert re.findall(r"^### (\S+)$", page, re.MULTILINE) == [p.name for p in BUILT_IN]


def test_the_stories_of_the_docs_are_what_the_explorer_tells_today():
    """Compared as drawings: their colours are the page's."""
    for name, text in script().figures().items():
        shown = (DOCS / name).read_text("utf-8")
        assert shown.split("</style>")[1] == text.split("</style>")[1], "run: make diagrams"


def test_a_changed_table_makes_the_page_stale(monkeypatch):
    module = script()
    changed = dataclasses.replace(
        BUILT_IN[0], table={**BUILT_IN[0].table, (START, "surprise"): go(free(), to=END)}
    )
    monkeypatch.setattr(module, "BUILT_IN", (changed, *BUILT_IN[1:]))
    page = (DOCS / "protocols.md").read_text("utf-8")
    assert page != module.current(page)


@pytest.mark.parametrize("protocol", BUILT_IN, ids=lambda protocol: protocol.name)
def test_every_row_is_drawn_once(protocol):
    drawn = [
        (source, target, event)
        for source, target, label in arrows(mermaid(listing(protocol)))
        if label
        for event in label.split(" / ")[0].split(", ")
    ]
    rows = [
        (row["phase"], "[*]" if row["to"] == END else row["to"], f"{row['event']} [{row['if']}]" if row["if"] else row["event"])
        for row in listing(protocol)["rows"]
    ]  # fmt: skip
    assert sorted(drawn) == sorted(rows)


def test_the_words_of_a_stranger_do_not_become_mermaids_own():
    """Names of phases and notices are anybody's; a colon, a quote or `note` would end the line."""
    protocol = dataclasses.replace(
        BUILT_IN[0],
        table={
            (START, "requested"): when_pinned(go(notify("a: b;\n%% #c'"), to="note"), go(deny("EBUSY"), to='x" -->')),
            (START, "surprise"): go(to=END),
            ("note", "deadline"): go(to=END),
            ('x" -->', "deadline"): go(to=START),
        },
        ignored={"*": tuple(e for e in ("acknowledged", "unpinned", "holder_lost", "quiesced", "quiesce_failed", "unmapped", "cancelled", "requested", "surprise", "deadline"))},
        impossible={},
    )  # fmt: skip
    found = arrows(mermaid(listing(check(protocol))))
    assert found[0] == ("[*]", "start", None)
    assert {(source, target) for source, target, _ in found[1:]} == {
        ("start", "phase_1"), ("start", "phase_2"), ("start", "[*]"), ("phase_1", "[*]"), ("phase_2", "start"),
    }  # fmt: skip


def test_the_command_draws_a_name_and_a_file_alike(tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text("from emu.protocols.mr_revoke import PROTOCOL\n")
    assert main(["protocol", "--diagram", "mr-revoke"]) == 0
    by_name = capsys.readouterr().out
    assert main(["protocol", "--diagram", "--protocol", str(file)]) == 0
    assert capsys.readouterr().out == by_name
    assert ("fencing", "unmapping", "quiesced / unmap") in arrows(by_name)


def test_the_table_is_there_as_data(capsys):
    assert main(["protocol", "--diagram", "ebusy", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["protocol"] == "ebusy"
    assert found["rows"][0] == {
        "phase": "start", "event": "requested", "if": "pinned", "actions": [["deny", "EBUSY", 0.0]], "to": "end",
    }  # fmt: skip


@pytest.mark.parametrize(
    "words",
    [[], ["--diagram"], ["--diagram", "nobody"], ["--diagram", "none", "--protocol", "x.py"], ["--protocol", "x.py"]],
)  # fmt: skip
def test_what_cannot_be_drawn_is_a_sentence(words, capsys):
    assert main(["protocol", *words]) == 64
    assert capsys.readouterr().err.startswith("emu: protocol")
