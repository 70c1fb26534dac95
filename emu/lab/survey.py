"""What is kept of a run when DMA is over: the memory, whose bytes it is, and the facts that the judge is told."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from emu.host.times import time_scale
from emu.lab.node import VICTIM_DEVICE, VICTIM_MOUNT
from emu.lab.plan.acts import GONE
from emu.lab.plan.geometry import SIZE
from emu.lab.plan.ways import peer_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from emu.lab.run import Run

Json = dict[str, Any]

BUFFERS = "dmabuf"  # the backing, and the device that buffers lie on
PAGES = f"{VICTIM_DEVICE}.cache.img"  # the page cache of the victim's device


async def take(run: Run) -> None:
    """filemap.json, and how the blocks add up."""
    device = BUFFERS if run.spec.backing == BUFFERS else run.places.device or VICTIM_DEVICE
    run.facts["surveyed"] = time.monotonic_ns()
    survey = await run.clients["taker"].ask("survey", device=device if device == BUFFERS else VICTIM_DEVICE)
    filemap = {"schema": 1, "block": 4096, "device": device, "image": f"{device}.img", "replaced": False}
    if run.spec.backing == "host":
        filemap |= {"namespace": 1, "files": [_host_file(run)]}
    else:
        replaced = run.act.then == "plug" and _succeeded(run)
        filemap |= {"namespace": 2 if replaced else 1, "replaced": replaced, "files": survey["files"]}
        filemap |= {"out_of_reach": survey["out_of_reach"]} if survey["out_of_reach"] else {}
    if run.backing.memory == "pages":
        filemap["pages"] = PAGES
    write(run.folder / "filemap.json", filemap)
    run.facts["blocks"] = {
        name: {key: books[key] for key in ("total", "free", "owned", "quarantined", "bad")}
        for name, books in survey["books"]["devices"].items()
    }


def _succeeded(run: Run) -> bool:
    reclaim = run.facts["reclaim"]
    return bool(reclaim["returned"]) and reclaim["errno"] is None


def _host_file(run: Run) -> Json:
    """The victim as the kernel has it: the image is the file; what was written anew has a later layout."""
    path = run.folder / "host" / "victim"
    size, layout, anew = path.stat().st_size, run.met["layout"], run.layout_anew
    taken = _succeeded(run) and run.act.then == "retake"
    start, end = run.act.given_back if taken else (size, size)
    pieces = [[0, 0, start, layout], [start, start, end - start, anew], [end, end, size - end, layout]]
    extents = [piece for piece in pieces if piece[2] > 0]
    return {"path": "victim", "ino": run.met["ino"], "size": size, "extents": extents}


def died(folder: Path, at: int) -> Json:
    """When the holder died, by the broker's phases: since_us the first request for its memory; within: that reclaim had begun, and not ended."""
    lines = (json.loads(line) for line in (folder / "events.jsonl").open() if '"Phase"' in line)
    times: dict[int, dict[str, int]] = {}
    for line in lines:
        times.setdefault(line["reclaim"], {}).setdefault(line["phase"], line["t"])
    begun = [phases for phases in times.values() if "requested" in phases]
    within = any(one["requested"] <= at < one.get("returned", at + 1) for one in begun)
    first = min((one["requested"] for one in begun), default=None)
    return {"t": at, "since_us": None if first is None else (at - first) / 1000, "within": within}


def memories(run: Run) -> Iterator[tuple[Path, str]]:
    """What is kept of the memory, and under which name."""
    if run.spec.backing == "host":
        yield run.folder / "host" / "victim", "host.img"
    elif run.spec.backing == BUFFERS:
        yield run.node.image.with_name(f"{BUFFERS}.img"), f"{BUFFERS}.img"
    else:
        yield run.node.image, f"{VICTIM_DEVICE}.img"
    if run.backing.memory == "pages":
        yield run.node.image.with_name(f"{VICTIM_DEVICE}.cache.pages"), PAGES


def row(run: Run) -> Json:
    """What the classifier is told: facts of the run, not the protocol's name."""
    on_host = run.spec.backing == "host"
    before, expected = (run.act.before, run.act.expected) if run.backing.files else (GONE, GONE)
    return {
        "schema": 1,
        "event": run.spec.event,
        "backing": run.spec.backing,
        "holder": run.spec.holder,
        "seed": run.seed,
        "time_scale": time_scale(),
        "dma": run.control.dma,
        "peer_manner": peer_of(run.spec),
        "way": run.spec.way,
        "foreign": run.act.foreign,
        "victim": {"path": "victim" if on_host else f"{VICTIM_MOUNT}/victim", "ino": run.met["ino"]},
        "before": before,
        "expected": {**expected, **({"size": SIZE} if on_host else {}), "layout": run.met["layout"]},
        "at_stake": run.act.given_back[1] - run.act.given_back[0],
        "frees": [list(span) for span in run.act.frees] if run.backing.on_mount else [],
        "taken": None,
        "left": [],
        "need": None,
        **run.facts,
    }


def write(path: Path, content: Json) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")
