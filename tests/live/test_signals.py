"""Protocols that end holders: real signals to real processes, contexts that go under their owners, descriptors that outlive their openers."""

from __future__ import annotations

import dataclasses
import errno
import json
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from judged import PROTOCOLS, wrong
from party import PATIENCE, until

from emu.check.history import History
from emu.check.validate import validate
from emu.cli import main as emu
from emu.verbs.pyverbs_error import PyverbsRDMAError

HOLDER = Path(__file__).parent / "holder_with_signals.py"
SIZE = 16384


class Talker:
    """A process that says a word a line."""

    def __init__(self, *command: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )

    def hears(self, line: str) -> None:
        self.process.stdin.write(line.encode() + b"\n")

    def says(self) -> str:
        assert select.select([self.process.stdout], [], [], PATIENCE)[0], "it says nothing"
        return self.process.stdout.readline().decode().strip()

    def ended(self) -> int:
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)
        self.process.stdin.close()
        self.process.stdout.close()


class Heir(Talker):
    """clients/heir.py, asked as the lab asks it."""

    def __init__(self, path: Path) -> None:
        super().__init__("-m", "emu.clients.heir")
        assert json.loads(self.says()) == {"note": "loaded"}
        self.ask("start", path=str(path))

    def ask(self, what: str, **fields: str) -> dict:
        self.hears(json.dumps({"id": 1, "do": what, **fields}))
        answer = json.loads(self.says())
        assert "errno" not in answer, answer
        return answer


@pytest.fixture
def stack():
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def start(stack):
    """start(Class, ...): ends with the test."""

    def start(kind, *arguments):
        made = kind(*arguments)
        stack.callback(made.close)
        return made

    return start


@pytest.fixture
def kept(stack, tmp_path):
    """Starts nodes whose directory stays: kept("kill-process")."""
    from emu.verbs.node import Node

    def make(protocol: str, *options: str, scale: float = 0.1):
        node = Node(protocol, "8M", scale, directory=tmp_path / "node", options=options)
        return stack.enter_context(node)

    return make


def holder(start, node, manner="naive", heir=""):
    made = start(Talker, str(HOLDER), node.dir, "/mnt/a", manner, *([heir] if heir else []))
    assert made.says() == "ready"
    return made


def free(node):
    return node.books["devices"]["pm0"]["free"]


def signals(folder: Path) -> list[tuple[int, int]]:
    return [(line["session"], line["number"]) for line in History.read(folder / "runs" / "1").of("Signal")]


# ---- kill-process


def test_a_holder_is_killed_and_the_memory_is_free_when_it_is_gone(kept, start, tmp_path):
    node = kept("kill-process")
    node.fs.create("/mnt/a", SIZE)
    held = holder(start, node)
    stopped = holder(start, node)
    stopped.process.send_signal(signal.SIGSTOP)
    before = free(node)
    node.fs.truncate("/mnt/a", 0, PATIENCE)
    assert (held.ended(), stopped.ended()) == (-signal.SIGKILL, -signal.SIGKILL), "a stopped one dies too"
    assert free(node) == before + SIZE // 4096
    node.stop()
    assert wrong(tmp_path / "node", "kill-process") == []


def test_whoever_holds_something_else_lives(kept, start):
    node = kept("kill-process")
    node.fs.create("/mnt/a", SIZE)
    node.fs.create("/mnt/b", SIZE)
    held = holder(start, node)
    node.fs.truncate("/mnt/b", 0, PATIENCE)
    assert held.process.poll() is None


def test_whoever_connected_for_another_is_killed_in_its_place(kept, start, tmp_path):
    """The wrong process: the survivor with the descriptor keeps the pin, and the reclaim waits for it."""
    node = kept("kill-process")
    node.fs.create("/mnt/a", SIZE)
    heir = start(Heir, tmp_path / "heir")
    held = holder(start, node, "naive", str(tmp_path / "heir"))
    assert heir.ask("take")["session"] > 0
    reclaim = node.fs.begin_truncate("/mnt/a", 0)
    assert held.ended() == -signal.SIGKILL
    until(lambda: node.books["sessions"], 2)  # the clerk's, and the one that outlives its opener
    assert not reclaim.done
    heir.ask("let_go")
    reclaim.result(PATIENCE)
    assert node.fs.stat("/mnt/a")["size"] == 0
    node.stop()
    assert len(History.read(tmp_path / "node" / "runs" / "1").of("OwnerEnded")) == 1
    assert wrong(tmp_path / "node", "kill-process") == []


