"""Holds belong to who armed them: the session's end, a kill -9 included, lets go of everybody."""

from __future__ import annotations

import subprocess
import sys

import pytest
from served import PATIENCE, Served

OWNER = """
import os, sys
from emu.wire.client import connect
node = connect(sys.argv[1])
for point in sys.argv[2:]:
    node.call("hold_arm", point=point)
print("armed", flush=True)
sys.stdin.read(1)
os.kill(os.getpid(), 9)
"""


class Owner:
    """A process that arms holds, and is killed when it is told."""

    def __init__(self, directory, *points):
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(directory), *points],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout.readline() == b"armed\n"

    def kill(self):
        self.process.communicate(b"x", PATIENCE)


@pytest.fixture
def served(tmp_path):
    with Served(tmp_path / "n") as broker:
        yield broker


@pytest.fixture
def owner(served):
    owners = []

    def start(*points):
        owners.append(Owner(served.directory, *points))
        return owners[-1]

    yield start
    for one in owners:
        one.process.kill()
        one.process.communicate(timeout=PATIENCE)


@pytest.mark.parametrize(
    "point", ["turn-start", "before-commit", "after-commit", "before-effect", "after-effect"]
)
def test_a_held_loop_goes_on_when_the_owner_of_the_hold_is_killed(served, owner, point):
    with served.connect() as node:
        holding = owner(point)
        pending = node.start("fs_create", path="/mnt/a", size=4096)
        assert node.call("hold_wait", point=point).result["point"] == point
        later = node.start("fs_ls", path="")
        assert node.call("ping").result == {}
        assert not later.done
        holding.kill()
        assert pending.result(PATIENCE).result["ino"] == 1
        assert later.result(PATIENCE).result["files"][0]["path"] == "/mnt/a"


def test_a_hold_that_nobody_met_goes_with_its_owner(served, owner):
    with served.connect() as node:
        holding = owner("before-commit", "quantum-half")
        holding.kill()
        while node.call("query_books").result["sessions"] > 1:
            pass
        node.call("fs_create", path="/mnt/a", size=4096)
        node.call("hold_arm", point="quantum-half")
        node.call("hold_arm", point="before-commit")
        node.call("hold_release", point="before-commit")


def test_a_hold_stays_when_somebody_else_ends(served):
    with served.connect() as node:
        node.call("hold_arm", point="before-commit")
        with served.connect() as other:
            other.start("hold_wait", point="before-commit")
        while node.call("query_books").result["sessions"] > 1:
            pass
        pending = node.start("fs_create", path="/mnt/a", size=4096)
        assert node.call("hold_wait", point="before-commit").result["point"] == "before-commit"
        assert not pending.done
        node.call("hold_release", point="before-commit")
        pending.result(PATIENCE)


def test_a_hold_that_another_released_and_armed_is_the_others(served, owner):
    with served.connect() as node:
        holding = owner("before-commit")
        node.call("hold_release", point="before-commit")
        node.call("hold_arm", point="before-commit")
        holding.kill()
        pending = node.start("fs_create", path="/mnt/a", size=4096)
        node.call("hold_wait", point="before-commit")
        assert node.call("ping").result == {}
        assert not pending.done
        node.call("hold_release", point="before-commit")
        pending.result(PATIENCE)
