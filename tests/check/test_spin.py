"""emu's small world and docs/proof/spin/mr-revoke.pml reach the same states, and a model with a mistake in it does not (`make proof`: the whole)."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from emu.check.model.setup import Setup

ROOT = Path(__file__).parents[2]
COMPARE = ROOT / "docs/proof/spin/compare.py"
MISSING = [tool for tool in ("spin", "gcc") if shutil.which(tool) is None]
needs_spin = pytest.mark.skipif(
    bool(MISSING), reason=f"{' and '.join(MISSING)} not found: apt install spin gcc"
)


def compare(*words, **env):
    return subprocess.run(
        [sys.executable, str(COMPARE), *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        env=env or None,
    )


@needs_spin
def test_spin_and_emu_reach_the_same_states():
    done = compare("--small")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("equal: 5,878 projected states"), done.stdout


@needs_spin
def test_a_quiesce_that_does_not_wait_is_told_with_a_way_there_on_both_sides():
    done = compare("--small", "--wrong", "WRONG_QUIESCE_DOES_NOT_WAIT")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "only emu reaches" in done.stdout
    assert "only Spin reaches" in done.stdout
    assert "    engine: peer1 enters 0\n" in done.stdout
    assert "    Peer: inside = 1\n" in done.stdout
    assert "steps fail an assertion" in done.stdout


def test_without_spin_nothing_is_said_to_be_equal(tmp_path):
    done = compare("--small", PATH=str(tmp_path))
    assert done.returncode == 77, done.stdout + done.stderr
    assert (
        done.stdout
        == "skipped: spin and gcc not found, nothing was compared (Debian: apt install spin gcc)\n"
    )


def test_the_committed_figures_are_of_this_world_and_say_equal():
    figures = json.loads((ROOT / "docs/proof/spin.json").read_text())
    right = figures["right"]
    assert figures["setup"] == Setup().as_json()
    for row in (right, figures["wide"]):
        assert row["emu_projected"] == row["spin_projected"]
        assert row["only_emu"] == row["only_spin"] == row["failed_assertions"] == 0
    assert all(row["only_emu"] + row["only_spin"] > 0 for row in figures["wrong"].values())
    assert all(row["alike"]["only_emu"] + row["alike"]["only_spin"] == 0 for row in figures["wrong"].values())


def test_the_page_shows_the_committed_figures():
    tables = compare("--table").stdout.strip().split("\n\n")
    page = (ROOT / "docs/spin.md").read_text()
    assert len(tables) == 2
    assert all(table in page for table in tables)
