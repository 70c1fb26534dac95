"""Memory on demand: page faults under keys of dynamic importers.

    reclaim:  quiesce -> Invalidate: MR PARKED -> unmap: MR ABSENT, it pins nothing -> ... the reclaim ends
    access:   Missed -> (waits in the book `faults` while a reclaim is at that file) -> holes filled, layout looked up -> Remap: MR LIVE

An MR that is mapped on demand is never revoked: what a reclaim takes is its translation, and whoever uses it next asks for another. As
long as it has one it counts among the pins of its range (Facts.pins: what must be taken back first); without one it pins nothing.

The answer is looked up for the whole MR, in whole blocks: what lies in a block of the file; GONE behind its end, or where the file or its
device is no more (the access fails, with no harm done: a file that is extended again works again); VACANT in holes that nobody has asked
for. Only the bytes that were asked for are filled, or, without room for them all, their first block; if that alone cannot be filled, it is GONE, as
a store into a mapping would end in SIGBUS, and nothing else is: others who wait under the key have room perhaps. Blocks that the file shares
are no place to write to: they are copied first (cow-write), and are as good as holes where that is refused.

The engine reports a fault once, and waits for an answer that has its first byte, or says GONE of it; every fault in the book gets one. It lives
from the moment in which that is looked up, before the engine has taken it: so whoever reclaims meanwhile finds a pin too many, never one too few.

Sequence: each Invalidate makes older faults stale. Their Remap is refused (ESTALE), and the engine tells them anew.

A fault of an MR of another importer is nobody's access: a reclaim that had parked it has ended (retargeting.py), and it goes on where it led.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from emu.core import asking
from emu.core.asking import alive
from emu.core.effects import Arm, Quiesce, Remap
from emu.core.errors import Refused
from emu.core.rows import ANON, BLOCK, DMABUF, Fault, Reclaim, Token
from emu.core.storage import allocator, extents, files, pages, sharing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from emu.core.books import Books
    from emu.core.events import Answered, Missed
    from emu.core.rows import File, Mr, Run

    Filling = Callable[[Books, Mr, File, int, int], bool]

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
    for number in b.faults_of.of(event.key):
        other = b.faults[number]
        plain = other._replace(sequence=fault.sequence, again=0, copied=False, waited=False)
        if plain == fault:  # told anew; what is being answered is not: who tells it has asked since
            b.faults.put(number, other._replace(sequence=fault.sequence))
            return
    b.faults.put(b.number("fault"), fault)


def _ends(b: Books, row: Mr) -> bool:
    """It is mapped no more, whoever asks: deregistered, unmapped for good, its context destroyed or gone."""
    return row.ending or row.state == "unmapped" or not alive(b, row.session) or b.sessions[row.session].dead


def settle(b: Books) -> None:
    """Answer whatever need not wait. Called at the end of every step: once a key for those who wait already."""
    for key in b.faults_of.groups():
        if b.mrs[key].importer != DYNAMIC:
            for number in b.faults_of.of(key):
                _go_on(b, number, b.faults[number])
    for key in b.waiting_faults.groups():
        _let_on(b, key)
    for number in b.fresh_faults.of(True):
        fault = b.faults[number]
        if b.mrs[fault.key].importer != DYNAMIC:
            continue
        if _ends(b, b.mrs[fault.key]):
            b.faults.drop(number)
        elif _waits(b, fault.key):
            b.faults.put(number, fault._replace(waited=True))
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
            or (taking.device == ANON and key in taking.keys)
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


def _let_on(b: Books, key: int) -> None:
    """Who waits under this key, if nothing is being taken from it any more: each in a step of its own."""
    ending = _ends(b, b.mrs[key])
    if ending or not _waits(b, key):
        for number in b.waiting_faults.of(key):
            if ending:
                b.faults.drop(number)
            else:
                _later(b, number, b.faults[number], SOON)


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
    _fill(b, row, fault, file, _filled)
    file = b.files[row.ino]
    mine = _writable(b, row, file, row.lo, _end(row, file)) if row.access & LOCAL_WRITE else file.extents
    return _found(row, fault, file, mine)


def _cached(b: Books, row: Mr, fault: Fault) -> tuple[Run, ...]:
    """Pages that were asked for are brought in; those that are there already come along."""
    file = b.files.get(row.ino)
    if file is None or not _reaches(b, row, file):
        return ((GONE, row.length),)
    _fill(b, row, fault, file, _brought_in)
    _aperture, layout = pages.ground(b, row.ino)
    return _found(row, fault, b.files[row.ino], layout)


def _fill(b: Books, row: Mr, fault: Fault, file: File, filled: Filling) -> None:
    """All that was asked for, or its first block, or nothing."""
    lo, hi = _asked(row, fault, file)
    first = min(hi, (lo // BLOCK + 1) * BLOCK)
    if lo < hi and not filled(b, row, file, lo, hi) and first < hi:
        filled(b, row, file, lo, first)


def _filled(b: Books, row: Mr, file: File, lo: int, hi: int) -> bool:
    """False: no room, memory that has failed, blocks that are still shared."""
    if any(extents.cut(file.lost, lo // BLOCK, extents.blocks_up(hi))) or (
        row.access & LOCAL_WRITE and sharing.shared(b, row.ino, lo, hi)
    ):
        return False
    return _tried(b, lambda: files.fill(b, row.ino, lo, hi - lo))


def _brought_in(b: Books, row: Mr, file: File, lo: int, hi: int) -> bool:
    """False: no room on the device or in its cache, or memory that has failed."""
    if any(extents.cut(file.lost, lo // BLOCK, extents.blocks_up(hi))):
        return False

    def bring() -> None:
        files.fill(b, row.ino, lo, hi - lo)
        pages.bring_in(b, row.ino, lo, hi - lo)

    return _tried(b, bring)


def _tried(b: Books, change: Callable[[], object]) -> bool:
    mark = b.mark()
    try:
        change()
    except Refused:
        b.rollback(mark)
        return False
    return True


def _found(row: Mr, fault: Fault, file: File, layout: extents.Extents) -> tuple[Run, ...]:
    """Holes are VACANT, GONE in the one block that the fault is about first: it could not be filled."""
    lo, end = row.lo, _end(row, file)
    first = min(end, (lo + fault.offset) // BLOCK * BLOCK)
    found: list[Run] = []
    for start, stop, hole in (
        (lo, first, VACANT),
        (first, min(end, first + BLOCK), GONE),
        (first + BLOCK, end, VACANT),
    ):
        for at, size in extents.pieces(layout, start, stop - start) if start < stop else ():
            _add(found, at if at >= 0 else hole, size)
    _add(found, GONE, lo + row.length - end)
    return tuple(found)


def _add(found: list[Run], at: int, size: int) -> None:
    last, length = found[-1] if found else (GONE, 0)
    if length and (last == at if at < 0 else last >= 0 and last + length == at):
        found[-1] = (last, length + size)
    elif size:
        found.append((at, size))


def _end(row: Mr, file: File) -> int:
    """Of the file's blocks within the MR, in the file."""
    return row.lo + min(row.length, max(0, extents.blocks_up(file.size) * BLOCK - row.lo))


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
    """Memory that never moves: a client's own."""
    return ((row.lo, row.length),)


def _host(b: Books, row: Mr, _fault: Fault) -> tuple[Run, ...]:
    """A host file's mapping: the engine looks at its size; a file that was taken away for good is nobody's."""
    return ((GONE if b.hosts[row.space].gone else row.lo, row.length),)


def _device(b: Books, row: Mr, _fault: Fault) -> tuple[Run, ...]:
    """The device as it lies there, without blocks that have failed."""
    name = next((name for name, each in b.devices.items() if each.aperture == row.space and each.online), "")
    if not name:
        return ((GONE, row.length),)
    at, end = row.lo, row.lo + row.length
    found: list[Run] = []
    for failed in sorted(block * BLOCK for block in allocator.bad_of(b, name)):
        if at <= failed < end:
            _add(found, at, failed - at)
            at = min(failed + BLOCK, end)
            _add(found, GONE, at - failed)
    _add(found, at, end - at)
    return tuple(found)


TRANSLATING: Mapping[str, Callable[[Books, Mr, Fault], tuple[Run, ...]]] = {
    "dax": _file,
    "page-cache": _cached,
    "devdax": _device,
    "host": _host,
    DMABUF: _file,  # what is revoked for good has no blocks, what has lost its exporter no file
}
