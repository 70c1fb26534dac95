"""Devices and mounts, their protocols, and the counts that must add up."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from emu.core import asking, contexts, queues
from emu.core.asking import answer, check_path, fail, refuse, reply
from emu.core.decision import IMPORTERS, unserved
from emu.core.effects import Offline, Online, OpenDevice, Poison
from emu.core.errors import Refused, errno_name, shown
from emu.core.memory import rawdev, registration
from emu.core.rows import BLOCK, DMABUF, Device, Mount, Token
from emu.core.storage import allocator, extents, files, leases, orphans, pages

if TYPE_CHECKING:
    from emu.core.books import Books
    from emu.core.events import Answered, DeviceAdded, MountAdded, Requested
    from emu.core.requests import FsPlug, QueryBooks, QueryDevice, SetProtocol


def device_added(b: Books, event: DeviceAdded) -> None:
    """A new device, or one that the durable books know (a restart): what its files own is handed to the shell."""
    if not 0 < event.blocks < 1 << 40 or not event.name or "/" in event.name:
        raise Refused(
            errno.EINVAL,
            f"device {event.name!r} of {event.blocks} blocks: use NAME=SIZE, no slash, a size over 0",
        )
    known = b.devices.get(event.name)
    if known is not None and known.blocks != event.blocks:
        raise Refused(
            errno.EINVAL,
            f"device {event.name} has {known.blocks} blocks, not {event.blocks}: use its size, or another directory",
        )
    if known is not None and known.aperture:
        raise Refused(errno.EEXIST, f"device {event.name} is there already: name each device once")
    row = (known or Device(0, event.blocks))._replace(aperture=b.number("aperture"))
    b.devices.put(event.name, row)
    owned = owned_of(b, event.name)
    bad = [(block, 1) for block in allocator.bad_of(b, event.name)]
    allocator.restore(b, row.aperture, row.blocks, [*owned, *bad])
    orphans.forget(b, event.name)
    runs = tuple((start * BLOCK, count * BLOCK) for start, count in owned)
    if event.name == DMABUF:
        b.mounts.put(DMABUF, b.mounts[DMABUF]._replace(device=DMABUF))
    b.emit(OpenDevice(row.aperture, event.name, row.blocks, runs, row.namespace))
    if bad:
        b.emit(Poison(row.aperture, tuple((block * BLOCK, BLOCK) for block, _count in bad)))
    files.restore_zeros(b, event.name)
    if not row.online:
        b.emit(Offline(row.aperture, event.name))


def owned_of(b: Books, name: str) -> list[tuple[int, int]]:
    """Blocks of the device that files have, as (block, blocks); those that several share, once."""
    files_on = b.files_on.of(name)
    owned = sorted((extent[1], extent[2]) for ino in files_on for extent in b.files[ino].extents)
    return extents.merged(owned) if any(b.files[ino].origin for ino in files_on) else owned


def mount_added(b: Books, event: MountAdded) -> None:
    check_path(event.path)
    if event.device not in b.devices:
        refuse(errno.ENODEV, f"device {event.device} does not exist: name it with --pmem NAME=SIZE")
    if event.path in b.mounts or asking.mount_on(b, event.device):
        refuse(
            errno.EBUSY,
            f"mount {event.path} or device {event.device} is in use: one mount a device, each path once",
        )
    name = known_protocol(b, event.protocol)
    b.mounts.put(event.path, Mount(event.device, event.dax, name, event.raw, event.tmpfs))
    if asking.backing_of(b, event.path) == "page-cache":
        pages.open_cache(b, event.device)
    _check_serves(b, event.path, name)
    if event.raw:
        if b.files_on.has(event.device):
            refuse(
                errno.EBUSY, f"device {event.device} has files: mount it without devdax and unlink them first"
            )
        rawdev.claim(b, event.device)


def _check_serves(b: Books, mount: str, name: str) -> None:
    """Refuse a protocol on a mount whose memory it cannot take back."""
    backing = asking.backing_of(b, mount)
    why = unserved(b.protocols[name], backing)
    if why:
        refuse(
            errno.EOPNOTSUPP,
            f"protocol {name} cannot serve {backing} memory: {why}; name another protocol for {mount}",
        )


def known_protocol(b: Books, name: str) -> str:
    if name in b.broken:
        refuse(errno.EINVAL, f"protocol {shown(name)} cannot be loaded: {b.broken[name]}")
    if name not in b.protocols:
        refuse(
            errno.EINVAL, f"protocol {shown(name)} is unknown: use one of {', '.join(sorted(b.protocols))}"
        )
    return b.protocols[name].name


def set_protocol(b: Books, event: Requested, op: SetProtocol) -> None:
    row = b.mounts.get(op.mount)
    if row is None:
        refuse(errno.ENOENT, f"mount {shown(op.mount)} does not exist: the mounts are {', '.join(b.mounts)}")
    if op.name:
        name = known_protocol(b, op.name)
        _check_serves(b, op.mount, name)
        row = row._replace(protocol=name)
        b.mounts.put(op.mount, row)
    needs = b.protocols[row.protocol].needs
    reply(b, event, {"protocol": row.protocol, "known": sorted(b.protocols), "needs": needs})


def fs_plug(b: Books, event: Requested, op: FsPlug) -> None:
    """A new, empty namespace at the same addresses. MRs that nobody could revoke keep their translations: that is the point."""
    if contexts.is_nic(op.device):
        contexts.plug(b, event, op)
        return
    row = b.devices.get(op.device)
    if row is None:
        refuse(
            errno.ENODEV, f"device {shown(op.device)} does not exist: the devices are {', '.join(b.devices)}"
        )
    if row.online:
        refuse(errno.EBUSY, f"device {op.device} is plugged: unplug it first")
    busy = [
        number
        for number, r in b.reclaims.items()
        if r.device == op.device or r.ino in b.files_on.of(op.device)
    ]
    if busy:
        refuse(
            errno.EBUSY,
            f"device {op.device} has reclaims under way ({busy[0]}): try again when they have ended",
        )
    pages.forget_device(b, op.device)
    for ino in b.files_on.of(op.device):
        leases.file_gone(b, ino)
        b.files.drop(ino)
        if ino in b.buffers:
            b.buffers.drop(ino)
    for number, bad in b.bad.items():
        if bad.device == op.device:  # other memory comes
            b.bad.drop(number)
    allocator.forget(b, op.device, row.aperture, row.blocks)
    namespace, token = row.namespace + 1, b.number("token")
    b.devices.put(op.device, row._replace(online=True, namespace=namespace))
    b.tokens.put(token, Token("plugged", event.session, event.request, device=op.device))
    b.emit(Online(token, row.aperture, op.device, namespace))
    if rawdev.is_raw(b, op.device):
        rawdev.renew(b, op.device)


def plugged(b: Books, _number: int, token: Token, event: Answered) -> None:
    """The namespace is there; or it is committed and cannot be shown: then the device is unplugged again."""
    row = b.devices[token.device]
    if not event.errno:
        answer(b, token.session, token.request, {"namespace": row.namespace})
        return
    b.devices.put(token.device, row._replace(online=False))
    sentence = f"device {token.device}: the new namespace cannot be mapped ({errno_name(event.errno)}): plug it again"
    fail(b, token.session, token.request, event.errno, sentence, definite=False)


def settled(b: Books, name: str) -> None:
    """Refuse while the plug of this device has not been answered."""
    if any(token.kind == "plugged" and token.device == name for _number, token in b.tokens.items()):
        refuse(errno.EBUSY, f"device {name} is being plugged: try again when that is answered")


def query_device(b: Books, event: Requested, _op: QueryDevice) -> None:
    limits = {
        "max_pd": queues.MAX_PD,
        "max_cq": queues.MAX_CQ,
        "max_cqe": queues.MAX_CQE,
        "max_qp": queues.MAX_QP,
        "max_qp_wr": queues.MAX_WR,
        "max_sge": queues.MAX_SGE,
        "max_mr": registration.MAX_MR,
        "max_mr_size": (1 << 63) - 1,
        "page_size": BLOCK,
    }
    reply(
        b,
        event,
        {**limits, "importers": list(IMPORTERS), "protocols": sorted(b.protocols), "policy": b.policy},
    )


def query_books(b: Books, event: Requested, _op: QueryBooks) -> None:
    names = (
        "sessions",
        "pds",
        "mrs",
        "cqs",
        "qps",
        "reclaims",
        "leases",
        "parked",
        "faults",
        "teardowns",
        "tokens",
        "files",
        "hosts",
    )
    counts: dict[str, object] = {name: len(getattr(b, name)) for name in names}
    blocks = {name: blocks_of(b, name) for name in b.devices}
    blocks |= {pages.name_of(name): pages.blocks_of(b, name) for name in b.caches}
    reply(b, event, {**counts, "devices": blocks})


def blocks_of(b: Books, name: str) -> dict[str, int]:
    """Where the blocks of a device are; free + owned + quarantined + bad = total. Limbo counts as quarantined. Of those in quarantine, orphaned: nobody's
    until the last pin on them is gone.
    """
    row = b.devices[name]
    owned = sum(count for _start, count in owned_of(b, name))
    if rawdev.is_raw(b, name):
        owned = row.blocks - len(allocator.bad_of(b, name))
    held = [
        run.blocks
        for book in (b.limbo, b.quarantine)
        for _key, run in book.items()
        if run.aperture == row.aperture
    ]
    free = allocator.free_blocks(b, row.aperture)
    bad = len(allocator.bad_of(b, name))
    return {
        "total": row.blocks,
        "free": free,
        "owned": owned,
        "quarantined": sum(held),
        "bad": bad,
        "orphaned": orphans.count(b, name),
    }
