"""`emu fs`: files and devices of a node, over the same messages that any client uses.

A PATH under a mount is a file of the node; another absolute path that exists on this machine is a host file: it is opened here, and its
descriptor travels along (truncate, punch, unplug). What takes memory back (truncate, punch, unlink, unplug, reflink, migrate and their like) may take as long as the mount's protocol takes; Ctrl-C
interrupts it and says whether anything has changed.

Exit codes: 0 done, 1 refused, 64 usage or no broker.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO

from emu.broker.options import OptionError, parse_mount, parse_size
from emu.cli import USAGE, CommandError
from emu.wire.client import Connection, connect
from emu.wire.codec import DATA_LIMIT
from emu.wire.errors import AnswerTimedOut, ConnectionLost, RequestRefused, WireError
from emu.wire.listing import listing, mount_paths

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from emu.wire.client import Answer, Pending

SUMMARY = "Files and devices of a node: create, read, truncate, punch, unlink, unplug, plug."
REFUSED = 1
PATIENCE = 10.0  # seconds that an interrupted reclaim gets to say how it ended
STARTING = 2.0  # seconds that a broker gets to open its door: `emu broker ... &` and the next line run at the same time
LOOK_AGAIN = 0.05
LONGEST = (1 << 63) - 1
CHOICES = {"KIND": ("exclusive", "shared", "none"), "ON_OFF": ("on", "off")}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dir",
        metavar="DIR",
        help="where the node lives (else $EMU_DIR, $XDG_RUNTIME_DIR/emu, /tmp/emu-UID)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (positional, what, _) in TABLE.items():
        command = commands.add_parser(name, help=what, description=what)
        for argument in positional:
            command.add_argument(
                argument.strip("[]").lower(), metavar=argument.strip("[]"), **_kind(argument)
            )
        if name == "lease":
            command.add_argument("--keep", action="store_true", help="hold it until interrupted")
        if name == "unplug":
            command.add_argument(
                "--surprise", action="store_true", help="the device is gone already; nobody is asked"
            )


def _kind(argument: str) -> dict[str, Any]:
    kind: dict[str, Any] = {"nargs": "?", "default": ""} if argument.startswith("[") else {}
    if argument in CHOICES:
        kind["choices"] = CHOICES[argument]
    return kind | ({"type": size} if argument in {"SIZE", "OFF", "LEN"} else {})


def size(text: str) -> int:
    """A size for argparse; negative numbers pass, for the broker to refuse."""
    try:
        return -parse_size(text[1:]) if text.startswith("-") else parse_size(text)
    except OptionError as error:
        import argparse  # noqa: PLC0415 - only to say no

        raise argparse.ArgumentTypeError(str(error)) from None


def run(args: argparse.Namespace) -> int:
    what = f"{args.command} {getattr(args, 'path', None) or getattr(args, 'target', '') or getattr(args, 'dev', '')}".strip()
    with saying(what), open_node(args.dir, "emu fs") as node:
        result = TABLE[args.command][2](node, args)
    if result is not None and args.json:
        print(json.dumps(result))
    return 0


def open_node(where: str | None, name: str) -> Connection:
    """A session; a door that is not there yet is waited for a little (a name in a directory: nothing to wait on but a look)."""
    end = time.monotonic() + STARTING
    while True:
        try:
            return connect(where, name=name)
        except ConnectionLost as error:
            if error.errno not in {errno.ENOENT, errno.ECONNREFUSED} or time.monotonic() > end:
                raise
        time.sleep(LOOK_AGAIN)


def printable(text: str) -> str:
    """One line, whatever somebody called a file."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


@contextmanager
def saying(about: str) -> Iterator[None]:
    """Errors of the wire as one line: `emu: truncate /mnt/a: EBUSY: sentence`."""
    what = printable(about)
    try:
        yield
    except ConnectionLost as error:
        raise CommandError(f"{what}: {error.name}: {error}", USAGE) from None
    except RequestRefused as error:
        _, _, rest = str(error).partition(": ")
        sentence = rest if str(error).startswith(("fs_", "dmabuf_", "protocol:", "cancel:")) else str(error)
        doubt = "" if error.definite else " (it may have happened in part)"
        raise CommandError(f"{what}: {error.name}: {sentence}{doubt}", REFUSED) from None
    except WireError as error:
        raise CommandError(f"{what}: {error.name}: {error}", REFUSED) from None
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "EIO")
        raise CommandError(f"{what}: {name}: {error.strerror}", REFUSED) from None


# ---- the commands


def create(node: Connection, args: argparse.Namespace) -> dict[str, Any]:
    return node.call("fs_create", path=args.path, size=args.size).result


