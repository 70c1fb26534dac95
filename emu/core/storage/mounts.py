"""umount and mount: the files stay on their device, and are out of reach in between."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from emu.core import asking, devices
from emu.core.asking import refuse, reply
from emu.core.errors import shown
from emu.core.events import MountAdded
from emu.core.reclaims import reclaim
from emu.core.rows import PSEUDO, Reclaim

if TYPE_CHECKING:
    from emu.core.books import Books
    from emu.core.events import Requested
    from emu.core.requests import FsMount, FsUmount


def fs_umount(b: Books, event: Requested, op: FsUmount) -> None:
    row = b.mounts.get(op.mount)
    if row is None:
        refuse(errno.ENOENT, f"mount {shown(op.mount)} does not exist: the mounts are {', '.join(b.mounts)}")
    if op.mount in PSEUDO:
        refuse(
            errno.EINVAL,
            f"{op.mount} is no filesystem: the mounts are {', '.join(m for m in b.mounts if m not in PSEUDO)}",
        )
    if row.raw:
        refuse(errno.EINVAL, f"{op.mount} is a device without a filesystem: unplug {row.device} instead")
    made = Reclaim("umount", event.session, event.request, row.protocol, device=row.device, to=op.mount)
    reclaim.begin(b, made)


def fs_mount(b: Books, event: Requested, op: FsMount) -> None:
    if op.device in b.devices:
        asking.online(b, op.device)
    devices.mount_added(b, MountAdded(op.mount, op.device, op.dax, op.protocol, op.raw, op.tmpfs))
    reply(b, event, {"protocol": b.mounts[op.mount].protocol})
