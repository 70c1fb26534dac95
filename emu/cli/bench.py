"""`emu bench`: figures of speed, each beside its limit measured in the same run."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from emu.cli import check_target, store
from emu.lab.bench import Row, as_json, rows

if TYPE_CHECKING:
    import argparse

SUMMARY = "measure emu's speed beside memcpy and a bare ZeroMQ echo, on a private node"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", metavar="FILE", help="write the result there too (- for standard output)")


def line(row: Row) -> str:
    limit = f"{row.against_value:>10} {row.unit:<5} {row.against}"
    return f"{row.name:<40} {row.value:>10} {row.unit:<5} ratio {row.ratio:<8} {limit}"


def run(args: argparse.Namespace) -> int:
    check_target("bench", args.json)
    found = []
    for row in rows():
        found.append(row)
        print(line(row), file=sys.stderr if args.json == "-" else sys.stdout, flush=True)
    if args.json:
        store("bench", args.json, json.dumps(as_json(found), indent=1) + "\n")
    return 0
