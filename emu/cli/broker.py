"""`emu broker`: one node in the foreground, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from emu.broker.options import OptionError, Options, check, parse_mount, parse_pmem, parse_size
from emu.check.stranger import Unusable, introduced
from emu.cli import USAGE, CommandError
from emu.core.errors import errno_name
from emu.history.events import DEFAULT_LIMIT
from emu.wire.client import directory

if TYPE_CHECKING:
    import argparse

SUMMARY = "Run one node: RNIC, memory and filesystem, behind the door DIR/door."


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dir",
        metavar="DIR",
        help="where the node lives (else $EMU_DIR, $XDG_RUNTIME_DIR/emu, /tmp/emu-UID)",
    )
    parser.add_argument(
        "--pmem", metavar="NAME=SIZE", action="append", default=[], help="a pmem device, as pm0=64M"
    )
    parser.add_argument(
        "--mount",
        metavar="/MNT=NAME[,dax|devdax][,protocol=P]",
        action="append",
        default=[],
        help="a filesystem on a device; devdax: the bare device, without files",
    )
    parser.add_argument(
        "--listen",
        metavar="ADDRESS",
        action="append",
        default=[],
        help="also serve control at tcp://127.0.0.1:PORT",
    )
    parser.add_argument(
        "--protocol",
        metavar="FILE",
        action="append",
        default=[],
        help="a Python file with a PROTOCOL of yours: its name can then be used like any other",
    )
    parser.add_argument(
        "--host-protocol",
        metavar="P",
        default="",
        help="protocol of host files (default: the one that all mounts have, if it can serve them; else mr-revoke)",
    )
    for backing, what in (("anon", "clients' memory"), ("dmabuf", "exporters' buffers")):
        parser.add_argument(
            f"--{backing}-protocol",
            metavar="P",
            default="",
            help=f"protocol of {what} (default: chosen as that of host files)",
        )
    parser.add_argument(
        "--dmabuf", metavar="SIZE", default="0", help="memory for exporters' buffers (default: none)"
    )
    parser.add_argument(
        "--allocator",
        choices=["freed-first", "fifo"],
        default="freed-first",
        help="which free blocks go first",
    )
    parser.add_argument("--threads", metavar="N", type=int, default=1, help="engine threads, 1 to 8")
    parser.add_argument(
        "--quantum", metavar="BYTES", default="64K", help="bytes an engine thread copies between two looks"
    )
    parser.add_argument(
        "--invalidation-cost",
        metavar="US",
        type=float,
        default=0.0,
        help="microseconds that the hardware takes to stop DMA, beyond what the engine takes (0)",
    )
    parser.add_argument("--history", metavar="DIR", help="where run folders are made (default: DIR/runs)")
    parser.add_argument("--no-history", action="store_true", help="leave no run folder")
    parser.add_argument(
        "--history-bytes",
        metavar="N",
        default=str(DEFAULT_LIMIT),
        help="of events; and a quarter of it, allocated at the start, for the operation log",
    )
    parser.add_argument(
        "--ready", metavar="FD", type=int, default=-1, help="write a line there when serving, and close it"
    )
    parser.add_argument(
        "--lifeline", metavar="FD", type=int, default=-1, help="end when this descriptor reads end of file"
    )
    parser.add_argument(
        "--writeback",
        metavar="SECONDS",
        type=float,
        default=0.0,
        help="write dirty pages back so often (mounts without dax; scaled by EMU_TIME_SCALE; 0: only when asked)",
    )
    parser.add_argument(
        "--lease-break",
        metavar="SECONDS",
        type=float,
        help="how long a holder has at each rung of lease-signal: SIGIO, SIGBUS, SIGKILL (default: 2)",
    )
    parser.add_argument("--ephemeral", action="store_true", help="remove DIR at a clean end")


def options(args: argparse.Namespace) -> Options:
    """Checked. Raises OptionError."""
    where = directory(args.dir)
    return check(
        Options(
            directory=where,
            pmem=tuple(parse_pmem(text) for text in args.pmem),
            mounts=tuple(parse_mount(text) for text in args.mount),
            listen=tuple(args.listen),
            host_protocol=args.host_protocol,
            anon_protocol=args.anon_protocol,
            dmabuf_protocol=args.dmabuf_protocol,
            dmabuf=parse_size(args.dmabuf),
            allocator=args.allocator,
            threads=args.threads,
            quantum=parse_size(args.quantum),
            invalidation_us=args.invalidation_cost,
            history=Path(args.history) if args.history else None,
            keep_history=not args.no_history,
            history_bytes=parse_size(args.history_bytes),
            ready=args.ready,
            lifeline=args.lifeline,
            ephemeral=args.ephemeral,
            writeback=args.writeback,
            lease_break=args.lease_break,
            argv=tuple(sys.argv),
        )
    )


def run(args: argparse.Namespace) -> int:
    try:
        chosen = options(args)
        strangers = [introduced(file) for file in args.protocol]
    except OptionError as error:
        raise CommandError(f"broker {directory(args.dir)}: EINVAL: {error}", USAGE) from None
    except Unusable as error:
        raise CommandError(f"broker --protocol: EINVAL: {error}", error.code) from None
    from emu.broker.start import StartError, serve  # noqa: PLC0415 - loads the engine; not for a usage error

    try:
        serve(chosen, strangers)
    except StartError as error:
        raise CommandError(f"broker {chosen.directory}: {errno_name(error.errno)}: {error}", USAGE) from None
    return 0
