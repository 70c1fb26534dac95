"""Files that are truncated behind the broker's back: it lives on, and says what it can no longer say."""

from __future__ import annotations

import os

import pytest

from emu.history import oplog
from emu.history.runs import latest_run

DEVICE = 8 << 20


def victim(node, what):
    run = latest_run(os.path.join(node.dir, "runs"))
    return {"generations": os.path.join(node.dir, "pm0.gen"), "log": run / "oplog-0.bin"}[what]


@pytest.mark.parametrize("what", ["generations", "log"])
def test_the_broker_survives_its_own_files(fresh, party, what):
    node = fresh("none", "64M")
    here = party(node)
    here.ctx.fs.create("/mnt/a", DEVICE)
    here.memory("f", DEVICE, file="/mnt/a")
    here.memory("m", 1 << 20)
    a, b = here.pair("a"), here.pair("b")
    here.connect("a", b)
    here.connect("b", a)
    target = {"rkey": here.mrs["f"].rkey, "addr": here.mrs["f"].iova}
    assert here.do("a", "write", "m", **target) == "SUCCESS"
    os.truncate(victim(node, what), 0)
    assert here.do("a", "write", "m", **target) == "SUCCESS"
    here.ctx.fs.create("/mnt/b", 4096)
    here.ctx.fs.unlink("/mnt/a")
    assert here.do("a", "write", "m", **target) == "SUCCESS"
    if what == "log":
        with pytest.raises(oplog.OplogError):
            oplog.read_oplog(victim(node, what))


def test_every_truncation_of_a_host_file_is_told(fresh, party, tmp_path):
    node, target = fresh("none", "64M"), tmp_path / "host"
    target.write_bytes(b"x" * (1 << 20))
    here = party(node)
    told = here.memory("h", 1 << 20, path=str(target))
    here.memory("m", 4096)
    for turn in range(3):
        a, b = here.pair(f"a{turn}"), here.pair(f"b{turn}")
        here.connect(f"a{turn}", b)
        here.connect(f"b{turn}", a)
        os.truncate(target, 0)
        assert here.do(f"a{turn}", "write", "m", rkey=told["rkey"], addr=told["addr"]) == "REM_ACCESS_ERR"
        while here.event()["event"] != "MEMORY_FAULT":
            pass  # asynchronous events of the queue pairs
        os.truncate(target, 1 << 20)
