"""`emu explore`: exit codes, what it prints, JSON."""

from __future__ import annotations

import json

import pytest

from emu.cli import main
from emu.protocols import none


def test_holds_is_zero_and_says_what_was_checked(capsys):
    assert main(["explore", "none", "--event", "unplug"]) == 0
    said = capsys.readouterr().out
    assert "none unplug: holds" in said
    assert "cost S2" in said
    assert "reclaimer1: unplug" in said


def test_promises_that_are_not_checked_are_named(tmp_path, capsys):
    target = tmp_path / "r.json"
    assert main(["explore", "none", "--event", "unplug", "--json", str(target)]) == 0
    said = capsys.readouterr().out
    row = json.loads(target.read_text())["rows"][0]
    assert {*row["checked"], *row["unchecked"]} == set(none.PROTOCOL.promises)
    assert not set(row["checked"]) & set(row["unchecked"])
    assert f"promised, not checked here: {', '.join(row['unchecked'])}" in said


def test_bound_is_two(capsys):
    assert main(["explore", "mr-revoke", "--event", "truncate", "--max-states", "50"]) == 2
    assert "--max-states" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["nonsense"], ["none", "--max-states", "0"]])
def test_usage_is_sixty_four(arguments, capsys):
    assert main(["explore", *arguments]) == 64
    assert "EINVAL" in capsys.readouterr().err


def test_an_unknown_event_is_usage(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["explore", "none", "--event", "rain"])
    assert ended.value.code == 64
    assert "rain" in capsys.readouterr().err


def test_json_has_the_stories(tmp_path, capsys):
    target = tmp_path / "r.json"
    assert main(["explore", "revoke", "--event", "truncate", "--json", str(target)]) == 0
    row = json.loads(target.read_text())["rows"][0]
    assert (row["protocol"], row["verdict"], row["costs"]) == ("mr-revoke", "holds", [])
    assert row["sometimes"]["an MR was revoked"] > 0
    assert main(["explore", "none", "--event", "truncate", "--json", "-"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out[out.index("{") :])["rows"][0]["costs"][0]["story"]


def test_a_file_that_cannot_be_written_is_told(tmp_path, capsys):
    assert main(["explore", "none", "--event", "unplug", "--json", str(tmp_path)]) == 64
    assert "choose a file" in capsys.readouterr().err


def test_and_before_anything_is_explored(tmp_path, capsys):
    assert main(["explore", "none", "--event", "unplug", "--json", str(tmp_path / "none" / "r.json")]) == 64
    said = capsys.readouterr()
    assert (said.out, "ENOENT" in said.err, "choose a file" in said.err) == ("", True, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "name one protocol"),
        (["none", "--protocol", "x.py"], "name one protocol"),
        (["--protocol", "nowhere.py"], "No such file"),
        (["none", "--holders", "0"], "--holders 0: use 1 to 4"),
        (["none", "--crashes", "-1"], "--crashes -1: use 0 to 3"),
        (["none", "--jobs", "0"], "--jobs 0"),
        (["none", "--max-memory", "-1"], "--max-memory -1"),
    ],
)
def test_what_cannot_be_explored_is_usage(arguments, says, capsys):
    assert main(["explore", *arguments]) == 64
    assert says in capsys.readouterr().err


def test_a_bound_of_memory_gives_unknown_too(tmp_path, capsys):
    target = tmp_path / "r.json"
    command = ["explore", "none", "--event", "unplug", "--max-memory", "1", "--json", str(target)]
    assert main(command) == 2
    assert "--max-memory" in capsys.readouterr().out
    row = json.loads(target.read_text())["rows"][0]
    assert (row["verdict"], row["bound_hit"]) == ("unknown", "--max-memory")
    assert "S7" not in row["checked"]
    assert row["memory"]["resident_bytes"] > 1 << 20


TALKER = """
from emu.core.decision import END, EVENTS, START
from emu.protocols.contract import Protocol, apply, free, gate, go, reply, when_pinned
import itertools
TURN = itertools.count()
class Fickle(Protocol):
    def decide(self, phase, event, facts):
        return super().decide(phase, event, facts) if next(TURN) % 2 else None
RULE = go(gate(), apply(), free(), reply(), to=END)
PROTOCOL = CLASS(
    name="talker", summary="says yes", origin="a test", promises=("S2",), disposal="now",
    table={(START, "requested"): when_pinned(RULE, RULE), (START, "surprise"): go(reply(), to=END)},
    ignored={"*": tuple(EVENTS)},
)
"""


def test_a_strangers_file_is_explored_and_its_breach_told(tmp_path, capsys):
    path = tmp_path / "talker.py"
    path.write_text(TALKER.replace("CLASS", "Protocol"))
    command = ["explore", "--protocol", str(path), "--event", "truncate", "--story", str(tmp_path / "told")]
    assert main(command) == 1
    said = capsys.readouterr().out
    assert "BREACH S2" in said
    assert "not executed by these events: start/surprise" in said
    script = json.loads((tmp_path / "told" / "talker-truncate-S2.json").read_text())
    assert script["protocol"] == {"file": str(path)}


def test_a_protocol_that_changes_its_mind_is_named(tmp_path, capsys):
    path = tmp_path / "fickle.py"
    path.write_text(TALKER.replace("CLASS", "Fickle"))
    assert main(["explore", "--protocol", str(path), "--event", "truncate"]) == 1
    assert "BREACH contract:deterministic" in capsys.readouterr().out


def test_events_are_explored_side_by_side(tmp_path):
    target = tmp_path / "r.json"
    command = [
        "explore",
        "ebusy",
        "--event",
        "unlink",
        "--event",
        "unplug",
        "--jobs",
        "2",
        "--json",
        str(target),
    ]
    assert main(command) == 0
    found = json.loads(target.read_text())
    assert [row["event"] for row in found["rows"]] == ["unlink", "unplug"]
    assert found["states"] == sum(row["states"] for row in found["rows"])


def test_a_row_that_nothing_reaches_makes_the_whole_unknown(tmp_path, capsys):
    path = tmp_path / "mine.py"
    spare = '("never", "unpinned"): RULE, (START, "surprise")'
    path.write_text(
        TALKER.replace("CLASS", "Protocol").replace('(START, "surprise")', spare).replace('"S2",', "")
    )
    target = tmp_path / "r.json"
    assert main(["explore", "--protocol", str(path), "--jobs", "1", "--json", str(target)]) == 2
    found = json.loads(target.read_text())
    assert found["unreached"] == ["never/unpinned"]
    assert {row["verdict"] for row in found["rows"]} == {"holds"}
    assert "never executed, so nothing is known of it: never/unpinned" in capsys.readouterr().out
