"""What `emu broker` is told: parsed and checked before anything is opened."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from emu.history.events import DEFAULT_LIMIT

if TYPE_CHECKING:
    from pathlib import Path

BLOCK = 4096
LEAST_BREAK, MOST_BREAK = 0.001, 86400.0  # seconds
_SIZE = re.compile(r"([0-9]+)([KMGT]?)(?:i?B)?", re.IGNORECASE)
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_MOUNT = re.compile(r"((?:/[A-Za-z0-9_][A-Za-z0-9._-]{0,63}){1,4})=([^,]+)((?:,[^,]*)*)")
RESERVED = {"door", "zmq", "lock", "books", "runs", "emu0", "dmabuf"}


class OptionError(ValueError):
    """An option that cannot be; the sentence says what it should be."""


@dataclass(frozen=True, slots=True)
class Pmem:
    name: str
    size: int  # bytes, a multiple of 4096
    typed: str = field(default="", compare=False)  # NAME=SIZE as it was given, for sentences about it

    @property
    def blocks(self) -> int:
        return self.size // BLOCK


@dataclass(frozen=True, slots=True)
class MountPoint:
    path: str
    device: str
    dax: bool = False
    protocol: str = ""  # empty: the node's default
    raw: bool = False  # device-dax
    tmpfs: bool = False  # its page cache is not written back


LONGEST_INVALIDATION = 10_000_000


@dataclass(frozen=True, slots=True)
class Options:
    """Everything a broker is started with."""

    directory: Path
    pmem: tuple[Pmem, ...] = ()
    mounts: tuple[MountPoint, ...] = ()
    listen: tuple[str, ...] = ()
    host_protocol: str = ""
    anon_protocol: str = ""
    dmabuf_protocol: str = ""
    dmabuf: int = 0  # bytes of memory for exporters' buffers
    allocator: str = "freed-first"
    threads: int = 1
    quantum: int = 65536
    invalidation_us: float = (
        0.0  # what the hardware takes to say that it has stopped, beyond what our engine takes
    )
    history: Path | None = None  # of all runs; None: DIR/runs
    keep_history: bool = True
    history_bytes: int = DEFAULT_LIMIT
    ready: int = -1
    lifeline: int = -1
    ephemeral: bool = False
    writeback: float = 0.0  # seconds between two rounds over dirty pages; 0: only when it is asked for
    lease_break: float | None = None  # seconds; None: as lease-signal has it
    argv: tuple[str, ...] = field(default=())


def parse_size(text: str) -> int:
    """Bytes: 4096, 64K, 8M, 1G, 1T (powers of 1024). Raises OptionError."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise OptionError(f"{text!r} is no size: use bytes, or a number with K, M, G or T, as 64M")
    return int(match[1]) << _UNITS[match[2].upper()]


def parse_pmem(text: str) -> Pmem:
    """NAME=SIZE."""
    name, equals, size = text.partition("=")
    if not equals or not _NAME.fullmatch(name):
        raise OptionError(f"--pmem {text}: expected NAME=SIZE, as pm0=64M (letters, digits, _ and -)")
    if name in RESERVED:
        raise OptionError(f"--pmem {text}: {name} is a name of the broker's own; choose another")
    try:
        number = parse_size(size)
    except OptionError as error:
        raise OptionError(f"--pmem {text}: {error}") from None
    if number < BLOCK or number % BLOCK:
        raise OptionError(f"--pmem {text}: {number} bytes is not a positive multiple of {BLOCK}")
    return Pmem(name, number, text)


def parse_mount(text: str) -> MountPoint:
    """/MNT=NAME[,dax|devdax|tmpfs][,protocol=P]."""
    match = _MOUNT.fullmatch(text)
    if not match:
        raise OptionError(
            f"--mount {text}: expected /MNT=NAME[,dax|devdax|tmpfs][,protocol=P], as /mnt=pm0,dax,protocol=ebusy"
        )
    kinds, protocol = set[str](), ""
    for word in filter(None, match[3].split(",")):
        if word in {"dax", "devdax", "tmpfs"}:
            kinds.add(word)
        elif word.startswith("protocol=") and len(word) > len("protocol="):
            protocol = word.removeprefix("protocol=")
        else:
            raise OptionError(
                f"--mount {text}: unknown property {word!r}; there are dax, devdax, tmpfs and protocol=P"
            )
    if len(kinds) > 1:
        raise OptionError(
            f"--mount {text}: dax is a filesystem, devdax the bare device, tmpfs a page cache that is not written back: choose one"
        )
    return MountPoint(match[1], match[2], "dax" in kinds, protocol, "devdax" in kinds, "tmpfs" in kinds)


def check(options: Options) -> Options:
    """What no single option shows. Raises OptionError."""
    names = [pmem.name for pmem in options.pmem]
    paths = [mount.path for mount in options.mounts]
    for kind, values in (("--pmem", names), ("--mount", paths)):
        if twice := sorted({value for value in values if values.count(value) > 1}):
            raise OptionError(f"{kind}: {twice[0]} is given twice")
    for mount in options.mounts:
        if mount.device not in names:
            raise OptionError(f"--mount {mount.path}={mount.device}: no --pmem {mount.device}=SIZE")
    devices = [mount.device for mount in options.mounts]
    if twice := sorted({device for device in devices if devices.count(device) > 1}):
        raise OptionError(f"--mount: {twice[0]} is mounted twice")
    if options.dmabuf % BLOCK or options.dmabuf < 0:
        raise OptionError(f"--dmabuf {options.dmabuf}: use a multiple of {BLOCK}")
    if not 0 <= options.writeback < 1e6:
        raise OptionError(f"--writeback {options.writeback:g}: seconds, or 0 for never")
    if not 1 <= options.threads <= 8:
        raise OptionError(f"--threads {options.threads}: 1 to 8")
    if not 4096 <= options.quantum <= 16 << 20 or options.quantum % 64:
        raise OptionError(f"--quantum {options.quantum}: 4K to 16M, a multiple of 64")
    if not 0 <= options.invalidation_us <= LONGEST_INVALIDATION:
        raise OptionError(
            f"--invalidation-cost {options.invalidation_us:g}: microseconds, 0 to {LONGEST_INVALIDATION:,}"
        )
    if options.lease_break is not None and not LEAST_BREAK <= options.lease_break <= MOST_BREAK:
        raise OptionError(f"--lease-break {options.lease_break:g}: {LEAST_BREAK:g} to {MOST_BREAK:g} seconds")
    return options
