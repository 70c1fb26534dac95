"""What a reclaim covers, whom it meets there, and what is said about it: questions, a line of history, an error answer."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from emu.core import asking
from emu.core.asking import fail
from emu.core.decision import Facts
from emu.core.effects import Phase
from emu.core.errors import ProtocolBroke
from emu.core.memory import buffers
from emu.core.memory.pins import pins_over
from emu.core.rows import ANON, BLOCK, HOST, Reclaim, Run
from emu.core.storage import extents, leases, moving, pages, sharing, swap

if TYPE_CHECKING:
    from emu.core.books import Books

FACTS: Final = ("surprise", "poison")  # they came before whoever is asked
WAITS: Final = ("fencing", "fenced", "unmapping", "unmapped")
UNDERNEATH: Final = (
    "migrate",
    "reflink",
)  # they change a device's blocks; pages over these stay where they are


def overlaps(b: Books, one: Reclaim, other: Reclaim) -> bool:
    if one.host or other.host:
        same = one.host == other.host
    else:
        same = (
            (one.ino != 0 and one.ino == other.ino)
            or device_of(b, one) == other.device
            or one.device == device_of(b, other)
        )
        if not same and shares(b, one, other):
            return True
    return same and one.lo < other.hi and other.lo < one.hi


def shares(b: Books, one: Reclaim, other: Reclaim) -> bool:
    """Are they about blocks that two files of one family have in common?"""
    mine, theirs = b.files.get(one.ino), b.files.get(other.ino)
    if mine is None or theirs is None or not mine.origin or mine.origin != theirs.origin:
        return False
    _space, runs = space_of(b, one)
    _space, others = space_of(b, other)
    return any(at < to + n and to < at + count for at, count in runs for to, n in others)


def device_of(b: Books, row: Reclaim) -> str:
    if row.device:
        return row.device
    file = b.files.get(row.ino)
    return file.device if file is not None else "?"


def waits(b: Books, number: int, row: Reclaim) -> bool:
    """Is an older reclaim of the same range still there? A fact (surprise, poison) waits for nobody, and nobody waits for a surprise."""
    if row.kind in FACTS:
        return False
    return any(
        older < number and other.kind != "surprise" and overlaps(b, row, other)
        for older, other in b.reclaims.items()
    )


def stopped(b: Books, row: Reclaim) -> tuple[int, str] | None:
    """What happened while it waited makes it impossible: (errno, sentence)."""
    if row.ino:
        file = b.files.get(row.ino)
        if file is None:
            return errno.ENOENT, "the file was unlinked meanwhile"
        if not b.devices[file.device].online:
            return errno.ENODEV, f"device {file.device} was unplugged meanwhile"
        if file.gone and row.kind not in {"unlink", "revoke", "surprise"}:
            return errno.ENODEV, f"file {file.path} was taken away meanwhile"
        if not asking.mount_on(b, file.device):
            return errno.ENOENT, f"the mount of {file.path} was unmounted meanwhile"
        return moving.impossible(b, row)
    if row.kind == "umount" and row.to not in b.mounts:
        return errno.ENOENT, f"mount {row.to} was unmounted meanwhile"
    if row.device and row.kind == "unplug" and not b.devices[row.device].online:
        return errno.ENODEV, f"device {row.device} was unplugged meanwhile"
    return None


def unable(b: Books, row: Reclaim, keys: tuple[int, ...]) -> str:
    accepted = b.protocols[row.protocol].importers
    for key in keys:
        importer = b.mrs[key].importer
        if importer not in accepted:
            return f"MR {key} is of a {importer} importer, which {row.protocol} cannot take back: wait until it is gone"
    return ""


def target(b: Books, row: Reclaim) -> dict[str, object]:
    if row.ino:
        found: dict[str, object] = {"path": b.files[row.ino].path, "ino": row.ino, "lo": row.lo, "hi": row.hi}
        more: dict[str, object] = {"length": row.length, "to": row.to, "block": row.block + 1}
        if row.ino in b.buffers:
            more |= {"buffer": buffers.name_of(b.files[row.ino])}
            found |= {"permanent": row.permanent} if row.kind != "move" else {}
        return found | {name: value for name, value in more.items() if value}
    if row.device == ANON:
        return {"memory": ANON}
    if row.device and row.block >= 0:  # of a raw device, which has no files
        return {"path": row.to, "lo": row.lo, "hi": row.hi, "block": row.block + 1}
    if row.device:
        return {"device": row.device, "mount": row.to} if row.to else {"device": row.device}
    return {"host": b.hosts[row.host].label, "lo": row.lo, "hi": row.hi}


def space_of(b: Books, row: Reclaim) -> tuple[int, tuple[Run, ...]]:
    """The space and the runs under reclaim, as the layout is now; none of clients' memory, where each MR has its own."""
    if row.device == ANON:
        return 0, ()
    if row.host:
        return row.host, ((row.lo, row.hi - row.lo),) if row.lo < row.hi else ()
    if row.device:
        aperture, blocks = pages.space_of(b, row.device)
        whole = 0, (blocks + 1) * BLOCK  # the scratch page goes with it
        return aperture, (whole if row.block < 0 else (row.block * BLOCK, BLOCK),)
    file = b.files.get(row.ino)
    if file is None:
        return 0, ()
    aperture = b.devices[file.device].aperture
    if row.block >= 0:
        return aperture, ((row.block * BLOCK, BLOCK),)
    if row.kind == "cow-write":
        return aperture, extents.spans(sharing.shared(b, row.ino, row.lo, row.hi))
    layout = file.extents
    if row.kind not in UNDERNEATH:
        aperture, layout = pages.ground(b, row.ino, file)
    end = (layout[-1][0] + layout[-1][2]) * BLOCK if layout else 0
    lo, hi = row.lo, min(row.hi, end)
    if file.origin and row.kind in {"punch", "zero"}:  # shared edges move as whole blocks
        lo, hi = lo // BLOCK * BLOCK, min(extents.blocks_up(hi) * BLOCK, end)
    return aperture, extents.runs(layout, lo, hi - lo) if lo < hi else ()


