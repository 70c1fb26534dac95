"""Revoked and restored, truncated and grown, again and again, by processes that come back at once: nothing hangs, and nothing is left."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack

import pytest
from judged import wrong

from emu.verbs.node import Node

BLOCK = 4096
SIZE = 16 * BLOCK
ROUNDS = 12


class Stormy:
    """A storm client, or another of the lab's, in a process of its own."""

    def __init__(self, directory, module="storm") -> None:
        command = [sys.executable, "-m", f"emu.clients.{module}"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.numbers = 0
        self.call("start", node=str(directory))

    def begin(self, do, **fields):
        self.numbers += 1
        self.process.stdin.write(json.dumps({"id": self.numbers, "do": do, **fields}) + "\n")
        self.process.stdin.flush()

    def end(self):
        for line in self.process.stdout:
            answer = json.loads(line)
            if "note" not in answer:
                assert answer.pop("id") == self.numbers
                assert "errno" not in answer, answer
                return answer
        raise AssertionError("the storm ended without an answer")

    def call(self, do, **fields):
        self.begin(do, **fields)
        return self.end()

    def close(self):
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


@pytest.fixture
def storms():
    with ExitStack() as stack:

        def start(node, count, *others):
            made = [Stormy(node.path, module) for module in ("storm",) * count + others]
            for each in made:
                stack.callback(each.close)
            return made

        yield start


def nothing_left(node, device):
    with node.context() as ctx:
        books = ctx.books()
    assert (books["reclaims"], books["teardowns"], books["mrs"]) == (0, 0, 0), books
    blocks = books["devices"][device]
    assert blocks["quarantined"] == 0, books
    return blocks


@pytest.mark.parametrize("protocol", ["mr-revoke", "ebusy", "none"])
def test_a_storm_of_revokes_ends_and_leaves_nothing(tmp_path, storms, protocol):
    options = ("--dmabuf", "1M", "--dmabuf-protocol", protocol)
    with Node(protocol, "1M", 0.1, directory=tmp_path, options=options) as node:
        exporter, *importers = storms(node, 3)
        exporter.call("export", buffer="x", size=SIZE)
        if protocol == "ebusy":  # nobody may hold it, or a revoke is denied
            importers = []
        for importer in importers:
            importer.begin("import", size=SIZE, rounds=1 << 30, where={"dmabuf": "x"})
        assert exporter.call("revoke", buffer="x", rounds=ROUNDS) == {"rounds": ROUNDS, "state": "closed"}
        for importer in importers:
            assert importer.end()["registered"]["ENODEV"] == 1
        exporter.call("quit")
        for importer in importers:
            importer.call("quit")
        assert nothing_left(node, "dmabuf")["free"] == 256
    assert wrong(tmp_path, protocol) == []


def under_way(folder):
    """How many revokes were asked for while another was under way."""
    (history,) = folder.glob("runs/*/events.jsonl")
    open_, met = set(), 0
    for line in map(json.loads, history.read_text().splitlines()):
        if line["type"] == "Requested" and line["op"]["type"] == "DmabufRevoke":
            met += bool(open_)
            open_.add((line["session"], line["request"]))
        elif line["type"] in {"Reply", "Fail"}:
            open_.discard((line["session"], line["request"]))
    return met


def test_two_reclaimers_revoke_twice_each_while_the_first_is_under_way(tmp_path, storms):
    options = ("--dmabuf", "1M", "--dmabuf-protocol", "mr-revoke")
    with Node("mr-revoke", "1M", 0.1, directory=tmp_path, options=options) as node:
        importer, exporter = storms(node, 1, "reclaimer")
        exporter.call("export", buffer="x", size=SIZE)
        importer.begin("import", size=SIZE, rounds=1 << 30, where={"dmabuf": "x"})
        for ask in (
            {"op": "buf_storm", "name": "x", "times": ROUNDS},
            {"op": "buf_revoke", "name": "x", "permanent": True},
        ):
            (answer,) = exporter.call("ask", ask=ask, retries=0)["tries"]
            assert answer["errno"] is None, answer
        assert importer.end()["registered"]["ENODEV"] == 1
        exporter.call("quit"), importer.call("quit")
        assert nothing_left(node, "dmabuf")["free"] == 256
    assert under_way(tmp_path) > 0
    assert wrong(tmp_path, "mr-revoke") == []


def test_a_storm_of_moves_under_importers_that_come_back(tmp_path, storms):
    with Node("mr-revoke", "1M", 0.1, directory=tmp_path, options=("--dmabuf", "1M")) as node:
        exporter, importer = storms(node, 2)
        exporter.call("export", buffer="x", size=SIZE)
        importer.begin("import", size=SIZE, rounds=1 << 30, where={"dmabuf": "x"})
        assert exporter.call("move", buffer="x", rounds=ROUNDS) == {"rounds": ROUNDS}
        exporter.call("revoke", buffer="x", rounds=1)
        assert importer.end()["registered"]["ENODEV"] == 1
        importer.call("quit"), exporter.call("quit")
        nothing_left(node, "dmabuf")
    assert wrong(tmp_path, "mr-revoke") == []


@pytest.mark.parametrize("protocol", ["mr-revoke", "none"])
def test_a_storm_of_truncates_and_registrations(tmp_path, storms, protocol):
    with Node(protocol, "1M", 0.1, directory=tmp_path) as node:
        one, other = storms(node, 2)
        with node.context() as ctx:
            ctx.fs.create("/mnt/a", SIZE)
        other.begin("import", size=SIZE, rounds=ROUNDS, where={"file": "/mnt/a"})
        counts = one.call("truncate", path="/mnt/a", size=SIZE, rounds=ROUNDS)["registered"]
        assert sum(counts.values()) == ROUNDS
        assert other.end()["registered"]["ok"] == ROUNDS
        one.call("quit"), other.call("quit")
        nothing_left(node, "pm0")
    assert wrong(tmp_path, protocol) == []
