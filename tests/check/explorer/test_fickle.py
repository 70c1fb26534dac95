"""Protocols that change their minds: what was found is told as far as it can be followed, and nothing crashes."""

from __future__ import annotations

import json

import pytest

from emu.cli import main

FICKLE = """
from emu.core.decision import END, EVENTS, START
from emu.protocols.contract import Protocol, apply, arm, deny, disarm, free, gate, go, quiesce, reply, unmap

class Fickle(Protocol):
    def decide(self, phase, event, facts):
        if event == "quiesced":
            asked.append(event)
            if len(asked) > 40:
                return Protocol.decide(self, "fencing", "quiesce_failed", facts)
        return Protocol.decide(self, phase, event, facts)

asked = []
INTERRUPTED = go(disarm(), deny("EINTR"), to=END)
PROTOCOL = Fickle(
    name="fickle", summary="changes its mind", origin="a test",
    table={
        (START, "requested"): go(gate(), quiesce(), to="fencing"),
        (START, "surprise"): go(gate(), quiesce(), to="fencing"),
        ("fencing", "quiesced"): go(unmap(), to="unmapping"),
        ("fencing", "quiesce_failed"): go(arm(0.1), to="refused"),
        ("fencing", "cancelled"): INTERRUPTED,
        ("refused", "deadline"): go(quiesce(), to="fencing"),
        ("refused", "cancelled"): INTERRUPTED,
        ("unmapping", "unmapped"): go(apply(), free(), reply(), to=END),
        ("unmapping", "cancelled"): INTERRUPTED,
    },
    promises=("S1", "S2", "S3", "S6", "S7", "V3", "V4", "V9"),
    ignored={"*": tuple(EVENTS)}, importers=("sync-revocable",), loss="mr",
)
"""


@pytest.fixture
def fickle(tmp_path):
    path = tmp_path / "fickle.py"
    path.write_text(FICKLE)
    return path


def test_the_story_of_a_protocol_that_changes_its_mind_is_told_as_far_as_it_goes(fickle, tmp_path, capsys):
    stories, target = tmp_path / "stories", tmp_path / "r.json"
    command = ["explore", "--jobs", "1", "--protocol", str(fickle), "--event", "truncate", "--crashes", "0"]
    assert main([*command, "--story", str(stories), "--json", str(target)]) == 1
    found = [row for rows in json.loads(target.read_text())["rows"] for row in rows["breaches"]]
    assert "contract:deterministic" in {row["invariant"] for row in found}
    untold = [row for row in found if row["untold"]]
    assert untold
    assert "does not answer alike" in capsys.readouterr().out
    assert any("does not answer alike" in path.read_text() for path in stories.glob("*.txt"))


def test_a_protocol_that_answers_alike_has_whole_stories(tmp_path):
    target = tmp_path / "r.json"
    assert main(["explore", "none", "--event", "truncate", "--json", str(target)]) == 0
    assert all(not row["untold"] for row in json.loads(target.read_text())["rows"][0]["costs"])


def test_what_cannot_be_replayed_is_not_shrunk_and_stays_a_breach(fickle, capsys):
    command = ["simulate", "--protocol", str(fickle), "--jobs", "1", "--shrink"]
    for which in (["--seeds", "4"], ["--seed", "2"]):
        assert main([*command, *which]) in {0, 1}
        assert "the tool failed" not in capsys.readouterr().err
