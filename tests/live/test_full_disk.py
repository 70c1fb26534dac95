"""A node on a disk that is full: what would grow the books is refused, what has happened is noted, and nothing hangs without a word.

The disk is a tmpfs of the test's own, in a mount namespace of its own, so all of it is played by a child process.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

MOUNT = ("unshare", "--map-root-user", "--mount", "sh", "-c")
HERE = 'mount -t tmpfs -o size=12m none "$1" && exec "$2" -c "$3" "$1"'
PLAYED = """
import errno, sys
from pathlib import Path
import emu
from emu.verbs import MR, PD, Context
from emu.verbs.enums import IBV_ACCESS_LOCAL_WRITE, IBV_ACCESS_REMOTE_WRITE
from emu.verbs.pyverbs_error import PyverbsRDMAError
from emu.wire.client import connect
ACCESS = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE
disk = Path(sys.argv[1])
with emu.node("mr-revoke", "1M", 0.1, directory=disk / "n", options=["--no-history"]) as node:
    fs = node.fs
    with node.context() as holder:
        pd = PD(holder)
        for name in ("/mnt/a", "/mnt/b"):
            fs.create(name, 65536)
        held = [MR(pd, 65536, ACCESS, file=name) for name in ("/mnt/a", "/mnt/b")]
        with (disk / "filler").open("wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(4096))
            except OSError as error:
                assert error.errno == errno.ENOSPC
        try:
            for n in range(500):
                fs.create(f"/mnt/f{n}", 0)
        except PyverbsRDMAError as error:
            print("create", errno.errorcode[error.error_code])
        fs.truncate("/mnt/a", 0)
        fs.unlink("/mnt/b")
        fs.unplug("pm0", surprise=True)
        with connect(node.path) as control:
            loop = control.call("stats").result["loop"]
        print("done", loop["postponed"], loop["reserve"] > 0)
    assert "books.sqlite" not in node.log, node.log
"""


def test_reclaims_of_held_files_and_a_surprise_are_noted_on_a_full_disk(tmp_path):
    if subprocess.run([*MOUNT, "mount -t tmpfs none /mnt"], check=False, capture_output=True).returncode:
        pytest.skip("no tmpfs of one's own here: unshare and user namespaces are needed")
    ended = subprocess.run(
        [*MOUNT, HERE, "sh", str(tmp_path), sys.executable, PLAYED],
        check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (ended.stdout, ended.stderr) == ("create ENOSPC\ndone 0 True\n", "")