def ls(node: Connection, args: argparse.Namespace) -> dict[str, Any]:
    found = listing(lambda **fields: node.call("fs_ls", **fields).result, args.path)
    if not args.json:
        tables = (
            (found["files"], ("path", "ino", "size", "blocks", "pins")),
            (found["mounts"], ("path", "device", "dax", "raw", "protocol")),
            (found["devices"], ("name", "blocks", "free", "orphaned", "online", "namespace")),
        )
        print("\n\n".join(table(*each) for each in (tables[:1] if args.path else tables)))
    return found


def stat(node: Connection, args: argparse.Namespace) -> dict[str, Any]:
    found = node.call("fs_stat", path=args.path).result
    if not args.json:
        for key in (key for key in found if key != "extents"):
            print(f"{key:<10} {found[key]}")
        columns = ("offset", "device", "bytes", "since")
        print(table([dict(zip(columns, extent, strict=True)) for extent in found["extents"]], columns))
    return found


def read(node: Connection, args: argparse.Namespace) -> None:
    at, left = args.off, args.len
    if max(left, at + left) > LONGEST:
        raise RequestRefused(
            errno.EINVAL, f"length {left} from {at} is out of range: use 0 to {LONGEST} in all"
        )
    stdout = _stream(sys.stdout, "output")
    while True:
        data = node.call("fs_read", path=args.path, offset=at, length=min(left, DATA_LIMIT)).result["data"]
        stdout.buffer.write(data)
        at, left = at + len(data), left - len(data)
        if not data or left <= 0:
            break
    stdout.flush()


def write(node: Connection, args: argparse.Namespace) -> dict[str, Any]:
    at, stdin = args.off, _stream(sys.stdin, "input")
    try:
        while data := stdin.buffer.read(DATA_LIMIT):
            at += node.call("fs_write", path=args.path, offset=at, data=data).result["written"]
    except RequestRefused as error:
        sentence = f"{error}; {at - args.off} bytes were written before"
        raise RequestRefused(error.errno, sentence, definite=error.definite) from None
    return {"written": at - args.off}


def _stream(stream: TextIO | None, kind: str) -> TextIO:
    if stream is None:
        raise RequestRefused(errno.EBADF, f"standard {kind} is closed: give a file or a pipe")
    return stream


def truncate(node: Connection, args: argparse.Namespace) -> dict[str, Any]:
    return reclaim(node, "fs_truncate", args.path, path=args.path, size=args.size)


def punch(node: Connection, args: argparse.Namespace) -> dict[str, Any]:
    return reclaim(node, "fs_punch", args.path, path=args.path, offset=args.off, length=args.len)


def unlink(node: Connection, args: argparse.Namespace) -> dict[str, Any]:
    return wait(node.start("fs_unlink", path=args.path)).result


def unplug(node: Connection, args: argparse.Namespace) -> dict[str, Any]:
    return reclaim(node, "fs_unplug", args.target, target=args.target, surprise=args.surprise)


def lease(node: Connection, args: argparse.Namespace) -> dict[str, Any]:
    """It ends with the process that opened the context: this one, unless told to keep it."""
    result = node.call("fs_lease", path=args.path, kind=args.kind).result
    if args.keep and args.kind != "none":
        print(f"{args.path}: {args.kind} lease held until interrupted", file=sys.stderr, flush=True)
        with suppress(KeyboardInterrupt):
            while True:
                node.next_event()
    return result


def mark(node: Connection, args: argparse.Namespace) -> dict[str, Any]:
    return node.call("fs_mark", path=args.path, immutable=args.on_off == "on").result


def plug(node: Connection, args: argparse.Namespace) -> dict[str, Any]:
    return node.call("fs_plug", device=args.dev).result


def collapse(node: Connection, args: argparse.Namespace) -> dict[str, Any]:
    return fallocate(node, args, "collapse")


def insert(node: Connection, args: argparse.Namespace) -> dict[str, Any]:
    return fallocate(node, args, "insert")


def zero(node: Connection, args: argparse.Namespace) -> dict[str, Any]:
    return fallocate(node, args, "zero")


def fallocate(node: Connection, args: argparse.Namespace, mode: str) -> dict[str, Any]:
    return wait(
        node.start("fs_fallocate", path=args.path, mode=mode, offset=args.off, length=args.len)
    ).result


def reflink(node: Connection, args: argparse.Namespace) -> dict[str, Any]:
    return wait(node.start("fs_reflink", path=args.path, to=args.to)).result


def migrate(node: Connection, args: argparse.Namespace) -> dict[str, Any]:
    return wait(node.start("fs_migrate", path=args.path)).result


def poison(node: Connection, args: argparse.Namespace) -> dict[str, Any]:
    return wait(node.start("fs_poison", path=args.path, offset=args.off)).result


def writeback(node: Connection, args: argparse.Namespace) -> dict[str, Any]:
    return wait(node.start("fs_writeback", path=args.path)).result


def pressure(node: Connection, args: argparse.Namespace) -> dict[str, Any]:
    return wait(node.start("fs_pressure", target=args.path)).result


