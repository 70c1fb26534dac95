"""Cores that do something wrong, each by one exchanged part. What is wrong stands above each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emu.check.mutants.mutant import Patch, mutated
from emu.core import asking, events, machine, requests, sessions
from emu.core import effects as do
from emu.core.machine import Core
from emu.core.memory import keys, parking, registration, teardown
from emu.core.memory.pins import pins_over
from emu.core.reclaims import actions, ending, fencing, reclaim, rights, scope, stopping, taking
from emu.core.rows import BLOCK
from emu.core.storage import allocator, extents, files, orphans

if TYPE_CHECKING:
    from emu.core.books import Books
    from emu.core.decision import Action
    from emu.core.machine import Change
    from emu.core.rows import File, Reclaim, Run

pinned = scope.pinned


# ---- a registration is a pin only once it is installed: a revoke between pin and installed callback is lost


def _installed_pins(b: Books, space: int, runs: tuple[Run, ...]) -> tuple[int, ...]:
    return tuple(key for key in pins_over(b, space, runs) if b.mrs[key].request == 0)


RevokeLost = mutated(Patch(scope, "pins_over", _installed_pins))


# ---- a fence is taken for confirmed when it was asked for


def _quiesce_confirmed(b: Books, number: int, action: Action) -> bool:
    actions_do_quiesce(b, number, action)
    row = b.reclaims[number]
    if row.cookie:
        b.cookies.drop(row.cookie)
        stopping.quiesced(b, number, 0)
    return False


actions_do_quiesce = stopping.do_quiesce
UnconfirmedFence = mutated(Patch(actions.DOING, "quiesce", _quiesce_confirmed))


# ---- the answer of an unmap is for MRs that may be gone: a teardown went past it


def _unmapped_freed(b: Books, number: int, refusal: int) -> None:
    row = b.reclaims[number]._replace(cookie=0)
    b.reclaims.put(number, row)
    if not refusal:
        teardown.unpin(b, row.keys)
        stopping._unmap_answered(b, number)  # noqa: SLF001 - the mutant is that function but for one look


CallbackOnFreed = mutated(Patch(stopping, "unmapped", _unmapped_freed))


# ---- a key is issued again as soon as its MR was revoked


def _unpin_and_rest(b: Books, gone: tuple[int, ...]) -> None:
    unpin(b, gone)
    for key in gone:
        if b.mrs[key].revoked:
            keys.return_key(b, key)


unpin = teardown.unpin
KeyOfRevoked = mutated(
    Patch(teardown, "unpin", _unpin_and_rest),
    Patch(keys, "KEY_REST", 1),
)

# ---- a key comes back at once, with the generation that it had


KeyGeneration = mutated(
    Patch(keys, "KEY_REST", 1),
    Patch(keys, "return_key", lambda b, key: b.keys.put(b.number("key_tail"), key)),
)


# ---- whoever reclaims is not asked about his own MRs


def _others_pinned(b: Books, row: Reclaim) -> tuple[int, ...]:
    return tuple(key for key in pinned(b, row) if b.mrs[key].session != row.session)


def _others_on(b: Books, key: int) -> bool:
    run = b.quarantine[key]
    asked = b.reclaims.get(run.reclaim)
    found = pins_over(b, run.aperture, ((run.start * BLOCK, run.blocks * BLOCK),))
    return any(asked is None or b.mrs[pin].session != asked.session for pin in found)


OwnPins = mutated(Patch(scope, "pinned", _others_pinned), Patch(scope, "pins_on", _others_on))


# ---- the event goes to who opened the device first


def _notify_the_opener(b: Books, number: int, action: Action) -> bool:
    before = len(b.out)
    do_notify(b, number, action)
    opener = next((session for session, row in b.sessions.items() if row.wants and not row.dying), 0)
    for at, effect in enumerate(b.out[before:], before):
        if isinstance(effect, do.Notify):
            b.out[at] = do.Notify(opener, effect.name, effect.fields)
    return False


do_notify = actions.do_notify
WrongParty = mutated(Patch(actions.DOING, "notify", _notify_the_opener))


# ---- who waits for the last unpin is not woken


def _nobody_is_told(b: Books) -> None:
    b.idle = b.idle or bool(b.went)
    b.went.clear()


SleepsOn = mutated(Patch(reclaim, "pins_went", _nobody_is_told))


# ---- a hole is not filled when it is registered: its pages are a page that another file has too, which the NIC may write


def _shared_page(b: Books, ino: int, offset: int, length: int) -> File:
    row = b.files[ino]
    page = next((one.extents[0][1] for other, one in b.files.items() if other != ino and one.extents), None)
    if page is None:
        return fill(b, ino, offset, length)
    there = {
        at: (at, block + at - first, 1, since)
        for first, block, n, since in row.extents
        for at in range(first, first + n)
    }
    wanted = range(offset // BLOCK, extents.blocks_up(offset + length))
    return row._replace(extents=tuple(there.get(at, (at, page, 1, row.layout)) for at in wanted))


fill = files.fill


class _Files:
    """The module, but for one name."""

    fill = staticmethod(_shared_page)

    def __getattr__(self, name: str) -> Any:
        return getattr(files, name)


SharedZeroPage = mutated(Patch(registration, "files", _Files()))


# ---- an answer is taken for the one that is waited for, whichever it answers


def _any_answer(b: Books, event: events.Quiesced) -> None:
    waiting = next(
        (number for number, row in b.reclaims.items() if row.fencing and not row.fenced and row.cookie), 0
    )
    if event.cookie in b.cookies or not waiting:
        machine_quiesced(b, event)
        return
    b.cookies.drop(b.reclaims[waiting].cookie)
    stopping.quiesced(b, waiting, event.errno)


machine_quiesced = machine.quiesced
OldEpoch = mutated(Patch(machine.EVENTS, events.Quiesced, _any_answer))


# ---- blocks that are released stay in quarantine too


def _release_twice(b: Books, some: tuple[int, ...]) -> None:
    rows = {key: b.quarantine[key] for key in some}
    release(b, some)
    for key, row in rows.items():
        b.quarantine.put(key, row._replace(reclaim=0))


release = allocator.release
DoubleFree = mutated(Patch(allocator, "release", _release_twice))


# ---- the gate is there, and nobody looks at it

GateIgnored = mutated(Patch(parking, "waits", lambda *_args, **_more: False))


# ---- a registration looks at gates alone, and overtakes who is queued behind one

QueueJumped = mutated(Patch(parking, "in_the_way", lambda _b, _number, row, _before: row.gated))


# ---- the gate opens when the DMA is fenced


def _unmap_and_open(b: Books, number: int, action: Action) -> bool:
    b.reclaims.put(number, b.reclaims[number]._replace(gated=False))
    return do_unmap(b, number, action)


do_unmap = stopping.do_unmap
GateTooEarly = mutated(Patch(actions.DOING, "unmap", _unmap_and_open))


# ---- a file grows over what was cut off, and it is not blanked


def _without_blank(b: Books, ino: int, size: int) -> File:
    before = len(b.out)
    row = grow(b, ino, size)
    b.out[before:] = [effect for effect in b.out[before:] if not isinstance(effect, do.Blank)]
    return row


grow = files.grow
ZeroingForgotten = mutated(Patch(files, "grow", _without_blank))


# ---- a holder is told as often as it is revoked


def _notify_again(b: Books, number: int, action: Action) -> bool:
    for key in b.reclaims[number].keys:
        if key in b.mrs:
            b.mrs.put(key, b.mrs[key]._replace(told=False))
    return do_notify(b, number, action)


ToldTwice = mutated(Patch(actions.DOING, "notify", _notify_again))


# ---- a reclaim that failed gives the MRs back


def _end_and_restore(b: Books, number: int) -> None:
    row = b.reclaims[number]
    if row.errno:
        for key in row.keys:
            if key in b.mrs:
                b.mrs.put(key, b.mrs[key]._replace(revoked=False))
    end(b, number)


end = ending.end
RevokeTakenBack = mutated(Patch(ending, "end", _end_and_restore), Patch(reclaim, "end", _end_and_restore))


# ---- a dead session is forgotten while its MRs are still being taken down


def _sweep_at_once(b: Books) -> None:
    for session in b.dying.of(True):
        b.sessions.drop(session)


SessionForgotten = mutated(Patch(sessions, "sweep", _sweep_at_once))


# ---- the timer of a reclaim dies with who asked for it


def _lost_with_timers(b: Books, session: int) -> None:
    for number, row in b.reclaims.items():
        if row.session == session and row.timer:
            ending.do_disarm(b, number, do_nothing)
    session_lost(b, session)


do_nothing: Any = None
session_lost = reclaim.session_lost
TimerOfTheDead = mutated(Patch(reclaim, "session_lost", _lost_with_timers))


# ---- a cancel is answered with EINTR, and the reclaim goes on


def _interrupted_and_on(b: Books, number: int) -> None:
    row = b.reclaims[number]
    if row.queued or not row.session:
        interrupt(b, number)
        return
    asking.fail(b, row.session, row.request, 4, f"{row.kind}: interrupted")
    b.reclaims.put(number, row._replace(session=0, request=0))


interrupt = reclaim.interrupt
CancelledGoesOn = mutated(Patch(reclaim, "interrupt", _interrupted_and_on))


# ---- layout and size change when the truncate is asked for; the blocks follow later


def _truncate_now(b: Books, event: events.Requested, op: requests.FsTruncate) -> None:
    fs_truncate(b, event, op)
    ino = b.file_at.first(op.path)
    if ino is not None and op.size < b.files[ino].size and len(b.reclaims):
        b.files.put(ino, b.files[ino]._replace(size=op.size))


fs_truncate = taking.fs_truncate
TruncatedEarly = mutated(Patch(machine.REQUESTS, requests.FsTruncate, _truncate_now))


# ---- a refused unmap is taken for done


def _unmap_refused_is_done(b: Books, number: int, _refusal: int, keys: tuple[int, ...]) -> None:
    actions_unmapped(b, number, 0, keys)


actions_unmapped = stopping.unmapped
UnmapRefusalIsDone = mutated(Patch(stopping, "unmapped", _unmap_refused_is_done))


# ---- blocks of a file are no file's any more, and are found nowhere else


Leak = mutated(Patch(allocator, "retire", lambda *_: None))


# ---- a truncate leaves one block too many to the file


def _shrink_less(b: Books, ino: int, size: int, number: int) -> None:
    row = b.files[ino]
    shrink(b, ino, min(row.size, (extents.blocks_up(size) + 1) * BLOCK), number)
    b.files.put(ino, b.files[ino]._replace(size=size))


shrink = files.shrink
BlockTooMany = mutated(Patch(files, "shrink", _shrink_less))


# ---- what is durable of devices is forgotten


class UnplugForgotten(Core):
    """All that a start finds is as it was, but for the devices."""

    def durable(self) -> list[Change]:
        return [change for change in super().durable() if change[0] != "devices"]


# ---- a client's right leaves the table when its fence is asked for


def _ask_and_drop(b: Books, number: int, right: int) -> None:
    ask_for_fence(b, number, right)
    rights.drop(b, right)


ask_for_fence = fencing._ask  # noqa: SLF001 - the mutant is that function, and one step too many
RightDropped = mutated(Patch(fencing, "_ask", _ask_and_drop))


# ---- the storage's answer to a fence is not looked at


def _fenced_anyhow(b: Books, event: events.RightFenced) -> None:
    fencing.fenced(b, events.RightFenced(event.fence))


FenceFailureIsDone = mutated(Patch(machine.EVENTS, events.RightFenced, _fenced_anyhow))


# ---- blocks that are kept under a pin are not noted


def _keep_unnoted(b: Books, key: int) -> None:
    b.quarantine.put(key, b.quarantine[key]._replace(reclaim=0))


OrphanUnnoted = mutated(Patch(orphans, "keep", _keep_unnoted))
