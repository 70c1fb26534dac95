"""`emu simulate`: exit codes, what it leaves, and sentences for what cannot be."""

import json

import pytest

from emu.check.history import History
from emu.cli import main

SETUP = {"reclaims": ["truncate"], "crashes": 0, "refusals": 0}
CORRUPT = [
    "holder1: reg_mr", "shell: install 256 (0, 1) 7", "engine: installed 256", "peer1: WRITE 1", "engine: peer1 enters 0",
    "engine: peer1 leaves 0", "reclaimer1: truncate", "shell: release (1,)", "engine: peer1 enters 1",
]  # fmt: skip

RAISES = """
from emu.core.decision import END, EVENTS, START
from emu.protocols.contract import Protocol, go, reply

class Odd(Protocol):
    def decide(self, phase, event, facts):
        raise RuntimeError("boom")

PROTOCOL = Odd(name="mine", summary="a test's", origin="a test", ignored={"*": tuple(EVENTS)},
    table={(START, "requested"): go(reply(), to=END), (START, "surprise"): go(reply(), to=END)})
"""


def simulate(capsys, *arguments):
    """(exit code, stdout, stderr)"""
    try:
        code = main(["simulate", *map(str, arguments)])
    except SystemExit as ended:
        code = ended.code
    told = capsys.readouterr()
    return code, told.out, told.err


def script(tmp_path, **changes):
    path = tmp_path / "script.json"
    path.write_text(
        json.dumps(
            {
                "schema": 1,
                "protocol": "none",
                "setup": SETUP,
                "mutant": None,
                "steps": CORRUPT,
                "breaks": None,
            }
            | changes
        )
    )
    return path


def test_many_seeds_are_summed_up(capsys, tmp_path):
    code, out, _ = simulate(capsys, "none", "--seeds", 12, "--jobs", 1, "--json", tmp_path / "r.json")
    result = json.loads((tmp_path / "r.json").read_text())
    assert (code, result["seeds"], result["protocol"]) == (
        {"holds": 0, "breach": 1}[result["verdict"]],
        12,
        "none",
    )
    assert {"S1", "V4"} <= {row["invariant"] for row in result["costs"]}
    assert "none: " in out
    assert "cost V4: " in out
    assert all(row["seeds"] and row["sentence"] for row in result["costs"])


def test_json_on_stdout_is_nothing_but_json(capsys):
    _, out, _ = simulate(capsys, "none", "--seeds", 2, "--jobs", 1, "--json", "-")
    assert json.loads(out)["seeds"] == 2


def test_a_seed_leaves_a_folder_that_is_read_and_replayed(capsys, tmp_path):
    code, out, _ = simulate(capsys, "none", "--seed", 5, "--out", tmp_path / "run", "--shrink")
    assert History.read(tmp_path / "run").meta["seed"] == 5
    verdict = json.loads((tmp_path / "run" / "verdict.json").read_text())
    assert code == (1 if verdict["breaches"] else 0)
    assert "the shortest story that breaks" in out
    for name in ("script.json", "minimal.json"):
        _, again, _ = simulate(
            capsys, "--replay", tmp_path / "run" / name, "--out", tmp_path / name.split(".")[0]
        )
        assert "none script: " in again
        assert "did not" not in again
    lines = [(tmp_path / at / "events.jsonl").read_bytes() for at in ("run", "script")]
    assert lines[0] == lines[1]


def test_a_script_written_by_hand_is_played(capsys, tmp_path):
    code, out, _ = simulate(capsys, "--replay", script(tmp_path, breaks={"invariant": "S1", "sentence": ""}))
    assert "cost S1: " in out
    assert code == ("BREACH" in out)
    code, out, _ = simulate(
        capsys, "--replay", script(tmp_path, steps=CORRUPT[:3], breaks={"invariant": "S1", "sentence": ""})
    )
    assert "S1 was to break here, and did not" in out
    assert code == 2


