"""Stories of the explorer, forced onto a live broker: the same invariant breaks, at the same byte, as often as one likes."""

import json
import subprocess
import sys

import pytest

from emu.check.history import History
from emu.check.validate import validate
from emu.protocols import registry

EMU = [sys.executable, "-P", "-m", "emu"]
PROTOCOLS = registry.load().protocols


def emu(*arguments, cwd="/"):
    return subprocess.run(
        [*EMU, *map(str, arguments)], capture_output=True, text=True, timeout=120, cwd=cwd, check=False
    )


@pytest.fixture(scope="module")
def stories(tmp_path_factory):
    """The shortest stories of what `none` costs under a truncate."""
    out = tmp_path_factory.mktemp("stories")
    done = emu("explore", "none", "--event", "truncate", "--story", out, "--json", out / "result.json")
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def forced(stories, tmp_path_factory):
    """S1 broken, twice."""
    out = tmp_path_factory.mktemp("forced")
    done = emu(
        "force",
        stories / "none-truncate-S1.json",
        "--runs",
        "2",
        "--out",
        out / "runs",
        "--json",
        out / "result.json",
    )
    done.result = json.loads((out / "result.json").read_text())
    done.folder = out / "runs"
    return done


def test_a_story_of_the_model_corrupts_the_same_byte_of_a_live_device_twice_in_a_row(forced):
    assert forced.returncode == 0, forced.stdout + forced.stderr
    first, second = forced.result["runs"]
    assert first["corrupted"] == second["corrupted"]
    assert first["corrupted"]["byte"] == 4096
    assert "S1" in first["broken"]
    assert "S1" in second["broken"]


def test_the_image_holds_that_byte(forced):
    folder = forced.folder / "1"
    image = (folder / "pm0.img").read_bytes()
    assert image[4096 : 4096 + 8] == b"EMUSTAMP"
    assert len(image) == 3 * 4096


def test_a_forced_run_is_one_that_the_model_allows_and_can_be_judged_again(forced):
    folder = forced.folder / "2"
    assert validate(History.read(folder), PROTOCOLS) == []
    again = emu("check", folder)
    assert "S1   cost" in again.stdout


def test_the_other_files_first_block_is_overwritten_when_the_story_says_so(stories, tmp_path):
    done = emu(
        "force",
        stories / "none-truncate-S9.json",
        "--runs",
        "1",
        "--out",
        tmp_path / "runs",
        "--json",
        tmp_path / "r.json",
    )
    run = json.loads((tmp_path / "r.json").read_text())["runs"][0]
    assert run["diverged"] is None, done.stdout
    assert run["corrupted"]["owner"] == "/mnt/b"


def test_a_story_that_needs_what_cannot_be_held_back_names_the_step(stories, tmp_path):
    done = emu("force", stories / "none-truncate-V4.json", "--out", tmp_path / "runs")
    assert done.returncode == 2
    assert "step 3" in done.stdout


def script(stories, tmp_path, **changes):
    found = json.loads((stories / "none-truncate-S1.json").read_text()) | changes
    path = tmp_path / "script.json"
    path.write_text(json.dumps(found))
    return path


def test_a_step_that_the_model_cannot_take_is_named(stories, tmp_path):
    path = script(stories, tmp_path, steps=["holder1: reg_mr", "peer1: WRITE 1"])
    done = emu("force", path, "--out", tmp_path / "runs")
    assert done.returncode == 2
    assert "step 2" in done.stdout
    assert "shell: install" in done.stdout


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"protocol": "nobody"}, "unknown"), ({"mutant": "some-bug"}, "mutant"), ({"steps": 7}, "steps")],
)
def test_a_script_that_cannot_be_forced_is_refused_before_anything_runs(stories, tmp_path, changes, word):
    done = emu("force", script(stories, tmp_path, **changes), "--out", tmp_path / "runs")
    assert done.returncode == 64
    assert word in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_is_there_is_not_overwritten(forced, stories):
    done = emu("force", stories / "none-truncate-S1.json", "--out", forced.folder)
    assert done.returncode == 64
    assert "EEXIST" in done.stderr


def test_a_file_that_is_no_script_is_refused(tmp_path):
    done = emu("force", tmp_path / "nothing.json")
    assert done.returncode == 64
    assert "nothing.json" in done.stderr


def test_a_protocol_whose_signals_would_meet_emu_force_itself_is_refused(tmp_path):
    done = emu("explore", "kill-process", "--event", "truncate", "--story", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    refused = emu("force", tmp_path / "kill-process-truncate-S7.json", "--out", tmp_path / "runs")
    assert refused.returncode == 64
    assert "EOPNOTSUPP: kill-process signals whoever opened a context" in refused.stderr
    assert not (tmp_path / "runs").exists()
