"""Run folders: DIR/runs/NUMBER/, one each time a broker starts. docs/results.md explains what lies in them.

meta.json      who ran, with what options, on what machine, when (wall clock and CLOCK_MONOTONIC together)
events.jsonl   what the core was told and ordered (events.py), events-N.jsonl its newest tail
oplog-T.bin    what engine thread T did to memory (oplog.py)
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import emu
from emu.history import journal, oplog

META = "meta.json"
FORMATS = {"events": 1, "oplog": oplog.VERSION, "journal": journal.VERSION}
KEEP = 16  # run folders of one node; the oldest go


def machine() -> dict[str, Any]:
    """What a reader of figures has to know about the machine."""
    return {
        "system": platform.system(),
        "kernel": platform.release(),
        "arch": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "page": os.sysconf("SC_PAGE_SIZE"),
        "python": platform.python_version(),
    }


def run_folders(runs: Path) -> list[Path]:
    """The run folders below `runs`, oldest first."""
    numbered = [path for path in runs.iterdir() if path.name.isdigit()] if runs.is_dir() else []
    return sorted(numbered, key=lambda path: int(path.name))


def latest_run(runs: str | Path) -> Path:
    """The folder of the last start. Raises FileNotFoundError."""
    folders = run_folders(Path(runs))
    if not folders:
        raise FileNotFoundError(f"{runs} has no run: no broker has started there with its history on")
    return folders[-1]


def new_run(runs: Path, options: dict[str, Any], declared: dict[str, Any] | None = None) -> Path:
    """Make the next run folder and its meta.json; the oldest beyond KEEP are removed. Raises OSError.

    declared: what the protocol promises, as {"protocol", "promises", "excepts"}, for whoever judges the run.
    """
    runs.mkdir(parents=True, exist_ok=True)
    folders = run_folders(runs)
    folder = runs / str(int(folders[-1].name) + 1 if folders else 1)
    folder.mkdir()
    meta = {
        "schema": 1,
        "source": "live",
        "emu": emu.__version__,
        "formats": FORMATS,
        "declared": declared,
        "pid": os.getpid(),
        "argv": sys.argv,
        "options": options,
        "machine": machine(),
        "wall": time.time(),
        "monotonic_ns": time.monotonic_ns(),
    }
    (folder / META).write_text(json.dumps(meta, indent=1) + "\n")
    for old in folders[: max(0, len(folders) + 1 - KEEP)]:
        shutil.rmtree(old, ignore_errors=True)
    return folder


def read_meta(folder: str | Path) -> dict[str, Any]:
    meta: dict[str, Any] = json.loads((Path(folder) / META).read_text())
    return meta
