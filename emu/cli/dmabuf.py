"""`emu dmabuf export NAME SIZE`: be the exporter of a buffer, moved and revoked by words on standard input, until it ends. `emu dmabuf stat NAME`.

$ emu dmabuf export frame 1M
emu: frame is exported: move, away, restore, revoke, stat; it ends with the input
move
ok
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

from emu.broker.options import OptionError, parse_size
from emu.cli import CommandError
from emu.cli.fs import open_node, saying

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from emu.wire.client import Connection

SUMMARY = "Be the exporter of a buffer (--dmabuf of the broker gives it memory), or look at one."
WORDS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "move": ("dmabuf_move", {}),
    "away": ("dmabuf_revoke", {"permanent": False}),
    "restore": ("dmabuf_restore", {}),
    "revoke": ("dmabuf_revoke", {"permanent": True}),
    "stat": ("dmabuf_stat", {}),
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dir",
        metavar="DIR",
        help="where the node lives (else $EMU_DIR, $XDG_RUNTIME_DIR/emu, /tmp/emu-UID)",
    )
    parser.add_argument("--json", action="store_true", help="print results as JSON")
    parser.add_argument("do", metavar="export|stat", choices=["export", "stat"])
    parser.add_argument("name", metavar="NAME", help="of the buffer")
    parser.add_argument("size", metavar="SIZE", nargs="?", default="", help="with export: a multiple of 4096")


def run(args: argparse.Namespace) -> int:
    if (args.do == "export") != bool(args.size):
        raise CommandError(f"dmabuf {args.do}: EINVAL: export takes NAME SIZE, stat takes NAME")
    with saying(f"dmabuf {args.do} {args.name}"), open_node(args.dir, "emu dmabuf") as node:
        if args.do == "stat":
            _show(node.call("dmabuf_stat", name=args.name).result, args.json)
            return 0
        made = node.call("dmabuf_create", name=args.name, size=_size(args.size))
        for fd in made.descriptors:
            os.close(fd)
        print(f"emu: {args.name} is exported: {', '.join(WORDS)}; it ends with the input", flush=True)
        done = [_obey(node, args, line.strip()) for line in sys.stdin]
        return 0 if all(done) else 1


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except OptionError as error:
        raise CommandError(f"dmabuf export: EINVAL: {error}") from None


def _obey(node: Connection, args: argparse.Namespace, word: str) -> bool:
    """One word; whether it was done. A reclaim takes as long as it takes."""
    if word not in WORDS:
        print(f"emu: dmabuf: EINVAL: {word!r} is none of {', '.join(WORDS)}", file=sys.stderr, flush=True)
        return False
    op, fields = WORDS[word]
    try:
        with saying(f"dmabuf {word} {args.name}"):
            result = node.call(op, timeout=None, name=args.name, **fields).result
    except CommandError as error:
        print(f"emu: {error}", file=sys.stderr, flush=True)
        return False
    _show(result if word == "stat" else {}, args.json)
    return True


def _show(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result), flush=True)
    elif result:
        print("\n".join(f"{name}: {value}" for name, value in result.items()), flush=True)
    else:
        print("ok", flush=True)
