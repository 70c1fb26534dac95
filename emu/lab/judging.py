"""Processes that judge runs, one for each processor: judging takes as long as running, and would else wait for one interpreter.

    lab  -- stdin -->   {"id", "do": "close", "folder", "more": fields of meta.json}   -->  a judge, forked by the nursery
         <-- stdout --  {"id", "verdict": {...}}

`close` ends a run's folder: the history is read, judged and held against the model; verdict.json and meta.json are written, and the manifest
behind everything else. A judge that dies (killed, out of memory, a protocol of a stranger that takes the interpreter along) is followed by
another, which judges the run again; a run that costs two of them is unknown. Judges end with their stdin, whatever they are at, as every process
of the lab.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import os
import queue
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from emu.check.history import BrokenHistory, History
from emu.check.promises import introduce, runnable
from emu.check.stranger import introduced
from emu.check.validate import held
from emu.check.verdict import Verdict, judge_read
from emu.history.manifest import write_manifest
from emu.history.runs import META, read_meta
from emu.lab.process import LabError, Process, Refused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.lab.children import Nursery

Json = dict[str, Any]

MODULE = "emu.lab.judging"
TRIES = 2
LIMIT = 300.0  # seconds for one run: a hundred times what the longest takes
MEEKNESS = 5  # engines and clients, whose times are measured, go first
REFUSALS = 3  # of the model that are told


# ---- the judge's side


def main(files: Sequence[str]) -> NoReturn:
    """Answer orders until stdin ends. files: protocols of strangers, which the lab has tried out."""
    os.nice(MEEKNESS)
    gc.disable()  # a history is data without cycles; what judging leaves is collected behind it
    with os.fdopen(os.dup(1), "w") as lab:
        os.dup2(2, 1)  # what a stranger's protocol prints is no answer
        for file in files:
            introduce(introduced(file))
        gc.freeze()
        orders: queue.SimpleQueue[Json] = queue.SimpleQueue()
        threading.Thread(target=_listen, args=(orders,), name="lab", daemon=True).start()
        while True:
            order = orders.get()
            print(json.dumps({"id": order["id"], **_answer(order)}), file=lab, flush=True)
            gc.collect()


def _listen(orders: queue.SimpleQueue[Json]) -> None:
    """Hear orders while one is carried out; the end of stdin is the end of the lab, and of its judges. A folder without a manifest is no run."""
    for line in sys.stdin:
        orders.put(json.loads(line))
    os._exit(0)


def _answer(order: Json) -> Json:
    try:
        return {"verdict": close(Path(order["folder"]), order["more"]).as_json()}
    except OSError as error:
        return {"errno": "EIO", "error": str(error)}


def close(folder: Path, more: Json) -> Verdict:
    """Judge the run in this folder, and end the folder: it says what it is, and its manifest stands behind everything else."""
    verdict = judged(folder)
    (folder / "verdict.json").write_text(json.dumps(verdict.as_json(), indent=1) + "\n")
    meta = {**read_meta(folder), **more, "verdict": verdict.outcome}
    (folder / META).write_text(json.dumps(meta, indent=1) + "\n")
    write_manifest(folder)
    return verdict


def judged(folder: Path) -> Verdict:
    """The verdict, unknown when the history is not one that the model allows."""
    try:
        history = History.read(folder)
    except BrokenHistory as error:
        return Verdict(outcomes=["UNKNOWN"], why=[str(error)])
    verdict = judge_read(history)
    model = held(history, runnable())
    verdict.model = model["verdict"]
    if model["verdict"] == "refused":
        verdict.why += [f"the model refuses this history: {why}" for why in model["why"][:REFUSALS]]
        verdict.outcome, verdict.outcomes = "UNKNOWN", ["UNKNOWN"]
    return verdict


# ---- the lab's side


class Judges:
    """At most `most` processes, each started when it is first needed. Their words go to FOLDER/judge-N.log."""

    def __init__(self, nursery: Nursery, folder: Path, most: int, files: Sequence[str] = ()) -> None:
        self._nursery, self._folder, self._files = nursery, folder, list(files)
        self._free = asyncio.Semaphore(most)
        self._numbers = itertools.count(1)
        self._idle: list[Process] = []
        self._all: list[Process] = []

    async def close_run(self, folder: Path, more: Json) -> Verdict:
        """`close` in another process. LabError: it could not be judged."""
        words = ""
        async with self._free:
            for _ in range(TRIES):
                judge = self._idle.pop() if self._idle else await self._start()
                try:
                    answer = await judge.ask("close", limit=LIMIT, folder=str(folder), more=more)
                except Refused:
                    self._idle.append(judge)
                    raise
                except LabError as error:
                    words = str(error)
                    await judge.kill()
                    self._all.remove(judge)
                else:
                    self._idle.append(judge)
                    return Verdict(**answer["verdict"])
        raise LabError(f"nobody could judge it: {words}")

    async def _start(self) -> Process:
        name = f"judge-{next(self._numbers)}"
        child = await self._nursery.spawn(MODULE, self._files, self._folder / f"{name}.log")
        judge = Process(name, child)
        self._all.append(judge)
        return judge

    @property
    def living(self) -> list[Process]:
        return [judge for judge in self._all if not judge.ended]

    async def end(self) -> None:
        """Whatever they are at."""
        await asyncio.gather(*(judge.kill() for judge in self._all))
        self._all.clear()
        self._idle.clear()


if __name__ == "__main__":
    main(sys.argv[1:])
