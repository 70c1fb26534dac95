"""What was acknowledged survives kill -9 of the broker; what could not be written was never acknowledged."""

from __future__ import annotations

import errno
import os
import resource
import signal

import pytest
from served import PATIENCE, Served, await_true

from emu.history.events import read_events
from emu.history.runs import latest_run
from emu.history.stamp import CANARY
from emu.wire.errors import ConnectionLost, RequestRefused


@pytest.fixture
def served(tmp_path):
    with Served(tmp_path / "n") as broker:
        yield broker


def blocks(node):
    return node.call("query_books").result["devices"]["pm0"]


def test_acknowledged_files_survive_kill_9(served):
    with served.connect() as node:
        for n in range(20):
            node.call("fs_create", path=f"/mnt/f{n}", size=8192)
            node.call("fs_write", path=f"/mnt/f{n}", offset=100, data=b"%d!" % n)
        node.call("fs_unlink", path="/mnt/f3")
        node.call("fs_truncate", path="/mnt/f4", size=4096)
        before = {f: node.call("fs_stat", path=f"/mnt/f{f}").result for f in (4, 5, 19)}
        books = blocks(node)
        assert served.end(signal.SIGKILL) == -signal.SIGKILL
        assert node.next_event(PATIENCE)["event"] == "DEVICE_FATAL"
    served.start()
    with served.connect() as node:
        assert {f: node.call("fs_stat", path=f"/mnt/f{f}").result for f in (4, 5, 19)} == before
        assert blocks(node) == books
        for n in set(range(20)) - {3}:
            assert (
                node.call("fs_read", path=f"/mnt/f{n}", offset=100, length=5)
                .result["data"]
                .startswith(b"%d!" % n)
            )
        with pytest.raises(RequestRefused, match="does not exist"):
            node.call("fs_stat", path="/mnt/f3")


@pytest.mark.parametrize("point", ["before-commit", "after-commit", "before-effect", "after-effect"])
def test_a_kill_at_each_point_of_a_step_leaves_whole_books(served, point):
    """Killed between commit and answer, an operation may have happened or not; never half."""
    with served.connect() as node:
        node.call("fs_create", path="/mnt/a", size=1 << 20)
        node.call("hold_arm", point=point)
        pending = node.start("fs_truncate", path="/mnt/a", size=4096)
        assert node.call("hold_wait", point=point).result["point"] == point
        served.end(signal.SIGKILL)
        with pytest.raises(ConnectionLost) as caught:
            pending.result(PATIENCE)
        assert not caught.value.definite
    served.start()
    with served.connect() as node:
        found = node.call("fs_stat", path="/mnt/a").result
        assert (found["size"], found["blocks"]) in {(1 << 20, 256), (4096, 1)}
        if point == "before-commit":
            assert found["size"] == 1 << 20
        count = blocks(node)
        assert (count["owned"], count["free"]) == (found["blocks"], count["total"] - found["blocks"])
        generations = (served.directory / "pm0.gen").read_bytes()
        odd = sum(generations[at] & 1 for at in range(0, len(generations), 4))
        assert odd == count["free"], "a block's generation is odd exactly while it is free"


@pytest.mark.parametrize("point", ["before-commit", "after-commit", "before-effect", "after-effect"])
@pytest.mark.parametrize("grow", ["fs_truncate", "fs_write"])
def test_old_bytes_past_the_end_never_come_back(served, point, grow):
    """Killed anywhere within a truncate; then the file grows over what was cut off."""
    with served.connect() as node:
        node.call("fs_create", path="/mnt/a", size=8192)
        node.call("fs_write", path="/mnt/a", offset=0, data=b"\xaa" * 8192)
        node.call("hold_arm", point=point)
        node.start("fs_truncate", path="/mnt/a", size=100)
        node.call("hold_wait", point=point)
        served.end(signal.SIGKILL)
    served.start()
    with served.connect() as node:
        size = node.call("fs_stat", path="/mnt/a").result["size"]
        assert size == (8192 if point == "before-commit" else 100)
        more = {"size": 12288} if grow == "fs_truncate" else {"offset": 12287, "data": b"\0"}
        node.call(grow, path="/mnt/a", **more)
        found = node.call("fs_read", path="/mnt/a", offset=0, length=12288).result["data"]
        assert found == b"\xaa" * size + bytes(12288 - size)


