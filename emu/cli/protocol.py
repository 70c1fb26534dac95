"""`emu protocol MOUNT [NAME]`: show or change how a mount takes memory back. MOUNT `host` is for host files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from emu.cli.fs import open_node, saying

if TYPE_CHECKING:
    import argparse

SUMMARY = "Show or change a mount's protocol, for reclaims that begin afterwards."


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dir",
        metavar="DIR",
        help="where the node lives (else $EMU_DIR, $XDG_RUNTIME_DIR/emu, /tmp/emu-UID)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("mount", metavar="MOUNT", help="a mount's path, or `host`")
    parser.add_argument("name", metavar="NAME", nargs="?", default="", help="the protocol from now on")


def run(args: argparse.Namespace) -> int:
    with saying(f"protocol {args.mount}"), open_node(args.dir, "emu protocol") as node:
        result = node.call("protocol", mount=args.mount, name=args.name).result
    print(json.dumps(result) if args.json else result["protocol"])
    return 0