def pinned(b: Books, row: Reclaim) -> tuple[int, ...]:
    """Keys with a pin on the range, retired blocks included."""
    if row.device == ANON:
        return swap.held(b, row.keys)
    space, runs = space_of(b, row)
    return pins_over(b, space, runs)


def pins_on(b: Books, key: int) -> bool:
    run = b.quarantine[key]
    return bool(pins_over(b, run.aperture, ((run.start * BLOCK, run.blocks * BLOCK),)))


def facts_of(b: Books, row: Reclaim) -> Facts:
    keys = pinned(b, row)
    holders = tuple(dict.fromkeys(b.mrs[key].session for key in keys))
    own, leased, marked = holders == (row.session,), bool(leases.of_others(b, row)), leases.marked(b, row)
    return Facts(row.kind, len(keys), len(holders), own, leased, backing_of(b, row), marked)


def backing_of(b: Books, row: Reclaim) -> str:
    """Of the range. A device that nothing is mounted on is a filesystem's, as far as anybody can tell."""
    if row.host or row.device == ANON:
        return row.device or HOST
    mount = asking.mount_on(b, device_of(b, row))
    return asking.backing_of(b, mount) if mount else "dax"


def phase(b: Books, number: int, phase: str, detail: dict[str, object] | None = None) -> None:
    """Of the two waits: without the keys that the quiesce left alone, which nobody waits for."""
    row = b.reclaims[number]
    keys = tuple(key for key in row.keys if key not in row.passed) if phase in WAITS else row.keys
    b.emit(Phase(number, phase, keys, detail or {}))


def deny(b: Books, number: int, code: int, sentence: str) -> None:
    row = b.reclaims[number]
    definite = row.kind != "poison"  # a fact: what was refused is to let go of it
    fail(b, row.session, row.request, code, f"{row.kind}: {sentence}", definite)
    b.reclaims.put(number, row._replace(returned=True, errno=code))
    phase(b, number, "returned", {"errno": code})


def broke(row: Reclaim, rule: str, sentence: str) -> ProtocolBroke:
    return ProtocolBroke(row.protocol, rule, f"{sentence} (in phase {row.phase})")
