"""A counterexample as others read it: a script that replays, text, SVG, a page, Mermaid."""

from __future__ import annotations

import dataclasses
import json
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest
from wrong_protocols import ASKING, IMPATIENT, POLLING

from emu.check.explorer.search import explore, setup_of
from emu.check.model.setup import Setup
from emu.check.model.world import World
from emu.cli import main
from emu.protocols import registry
from emu.report import story

NONE = registry.load().get("none")


def scripts_of(protocol, event="truncate"):
    result = explore(protocol, event)
    return {f.invariant: f.script for f in (*result.breaches, *result.costs)}


def replayed(protocol, script):
    """Every label taken in a world whose numbers are the core's own; what the last one broke."""
    world = World(protocol, Setup(**script["setup"]), direct=True)
    state, broken = world.start(), []
    for label in script["steps"]:
        choice = next(choice for choice in world.choices(state) if choice.label == label)
        move = world.take(choice)
        state, broken = move.state, [name for name, _sentence in move.broken]
    return state, broken


@pytest.mark.parametrize("invariant", ["S1", "S2", "S4", "V4", "V20"])
def test_a_script_replays_label_by_label_to_the_same_breach(invariant):
    script = scripts_of(NONE)[invariant]
    assert invariant in replayed(NONE, json.loads(json.dumps(script)))[1]


def test_a_story_of_two_who_are_alike_is_told_by_their_own_names():
    setup = dataclasses.replace(setup_of("truncate", 2, 1, 1, 0), refusals=0, taker=False)
    result = explore(NONE, "truncate", setup=setup)
    assert result.reductions == ("independent steps", "holders alike")
    for finding in result.costs:
        assert finding.invariant in replayed(NONE, finding.script)[1]


def test_a_shortest_story_has_no_step_too_many():
    script = scripts_of(NONE)["S2"]
    assert script["steps"] == [
        "holder1: reg_mr",
        "shell: install 256 (0, 1) 7",
        "reclaimer1: truncate",
        "shell: release (1,)",
    ]


def test_a_story_that_stands_still_ends_with_the_reclaim_under_way():
    state, _broken = replayed(ASKING, scripts_of(ASKING)["S7"])
    assert state.reclaimers[0].state == "asked"


@pytest.mark.parametrize("protocol", [NONE, POLLING, ASKING, IMPATIENT], ids=lambda protocol: protocol.name)
def test_every_rendering_tells_every_step(protocol):
    for script in scripts_of(protocol).values():
        labels = [*script["steps"], *script.get("loop", ())]
        text, mermaid, page = story.told(script), story.mermaid(script), story.page(script)
        assert all(f". {story.in_words(label)}\n" in text for label in labels)
        assert sum("->>" in line or "-x" in line for line in mermaid.splitlines()) == len(labels)
        assert mermaid.startswith("sequenceDiagram\n")
        drawn = ET.fromstring(story.svg(script))
        titles = [element.text for element in drawn.iter("{http://www.w3.org/2000/svg}circle")]
        assert len(titles) == len(labels)
        assert script["breaks"]["invariant"] in page
        HTMLParser().feed(page)
        assert "http://" not in page.replace("http://www.w3.org", "")


def test_a_story_is_told_by_the_protocol_s_name_and_in_words():
    result = explore(NONE, "truncate", named={"file": "mine.py"})
    script = next(finding.script for finding in result.costs if finding.invariant == "S2")
    text = story.told(script)
    assert text.startswith("none: truncate\n")
    assert "shell: installs key 256 over blocks 0-1\n" in text
    assert "shell: block 1 becomes free\n" in text
    assert "installs key 256 over blocks 0-1" in story.mermaid(script)


def test_mermaid_keeps_its_own_signs_to_itself():
    script = {
        "protocol": {"file": "mine.py"},
        "setup": {"reclaims": ["truncate"]},
        "steps": [
            "crash: holder1",
            "timer 1 fires",
            "fault: quiesced 1 is refused",
            "engine: peer1 enters 0",
        ],
        "breaks": {"invariant": "S1", "sentence": "a; b #c"},
    }
    found = story.mermaid(script)
    assert "a, b no. c" in found
    assert "mine.py" in story.told(script)
    assert "holder1-xholder1: crash: holder1" in found


def test_the_command_writes_all_of_them(tmp_path):
    folder = tmp_path / "stories"
    assert main(["explore", "none", "--event", "truncate", "--story", str(folder)]) == 0
    names = {path.name for path in folder.iterdir()}
    assert {f"none-truncate-S1{suffix}" for suffix in (".txt", ".json", ".svg", ".html", ".mmd")} <= names
    script = json.loads((folder / "none-truncate-S1.json").read_text())
    assert (script["schema"], script["protocol"], script["mutant"]) == (1, "none", None)
    assert "S1" in replayed(NONE, script)[1]
