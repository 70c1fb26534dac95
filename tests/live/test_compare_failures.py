"""A run whose broker dies shows nothing: the row says so, the exit status too, and nothing is left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

PATIENCE = 120.0


def directory_of(out, folder):
    """(pid, directory) of the broker of this folder's run, as soon as the lab has written it down."""
    with suppress(OSError, ValueError):
        found = json.loads((out / folder / "run-1/logs/broker.json").read_text())
        return found["pid"], Path(found["dir"])
    return None


def broker_at_work(lab, out, folder):
    """As soon as its run has begun; the limit is for a broken build only."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        assert lab.poll() is None, lab.communicate()
        found = directory_of(out, folder)
        if found and (out / folder / "run-1/journals/peer.jrnl").exists():
            return found
        time.sleep(0.01)
    raise AssertionError(f"no broker for {folder}")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize(
    ("folder", "named"),
    [
        ("mr-revoke-truncate-dax-deaf", "run 1: the run failed: "),
        ("mr-revoke-truncate-dax-control-no-mover", "control no-mover: the run failed: "),
    ],
)
def test_a_broker_that_dies_makes_the_row_unknown(tmp_path, folder, named, number):
    lab = subprocess.Popen(
        [sys.executable, "-P", "-m", "emu", "compare", "--protocols", "mr-revoke", "--events", "truncate", "--backings", "dax",
         "--holders", "deaf", "--out", str(tmp_path / "o"), "--json", "-"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/",
    )  # fmt: skip
    try:
        pid, directory = broker_at_work(lab, tmp_path / "o", folder)
        os.kill(pid, number)
        out, errors = lab.communicate(timeout=PATIENCE)
    finally:
        lab.kill()
    (row,) = json.loads(out)["rows"]
    assert (lab.returncode, row["outcome"]) == (2, "UNKNOWN"), errors
    assert any(words.startswith(named) for words in row["failed_tries"])
    assert not directory.exists()
