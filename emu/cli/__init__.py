"""`emu COMMAND ...`: one module a command, listed in COMMANDS and loaded only when it is asked for.

A command module has `SUMMARY` (a line), `arguments(parser)` and `run(args) -> int`. Exit codes are INTERFACE's: 0 holds or done, 1 breach
or refused, 2 unknown, 64 usage, set-up, no broker, or an output that cannot be written. What goes wrong is said on stderr as
`emu: OP OBJECT: ERRNO: sentence`.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import re
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from emu.cli.output import Unwritable, watched
from emu.host.times import time_scale

if TYPE_CHECKING:
    from collections.abc import Sequence

USAGE = 64
INTERRUPTED = 130
LONGEST = 64  # characters of a name in a sentence
_LONG = re.compile(rf"[^\s/:]{{{LONGEST + 1},}}")

COMMANDS = {
    "bench": "measure emu's speed beside memcpy and a bare ZeroMQ echo",
    "broker": "run one node: RNIC, memory and filesystem",
    "check": "judge a run again from what it left behind",
    "compare": "measure protocols against events on live processes, side by side",
    "dmabuf": "be the exporter of a buffer, or look at one",
    "explore": "run a protocol through every interleaving of a small world",
    "force": "force a story of the explorer or the simulator onto a live broker",
    "fs": "files and devices of a node: create, read, truncate, punch, unlink, unplug, plug",
    "protocol": "show or change a mount's protocol",
    "simulate": "run a protocol through random long stories on a virtual clock",
}


class CommandError(Exception):
    """What a command cannot do; printed as one line. `code` becomes the exit status."""

    def __init__(self, sentence: str, code: int = USAGE) -> None:
        super().__init__(sentence)
        self.code = code


def cut(text: str) -> str:
    """A name that is too long to be read, in a sentence: its beginning. Each part of a path is a name."""
    return _LONG.sub(lambda found: f"{found[0][:LONGEST]}...", text)


def check_target(command: str, name: str | None, *, ours: Path | None = None) -> None:
    """Before minutes are spent: can this result be stored? Nothing is made. `ours`: a folder below which folders will be made."""
    if name is None:
        return
    if name == "-":
        if sys.stdout is None:
            raise CommandError(f"{command} -: EBADF: standard output is closed: name a file")
        return
    if not name:
        raise CommandError(f"{command} '': EINVAL: an empty name: name a file, or - for standard output")
    path = Path(name)
    number = _why_not(path, path.exists())
    if ours is not None and path.resolve() == ours.resolve():
        number = errno.EISDIR
    elif number == errno.ENOENT and ours is not None and path.resolve().is_relative_to(ours.resolve()):
        return
    if number:
        raise CommandError(
            f"{command} {name}: {errno.errorcode[number]}: {os.strerror(number)}: choose a file that can be written"
        )


def check_targets(command: str, names: Sequence[str | None], *, ours: Path | None = None) -> None:
    """The same of several, which are several."""
    for name in names:
        check_target(command, name, ours=ours)
    given = [name if name == "-" else str(Path(name).resolve()) for name in names if name]
    if twice := [name for name in given if given.count(name) > 1]:
        what = "standard output" if twice[0] == "-" else twice[0]
        raise CommandError(
            f"{command} {twice[0]}: EINVAL: {what} is given for two results: name a file for each"
        )


def store(command: str, name: str, text: str, *, ours: Path | None = None) -> None:
    """A result, where it was asked for. Below `ours` folders are made."""
    if name == "-":
        sys.stdout.write(text)
        return
    path = Path(name)
    try:
        if ours is not None and path.resolve().is_relative_to(ours.resolve()):
            path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    except OSError as error:
        code = errno.errorcode.get(error.errno or errno.EIO, "EIO")
        raise CommandError(f"{command} {name}: {code}: {error.strerror}: the result is not there") from None


def _why_not(path: Path, exists: bool) -> int:
    if path.is_dir():
        return errno.EISDIR
    if not exists and not path.parent.is_dir():
        return errno.ENOTDIR if path.parent.exists() else errno.ENOENT
    return 0 if os.access(path if exists else path.parent, os.W_OK) else errno.EACCES


class Parser(argparse.ArgumentParser):
    """argparse with our exit code for usage errors."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE, cut(f"emu: {self.prog.removeprefix('emu ')}: EINVAL: {message}\n"))


def parser_of(name: str) -> Parser:
    """The argument parser of one command (also used to write the manual)."""
    module = importlib.import_module(f"emu.cli.{name}")
    parser = Parser(prog=f"emu {name}", description=module.SUMMARY)
    module.arguments(parser)
    return parser


def usage() -> str:
    lines = ["usage: emu COMMAND [...]   (emu COMMAND --help tells more)", ""]
    lines += [f"  {name:<10} {what}" for name, what in COMMANDS.items()]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Entry point of the `emu` command. Returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        with watched():
            code = _main(arguments)
            if code == INTERRUPTED and argv is None:
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is ending already
            return code
    except Unwritable as unwritable:
        return _unwritable(arguments, unwritable.error)


def _unwritable(arguments: Sequence[str], error: OSError) -> int:
    """Not 1: that would be a breach, or a refusal. A reader who has gone need not be told."""
    if error.errno != errno.EPIPE and sys.stderr is not None:
        name = errno.errorcode.get(error.errno or errno.EIO, "EIO")
        about = " ".join(["emu:", *arguments[:1]])
        with suppress(OSError):
            print(f"{about}: {name}: standard output cannot be written: {error.strerror}", file=sys.stderr)
    return USAGE


def _check_environment(name: str) -> None:
    """Before anything runs."""
    try:
        time_scale()
    except ValueError as error:
        raise CommandError(f"{name}: EINVAL: {error}") from None


def _main(arguments: list[str]) -> int:
    if arguments[:1] in (["--version"], ["-V"]):
        from emu import __version__  # noqa: PLC0415 - only here

        print(f"emu {__version__}")
        return 0
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        print(usage())
        return 0 if arguments else USAGE
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        known = ", ".join(COMMANDS)
        print(f"emu: {cut(name)}: EINVAL: no such command; the commands are {known}", file=sys.stderr)
        return USAGE
    try:
        args = parser_of(name).parse_args(rest)
        _check_environment(name)
        return int(importlib.import_module(f"emu.cli.{name}").run(args))
    except CommandError as error:
        print(cut(f"emu: {error}"), file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print(f"emu: {name}: EINTR: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Unwritable:
        raise
    except OSError as error:
        code = errno.errorcode.get(error.errno or errno.EIO, "EIO")
        about = f"{name} {error.filename}" if error.filename else name
        print(cut(f"emu: {about}: {code}: {error.strerror or error}"), file=sys.stderr)
        return USAGE
    except Exception:  # noqa: BLE001 - a defect of ours: Python's own status for it, 1, would be a breach
        traceback.print_exc()
        print(f"emu: {name}: a defect of emu's own; nothing is concluded", file=sys.stderr)
        return USAGE