def test_a_holder_whose_opener_is_gone_cannot_register_any_more(kept, start, tmp_path):
    node = kept("kill-process")
    node.fs.create("/mnt/a", SIZE)
    opener = start(Talker, "-c", OPENER, str(tmp_path / "node" / "door"), str(tmp_path / "socket"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        opener.hears("go")
        listener.settimeout(PATIENCE)
        sock, _ = listener.accept()
        with sock:
            _, descriptors, _, _ = socket.recv_fds(sock, 16, 1)
    assert opener.ended() == 0
    with socket.socket(fileno=descriptors[0]) as door:
        assert ask(door, "hello", version=1, name="heir", wants=False)["ok"]
        pd = ask(door, "alloc_pd")["result"]["handle"]
        refused = ask(
            door, "reg_mr", pd=pd, length=4096, access=7, iova=0, backing="dax", path="/mnt/a", offset=0
        )
    assert (refused["ok"], refused["errno"]) == (False, "EPERM")
    assert "signal" in refused["error"]


OPENER = """
import socket, sys
sys.stdin.readline()
door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
door.connect(sys.argv[1])
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as to:
    to.connect(sys.argv[2])
    socket.send_fds(to, [b"door"], [door.fileno()])
"""


def ask(door, op, **values):
    from emu.wire import codec
    from emu.wire.door import receive, send

    send(door, codec.encode_request(op, 1, values))
    door.settimeout(PATIENCE)
    packet = receive(door)
    packet.close_descriptors()
    return codec.decode_answer(packet.data)


# ---- lease-signal


def test_who_lets_go_at_the_break_loses_nothing(kept, start, tmp_path):
    node = kept("lease-signal", "--lease-break", "300")
    node.fs.create("/mnt/a", SIZE)
    held = holder(start, node, "prompt")
    node.fs.truncate("/mnt/a", 0, PATIENCE)
    assert (held.says(), held.says()) == ("SIGIO", "let go")
    assert held.process.poll() is None
    node.stop()
    assert wrong(tmp_path / "node", "lease-signal") == []


def test_the_ladder_climbs_until_the_holder_is_gone(kept, start, tmp_path):
    node = kept("lease-signal", "--lease-break", "1.5")
    node.fs.create("/mnt/a", SIZE)
    held = holder(start, node, "ignores")
    began = time.monotonic()
    node.fs.truncate("/mnt/a", 0, PATIENCE)
    assert held.ended() == -signal.SIGKILL
    assert time.monotonic() - began >= 2 * 0.15, "two rungs, at a tenth of their time"
    node.stop()
    assert [number for _session, number in signals(tmp_path / "node")] == [29, 7, 9]
    assert wrong(tmp_path / "node", "lease-signal") == []
    history = History.read(tmp_path / "node" / "runs" / "1")
    assert history.meta["options"]["lease_break"] == 1.5
    assert {line["seconds"] for line in history.of("Arm")} == {1.5}
    other = {**history.meta, "options": {**history.meta["options"], "lease_break": 2.5}}
    assert validate(dataclasses.replace(history, meta=other), PROTOCOLS), (
        "another core would have armed another time"
    )


def test_one_who_waits_for_the_warning_lives_by_it(kept, start):
    node = kept(
        "lease-signal", "--lease-break", "0.1", scale=10.0
    )  # 10 s from the warning to the end, however slow this machine is
    node.fs.create("/mnt/a", SIZE)
    held = holder(start, node, "late")
    node.fs.truncate("/mnt/a", 0, PATIENCE)
    assert [held.says() for _ in range(3)] == ["SIGIO", "SIGBUS", "let go"]
    assert held.process.poll() is None


def test_a_holder_that_made_no_provision_dies_of_the_first_rung(kept, start):
    node = kept("lease-signal", "--lease-break", "300")
    node.fs.create("/mnt/a", SIZE)
    held = holder(start, node)
    node.fs.truncate("/mnt/a", 0, PATIENCE)
    assert held.ended() == -signal.SIGIO


def test_the_ladder_ends_with_a_survivor_and_its_blocks_are_kept_until_it_lets_go(kept, start, tmp_path):
    node = kept("lease-signal", "--lease-break", "1")
    node.fs.create("/mnt/a", SIZE)
    heir = start(Heir, tmp_path / "heir")
    held = holder(start, node, "ignores", str(tmp_path / "heir"))
    heir.ask("take")
    before = free(node)
    node.fs.truncate("/mnt/a", 0, PATIENCE)
    assert held.ended() == -signal.SIGKILL, "the wrong process"
    assert free(node) == before, "kept"
    heir.ask("let_go")
    until(lambda: free(node), before + SIZE // 4096)
    node.stop()
    assert wrong(tmp_path / "node", "lease-signal") == []


@pytest.mark.parametrize("seconds", ["0", "nan", "1e9"])
def test_a_lease_break_time_that_cannot_be_is_refused(seconds, tmp_path, capsys):
    assert emu(["broker", "--dir", str(tmp_path / "n"), "--lease-break", seconds]) == 64
    assert "--lease-break" in capsys.readouterr().err


# ---- kill-context, rnic-unplug


def destroyed(party):
    """Everything that a context answers when it was destroyed."""
    event = party.event()
    assert (event["event"], event["fields"]) == ("DEVICE_FATAL", {"destroyed": True})
    for asks in (
        lambda: party.post("q", "write", "own", rkey=1, addr=0),
        party.ctx.query_device,
        lambda: party.memory("more", 4096),
        lambda: party.state("q"),
    ):
        with pytest.raises(PyverbsRDMAError) as caught:
            asks()
        assert caught.value.errno == errno.EIO
    party.destroy("q")
    party.forget("own")
    party.forget("victim")


def meet(node, party):
    """A holder of /mnt/a and its peer, connected; what the peer needs."""
    here, there = party(node, "holder"), party(node, "peer")
    target = here.memory("victim", SIZE, file="/mnt/a")
    for one in (here, there):
        one.memory("own", 4096)
    numbers = [one.pair("q") for one in (here, there)]
    here.connect("q", numbers[1])
    there.connect("q", numbers[0])
    assert there.do("q", "write", "own", rkey=target["rkey"], addr=target["addr"]) == "SUCCESS"
    return here, there, target


def test_a_holders_context_is_destroyed_and_its_process_lives(kept, party, tmp_path):
    node = kept("kill-context")
    node.fs.create("/mnt/a", SIZE)
    here, there, target = meet(node, party)
    node.fs.truncate("/mnt/a", 0, PATIENCE)
    assert there.do("q", "write", "own", rkey=target["rkey"], addr=target["addr"]) == "RETRY_EXC_ERR"
    destroyed(here)
    assert here.fs("stat", "/mnt/a")["size"] == 0, "files are no NIC's"
    here.close()
    here.open()
    node.fs.truncate("/mnt/a", SIZE)
    here.memory("victim", SIZE, file="/mnt/a")
    here.close()
    there.close()
    node.stop()
    assert wrong(tmp_path / "node", "kill-context") == []


def test_a_nic_that_is_unplugged_destroys_every_context_and_can_be_plugged_again(kept, party, tmp_path):
    node = kept("mr-revoke")
    node.fs.create("/mnt/a", SIZE)
    here, there, _target = meet(node, party)
    node.fs.unplug("emu0", timeout=PATIENCE)
    destroyed(here)
    with pytest.raises(PyverbsRDMAError, match="unplugged"):
        party(node, "late")
    node.fs.plug("emu0")
    fresh = party(node, "fresh")
    fresh.memory("victim", SIZE, file="/mnt/a")
    for one in (here, there, fresh):
        one.close()
    node.stop()
    assert wrong(tmp_path / "node", "mr-revoke") == []
