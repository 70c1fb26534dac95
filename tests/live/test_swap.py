"""Memory of a client under pressure, on a real node: another process writes into it while it is taken, and its own mapping keeps its bytes."""

from __future__ import annotations

import pytest

from emu.check.history import History
from emu.check.validate import validate
from emu.history.runs import latest_run
from emu.protocols import registry
from emu.verbs.node import Node

PAGE = 4096
BYTES = b"\x5a" * PAGE
PROTOCOLS = registry.load().protocols


@pytest.fixture
def pressed(tmp_path, party):
    """A node, and a holder with one MR of its own memory; at the end the history is held against the model."""
    node = Node("mr-revoke", "4M", 0.1, directory=tmp_path / "n").start()
    holder = party(node, "holder")
    holder.memory("mine", PAGE)
    holder.mrs["mine"].write(BYTES, PAGE)
    yield node, holder
    node.stop()
    history = History.read(latest_run(node.path / "runs"))
    assert [str(refusal) for refusal in validate(history, PROTOCOLS)] == []
    assert len(history.of("PageOut")) == 1


def test_its_key_is_taken_and_its_bytes_stay_its_own(pressed):
    node, holder = pressed
    mr = holder.mrs["mine"]
    assert node.fs.pressure("anon", mr=mr.rkey) == {"pinned": 0, "taken": 1}
    assert mr.read(PAGE, 0) == BYTES
    assert node.books["reclaims"] == 0
    assert node.fs.pressure("anon", mr=mr.rkey) == {"pinned": 0, "taken": 0}, "it pins nothing any more"
