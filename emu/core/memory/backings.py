"""Which module registers memory of which backing. If you add a backing: the table, and contract.BACKINGS."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from emu.core.asking import owned, refuse
from emu.core.errors import shown
from emu.core.memory import imports, rawdev, registration
from emu.core.queues import need_door
from emu.core.rows import ANON, DMABUF, HOST

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from emu.core.books import Books
    from emu.core.events import Requested
    from emu.core.requests import RegMr


def reg_mr(b: Books, event: Requested, op: RegMr) -> None:
    need_door(b, event, "memory")
    owned(b.pds, event, op.pd, "PD")
    registration.check_asked(b, event, op)
    pin = PINNING.get(op.backing)
    if pin is None:
        refuse(errno.EOPNOTSUPP, f"backing {shown(op.backing)} is not there: use {', '.join(PINNING)}")
    pin(b, event, op)


PINNING: Mapping[str, Callable[[Books, Requested, RegMr], None]] = {
    "dax": registration.pin_file,
    "page-cache": registration.pin_file,  # a file on a mount: which of the two it is, the mount says
    ANON: registration.pin_anon,
    HOST: registration.pin_host,
    "devdax": rawdev.pin,
    DMABUF: imports.pin,
}
