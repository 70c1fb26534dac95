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
