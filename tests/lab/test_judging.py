"""Judges are processes: one that dies costs nothing, a run that costs two of them is said to be unjudged, and none is left behind."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from emu.lab.children import Nursery
from emu.lab.judging import Judges
from emu.lab.process import LabError


@pytest.fixture
def judges(tmp_path):
    """work(judges) in a loop of its own; afterwards nobody is there."""

    def carry_out(work, most=1):
        async def inside():
            nursery = Nursery()
            made = Judges(nursery, tmp_path, most)
            try:
                return await work(made)
            finally:
                pids = [judge.pid for judge in made.living]
                await made.end()
                await nursery.close()
                left.extend(pids)

        left = []
        try:
            return asyncio.run(inside())
        finally:
            assert not [pid for pid in left if Path(f"/proc/{pid}").exists()]

    return carry_out


@pytest.fixture
def run(tmp_path):
    """A folder that is no run: its verdict is that it is none."""
    folder = tmp_path / "run-1"
    folder.mkdir()
    (folder / "meta.json").write_text('{"schema": 1, "source": "live"}')
    return folder


def test_a_run_that_cannot_be_read_is_unknown_and_its_folder_is_closed_all_the_same(judges, run):
    verdict = judges(lambda made: made.close_run(run, {"whole": True}))
    assert (verdict.outcomes, verdict.why) == (
        ["UNKNOWN"],
        ["events.jsonl is missing: it should be one JSON object a line"],
    )
    assert sorted(path.name for path in run.iterdir()) == ["manifest.json", "meta.json", "verdict.json"]


def test_a_judge_that_was_killed_is_followed_by_another(judges, run):
    async def work(made):
        first = await made.close_run(run, {})
        (judge,) = made.living
        os.kill(judge.pid, signal.SIGKILL)
        return first, await made.close_run(run, {}), len(made.living)

    first, second, living = judges(work)
    assert (second, living) == (first, 1)


def test_a_run_that_costs_every_judge_its_life_is_told(judges, run, monkeypatch):
    async def work(made):
        start = made._start

        async def doomed():
            judge = await start()
            os.kill(judge.pid, signal.SIGKILL)
            return judge

        monkeypatch.setattr(made, "_start", doomed)
        await made.close_run(run, {})

    with pytest.raises(LabError, match=r"nobody could judge it: judge-2 ended"):
        judges(work)


def test_several_runs_are_judged_side_by_side_by_no_more_than_there_may_be(judges, run):
    async def work(made):
        await asyncio.gather(*(made.close_run(run, {}) for _ in range(5)))
        return len(made.living)

    assert judges(work, most=2) == 2


def test_a_judge_at_work_is_ended_with_the_comparison(judges, run):
    async def work(made):
        task = asyncio.create_task(made.close_run(run, {}))
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(task), 0.2)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    judges(work)


def test_what_cannot_be_written_is_told_and_the_judge_lives(judges, tmp_path):
    async def work(made):
        with pytest.raises(LabError, match="No such file"):
            await made.close_run(tmp_path / "nowhere", {})
        return len(made.living)

    assert judges(work) == 1


def test_a_judge_at_work_ends_with_its_lab(tmp_path):
    """The history that it reads is a pipe to which nobody writes."""
    folder = tmp_path / "run-1"
    folder.mkdir()
    os.mkfifo(folder / "meta.json")
    order = {"id": 1, "do": "close", "folder": str(folder), "more": {}}
    with subprocess.Popen([sys.executable, "-P", "-m", "emu.lab.judging"], stdin=subprocess.PIPE) as judge:
        judge.stdin.write(json.dumps(order).encode() + b"\n")
        judge.stdin.flush()
        with (folder / "meta.json").open("wb"):  # opens when the judge has come to it
            judge.stdin.close()
            try:
                assert judge.wait(60) == 0
            finally:
                judge.kill()
