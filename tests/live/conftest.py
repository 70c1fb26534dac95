"""Live tests: real brokers and clients, each node in a directory of its own that is gone afterwards.

`node` is one broker for a module's tests; tests that kill or reconfigure one start their own with `fresh`. Protocol and transport
timers run at a tenth (EMU_TIME_SCALE), so that retries are over soon.
"""

from __future__ import annotations

import itertools
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from party import Party, Remote

from emu.verbs.node import Node

SCALE = 0.1
_names = itertools.count()


@pytest.fixture(scope="module")
def node():
    with Node("mr-revoke", "64M", SCALE) as started:
        yield started


@pytest.fixture
def fresh():
    """Starts nodes: fresh(protocol="none", size=...)."""
    with ExitStack() as stack:

        def start(
            protocol: str = "mr-revoke", size: str = "64M", time_scale: float = SCALE, **options
        ) -> Node:
            return stack.enter_context(Node(protocol, size, time_scale, **options))

        yield start


@pytest.fixture
def party():
    """Parties in this process: party(node, "holder", emu_events=True)."""
    with ExitStack() as stack:

        def open_one(node: Node, label: str = "here", **options) -> Party:
            opened = Party(node.dir, label, **options)
            stack.callback(opened.close)
            return opened

        yield open_one


@pytest.fixture
def remote():
    """Parties in processes of their own."""
    with ExitStack() as stack:

        def start(node: Node, label: str = "there", **options) -> Remote:
            started = Remote(node.dir, label, **options)
            stack.callback(started.close)
            return started.opened()

        yield start


@pytest.fixture
def path():
    """A name on the mount that no other test has."""
    return f"/mnt/f{next(_names)}"
