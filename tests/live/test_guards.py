"""Guarded host files: a foreign program that truncates one meets the protocol, where the kernel lets us stand between."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys

import pytest

from emu.history.runs import latest_run
from emu.verbs.enums import EMU_EVENT_UNGUARDED

SIZE = 1 << 20
F_SETSIG = 10
WRITER = "import os, sys; os.close(os.open(sys.argv[1], os.O_WRONLY))"
TRUNCATE = "import os, sys; os.truncate(sys.argv[1], 4096)"
READER = "import os, sys; os.close(os.open(sys.argv[1], os.O_RDONLY))"


@pytest.fixture(params=["tmpfs", "disk"])
def target(request, tmp_path):
    path = tmp_path / "host"
    if request.param == "tmpfs":
        path = type(path)(f"/dev/shm/emu-guards-{os.getpid()}")
    path.write_bytes(b"x" * SIZE)
    yield path
    path.unlink()


def foreign(code, path):
    """A program that knows nothing of emu, run to its end."""
    return subprocess.run(
        [sys.executable, "-c", code, str(path)], stderr=subprocess.PIPE, timeout=30, check=False
    )


def history(node, kind):
    """Lines of this type; a request that is answered has been written down."""
    node.fs.ls()
    lines = (latest_run(os.path.join(node.dir, "runs")) / "events.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["type"] == kind]


def guarded(here, target):
    told = here.memory("h", SIZE, path=str(target), guard=True)
    here.memory("m", 4096)
    a, b = here.pair("a"), here.pair("b")
    here.connect("a", b)
    here.connect("b", a)
    return told


@pytest.mark.parametrize("code", [TRUNCATE, WRITER], ids=["truncate", "open-for-write"])
def test_a_foreign_program_waits_until_the_memory_is_revoked(fresh, party, target, code):
    node = fresh("mr-revoke", "16M")
    here = party(node)
    told = guarded(here, target)
    assert (here.mrs["h"].guarded, here.mrs["h"].unguarded) == (True, "")
    assert here.do("a", "write", "m", rkey=told["rkey"], addr=told["addr"]) == "SUCCESS"
    assert foreign(code, target).returncode == 0
    assert here.do("a", "write", "m", rkey=told["rkey"], addr=told["addr"]) == "REM_ACCESS_ERR"
    assert [line["phase"] for line in history(node, "Phase")][-1] == "ended"
    assert not history(node, "MemoryFaulted"), "no byte met a hole"


def test_a_reader_ends_the_guard_and_takes_nothing(fresh, party, target):
    node = fresh("mr-revoke", "16M")
    here = party(node)
    told = guarded(here, target)
    assert foreign(READER, target).returncode == 0
    assert here.do("a", "write", "m", rkey=told["rkey"], addr=told["addr"]) == "SUCCESS"
    assert not history(node, "Phase")
    here.forget("h")


@pytest.mark.parametrize(("code", "why"), [(WRITER, "to write it"), (READER, "for reading")])
def test_an_mr_whose_guard_has_ended_says_so_when_its_event_is_taken(fresh, party, target, code, why):
    here = party(fresh("mr-revoke", "16M"), emu_events=True)
    guarded(here, target)
    assert foreign(code, target).returncode == 0
    mr = here.mrs["h"]
    while (event := here.ctx.get_async_event(timeout=20)).event_type != EMU_EVENT_UNGUARDED:
        event.ack()
    event.ack()
    assert (event.element, mr.guarded, why in mr.unguarded) == (mr, False, True)


def test_where_it_cannot_hold_the_file_is_unguarded_and_the_answer_says_why(fresh, party, target):
    node = fresh("mr-revoke", "16M")
    here = party(node)
    with target.open("rb"):
        here.memory("h", SIZE, path=str(target), guard=True)
    assert here.mrs["h"].guarded is False
    assert "one open file description" in here.mrs["h"].unguarded


def test_a_protocol_that_denies_wins_the_kernels_time_and_no_more(fresh, party, target):
    """Asked without waiting, the kernel says EAGAIN at once; the file is as it was, and nobody was revoked."""
    node = fresh("ebusy", "16M")
    here = party(node)
    told = guarded(here, target)
    program = foreign("import os, sys; os.open(sys.argv[1], os.O_WRONLY | os.O_NONBLOCK)", target)
    assert program.returncode == 1
    assert b"BlockingIOError" in program.stderr
    assert here.do("a", "write", "m", rkey=told["rkey"], addr=told["addr"]) == "SUCCESS"
    assert target.stat().st_size == SIZE


def test_the_lease_goes_with_the_registration(fresh, party, target):
    node = fresh("ebusy", "16M")
    here = party(node)
    guarded(here, target)
    here.forget("h")
    assert foreign(TRUNCATE, target).returncode == 0
    assert target.stat().st_size == 4096
    assert not history(node, "LeaseBroken")


def test_only_host_files_can_be_guarded(fresh, party):
    node = fresh("mr-revoke", "16M")
    here = party(node)
    here.ctx.fs.create("/mnt/a", SIZE)
    with pytest.raises(Exception, match="guard: only host files"):
        here.memory("h", SIZE, file="/mnt/a", guard=True)


@pytest.mark.parametrize("number", [signal.SIGRTMIN + 1, signal.SIGKILL])
def test_a_signal_that_the_client_chose_for_its_description_does_the_broker_no_harm(
    fresh, party, target, number
):
    """Lease, owner and signal number are the description's, and the client has that description too."""
    node = fresh("mr-revoke", "16M")
    here = party(node)
    fd = os.open(target, os.O_RDWR)
    fcntl.fcntl(fd, F_SETSIG, number)
    told = here.ctx.call("reg_mr", (fd,), backing="host", path=str(target), pd=here.pds["main"].handle, length=SIZE,
                         access=7, iova=0, guard=True).result  # fmt: skip
    fcntl.fcntl(fd, F_SETSIG, number)
    fcntl.fcntl(fd, fcntl.F_SETOWN, 0)
    assert told["guarded"]
    assert foreign(TRUNCATE, target).returncode == 0
    assert history(node, "LeaseBroken"), "the broker lives, and was told"
    os.close(fd)
