"""Device-dax: the bare device, without a filesystem.

All of it belongs to whoever opens it, so nothing is allocated and nothing freed: its blocks stay owned as long as their namespace lasts, and what
can be taken back is the device. Files there are none, and every operation on files says so (asking.mount_of).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from emu.core import asking
from emu.core.asking import refuse
from emu.core.effects import Claim
from emu.core.errors import shown
from emu.core.memory import keys, parking
from emu.core.memory.admission import admit, classed
from emu.core.memory.registration import install, row_of
from emu.core.reclaims import rights
from emu.core.rows import BLOCK

if TYPE_CHECKING:
    from emu.core.books import Books
    from emu.core.events import Requested
    from emu.core.requests import RegMr


def pin(b: Books, event: Requested, op: RegMr) -> None:
    """Bytes offset..offset+length of the device that is mounted at op.path."""
    mount = b.mounts.get(op.path)
    if mount is None or not mount.raw:
        raw = ", ".join(path for path, row in b.mounts.items() if row.raw) or "none"
        refuse(
            errno.ENODEV,
            f"{shown(op.path)} is no device-dax mount: there are {raw} (--mount PATH=NAME,devdax)",
        )
    device = asking.online(b, mount.device)
    hi, size = op.offset + op.length, device.blocks * BLOCK
    if op.offset % BLOCK:
        refuse(
            errno.EINVAL, f"offset {op.offset} is not a multiple of {BLOCK}: register from a block's start"
        )
    if hi > size:
        refuse(errno.EINVAL, f"bytes {op.offset} to {hi} go past the end of {op.path}: it has {size} bytes")
    op = classed(b, op, op.path)
    admit(b, event, op, op.path)
    if parking.waits(b, event, op.path, device=mount.device, lo=op.offset, hi=hi):
        return
    rights.admit(b, event.session, device.aperture)
    key = keys.issue_key(b)
    b.mrs.put(key, row_of(event, op, device.aperture, device.aperture, ((op.offset, op.length),)))
    install(b, key)


def claim(b: Books, name: str) -> None:
    """No block of this device is anybody's to give away. EBUSY while some are kept for who has them pinned."""
    row = b.devices[name]
    if any(run.aperture == row.aperture for book in (b.limbo, b.quarantine) for _key, run in book.items()):
        refuse(
            errno.EBUSY,
            f"device {name} has blocks that are pinned still: deregister what was over its files first",
        )
    for key in b.free_on.of(row.aperture):
        b.free.drop(key)
    b.emit(Claim(row.aperture, ((0, row.blocks * BLOCK),)))


def renew(b: Books, name: str) -> None:
    """Another namespace has come: what was registered on demand over the old one is never mapped into it."""
    aperture = b.devices[name].aperture
    for key, mr in b.mrs.items():
        if mr.backing == "devdax" and mr.space == aperture and mr.importer == "dynamic":
            b.mrs.put(key, mr._replace(revoked=True))
    claim(b, name)


def is_raw(b: Books, name: str) -> bool:
    mount = asking.mount_on(b, name)
    return bool(mount) and b.mounts[mount].raw
