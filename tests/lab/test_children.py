"""Processes that a nursery forks: each its own, spoken to by its pipes, told of when it ends, and gone with the lab."""

import asyncio
import os
import signal

import pytest

from emu.lab.children import Nursery
from emu.lab.process import LabError, Process


@pytest.fixture
def lab(tmp_path):
    """Runs a coroutine function with a nursery that is closed behind it."""

    def run(work):
        async def inside():
            nursery = Nursery()
            try:
                return await work(nursery, tmp_path)
            finally:
                await nursery.close()
                await asyncio.sleep(0)  # what was closed lets go of its descriptors

        return asyncio.run(asyncio.wait_for(inside(), 60))

    return run


def test_a_client_answers_and_leaves(lab):
    async def work(nursery, logs):
        client = await Process.start("one", "taker", logs, nursery)
        assert await client.heard("loaded")
        await client.end()
        return client.ended, client.killed

    assert lab(work) == (True, False)


def test_each_is_a_process_and_a_session_of_its_own(lab):
    async def work(nursery, logs):
        clients = [await Process.start(str(n), "taker", logs, nursery) for n in range(2)]
        for client in clients:
            assert await client.heard("loaded")
        pids = [client._child.pid for client in clients]
        sessions = [os.getsid(pid) for pid in pids]
        for client in clients:
            await client.kill()
        return pids == sessions, [client._child.returncode for client in clients]

    assert lab(work) == (True, [-9, -9])


def test_who_is_killed_by_somebody_else_is_killed_and_by_the_lab_is_not(lab):
    async def work(nursery, logs):
        ours, theirs = [await Process.start(name, "taker", logs, nursery) for name in ("ours", "theirs")]
        await ours.kill()
        os.kill(theirs._child.pid, signal.SIGKILL)
        await theirs.gone()
        return ours.killed, theirs.killed

    assert lab(work) == (False, True)


def test_what_cannot_be_run_ends_with_its_reason_in_its_log(lab):
    async def work(nursery, logs):
        client = await Process.start("nobody", "nobody", logs, nursery)
        await client.gone()
        with pytest.raises(LabError, match="ended before it was asked"):
            await client.ask("start")
        return (logs / "nobody.log").read_text()

    assert "No module named" in lab(work)


def test_a_nursery_that_dies_takes_nobody_by_surprise(lab):
    async def work(nursery, logs):
        client = await Process.start("one", "taker", logs, nursery)
        nursery._process.kill()
        await client.gone()
        with pytest.raises(LabError):
            await nursery.spawn("emu.clients.taker", (), logs / "two.log")
        return client.ended

    assert lab(work) is True