def test_a_promise_that_a_script_breaks_is_a_breach(capsys, tmp_path):
    path = script(tmp_path, mutant="free-under-dma")
    code, out, _ = simulate(capsys, "--replay", path)
    assert "BREACH S1: " in out
    assert code == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["none", "--seeds", "0"], "--seeds 0: EINVAL: use a number from 1"),
        (["none", "--seeds", "-4"], "use a number from 1"),
        (["none", "--seeds", "many"], "invalid int value"),
        (["none", "--seed", "-1"], "use a number from 0"),
        (["none", "--seeds", "3", "--jobs", "0"], "--jobs 0: EINVAL"),
        (["nobody", "--seeds", "3"], "protocol 'nobody' is unknown: use one of"),
        (["--seeds", "3"], "name a protocol, or give one with --protocol FILE"),
        (["none", "--protocol", "mine.py", "--seeds", "3"], "name what is to be run once"),
        (["--protocol", "nowhere.py", "--seeds", "3"], "No such file"),
        (["--mutant", "nobody", "--seeds", "3"], "mutant 'nobody' is unknown"),
        (["none"], "one of the arguments --seeds --seed --replay is required"),
        (["--replay", "nowhere.json"], "ENOENT"),
        (["none", "--seed", "1", "--json", "/nowhere/r.json"], "ENOENT"),
        (["mr-revoke", "--seed", "1", "--shrink", "S1"], "S1 is not broken"),
        (["mr-revoke", "--seed", "1", "--shrink", "weather"], "weather"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(capsys, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    code, _, err = simulate(capsys, *arguments)
    assert code == 64
    assert says in err
    assert err.splitlines()[-1].startswith("emu: simulate")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"schema": 2}, "schema 2, known is 1"),
        ({"steps": [1]}, "steps is a list of labels"),
        ({"steps": "holder1: reg_mr"}, "steps is a list of labels"),
        ({"protocol": 7}, "protocol is a name"),
        ({"protocol": "nobody"}, "protocol 'nobody' is unknown"),
        ({"protocol": {"file": "gone.py"}}, "gone.py"),
        ({"setup": {"holders": "2"}}, "holders is int"),
        ({"setup": {"holders": 0}}, "use a number from 1"),
        ({"setup": {"holders": 1_000_000_000}}, "setup: holders 1000000000: use a number from 1 to 64"),
        ({"setup": {"depth": 10**30}}, "to 65536"),
        ({"setup": {"reclaims": ["truncate"] * 1000}}, "1000 reclaims: use at most 64"),
        ({"setup": {"wings": 2}}, "no field 'wings'"),
        ({"setup": {"reclaims": ["rain"]}}, "reclaim 'rain'"),
        ({"mutant": 3}, "mutant is a name"),
        ({"mutant": "nobody"}, "mutant 'nobody' is unknown"),
        ({"times": [5, 3]}, "times is a list of nanoseconds"),
        ({"stops": {"holder1": 5}}, "stops is an object"),
        (
            {"steps": ["holder1: flies"]},
            "step 1, 'holder1: flies', cannot be taken there; what can: 'holder1: reg_mr'",
        ),
        (
            {"steps": [*CORRUPT, "engine: quiesced 1"]},
            f"step {len(CORRUPT) + 1}, 'engine: quiesced 1', cannot be taken",
        ),
    ],
)
def test_a_script_that_is_none_or_cannot_be_played_is_named(capsys, tmp_path, changes, says):
    path = script(tmp_path, **changes)
    code, _, err = simulate(capsys, "--replay", path)
    assert code == 64
    assert says in err
    assert str(path) in err or "is unknown" in err or "gone.py" in err


@pytest.mark.parametrize("raw", [b"", b"[]", b"\xff\xfe", b"{", b"null", b"[" * 100_000])
def test_a_file_that_is_no_script_is_named(capsys, tmp_path, raw):
    (tmp_path / "script.json").write_bytes(raw)
    code, _, err = simulate(capsys, "--replay", tmp_path / "script.json")
    assert code == 64
    assert "script.json" in err


def test_a_failure_of_the_tool_is_unknown_and_no_traceback(capsys, monkeypatch):
    monkeypatch.setattr("emu.cli.simulate.simulate", lambda *_: 1 // 0)
    code, _, err = simulate(capsys, "none", "--seed", 1)
    assert code == 2
    assert "the tool failed: ZeroDivisionError" in err
    assert "Traceback" not in err


def test_what_a_strangers_protocol_said_is_in_the_summary(capsys, tmp_path):
    (tmp_path / "mine.py").write_text(RAISES)
    code, out, _ = simulate(capsys, "--protocol", tmp_path / "mine.py", "--seeds", 2, "--jobs", 1, "--shrink")
    assert code == 1
    assert "BREACH contract:no-raise: 2 seeds (1, 2): protocol mine broke no-raise" in out
    assert "RuntimeError: boom" in out
    assert "    1. reclaimer" in out or "    1. holder1: self-truncate" in out


def test_a_folder_that_holds_something_is_left_alone(capsys, tmp_path):
    (tmp_path / "mine").write_text("mine")
    code, _, err = simulate(capsys, "none", "--seed", 1, "--out", tmp_path)
    assert code == 64
    assert "EEXIST" in err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
