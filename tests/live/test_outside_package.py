"""A package of somebody else's, written from docs/protocols.md and installed with pip: its one protocol runs in compare, explore and
simulate by its name, and nothing in emu knows it.
"""

import json
import os
import subprocess
import sys

import pytest

PROJECT = """
[build-system]
requires = ["meson-python"]
build-backend = "mesonpy"

[project]
name = "second-thoughts"
version = "1.0"

[project.entry-points."emu.protocols"]
second-thoughts = "second_thoughts:PROTOCOL"
"""
BUILD = """
project('second-thoughts')
import('python').find_installation().install_sources('second_thoughts.py')
"""
MODULE = '''
"""second-thoughts: tell the holders, wait a second for the memory, and only then say EBUSY."""

from emu.core.decision import END, START
from emu.protocols.contract import (
    Protocol, apply, arm, deny, disarm, free, gate, go, notify, reply, when_pinned,
)

TAKE = go(disarm(), apply(), free(), reply(), to=END)

PROTOCOL = Protocol(
    name="second-thoughts",
    summary="tell the holders, wait a second, then EBUSY",
    origin="an outside package",
    table={
        (START, "requested"): when_pinned(
            go(gate(), notify("MR_REVOKING", 1.0), arm(1.0), to="waiting"),
            go(gate(), apply(), free(), reply(), to=END),
        ),
        (START, "surprise"): go(reply(), to=END),
        ("waiting", "unpinned"): TAKE,
        ("waiting", "deadline"): go(deny("EBUSY"), to=END),
        ("waiting", "cancelled"): go(disarm(), deny("EINTR"), to=END),
    },
    ignored={"waiting": ("acknowledged", "holder_lost")},
    promises=("S1", "S2", "S3", "S4", "S6", "S7", "S10", "V1", "V22"),
    excepts={"surprise": ("S1", "S2", "S4")},
)
'''


@pytest.fixture(scope="module")
def emu(tmp_path_factory):
    """Runs `emu ...` where the package is installed."""
    project, site = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("site")
    for name, text in (
        ("pyproject.toml", PROJECT),
        ("meson.build", BUILD),
        ("second_thoughts.py", MODULE),
    ):
        (project / name).write_text(text)
    tools = {**os.environ, "PATH": os.path.dirname(sys.executable) + ":" + os.environ["PATH"]}
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"),
            *("--no-build-isolation", "--disable-pip-version-check", "--target", str(site), str(project)),
        ],
        check=True, timeout=120, capture_output=True, env=tools,
    )  # fmt: skip

    def run(*words):
        return subprocess.run(
            [sys.executable, "-P", "-m", "emu", *words],
            capture_output=True, text=True, timeout=200, cwd="/", check=False, env={**os.environ, "PYTHONPATH": str(site)},
        )  # fmt: skip

    return run


def test_it_is_compared_on_live_processes(emu, tmp_path):
    rows = ["--events", "truncate", "--backings", "dax", "--holders", "prompt,deaf"]
    done = emu("compare", "--protocols", "second-thoughts", *rows, "--out", str(tmp_path), "--json", "-")
    found = {row["holder"]: row for row in json.loads(done.stdout)["rows"]}
    assert (found["deaf"]["outcome"], found["deaf"]["errno"]) == ("DENY", "EBUSY"), done.stderr
    assert found["prompt"]["errno"] is None
    assert found["prompt"]["foreign_bytes"] == 0
    assert [row["breaches"] for row in found.values()] == [[], []]


def test_it_is_explored(emu, tmp_path):
    found = tmp_path / "explored.json"
    done = emu("explore", "second-thoughts", "--event", "truncate", "--json", str(found))
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(found.read_text())
    assert (result["protocol"], result["verdict"]) == ("second-thoughts", "holds")
    assert result["rows"][0]["bound_hit"] == "", "every interleaving was walked"


def test_it_is_simulated(emu):
    done = emu("simulate", "second-thoughts", "--seeds", "40")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "holds" in done.stdout
