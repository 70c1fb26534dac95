"""Memory on demand: page faults under keys of dynamic importers.

    reclaim:  quiesce -> Invalidate: MR PARKED -> unmap: MR ABSENT, it pins nothing -> ... the reclaim ends
    access:   Missed -> (waits in the book `faults` while a reclaim is at that file) -> holes filled, layout looked up -> Remap: MR LIVE

An MR that is mapped on demand is never revoked: what a reclaim takes is its translation, and whoever uses it next asks for another. As
long as it has one it counts among the pins of its range (Facts.pins: what must be taken back first); without one it pins nothing.

The answer is looked up for the whole MR, in whole blocks: what lies in a block of the file; GONE behind its end, or where the file or its
device is no more (the access fails, with no harm done: a file that is extended again works again); VACANT in holes that nobody has asked
for. Only the bytes that were asked for are filled; without room for them holes are GONE, as a store into a mapping would end in SIGBUS. Blocks
that the file shares are no place to write to: they are copied first (cow-write), and GONE where that is refused.

Sequence: each Invalidate makes older faults stale. Their Remap is refused (ESTALE), and the engine tells them anew.

A fault of an MR of another importer is nobody's access: a reclaim that had parked it has ended (retargeting.py), and it goes on where it led.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from emu.core import asking, extents, files, pages, sharing
from emu.core.asking import alive
from emu.core.effects import Arm, Quiesce, Remap
from emu.core.errors import Refused
from emu.core.rows import BLOCK, DMABUF, Fault, Reclaim, Token

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from emu.core.books import Books
    from emu.core.events import Answered, Missed
    from emu.core.rows import File, Mr, Run

DYNAMIC: Final = "dynamic"
GONE: Final = -1
VACANT: Final = -2
LOCAL_WRITE: Final = 1
RETRY: Final = 0.1  # seconds until an answer that the engine had no room for is given again
SOON: Final = 0.0005  # until who has waited for a reclaim is answered


def on_demand(row: Mr) -> bool:
    """Mapped on demand, and neither being registered nor on its way out: who takes its memory parks it."""
    return row.importer == DYNAMIC and not row.request and not row.ending


def missed(b: Books, event: Missed) -> None:
    row = b.mrs.get(event.key)
    if row is None or row.importer != DYNAMIC or _ends(b, row):
        return  # its key is on its way out: then who waits is refused
    fault = Fault(event.key, event.sequence, event.offset, event.bytes, event.write)
    for number, other in b.faults.items():
        if other._replace(sequence=fault.sequence, token=0, again=0, copied=False, waited=False) == fault:
            b.faults.put(number, other._replace(sequence=fault.sequence))  # told anew
            return
    b.faults.put(b.number("fault"), fault)


def _ends(b: Books, row: Mr) -> bool:
    """It is mapped no more, whoever asks: deregistered, unmapped for good, its context destroyed or gone."""
    return row.ending or row.state == "unmapped" or not alive(b, row.session) or b.sessions[row.session].dead


def settle(b: Books) -> None:
    """Answer whatever need not wait. Called at the end of every step."""
    for number, fault in b.faults.items() if len(b.faults) else ():
        if b.mrs[fault.key].importer != DYNAMIC:
            _go_on(b, number, fault)
        elif _ends(b, b.mrs[fault.key]):
            b.faults.drop(number)
        elif fault.token or fault.again:
            continue
        elif _waits(b, fault.key):
            b.faults.put(number, fault._replace(waited=True))
        elif fault.waited:  # the reclaim ends in a step of its own
            _later(b, number, fault, SOON)
        else:
            _answer(b, number)


def _waits(b: Books, key: int) -> bool:
    """Somebody is taking from what this MR reaches, or has taken it for a time; or it is not registered yet."""
    row = b.mrs[key]
    if row.request or (row.ino in b.buffers and b.buffers[row.ino].away):
        return True
    device = b.files[row.ino].device if row.ino in b.files else ""
    lo, hi = row.lo, row.lo + row.length
    for number in b.reclaims:
        taking = b.reclaims[number]
        same = bool(
            (row.ino and taking.ino == row.ino)
            or (device and taking.device == device)
            or (taking.host and taking.host == row.space)
        )
        closed = taking.gated or taking.kind == "cow-write"
        if same and closed and taking.lo < hi and lo < taking.hi:
            return True
        if key in taking.keys and taking.fencing:
            return True
    return False


def _answer(b: Books, number: int) -> None:
    fault = b.faults[number]
    row = b.mrs[fault.key]
    if not fault.copied and _shares(b, row, fault):
        b.faults.put(number, fault._replace(copied=True))
        return
    found = ((GONE, row.length),) if row.revoked else TRANSLATING.get(row.backing, _same)(b, row, fault)
    runs = tuple(run for run in found if run[0] >= 0)
    token = b.number("token")
    b.tokens.put(token, Token("remapped", key=fault.key, fault=number))
    b.faults.put(number, fault._replace(token=token))
    b.mrs.put(fault.key, row._replace(state="live", runs=runs))
    pages.pinned_to_write(b, b.mrs[fault.key])
    b.emit(Remap(token, fault.key, row.aperture, found, fault.sequence))


def _go_on(b: Books, number: int, fault: Fault) -> None:
    """What was parked for nothing: the same translation again. A teardown that has it may give up: then it is looked at again."""
    row = b.mrs[fault.key]
    if row.state != "parked":
        b.faults.drop(number)
    elif not (row.ending or fault.token or fault.again):
        token = b.number("token")
        b.tokens.put(token, Token("remapped", key=fault.key, fault=number))
        b.faults.put(number, fault._replace(token=token))
        b.emit(Remap(token, fault.key, row.aperture, row.runs))


def _went_on(b: Books, number: int, fault: Fault, refusal: int) -> None:
    """It lives; where there is nothing any more that it could go on with, it is revoked, and who waits is refused."""
    if refusal in {errno.ENOMEM, errno.EBUSY}:
        _later(b, number, fault, RETRY)
        return
    b.faults.drop(number)
    row = b.mrs[fault.key]
    b.mrs.put(fault.key, row._replace(state="live", revoked=bool(refusal)))
    if refusal:
        b.emit(Quiesce(b.number("cookie"), (fault.key,)))


def remapped(b: Books, _number: int, token: Token, event: Answered) -> None:
    """Done; stale: it comes again; no room for it: it is tried again."""
    fault = b.faults.get(token.fault)
    if fault is None:
        return  # its MR went meanwhile, or was taken back again
    if b.mrs[fault.key].importer != DYNAMIC:
        _went_on(b, token.fault, fault, event.errno)
        return
    if event.errno in {0, errno.ESTALE, errno.ENOENT, errno.EBUSY}:
        b.faults.drop(token.fault)
        return
    _later(b, token.fault, fault, RETRY)


def _later(b: Books, number: int, fault: Fault, seconds: float) -> None:
    timer = b.number("timer")
    b.faults.put(number, fault._replace(token=0, again=timer, copied=False, waited=False))
    b.emit(Arm(timer, seconds))


def _shares(b: Books, row: Mr, fault: Fault) -> bool:
    """Who may write must not reach blocks that other files have too: a reclaim of kind cow-write gives the file its own first."""
    file = b.files.get(row.ino)
    if row.backing == "page-cache":
        return False  # what is written to a page reaches no block before it is written back, to one of its file's own
    if file is None or not row.access & LOCAL_WRITE or not _reaches(b, row, file):
        return False
    lo, hi = _asked(row, fault, file)
    if not sharing.shared(b, row.ino, lo, hi):
        return False
    protocol = b.mounts[asking.mount_on(b, file.device)].protocol
    b.wanted.append(Reclaim("cow-write", 0, 0, protocol, ino=row.ino, lo=lo, hi=hi))
    return True


def ask_again(b: Books, number: int) -> None:
    """Its timer has fired."""
    b.faults.put(number, b.faults[number]._replace(again=0))


# ---- where the memory is now


def _reaches(b: Books, row: Mr, file: File) -> bool:
    """Is the file there as it was when this MR was made: on its device, under a mount that gives memory of the same kind?"""
    if file.gone or not b.devices[file.device].online:
        return False
    mount = asking.mount_on(b, file.device)
    return row.backing == DMABUF or (mount != "" and asking.backing_of(b, mount) == row.backing)


def _file(b: Books, row: Mr, fault: Fault) -> tuple[Run, ...]:
    file = b.files.get(row.ino)
    if file is None or not _reaches(b, row, file):
        return ((GONE, row.length),)
    hole = VACANT if _filled(b, row, fault, file) else GONE
    file = b.files[row.ino]
    end = min(row.length, max(0, extents.blocks_up(file.size) * BLOCK - row.lo))
    mine = _writable(b, row, file, row.lo, row.lo + end) if row.access & LOCAL_WRITE else file.extents
    found = tuple((hole, size) if at < 0 else (at, size) for at, size in extents.pieces(mine, row.lo, end))
    return found if end == row.length else (*found, (GONE, row.length - end))


def _filled(b: Books, row: Mr, fault: Fault, file: File) -> bool:
    """What was asked for is there, as far as the file goes; False: no room, memory that has failed, blocks that are still shared."""
    lo, hi = _asked(row, fault, file)
    if any(extents.cut(file.lost, lo // BLOCK, extents.blocks_up(hi))) or (
        row.access & LOCAL_WRITE and sharing.shared(b, row.ino, lo, hi)
    ):
        return False
    mark = b.mark()
    try:
        if lo < hi:
            files.fill(b, row.ino, lo, hi - lo)
    except Refused:
        b.rollback(mark)
        return False
    return True


def _cached(b: Books, row: Mr, fault: Fault) -> tuple[Run, ...]:
    """Pages that were asked for are brought in; those that are there already come along."""
    file = b.files.get(row.ino)
    if file is None or not _reaches(b, row, file):
        return ((GONE, row.length),)
    hole = VACANT if _brought_in(b, row, fault, file) else GONE
    end = min(row.length, max(0, extents.blocks_up(file.size) * BLOCK - row.lo))
    _aperture, layout = pages.ground(b, row.ino)
    found = tuple((hole, size) if at < 0 else (at, size) for at, size in extents.pieces(layout, row.lo, end))
    return found if end == row.length else (*found, (GONE, row.length - end))


def _brought_in(b: Books, row: Mr, fault: Fault, file: File) -> bool:
    """False: no room on the device or in its cache, or memory that has failed."""
    lo, hi = _asked(row, fault, file)
    if any(extents.cut(file.lost, lo // BLOCK, extents.blocks_up(hi))):
        return False
    mark = b.mark()
    try:
        if lo < hi:
            files.fill(b, row.ino, lo, hi - lo)
            pages.bring_in(b, row.ino, lo, hi - lo)
    except Refused:
        b.rollback(mark)
        return False
    return True


def _asked(row: Mr, fault: Fault, file: File) -> tuple[int, int]:
    lo = row.lo + fault.offset
    return lo, min(lo + fault.bytes, extents.blocks_up(file.size) * BLOCK)


def _writable(b: Books, row: Mr, file: File, lo: int, hi: int) -> extents.Extents:
    """Without what it shares: that is asked for when it is needed."""
    kept = file.extents
    for at, _device, count, _since in sharing.shared(b, row.ino, lo, hi):
        kept = extents.remove(kept, at, at + count)[0]
    return kept


def _same(_b: Books, row: Mr, _fault: Fault) -> tuple[Run, ...]:
    """Memory that never moves: a host file's mapping (the engine looks at its size), a client's own, a raw device."""
    return ((row.lo, row.length),)


def _device(b: Books, row: Mr, _fault: Fault) -> tuple[Run, ...]:
    there = any(device.aperture == row.space and device.online for _name, device in b.devices.items())
    return ((row.lo if there else GONE, row.length),)


TRANSLATING: Mapping[str, Callable[[Books, Mr, Fault], tuple[Run, ...]]] = {
    "dax": _file,
    "page-cache": _cached,
    "devdax": _device,
    DMABUF: _file,  # what is revoked for good has no blocks, what has lost its exporter no file
}
