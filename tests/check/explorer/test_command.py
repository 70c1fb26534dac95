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
