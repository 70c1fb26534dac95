"""`emu protocol MOUNT [NAME]`: show or change how a mount takes memory back. MOUNT `host` is for host files, `anon` for clients' memory, `dmabuf` for
exporters' buffers.

`emu protocol --diagram NAME` (or `--protocol FILE`) needs no node: the protocol's table as a state diagram in Mermaid; with --json, as data.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from emu.check.stranger import Unusable, try_out
from emu.cli import CommandError
from emu.cli.fs import open_node, saying
from emu.protocols.listing import listing
from emu.protocols.registry import UnknownProtocol, load
from emu.report.statechart import mermaid

if TYPE_CHECKING:
    import argparse

    from emu.protocols.contract import Protocol

SUMMARY = "Show or change a mount's protocol, for reclaims that begin afterwards; or draw a protocol's table."


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dir",
        metavar="DIR",
        help="where the node lives (else $EMU_DIR, $XDG_RUNTIME_DIR/emu, /tmp/emu-UID)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument(
        "--diagram",
        metavar="NAME",
        nargs="?",
        const="",
        help="print the table of protocol NAME as a Mermaid state diagram",
    )
    parser.add_argument("--protocol", metavar="FILE", help="with --diagram: the protocol in this Python file")
    parser.add_argument(
        "mount", metavar="MOUNT", nargs="?", default="", help="a mount's path, or `host`, `anon`, `dmabuf`"
    )
    parser.add_argument("name", metavar="NAME", nargs="?", default="", help="the protocol from now on")


def run(args: argparse.Namespace) -> int:
    if args.diagram is not None or args.protocol:
        return _draw(args)
    if not args.mount:
        raise CommandError("protocol: EINVAL: name a mount, or a protocol with --diagram")
    with saying(f"protocol {args.mount}"), open_node(args.dir, "emu protocol") as node:
        result = node.call("protocol", mount=args.mount, name=args.name).result
    print(json.dumps(result) if args.json else result["protocol"])
    return 0


def _draw(args: argparse.Namespace) -> int:
    if args.mount or args.diagram is None or bool(args.diagram) == bool(args.protocol):
        raise CommandError(
            "protocol --diagram: EINVAL: name one protocol, or one file: --diagram --protocol FILE"
        )
    table = listing(_chosen(args))
    print(json.dumps(table, indent=1) if args.json else mermaid(table), end="\n" if args.json else "")
    return 0


def _chosen(args: argparse.Namespace) -> Protocol:
    try:
        return try_out(args.protocol) if args.protocol else load().get(args.diagram)
    except UnknownProtocol as error:
        raise CommandError(f"protocol {args.diagram}: EINVAL: {error}") from None
    except Unusable as error:
        raise CommandError(f"protocol {args.protocol}: EINVAL: {error}", error.code) from None
