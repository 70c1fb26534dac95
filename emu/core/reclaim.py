"""A reclaim: memory on its way back, from the request to the end. Its protocol decides, this module acts and checks.

    requested --> (queue: an overlapping reclaim goes first) --> tell(protocol, event) -> actions -> ... -> end

An action that takes time (quiesce, unmap, arm, apply on a host file) is an effect; its answer comes back as an event and is
told to the protocol, so a reclaim never blocks anybody. What the core guarantees whatever the protocol does: RULES of
decision.py. A protocol that breaks one has its whole decision undone and its reclaim ended with EPROTO.

Two reclaims of overlapping ranges run one behind the other. `surprise` waits for nobody: it is a fact, and all it could apply
is applied before the protocol hears of it.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Final

from emu.core import allocator, asking, extents, files, registration
from emu.core.asking import alive, answer, check_range, check_span, fail, refuse, reply
from emu.core.decision import END, START, Action, Decision, Facts
from emu.core.effects import (
    Arm,
    CloseHandle,
    Disarm,
    HostPunch,
    HostTruncate,
    Notify,
    Offline,
    Phase,
    Quiesce,
    Unmap,
)
from emu.core.errors import ProtocolBroke, errno_name
from emu.core.pins import pins_over
from emu.core.rows import BLOCK, FOREVER, Cookie, Reclaim, Run, Token

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from emu.core.books import Books
    from emu.core.decision import Deciding
    from emu.core.events import Answered, Requested, TimerFired
    from emu.core.requests import Acknowledge, Cancel, FsPunch, FsTruncate, FsUnlink, FsUnplug

REST: Final = 32  # decisions of one reclaim in one step


# ---- requests


def fs_truncate(b: Books, event: Requested, op: FsTruncate) -> None:
    check_range("size", op.size)
    if op.host:
        file = asking.host_file(event, "fs_truncate")
        _host(b, event, "truncate", op.size, FOREVER, growing=op.size >= file.size)
        return
    ino, row = asking.file_at(b, op.path)
    if op.size > row.size:
        files.grow(b, ino, op.size)
        reply(b, event)
    elif op.size == row.size:
        reply(b, event)
    else:
        _begin(b, _asked(b, event, "truncate", op.path)._replace(ino=ino, lo=op.size))


def fs_punch(b: Books, event: Requested, op: FsPunch) -> None:
    check_span(op.offset, op.length, least=1)
    end = op.offset + op.length
    if op.host:
        _host(b, event, "punch", op.offset, end)
        return
    ino, row = asking.file_at(b, op.path)
    if op.offset >= row.size:
        reply(b, event)
        return
    hi = extents.blocks_up(row.size) * BLOCK if end >= row.size else end
    _begin(b, _asked(b, event, "punch", op.path)._replace(ino=ino, lo=op.offset, hi=hi))


def fs_unlink(b: Books, event: Requested, op: FsUnlink) -> None:
    ino, _row = asking.file_at(b, op.path, gone=True)
    _begin(b, _asked(b, event, "unlink", op.path)._replace(ino=ino))


def fs_unplug(b: Books, event: Requested, op: FsUnplug) -> None:
    if op.surprise and (op.host or op.target.startswith("/")):
        refuse(
            errno.EINVAL,
            f"{op.target or 'a host file'} is a file: only a device can be unplugged by surprise",
        )
    if op.host:
        _host(b, event, "unplug", 0, FOREVER)
    elif op.target.startswith("/"):
        ino, _row = asking.file_at(b, op.target)
        _begin(b, _asked(b, event, "unplug", op.target)._replace(ino=ino))
    else:
        _unplug_device(b, event, op)


def _unplug_device(b: Books, event: Requested, op: FsUnplug) -> None:
    if op.target not in b.devices:
        refuse(errno.ENODEV, f"device {op.target!r} does not exist: the devices are {', '.join(b.devices)}")
    row = asking.online(b, op.target)
    mount = asking.mount_on(b, op.target)
    protocol = b.mounts[mount or registration.HOST].protocol
    kind = "surprise" if op.surprise else "unplug"
    if op.surprise:  # the fact comes first
        b.devices.put(op.target, row._replace(online=False))
        b.emit(Offline(row.aperture, op.target))
    asked = Reclaim(
        kind, event.session, event.request, protocol, device=op.target, applied=op.surprise, freed=op.surprise
    )
    _begin(b, asked)


def _asked(b: Books, event: Requested, kind: str, path: str) -> Reclaim:
    _mount, row = asking.mount_of(b, path)
    return Reclaim(kind, event.session, event.request, row.protocol)


def _host(b: Books, event: Requested, kind: str, lo: int, hi: int, growing: bool = False) -> None:
    file = asking.host_file(event, kind)
    label = file.label or f"host file {file.device}:{file.inode}"
    if not file.writable:
        refuse(errno.EINVAL, f"{label} was opened for reading only: {kind} needs it open for writing")
    host = registration.host_row(b, file.device, file.inode, label)
    if kind == "unplug" and b.hosts[host].gone:
        refuse(errno.ENODEV, f"{label} was taken away by unplug already")
    row = Reclaim(
        kind, event.session, event.request, b.mounts[registration.HOST].protocol, host=host, lo=lo, hi=hi
    )
    b.kept = file.handle
    if growing:  # nothing is taken from anybody
        row = row._replace(hi=lo)
    _begin(b, row._replace(handle=file.handle))


def cancel(b: Books, event: Requested, op: Cancel) -> None:
    number = b.asked.first((event.session, op.request)) if op.request else None
    if number is None:
        refuse(
            errno.ENOENT, f"request {op.request} is no reclaim under way: it was answered, or was never asked"
        )
    row = b.reclaims[number]
    if row.applied or row.returned or row.todo:
        refuse(errno.EALREADY, f"request {op.request} can no longer be interrupted: it is being applied")
    _interrupt(b, number)
    reply(b, event)


def _interrupt(b: Books, number: int) -> None:
    if b.reclaims[number].queued:
        _deny(
            b,
            number,
            errno.EINTR,
            "it was interrupted while it waited for another reclaim: nothing has changed",
        )
        _end(b, number)
    else:
        b.agenda.append((number, "cancelled"))


def acknowledge(b: Books, event: Requested, op: Acknowledge) -> None:
    asking.owned(b.mrs, event, op.handle, "MR")
    for number, row in b.reclaims.items():
        if op.handle in row.keys and not row.queued:
            b.agenda.append((number, "acknowledged"))
    reply(b, event)


def session_lost(b: Books, session: int) -> None:
    """Its own reclaims are cancelled while nothing has changed, else they go on for nobody. Others hear of a lost holder."""
    for number, row in b.reclaims.items():
        if row.session == session:
            b.reclaims.put(number, row._replace(session=0, request=0))
            if not (row.applied or row.returned or row.todo or row.fencing):
                _interrupt(b, number)
        if not row.queued and any(key in b.mrs and b.mrs[key].session == session for key in row.keys):
            b.agenda.append((number, "holder_lost"))


# ---- the queue


def overlaps(b: Books, one: Reclaim, other: Reclaim) -> bool:
    if one.host or other.host:
        same = one.host == other.host
    else:
        same = (
            (one.ino != 0 and one.ino == other.ino)
            or _device_of(b, one) == other.device
            or one.device == _device_of(b, other)
        )
    return same and one.lo < other.hi and other.lo < one.hi


def _device_of(b: Books, row: Reclaim) -> str:
    if row.device:
        return row.device
    file = b.files.get(row.ino)
    return file.device if file is not None else "?"


def _waits(b: Books, number: int, row: Reclaim) -> bool:
    """Is an older reclaim of the same range still there? A surprise waits for nobody, and nobody waits for one."""
    if row.kind == "surprise":
        return False
    return any(
        older < number and other.kind != "surprise" and overlaps(b, row, other)
        for older, other in b.reclaims.items()
    )


def _begin(b: Books, row: Reclaim) -> None:
    number = b.number("reclaim")
    b.reclaims.put(number, row._replace(phase=START, queued=True))
    if not _waits(b, number, row):
        _start(b, number)


def _start(b: Books, number: int) -> None:
    row = b.reclaims[number]._replace(queued=False)
    b.reclaims.put(number, row)
    stopped = _stopped(b, row)
    if stopped:
        _deny(b, number, *stopped)
        _end(b, number)
        return
    keys = _pinned(b, row)
    b.reclaims.put(number, row._replace(keys=keys))
    _phase(b, number, "requested", {"kind": row.kind, **_target(b, row)})
    if row.kind != "surprise" and (refusal := _unable(b, row, keys)):
        _deny(b, number, errno.EBUSY, refusal)
        _end(b, number)
        return
    b.agenda.append((number, "surprise" if row.kind == "surprise" else "requested"))


def _stopped(b: Books, row: Reclaim) -> tuple[int, str] | None:
    """What happened while it waited makes it impossible: (errno, sentence)."""
    if row.ino:
        file = b.files.get(row.ino)
        if file is None:
            return errno.ENOENT, "the file was unlinked meanwhile"
        if not b.devices[file.device].online:
            return errno.ENODEV, f"device {file.device} was unplugged meanwhile"
        if file.gone and row.kind != "unlink":
            return errno.ENODEV, f"file {file.path} was taken away meanwhile"
    if row.device and row.kind == "unplug" and not b.devices[row.device].online:
        return errno.ENODEV, f"device {row.device} was unplugged meanwhile"
    return None


def _unable(b: Books, row: Reclaim, keys: tuple[int, ...]) -> str:
    accepted = b.protocols[row.protocol].importers
    for key in keys:
        importer = b.mrs[key].importer
        if importer not in accepted:
            return f"MR {key} is of a {importer} importer, which {row.protocol} cannot take back: wait until it is gone"
    return ""


def _wake(b: Books) -> None:
    """The oldest that wait for nobody any more start."""
    for number in b.reclaims:
        row = b.reclaims.get(number)
        if row is not None and row.queued and not _waits(b, number, row):
            _start(b, number)


def _target(b: Books, row: Reclaim) -> dict[str, object]:
    if row.ino:
        return {"path": b.files[row.ino].path, "ino": row.ino, "lo": row.lo, "hi": row.hi}
    if row.device:
        return {"device": row.device}
    return {"host": b.hosts[row.host].label, "lo": row.lo, "hi": row.hi}


# ---- what is pinned


def space_of(b: Books, row: Reclaim) -> tuple[int, tuple[Run, ...]]:
    """The space and the runs under reclaim, as the layout is now."""
    if row.host:
        return row.host, ((row.lo, row.hi - row.lo),) if row.lo < row.hi else ()
    if row.device:
        device = b.devices[row.device]
        return device.aperture, ((0, device.blocks * BLOCK),)
    file = b.files.get(row.ino)
    if file is None:
        return 0, ()
    end = (file.extents[-1][0] + file.extents[-1][2]) * BLOCK if file.extents else 0
    hi = min(row.hi, end)
    runs = extents.runs(file.extents, row.lo, hi - row.lo) if row.lo < hi else ()
    return b.devices[file.device].aperture, runs


def _pinned(b: Books, row: Reclaim) -> tuple[int, ...]:
    """Keys with a pin on the range, retired blocks included."""
    space, runs = space_of(b, row)
    return pins_over(b, space, runs)


# ---- telling the protocol


def settle(b: Books) -> None:
    """Tell everything on the agenda, and what comes of it, and start who waited, until all reclaims are at rest."""
    told: dict[int, int] = {}
    while b.agenda or b.ended:
        if not b.agenda:
            b.ended = False
            _wake(b)
            continue
        number, event = b.agenda.pop(0)
        row = b.reclaims.get(number)
        if row is None or row.todo:
            if row is not None:  # its apply is with the host: told when that has answered
                b.reclaims.put(number, row._replace(todo=(*row.todo, Action("tell", event))))
            continue
        told[number] = told.get(number, 0) + 1
        mark = b.mark()
        try:
            tell(b, number, event, told[number])
        except ProtocolBroke as error:
            b.rollback(mark)
            break_off(b, number, error)


def break_off(b: Books, number: int, error: ProtocolBroke) -> None:
    """The protocol broke the contract: the reclaim ends with EPROTO, nothing (more) is freed."""
    row = b.reclaims[number]
    if not row.returned:
        definite = not row.applied
        fail(b, row.session, row.request, error.errno, f"{error}: change the mount's protocol", definite)
        b.reclaims.put(number, row._replace(returned=True, errno=error.errno))
        _phase(b, number, "returned", {"errno": error.errno, "rule": error.rule})
    _end(b, number)


def tell(b: Books, number: int, event: str, times: int) -> None:
    """Ask the protocol and do what it says. times: how often it was asked in this step."""
    row = b.reclaims[number]
    if times > REST:
        raise broke(row, "at-rest", f"{REST} decisions in one step")
    protocol = b.protocols[row.protocol]
    decision = decide(protocol, row, event, facts_of(b, row))
    if decision is None:
        return
    b.reclaims.put(number, row._replace(phase=decision.phase))
    act(b, number, decision.actions)


def facts_of(b: Books, row: Reclaim) -> Facts:
    keys = _pinned(b, row)
    return Facts(row.kind, len(keys), len(dict.fromkeys(b.mrs[key].session for key in keys)))


def decide(protocol: Deciding, row: Reclaim, event: str, facts: Facts) -> Decision | None:
    """Ask, and look hard at the answer."""
    try:
        decision = protocol.decide(row.phase, event, facts)
    except ProtocolBroke:
        raise
    except Exception as error:
        raise ProtocolBroke(row.protocol, "no-raise", f"{event} in phase {row.phase}: {error!r}") from error
    if decision is None:
        return None
    if not _well_formed(decision):
        raise ProtocolBroke(row.protocol, "known-answer", f"{event} in phase {row.phase}: {decision!r}")
    return decision


def _well_formed(decision: Any) -> bool:
    if not isinstance(decision, Decision):
        return False
    phase: Any = decision.phase
    actions: Any = decision.actions
    return isinstance(phase, str) and phase != "" and isinstance(actions, tuple) and all(map(_known, actions))


def _known(action: Any) -> bool:
    return isinstance(action, Action) and action.verb in DOING


def act(b: Books, number: int, actions: tuple[Action, ...]) -> None:
    """Carry out actions; the rest waits in `todo` while the host applies. In phase END the reclaim ends behind them."""
    for at, action in enumerate(actions):
        if action.verb == "tell":
            b.agenda.append((number, action.text))
            continue
        if DOING[action.verb](b, number, action):
            if number not in b.reclaims:
                return
            rest = actions[at + 1 :]
            b.reclaims.put(number, b.reclaims[number]._replace(todo=(Action("wait"), *rest)))
            return
    row = b.reclaims[number]
    if row.phase == END:
        if not row.returned:
            raise broke(row, "one-answer", "the end without an answer")
        _end(b, number)


def broke(row: Reclaim, rule: str, sentence: str) -> ProtocolBroke:
    return ProtocolBroke(row.protocol, rule, f"{sentence} (in phase {row.phase})")


# ---- the actions. True: the actions behind it wait for an answer.


def do_gate(b: Books, number: int, _action: Action) -> bool:
    b.reclaims.put(number, b.reclaims[number]._replace(gated=True))
    _phase(b, number, "gated")
    return False


def do_notify(b: Books, number: int, action: Action) -> bool:
    """Every holder that asked hears of each of its MRs; of MR_REVOKED at most once."""
    row = b.reclaims[number]
    if not action.text:
        raise broke(row, "known-answer", "notify without the event's name")
    for key in row.keys:
        mr = b.mrs.get(key)
        if (
            mr is None
            or mr.told
            or not alive(b, mr.session)
            or not b.sessions[mr.session].wants
            or mr.request
        ):
            continue
        if action.text == "MR_REVOKED":
            b.mrs.put(key, mr._replace(told=True))
        fields: dict[str, object] = {"mr": key, "rkey": key, "event": row.kind}
        b.emit(
            Notify(mr.session, action.text, {**fields, "seconds": action.number} if action.number else fields)
        )
    _phase(b, number, "notified")
    return False


def do_quiesce(b: Books, number: int, _action: Action) -> bool:
    row = b.reclaims[number]
    keys = _pinned(b, row)
    for key in keys:
        mr = b.mrs[key]
        # without a key there is no translation yet: taking it back is all there is to do
        b.mrs.put(key, mr._replace(revoked=True, state="unmapped" if mr.state == "pinned" else mr.state))
    b.reclaims.put(number, row._replace(keys=_union(row.keys, keys), fencing=True, fenced=False))
    _phase(b, number, "fencing")
    mapped = registration.mapped_of(b, keys)
    if mapped:
        b.emit(Quiesce(_await(b, number), mapped))
    else:
        _quiesce_answered(b, number, 0)
    return False


def _union(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(dict.fromkeys((*one, *other))))


def do_unmap(b: Books, number: int, _action: Action) -> bool:
    row = b.reclaims[number]
    if not row.fenced:
        raise broke(row, "unmap-after-quiesce", "unmap before the quiesce was answered")
    _phase(b, number, "unmapping")
    mapped = _quiet(b, row)
    if mapped:
        b.emit(Unmap(_await(b, number), mapped))
    else:
        _unmap_answered(b, number)
    return False


def _quiet(b: Books, row: Reclaim) -> tuple[int, ...]:
    """Keys that this reclaim has quiesced and that still have a translation."""
    return tuple(key for key in registration.mapped_of(b, row.keys) if b.mrs[key].revoked)


def do_apply(b: Books, number: int, _action: Action) -> bool:
    row = b.reclaims[number]
    if row.kind == "surprise":
        return False  # a fact since before the protocol was told
    if row.applied:
        raise broke(row, "apply-once", "applied a second time")
    if row.returned and row.errno:
        raise broke(row, "deny-before-apply", "applied behind an error")
    stopped = _stopped(b, row)
    if stopped:
        if not row.returned:
            _deny(b, number, *stopped)
        _end(b, number)
        return True
    b.reclaims.put(number, row._replace(applied=True))
    if APPLYING[row.kind, "host" if row.host else "file" if row.ino else "device"](b, number, row):
        return True
    _phase(b, number, "applied")
    return False


def _apply_truncate(b: Books, number: int, row: Reclaim) -> bool:
    files.shrink(b, row.ino, row.lo, number)
    return False


def _apply_punch(b: Books, number: int, row: Reclaim) -> bool:
    files.punch(b, row.ino, row.lo, row.hi, number)
    return False


def _apply_unlink(b: Books, number: int, row: Reclaim) -> bool:
    files.evict(b, row.ino, number)
    return False


def _apply_unplug_file(b: Books, _number: int, row: Reclaim) -> bool:
    files.take_away(b, row.ino)
    return False


def _apply_unplug_device(b: Books, _number: int, row: Reclaim) -> bool:
    device = b.devices[row.device]
    b.devices.put(row.device, device._replace(online=False))
    b.emit(Offline(device.aperture, row.device))
    return False


def _apply_unplug_host(b: Books, _number: int, row: Reclaim) -> bool:
    b.hosts.put(row.host, b.hosts[row.host]._replace(gone=True))
    return False


def _apply_host_truncate(b: Books, number: int, row: Reclaim) -> bool:
    b.emit(HostTruncate(_host_token(b, number), row.handle, row.lo))
    return True


def _apply_host_punch(b: Books, number: int, row: Reclaim) -> bool:
    b.emit(HostPunch(_host_token(b, number), row.handle, row.lo, row.hi - row.lo))
    return True


def _host_token(b: Books, number: int) -> int:
    token = b.number("token")
    b.tokens.put(token, Token("host_applied", reclaim=number))
    return token


def host_applied(b: Books, _number: int, token: Token, event: Answered) -> None:
    """The host has done it, or refused: then the request fails with its errno and the rest is left."""
    row = b.reclaims[token.reclaim]
    rest = row.todo[1:]
    b.reclaims.put(token.reclaim, row._replace(todo=(), applied=not event.errno))
    if event.errno:
        _deny(b, token.reclaim, event.errno, f"the host's filesystem answered {errno_name(event.errno)}")
        _end(b, token.reclaim)
        return
    _phase(b, token.reclaim, "applied")
    mark = b.mark()
    try:
        act(b, token.reclaim, rest)
    except ProtocolBroke as error:
        b.rollback(mark)
        break_off(b, token.reclaim, error)


def do_free(b: Books, number: int, _action: Action) -> bool:
    row = b.reclaims[number]
    if row.kind == "surprise":
        return False
    if not row.applied or row.freed:
        raise broke(
            row, "free-after-apply", "freed before it was applied" if not row.applied else "freed twice"
        )
    disposal = b.protocols[row.protocol].disposal
    mine = tuple(key for key, run in b.quarantine.items() if run.reclaim == number)
    pinned = tuple(key for key in mine if _pins_on(b, key))
    if pinned and disposal == "after-unmap":
        raise broke(row, "free-after-unmap", f"{len(pinned)} runs are still pinned")
    kept = pinned if disposal == "keep" else ()
    for key in kept:
        b.quarantine.put(key, b.quarantine[key]._replace(reclaim=0))
    allocator.release(b, tuple(key for key in mine if key not in kept))
    b.reclaims.put(number, row._replace(freed=True))
    _phase(b, number, "freed")
    return False


def _pins_on(b: Books, key: int) -> bool:
    run = b.quarantine[key]
    return bool(pins_over(b, run.aperture, ((run.start * BLOCK, run.blocks * BLOCK),)))


def do_deny(b: Books, number: int, action: Action) -> bool:
    row = b.reclaims[number]
    if row.returned:
        raise broke(row, "one-answer", "answered a second time")
    if row.applied:
        raise broke(row, "deny-before-apply", f"{action.text} although it was applied")
    code = getattr(errno, action.text, None) if action.text.startswith("E") else None
    if not isinstance(code, int):
        raise broke(row, "known-answer", f"deny with {action.text!r}, which is no errno")
    _deny(b, number, code, _why(b, row, code))
    return False


def _why(b: Books, row: Reclaim, code: int) -> str:
    if code == errno.EINTR:
        return "it was interrupted: nothing has changed, keys revoked by then stay revoked"
    pins = facts_of(b, row)
    return f"{pins.pins} MRs of {pins.holders} contexts are in the range, and {row.protocol} refuses: ask them to deregister"


def _deny(b: Books, number: int, code: int, sentence: str) -> None:
    row = b.reclaims[number]
    fail(b, row.session, row.request, code, f"{row.kind}: {sentence}")
    b.reclaims.put(number, row._replace(returned=True, errno=code))
    _phase(b, number, "returned", {"errno": code})


def do_reply(b: Books, number: int, _action: Action) -> bool:
    row = b.reclaims[number]
    if row.returned:
        raise broke(row, "one-answer", "answered a second time")
    b.reclaims.put(number, row._replace(returned=True))
    answer(b, row.session, row.request)
    _phase(b, number, "returned", {"errno": 0})
    return False


def do_arm(b: Books, number: int, action: Action) -> bool:
    row = b.reclaims[number]
    if row.timer or not 0 < action.number < 1e9:
        raise broke(row, "one-timer", f"arm({action.number}) with timer {row.timer} running")
    timer = b.number("timer")
    b.timers.put(timer, number)
    b.reclaims.put(number, row._replace(timer=timer))
    b.emit(Arm(timer, float(action.number)))
    return False


def do_disarm(b: Books, number: int, _action: Action) -> bool:
    row = b.reclaims[number]
    if row.timer:
        b.timers.drop(row.timer)
        b.reclaims.put(number, row._replace(timer=0))
        b.emit(Disarm(row.timer))
    return False


# ---- answers


def _await(b: Books, number: int) -> int:
    cookie = b.number("cookie")
    row = b.reclaims[number]
    if row.cookie:
        b.cookies.drop(row.cookie)  # an answer that nobody waits for any more
    b.reclaims.put(number, row._replace(cookie=cookie))
    b.cookies.put(cookie, Cookie(reclaim=number))
    return cookie


def quiesced(b: Books, number: int, refusal: int) -> None:
    b.reclaims.put(number, b.reclaims[number]._replace(cookie=0))
    _quiesce_answered(b, number, refusal)


def _quiesce_answered(b: Books, number: int, refusal: int) -> None:
    if refusal:
        b.agenda.append((number, "quiesce_failed"))
        return
    b.reclaims.put(number, b.reclaims[number]._replace(fenced=True))
    _phase(b, number, "fenced")
    b.agenda.append((number, "quiesced"))


def unmapped(b: Books, number: int) -> None:
    row = b.reclaims[number]._replace(cookie=0)
    b.reclaims.put(number, row)
    registration.unpin(b, _quiet(b, row))
    _unmap_answered(b, number)


def _unmap_answered(b: Books, number: int) -> None:
    _phase(b, number, "unmapped")
    b.agenda.append((number, "unmapped"))


def timer_fired(b: Books, event: TimerFired) -> None:
    number = b.timers.get(event.timer)
    if number is None:
        return  # disarmed while it rang
    b.timers.drop(event.timer)
    b.reclaims.put(number, b.reclaims[number]._replace(timer=0))
    b.agenda.append((number, "deadline"))


def pins_went(b: Books) -> None:
    """Pins have gone in this step: whoever waits for the last one hears of it, and blocks kept for them are free."""
    if not b.went:
        return
    for number, row in b.reclaims.items():
        mine = any(key in row.keys for key in b.went)
        if mine and not row.queued and not row.applied and not _pinned(b, row):
            b.agenda.append((number, "unpinned"))
    b.went.clear()
    idle = tuple(key for key, run in b.quarantine.items() if not run.reclaim and not _pins_on(b, key))
    if idle:
        allocator.release(b, idle)


# ---- the end


def _phase(b: Books, number: int, phase: str, detail: dict[str, object] | None = None) -> None:
    b.emit(Phase(number, phase, b.reclaims[number].keys, detail or {}))


def _end(b: Books, number: int) -> None:
    do_disarm(b, number, Action("disarm"))
    row = b.reclaims[number]
    if row.cookie:
        b.cookies.drop(row.cookie)
    if row.handle:
        b.emit(CloseHandle(row.handle))
    for key, run in b.quarantine.items():
        if run.reclaim == number:  # applied and not freed: kept until the last unpin
            b.quarantine.put(key, run._replace(reclaim=0))
    _phase(b, number, "ended")
    b.reclaims.drop(number)
    b.ended = True


DOING: Mapping[str, Callable[[Books, int, Action], bool]] = {
    "gate": do_gate,
    "notify": do_notify,
    "quiesce": do_quiesce,
    "unmap": do_unmap,
    "apply": do_apply,
    "free": do_free,
    "deny": do_deny,
    "reply": do_reply,
    "arm": do_arm,
    "disarm": do_disarm,
}

APPLYING: Mapping[tuple[str, str], Callable[[Books, int, Reclaim], bool]] = {
    ("truncate", "file"): _apply_truncate,
    ("punch", "file"): _apply_punch,
    ("unlink", "file"): _apply_unlink,
    ("unplug", "file"): _apply_unplug_file,
    ("unplug", "device"): _apply_unplug_device,
    ("unplug", "host"): _apply_unplug_host,
    ("truncate", "host"): _apply_host_truncate,
    ("punch", "host"): _apply_host_punch,
}