@pytest.mark.parametrize("skip", [0, 1])
@pytest.mark.parametrize("point", ["before-commit", "after-commit", "before-effect", "after-effect"])
def test_a_hole_is_there_as_a_whole_or_not_at_all(served, point, skip):
    """Killed anywhere within a punch whose edges are zeroed by the CPU."""
    with served.connect() as node:
        node.call("fs_create", path="/mnt/a", size=16384)
        node.call("fs_write", path="/mnt/a", offset=0, data=b"\xaa" * 16384)
        node.call("hold_arm", point=point, skip=skip)
        pending = node.start("fs_punch", path="/mnt/a", offset=100, length=12000)
        node.call("hold_wait", point=point)
        assert not pending.done
        served.end(signal.SIGKILL)
    served.start()
    with served.connect() as node:
        found = node.call("fs_read", path="/mnt/a", offset=0, length=16384).result["data"]
        whole, hole = b"\xaa" * 16384, b"\xaa" * 100 + bytes(12000) + b"\xaa" * 4284
        assert found == (whole if (point, skip) == ("before-commit", 0) else hole)
        node.call("fs_write", path="/mnt/a", offset=100, data=b"new")
    served.end(signal.SIGKILL)
    served.start()
    with served.connect() as node:
        found = node.call("fs_read", path="/mnt/a", offset=100, length=3).result["data"]
        assert found == b"new", "what was written after the recovery is not zeroed by the next one"


def test_the_loop_is_held_and_goes_on(served):
    with served.connect() as node:
        node.call("hold_arm", point="before-commit", skip=1)
        node.call("fs_create", path="/mnt/a", size=4096)
        pending = node.start("fs_create", path="/mnt/b", size=4096)
        node.call("hold_wait", point="before-commit")
        later = node.start("fs_ls", path="")
        assert node.call("ping").result == {}
        assert not pending.done
        assert not later.done
        node.call("hold_release", point="before-commit")
        assert pending.result(PATIENCE).result["ino"] == 2
        assert len(later.result(PATIENCE).result["files"]) == 2


def test_a_failed_commit_is_answered_with_its_errno_and_changes_nothing(served):
    with served.connect() as node:
        node.call("fs_create", path="/mnt/a", size=8192)
        before, count = node.call("fs_stat", path="/mnt/a").result, blocks(node)
        _, hard = resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        for op, values in (
            ("fs_create", {"path": "/mnt/b", "size": 8192}),
            ("fs_truncate", {"path": "/mnt/a", "size": 0}),
            ("fs_write", {"path": "/mnt/a", "offset": 8192, "data": b"x"}),
            ("fs_unlink", {"path": "/mnt/a"}),
        ):
            with pytest.raises(RequestRefused, match="nothing has changed") as caught:
                node.call(op, **values)
            assert caught.value.errno in {errno.EIO, errno.ENOSPC}, caught.value
            assert caught.value.definite
        assert node.call("fs_stat", path="/mnt/a").result == before
        assert blocks(node) == count
        resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        node.call("fs_create", path="/mnt/b", size=8192)
        node.call("fs_truncate", path="/mnt/a", size=0)
        assert node.call("stats").result["loop"]["undone"] == 4
        run = latest_run(served.directory / "runs")
    served.end()
    lines = list(read_events(run))
    assert any(line["kind"] == "gap" for line in lines), "the history was full too, and says so"


def test_a_commit_that_fails_in_mid_reclaim_is_tried_again_until_it_succeeds(served):
    with served.connect() as node:
        node.call("fs_create", path="/mnt/a", size=8192)
        pd = node.call("alloc_pd").result["handle"]
        mr = node.call("reg_mr", pd=pd, length=8192, access=7, iova=0, backing="dax", path="/mnt/a")
        os.close(mr.descriptors[0])
        _, hard = resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        pending = node.start("fs_truncate", path="/mnt/a", size=0)
        await_true("a commit fails", lambda: node.call("stats").result["loop"]["undone"])
        assert not pending.done
        resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        pending.result(PATIENCE)
        assert node.call("fs_stat", path="/mnt/a").result["size"] == 0