def umount(node: Connection, args: argparse.Namespace) -> dict[str, Any]:
    return wait(node.start("fs_umount", mount=args.mount)).result


def mount(node: Connection, args: argparse.Namespace) -> dict[str, Any]:
    """As `emu broker --mount` says it."""
    try:
        wanted = parse_mount(args.mount)
    except OptionError as error:
        raise RequestRefused(errno.EINVAL, str(error)) from None
    fields: dict[str, Any] = {
        "mount": wanted.path,
        "device": wanted.device,
        "dax": wanted.dax,
        "raw": wanted.raw,
        "tmpfs": wanted.tmpfs,
    }
    return node.call("fs_mount", **fields, protocol=wanted.protocol).result


def reclaim(node: Connection, op: str, about: str, /, **values: Any) -> dict[str, Any]:
    """Start it, with the descriptor if it is about a host file, and wait."""
    if not is_host_file(node, about):
        return wait(node.start(op, **values)).result
    descriptor = os.open(about, os.O_RDWR | os.O_CLOEXEC)
    shown = os.fsencode(about).decode(
        errors="replace"
    )  # the descriptor says which file; this is a name to show
    values |= {key: shown for key, value in values.items() if value == about}
    try:
        return wait(node.start(op, descriptors=(descriptor,), host=True, **values)).result
    finally:
        os.close(descriptor)


def is_host_file(node: Connection, path: str) -> bool:
    """An absolute path on this machine that no mount of the node covers."""
    if not os.path.isabs(path) or not os.path.exists(path):  # noqa: PTH110, PTH117 - a text that may name anything
        return False
    mounts = mount_paths(lambda **fields: node.call("fs_ls", **fields).result)
    return not any(path == mount or path.startswith(f"{mount}/") for mount in mounts)


def wait(pending: Pending) -> Answer:
    """The answer of something that may take for ever. Ctrl-C takes the question back, and the answer says what became of it."""
    try:
        return pending.result()
    except KeyboardInterrupt:
        pending.cancel()
        try:
            answer = pending.result(PATIENCE)
        except AnswerTimedOut:
            raise CommandError(
                f"{pending.op}: EINTR: interrupted; it can no longer be taken back and goes on", REFUSED
            ) from None
        print("emu: interrupted too late: it is done", file=sys.stderr)
        return answer


def table(rows: Iterable[dict[str, Any]], columns: Sequence[str]) -> str:
    """Aligned columns under a heading; numbers to the right."""
    cells = [list(columns), *([_text(row[column]) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = []
    for line in cells:
        padded = (
            cell.rjust(width) if cell.isdigit() else cell.ljust(width)
            for cell, width in zip(line, widths, strict=True)
        )
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def _text(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


TABLE: dict[str, tuple[tuple[str, ...], str, Callable[[Connection, Any], Any]]] = {
    "create": (("PATH", "SIZE"), "a new file, allocated and zeroed", create),
    "ls": (("[PATH]",), "files, mounts, devices", ls),
    "stat": (("PATH",), "one file and its extents", stat),
    "read": (("PATH", "OFF", "LEN"), "bytes of a file, to stdout", read),
    "write": (("PATH", "OFF"), "stdin into a file", write),
    "truncate": (("PATH", "SIZE"), "make a file shorter or longer", truncate),
    "punch": (("PATH", "OFF", "LEN"), "a hole in a file", punch),
    "unlink": (("PATH",), "remove a file", unlink),
    "unplug": (("TARGET",), "take a device (emu0: the NIC), or a file, away from its users", unplug),
    "collapse": (("PATH", "OFF", "LEN"), "cut a range out: what lies behind it moves down", collapse),
    "insert": (("PATH", "OFF", "LEN"), "put a hole in: what lies behind it moves up", insert),
    "zero": (("PATH", "OFF", "LEN"), "a range reads as zeros, in new blocks", zero),
    "reflink": (("PATH", "TO"), "a clone that shares the file's blocks", reflink),
    "migrate": (("PATH",), "move a file's data to other blocks", migrate),
    "poison": (("PATH", "OFF"), "the memory under a byte of the file has failed", poison),
    "writeback": (("PATH",), "write a file's dirty pages to its device", writeback),
    "pressure": (
        ("PATH",),
        "drop a file's pages, dirty ones written back first; of anon, what the protocol has unpinned is paged out",
        pressure,
    ),
    "umount": (("MOUNT",), "take a mount away; its files stay on the device", umount),
    "mount": (("MOUNT",), "/MNT=DEV[,dax|devdax][,protocol=P]: bring a mount back", mount),
    "lease": (
        ("PATH", "KIND"),
        "a layout lease: exclusive, shared, or none; it ends with this command",
        lease,
    ),
    "mark": (("PATH", "ON_OFF"), "mark a file immutable, or clear the mark: on, off", mark),
    "plug": (("DEV",), "a new, empty namespace on an unplugged device; emu0: the NIC again", plug),
}
