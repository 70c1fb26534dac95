"""Memory regions, registered in three steps.

    reg_mr -> admitted, no gate in the way (or parked), row PINNED -> (memory opened) -> InstallKey: INSTALLING -> KeyInstalled: LIVE -> Reply

From PINNED on the row pins its range, so a reclaim between any two steps finds it. What the reclaim takes back meanwhile is
latched in `revoked`: the registration then fails with EBUSY and the key, if there is one, is torn down (teardown.py).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from emu.core import asking
from emu.core.asking import alive, answer, check_range, check_span, fail, refuse
from emu.core.decision import IMPORTERS
from emu.core.effects import InstallKey, Notify, OpenAnon, OpenHost
from emu.core.errors import errno_name, shown
from emu.core.memory import guards, importers, keys, parking
from emu.core.memory.admission import LOCAL_WRITE, ON_DEMAND, admit, classed
from emu.core.memory.teardown import forget, tear_down
from emu.core.reclaims import rights
from emu.core.rows import ANON, BLOCK, HOST, PSEUDO, SHARED, HostRow, Mr, Run, Token
from emu.core.storage import extents, files, pages, sharing

if TYPE_CHECKING:
    from emu.core.books import Books
    from emu.core.events import Answered, KeyInstalled, MemoryFaulted, Requested
    from emu.core.requests import RegMr

MAX_MR: Final = 65536
MAX_RUNS: Final = 7000  # of one MR: its answer carries them, through the door


REMOTE_WRITE, REMOTE_READ, REMOTE_ATOMIC = 2, 4, 8


KNOWN_ACCESS: Final = 15


OPTIONAL_ACCESS: Final = 0x3FF00000  # IBV_ACCESS_OPTIONAL_RANGE: may be ignored


def check_asked(b: Books, event: Requested, op: RegMr) -> None:
    check_span(op.offset, op.length, least=1)
    check_range("iova", op.iova, 0, (1 << 64) - op.length)
    extra = op.access & ~(KNOWN_ACCESS | ON_DEMAND | OPTIONAL_ACCESS)
    if op.access < 0 or extra:
        number = errno.EOPNOTSUPP if op.access >= 0 and extra < 256 else errno.EINVAL
        refuse(
            number, f"access {op.access:#x} has flags that this version lacks: use LOCAL_WRITE and REMOTE_*"
        )
    if op.access & (REMOTE_WRITE | REMOTE_ATOMIC) and not op.access & LOCAL_WRITE:
        refuse(errno.EINVAL, f"access {op.access:#x} has a remote write without LOCAL_WRITE: add LOCAL_WRITE")
    if op.importer not in IMPORTERS:
        refuse(errno.EINVAL, f"importer {shown(op.importer)} is unknown: use {', '.join(IMPORTERS)}")
    importers.check_bound(b, event, op)
    if op.guard and op.backing != HOST:
        refuse(
            errno.EINVAL, f"guard: only host files have a kernel to guard them from, not {op.backing} memory"
        )
    if len(b.mrs_of.of(event.session)) >= MAX_MR:
        refuse(errno.ENOMEM, f"this context has {MAX_MR} MRs already: deregister some first")


def row_of(event: Requested, op: RegMr, space: int, aperture: int, runs: tuple[Run, ...]) -> Mr:
    access = op.access & KNOWN_ACCESS
    state = "pinned"
    return Mr(
        event.session,
        op.pd,
        op.backing,
        access,
        op.importer,
        op.iova,
        op.length,
        space,
        aperture,
        runs,
        state,
        event.request,
        bound=op.bound,
        lo=op.offset,
    )


def pin_anon(b: Books, event: Requested, op: RegMr) -> None:
    if op.offset:
        refuse(errno.EINVAL, f"offset {op.offset} in memory that does not exist yet: anon memory starts at 0")
    op = classed(b, op, ANON)
    if op.access & ON_DEMAND:
        admit(b, event, op, ANON)
    aperture, token, key = b.number("aperture"), b.number("token"), keys.issue_key(b)
    b.mrs.put(key, row_of(event, op, aperture, aperture, ((0, op.length),))._replace(token=token))
    b.tokens.put(token, Token("open_memory", event.session, event.request, key=key))
    b.emit(OpenAnon(token, aperture, extents.blocks_up(op.length) * BLOCK))


def pin_file(b: Books, event: Requested, op: RegMr) -> None:
    ino, row = asking.file_at(b, op.path)
    path, _mount = asking.mount_of(b, op.path)
    check_within(op, row.size, op.path)
    op = classed(b, op, path)
    admit(b, event, op, path, ino)
    lo, hi = op.offset, op.offset + op.length
    if parking.waits(b, event, op.path, ino=ino, device=row.device, lo=lo, hi=hi):
        return
    files.check_not_lost(row, lo, hi)
    if op.access & LOCAL_WRITE and sharing.before(b, event, op, ino, lo, hi):
        return
    sharing.check_gate(b, ino, lo, hi)
    row = files.fill(b, ino, op.offset, op.length)
    backing = asking.backing_of(b, path)
    if backing == "page-cache":
        pages.bring_in(b, ino, op.offset, op.length)
    aperture, layout = pages.ground(b, ino, row)
    rights.admit(b, event.session, aperture)
    runs = extents.runs(layout, op.offset, op.length)
    check_runs(runs)
    key = keys.issue_key(b)
    made = row_of(event, op, aperture, aperture, runs)._replace(backing=backing, ino=ino, layout=row.layout)
    b.mrs.put(key, made)
    pages.pinned_to_write(b, made)
    install(b, key)


def check_runs(runs: tuple[Run, ...]) -> None:
    if len(runs) > MAX_RUNS:
        refuse(
            errno.EMSGSIZE,
            f"the range lies in {len(runs)} extents, an answer carries {MAX_RUNS}: register it in pieces",
        )


def check_within(op: RegMr, size: int, label: str) -> None:
    if op.offset % BLOCK:
        refuse(
            errno.EINVAL, f"offset {op.offset} is not a multiple of {BLOCK}: register from a block's start"
        )
    if op.offset + op.length > size:
        refuse(
            errno.EINVAL,
            f"bytes {op.offset} to {op.offset + op.length} go past the end of {label} ({size} bytes): extend it first",
        )


def pin_host(b: Books, event: Requested, op: RegMr) -> None:
    file = asking.host_file(event, "reg_mr")
    label = file.label or f"host file {file.device}:{file.inode}"
    if not file.writable and op.access & LOCAL_WRITE:
        refuse(
            errno.EACCES,
            f"{label} was opened for reading only: open it for writing, or register without writes",
        )
    check_within(op, file.size, label)
    op = classed(b, op, HOST)
    admit(b, event, op, HOST)
    host = host_row(b, file.device, file.inode, label)
    row = b.hosts[host]
    if row.gone:
        refuse(
            errno.ENODEV,
            f"{label} was taken away by unplug: it can be registered when nobody refers to it any more",
        )
    if parking.waits(b, event, label, host=host, lo=op.offset, hi=op.offset + op.length):
        return
    rights.admit(b, event.session, host)
    key = keys.issue_key(b)
    runs = ((op.offset, op.length),)
    if row.aperture and row.bytes >= op.offset + op.length:
        b.mrs.put(key, row_of(event, op, host, row.aperture, runs))
        if row.opened:
            install(b, key)
        return
    aperture, token = b.number("aperture"), b.number("token")
    b.hosts.put(host, row._replace(aperture=aperture, bytes=file.size, opened=False))
    b.mrs.put(key, row_of(event, op, host, aperture, runs))
    b.tokens.put(
        token, Token("open_memory", event.session, event.request, key=key, host=host, handle=file.handle)
    )
    b.kept = file.handle
    b.emit(OpenHost(token, aperture, file.handle, file.size, op.guard))


def host_row(b: Books, device: int, inode: int, label: str) -> int:
    """The number of this host file, a new one if nobody refers to it yet."""
    known = b.host_of.first((device, inode))
    if known is not None:
        return known
    host = b.number("aperture")
    b.hosts.put(host, HostRow(device, inode, 0, 0, label))
    return host


def memory_opened(b: Books, _number: int, token: Token, event: Answered) -> None:
    """Memory is there, or not: all registrations that wait for it go on."""
    aperture = b.mrs[token.key].aperture
    files.close(b, token.handle)
    if token.host and b.hosts[token.host].aperture == aperture:
        row = b.hosts[token.host]
        opened = guards.noted(row, event.value)._replace(opened=True)
        b.hosts.put(token.host, row._replace(aperture=0, bytes=0) if event.errno else opened)
    for key in b.mrs_via.of(aperture):
        _opened(b, key, event.errno)


def _opened(b: Books, key: int, refusal: int) -> None:
    row = b.mrs[key]
    if refusal:
        forget(b, key, opened=False)
        why = (
            f"the memory could not be opened: {errno_name(refusal)}: check the file, its size and free memory"
        )
        fail(b, row.session, row.request, refusal, f"reg_mr: {why}")
    elif row.revoked or not alive(b, row.session):
        forget(b, key)
        taken_back(b, row)
    else:
        install(b, key)


def install(b: Books, key: int) -> None:
    row = b.mrs[key]
    b.mrs.put(key, row._replace(state="installing"))
    number = IMPORTERS[row.importer]
    b.emit(InstallKey(key, row.pd, row.access, number, row.aperture, row.iova, row.length, row.runs))


def taken_back(b: Books, row: Mr) -> None:
    if b.sessions[row.session].dead:
        fail(b, row.session, row.request, errno.EIO, "reg_mr: the context was destroyed: open another one")
        return
    sentence = (
        "reg_mr: the range was taken back while it was registered: register again when the reclaim has ended"
    )
    fail(b, row.session, row.request, errno.EBUSY, sentence)


def key_installed(b: Books, event: KeyInstalled) -> None:
    row = b.mrs.get(event.key)
    if row is None or row.state not in {"installing", "unmapped"} or row.request == 0:
        return
    if event.errno:
        forget(b, event.key)
        sentence = f"reg_mr: the engine refused the key with {errno_name(event.errno)}: check its limits (query_device)"
        fail(b, row.session, row.request, event.errno, sentence)
        return
    settled_row = row._replace(state="live" if row.state == "installing" else row.state, request=0, token=0)
    b.mrs.put(event.key, settled_row)
    if row.revoked or not alive(b, row.session):
        taken_back(b, row)
        tear_down(b, (event.key,), row.session)
        return
    if _fenced(b, row):
        rights.granted(b, event.key)
    answer(b, row.session, row.request, _result(b, event.key, row), descriptors=_descriptors(row))


def _fenced(b: Books, row: Mr) -> bool:
    """Does its mount's protocol keep a table of rights?"""
    if row.backing in PSEUDO:
        mount = row.backing
    elif row.ino:
        mount = asking.mount_on(b, b.files[row.ino].device) if row.ino in b.files else ""
    else:
        mount = next((path for path, m in b.mounts.items() if m.raw and _space(b, m.device) == row.space), "")
    return bool(mount) and b.protocols[b.mounts[mount].protocol].fences


