"""`make` comes through whatever an earlier one, killed in the middle, has left behind. Played with a python that only notes what it is asked."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STUB = """#!/bin/sh
echo "$*" >> "$ASKED"
if [ "$1 $2" = "-m venv" ]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; fi
"""
BROKEN = """#!/bin/sh
echo "No module named pip" >&2
exit 1
"""


def script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def clone(tmp_path):
    """A clone in which the environment is made by `python`, a stub."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    script(tmp_path / "python", STUB)
    return tmp_path


def make(clone):
    """What the stub was asked to make, and that make succeeded."""
    asked = clone / "asked"
    asked.unlink(missing_ok=True)
    command = ["make", "-C", str(clone), f"PYTHON={clone}/python", ".venv/.ready"]
    ended = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "ASKED": str(asked)},
    )
    assert ended.returncode == 0, ended.stderr
    assert (clone / ".venv/.ready").exists()
    return [line for line in asked.read_text().splitlines() if "venv" in line] if asked.exists() else []


def require_more(clone):
    """pyproject.toml is newer than the environment."""
    os.utime(clone / ".venv/.ready", (1, 1))


def test_an_environment_is_made_once(clone):
    assert make(clone)[0] == "-m venv .venv"
    assert make(clone) == []


def test_one_that_was_killed_while_it_was_made_is_made_again(clone):
    script(clone / ".venv/bin/python", BROKEN)
    (clone / ".venv/half").touch()
    assert "-m venv .venv" in make(clone)
    assert not (clone / ".venv/half").exists()


def test_one_whose_pip_was_killed_while_it_was_renewed_is_made_again(clone):
    make(clone)
    script(clone / ".venv/bin/python", BROKEN)
    require_more(clone)
    assert "-m venv .venv" in make(clone)


def test_a_healthy_one_is_kept_when_requirements_change(clone):
    make(clone)
    (clone / ".venv/kept").touch()
    require_more(clone)
    assert not [line for line in make(clone) if line.startswith("-m venv")]
    assert (clone / ".venv/kept").exists()