def test_a_plugged_namespace_is_new_and_full_of_canaries(served):
    with served.connect() as node:
        node.call("fs_create", path="/mnt/a", size=4096)
        node.call("fs_write", path="/mnt/a", offset=0, data=b"old bytes")
        generations = (served.directory / "pm0.gen").read_bytes()
        node.call("fs_unplug", target="pm0", surprise=True)
        with pytest.raises(RequestRefused):
            node.call("fs_create", path="/mnt/b", size=4096)
        node.call("fs_plug", device="pm0")
        image = (served.directory / "pm0.img").read_bytes()
        assert image == CANARY * (len(image) // len(CANARY))
        assert (served.directory / "pm0.img.gone-1").read_bytes()[:9] == b"old bytes"
        table = (served.directory / "pm0.gen").read_bytes()
        for at in range(0, len(table), 4):
            old, new = (int.from_bytes(raw[at : at + 4], "little") for raw in (generations, table))
            assert new % 2 == 1
            assert new >= old + 2
        for _ in range(3):
            node.call("fs_unplug", target="pm0", surprise=True)
            node.call("fs_plug", device="pm0")
        kept = sorted(path.name for path in served.directory.glob("pm0.img.*"))
        assert kept == ["pm0.img.gone-3", "pm0.img.gone-4"]
        node.call("fs_create", path="/mnt/a", size=4096)
        assert node.call("fs_read", path="/mnt/a", offset=0, length=4096).result["data"] == bytes(4096)


def test_an_unplugged_device_stays_unplugged_over_a_restart(served):
    with served.connect() as node:
        node.call("fs_unplug", target="pm0", surprise=True)
    served.end(signal.SIGKILL)
    served.start()
    with served.connect() as node:
        assert node.call("fs_ls").result["devices"][0]["online"] is False
        node.call("fs_plug", device="pm0")
        node.call("fs_create", path="/mnt/a", size=4096)


@pytest.mark.parametrize("point", ["before-commit", "after-commit", "before-effect", "after-effect"])
def test_a_plug_that_was_killed_is_done_or_not_done(served, point):
    with served.connect() as node:
        node.call("fs_create", path="/mnt/a", size=4096)
        node.call("fs_write", path="/mnt/a", offset=0, data=b"old bytes")
        node.call("fs_unplug", target="pm0", surprise=True)
        node.call("hold_arm", point=point)
        node.start("fs_plug", device="pm0")
        node.call("hold_wait", point=point)
        served.end(signal.SIGKILL)
    served.start()
    image = served.directory / "pm0.img"
    with served.connect() as node:
        (device,) = node.call("fs_ls").result["devices"]
        assert (device["online"], device["namespace"]) == (
            (False, 1) if point == "before-commit" else (True, 2)
        )
        assert (image.read_bytes()[:9] == b"old bytes") == (point == "before-commit")
        if point != "before-commit":
            assert image.read_bytes() == CANARY * (image.stat().st_size // len(CANARY))
        assert not list(served.directory.glob("pm0.*.new*"))
        if point == "before-commit":
            node.call("fs_plug", device="pm0")
        node.call("fs_create", path="/mnt/a", size=4096)


def test_a_plug_whose_commit_fails_leaves_no_image_behind(served):
    with served.connect() as node:
        node.call("fs_unplug", target="pm0", surprise=True)
        room = (served.directory / "pm0.img").stat().st_size
        _, hard = resource.prlimit(
            served.process.pid, resource.RLIMIT_FSIZE, (room - 1, resource.RLIM_INFINITY)
        )
        for _ in range(2):
            with pytest.raises(RequestRefused, match="nothing has changed") as caught:
                node.call("fs_plug", device="pm0")
            assert caught.value.definite
            assert not list(served.directory.glob("pm0.*.new*"))
        resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        assert node.call("fs_plug", device="pm0").result == {"namespace": 2}
