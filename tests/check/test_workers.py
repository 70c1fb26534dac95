"""Workers end with their command, however it ends, and what a stranger's protocol prints is no answer of ours."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import pytest

LOUD = """
import multiprocessing, os
from emu.core.decision import END, EVENTS, START
from emu.protocols.contract import Protocol, apply, free, gate, go, reply
if multiprocessing.parent_process() is not None:
    os.write(2, f"\\nworker {os.getpid()}\\n".encode())

class Loud(Protocol):
    def decide(self, phase, event, facts):
        print("LOUD", flush=True)
        return Protocol.decide(self, phase, event, facts)

PROTOCOL = Loud(
    name="loud", summary="prints", origin="a test",
    table={(START, "requested"): go(gate(), apply(), free(), reply(), to=END), (START, "surprise"): go(reply(), to=END)},
    ignored={"*": tuple(EVENTS)}, disposal="now",
)
"""
MAIN = """
import signal, sys
from emu.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main())
"""
LONG = {
    "simulate": ("--seeds", "1000000", "--jobs", "2"),
    "explore": ("--holders", "3", "--crashes", "3", "--jobs", "2"),
}


@pytest.fixture
def loud(tmp_path):
    path = tmp_path / "loud.py"
    path.write_text(LOUD)
    return path


def emu(*arguments):
    return subprocess.Popen(
        [sys.executable, "-P", "-c", MAIN, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, text=True,
    )  # fmt: skip


def at_work(process, count):
    """Until so many workers have said that they are there."""
    seen = set()
    for line in process.stderr:
        seen |= set(re.findall(r"worker (\d+)$", line))
        if len(seen) == count:
            return
    raise AssertionError("its stderr ended before its workers began")


@pytest.mark.parametrize("command", LONG)
def test_an_interrupted_command_ends_with_its_workers_and_one_line(command, loud):
    process = emu(command, "--protocol", str(loud), *LONG[command])
    at_work(process, 2)
    os.killpg(process.pid, signal.SIGINT)
    _out, err = process.communicate(timeout=60)  # the end of stderr: whoever had it is gone
    assert process.returncode == 130
    mine = re.sub(r"LOUD\n?|worker \d+\n", "", err)  # a worker that was killed may have left half a line
    assert [line for line in mine.splitlines() if line] == [f"emu: {command}: EINTR: interrupted"]


def test_workers_of_a_command_that_was_killed_end(loud):
    process = emu("simulate", "--protocol", str(loud), *LONG["simulate"])
    at_work(process, 2)
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    "arguments",
    [
        ("explore", "--event", "truncate", "--jobs", "1"),
        ("explore", "--event", "truncate", "--event", "punch", "--crashes", "0", "--jobs", "2"),
        ("simulate", "--seeds", "3", "--jobs", "1"),
        ("simulate", "--seed", "3", "--shrink"),
    ],
)
def test_what_a_protocol_prints_is_no_part_of_the_json(arguments, loud):
    process = emu(*arguments, "--protocol", str(loud), "--json", "-")
    out, err = process.communicate(timeout=120)
    assert json.loads(out)["schema"] == 1
    assert "LOUD" in err


def test_a_reader_who_has_gone_is_no_failure_of_the_tool():
    process = emu("simulate", "none", "--seed", "1")
    process.stdout.close()
    process.stdout = None
    _out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (64, "")
