"""S10 on a real node: file operations that start together, while a holder's MR is revoked under them, leave what some order leaves."""

from __future__ import annotations

import importlib.util
import itertools
import random
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("orders", Path(__file__).parents[1] / "core" / "orders.py")
orders = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(orders)

PAIRS = list(itertools.product(orders.OPERATIONS, repeat=2))
_draw = random.Random(3)
TRIPLES = [tuple(_draw.choice(orders.OPERATIONS) for _ in range(3)) for _ in range(60)]


class Together:
    """Operations that a broker held at the start of its turn finds in its queue."""

    def __init__(self, there, name):
        self.there, self.fs, self.name = there, there.ctx.fs, name
        self.connection = there.ctx.session._connection

    def run(self, operations):
        """What they leave of a file of START."""
        self.fs.create(self.name, len(orders.START))
        self.fs.write(self.name, 0, orders.START)
        self.there.memory("file", len(orders.START), file=self.name)
        call = self.connection.call
        call("hold_arm", point="turn-start")
        call("hold_wait", point="turn-start")
        asked = [self.connection.start(name, path=self.name, **fields) for name, fields in operations]
        call("ping")  # what came before it is in the queue
        call("hold_release", point="turn-start")
        for request in asked:
            request.result(60)
        left = self.fs.read(self.name, 0, 65536)
        assert len(left) == self.fs.stat(self.name)["size"]
        self.there.forget("file")
        self.fs.unlink(self.name)
        return left


@pytest.mark.parametrize("operations", [PAIRS, TRIPLES], ids=["pairs", "triples"])
def test_operations_that_start_together_leave_what_some_order_leaves(node, party, path, operations):
    together = Together(party(node), path)
    wrong = [orders.differs(together.run(some), some) for some in operations]
    assert [sentence for sentence in wrong if sentence] == []