def _space(b: Books, device: str) -> int:
    return b.devices[device].aperture


def _result(b: Books, key: int, row: Mr) -> dict[str, object]:
    pages = [[offset, extents.blocks_up(length) * BLOCK] for offset, length in row.runs]
    result: dict[str, object] = {"handle": key, "lkey": key, "rkey": key, "length": row.length, "map": pages}
    result["importer"] = row.importer
    device = b.files[row.ino].device if row.ino in b.files else _raw_device(b, row)
    return {**result, "ino": row.ino, "layout": row.layout, "device": device, **guards.told(b, row)}


def _descriptors(row: Mr) -> int:
    return row.token if row.backing == ANON else -row.aperture if row.backing in SHARED else 0


def _raw_device(b: Books, row: Mr) -> str:
    """The device whose bare memory it is."""
    named = (name for name, device in b.devices.items() if device.aperture == row.aperture)
    return next(named, "") if row.backing == "devdax" else ""


def faulted(b: Books, event: MemoryFaulted) -> None:
    """Everybody with an MR on that memory hears of it, asked or not: without the event its bytes would be lost in silence."""
    for key in b.mrs_via.of(event.aperture):
        row = b.mrs[key]
        if alive(b, row.session) and not row.request:
            b.emit(Notify(row.session, "MEMORY_FAULT", {"mr": key, "rkey": key, "offset": event.offset}))
