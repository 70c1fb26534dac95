"""What the core orders, carried out: a table from each effect to the method that does it.

What takes time is answered later, by an event of the engine's or when the worker has done it; everything else within the call. Answers are submitted as events, never
fed to the core from here. An effect that carries a token, a cookie or a key passes its OSError on in its answer. One that has no answer and
fails is a defect or a consequence of memory that is gone: it is written into the history and on stderr and counted (`failures`), and
the broker goes on.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING, Any

from emu.broker.flushes import Flushes
from emu.broker.guards import Guards
from emu.broker.refusals import Refusals
from emu.core import effects as fx
from emu.core.events import Answered, KeyInstalled, Quiesced, RightFenced, RightReturned, Unmapped
from emu.host.files import punch

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.broker.hostfiles import HostFiles
    from emu.broker.memory import Memory
    from emu.broker.record import Record
    from emu.broker.sessions import Sessions
    from emu.broker.timers import Timers
    from emu.broker.worker import Worker
    from emu.core.events import Event
    from emu.engine.broker import Engine

RESET, ERR = 0, 6  # IBV_QPS_*
_GRACE = 1 << 62  # our own cookies, beside the core's


class Effects:
    """carry_out() is the only door; grace_ended() takes the engine's answers to our own cookies."""

    def __init__(
        self, engine: Engine, memory: Memory, files: HostFiles, sessions: Sessions, timers: Timers, record: Record,
        submit: Callable[[Event], None], worker: Worker, refusals: Refusals | None = None,
    ) -> None:  # fmt: skip
        self._refusals = refusals or Refusals()
        self._engine, self._memory, self._files, self._worker = engine, memory, files, worker
        self._sessions, self._timers, self._record, self._submit = sessions, timers, record, submit
        self._kept: dict[int, int] = {}  # token -> a descriptor that its reply will carry
        self._kept_for: dict[
            tuple[str, int], int
        ] = {}  # object -> token, for objects that go before the reply
        self._grace: dict[int, int] = {}  # our cookie -> token
        self._fences: dict[int, None] = {}  # cookies of the core's that are fences
        self._last_grace = _GRACE
        self.guards = Guards(timers)
        self.flushes = Flushes(memory, lambda token, error: submit(_answered(token, error)))
        self.failures = 0
        self._table: dict[type[fx.Effect], Callable[[Any], None]] = {
            kind: getattr(self, f"_{name}") for kind, name in TABLE.items()
        }

    def carry_out(self, effect: fx.Effect) -> None:
        """One effect, now. Raises OSError for a before-commit effect only."""
        self._record.effect(effect)
        try:
            self._refusals.meet(effect)
            self.perform(effect)
        except OSError as error:
            if effect.before_commit:
                raise
            self._failed(effect, error)

    def perform(self, effect: fx.Effect) -> None:
        """The bare deed. Raises OSError, for a defect too: it concerns whoever asked, not everybody."""
        try:
            self.flushes.meet(effect)
            self._table[type(effect)](effect)
        except (KeyError, ValueError, TypeError, OverflowError) as error:
            raise OSError(errno.EIO, f"{type(effect).__name__}: {type(error).__name__}: {error}") from error

    def prepare(self, effect: fx.Effect) -> bool:
        """What of it can fail for want of space, before the commit. Raises OSError. Whether there is something to take back."""
        if isinstance(effect, fx.Online):
            self._memory.prepare_online(effect.aperture, effect.device, effect.namespace)
            return True
        return False

    def behind_commit(self, effects: tuple[fx.Effect, ...]) -> None:
        """A step's, before those that follow its commit."""
        self.flushes.committed(effects)

    def take_back(self, effect: fx.Effect) -> None:
        """The step of this effect, which was carried out or prepared, has been undone."""
        if isinstance(effect, fx.Allocate):
            self.carry_out(fx.Release(effect.aperture, effect.runs))
        elif isinstance(effect, fx.Online):
            self._memory.discard_prepared(effect.device)

    def grace_ended(self, cookie: int) -> bool:
        """Whether the engine's answer was to a cookie of ours."""
        token = self._grace.pop(cookie, None)
        if token is not None:
            self._submit(Answered(token))
        return token is not None

    def fence_of(self, cookie: int) -> RightFenced | None:
        """What the engine's answer to this cookie means, if a fence was asked for under it."""
        if cookie not in self._fences:
            return None
        del self._fences[cookie]
        return RightFenced(cookie)

    def _failed(self, effect: fx.Effect, error: OSError) -> None:
        number = error.errno or errno.EIO
        self._record.shell("EffectFailed", effect=type(effect).__name__, errno=number, error=str(error))
        if token := getattr(effect, "token", 0):
            self._submit(_answered(token, error))
        elif isinstance(effect, fx.InstallKey):
            self._submit(KeyInstalled(effect.key, number))
        elif isinstance(effect, fx.Quiesce | fx.Invalidate):
            self._submit(Quiesced(effect.cookie, number))
        elif isinstance(effect, fx.Unmap):
            self._submit(Unmapped(effect.cookie, number))
        elif isinstance(effect, fx.FenceRight):
            self._submit(RightFenced(effect.fence, number))
        else:
            self.failures += 1
            print(f"emu: broker: {type(effect).__name__} failed behind its commit: {error}", file=sys.stderr)

    # ---- memory and blocks

    def _open_device(self, e: fx.OpenDevice) -> None:
        if e.volatile:
            self._memory.open_cache(e.aperture, e.name, e.blocks)
        else:
            self._memory.open_device(e.aperture, e.name, e.blocks, e.owned, e.namespace)
        self._numbered(e.aperture)

    def _numbered(self, aperture: int) -> None:
        """The engine's log has numbers of its own: which is which."""
        self._record.shell("Aperture", aperture=aperture, number=self._memory.number(aperture))

    def _allocate(self, e: fx.Allocate) -> None:
        self._memory.allocate(e.aperture, e.runs)

    def _release(self, e: fx.Release) -> None:
        number = self._memory.number(e.aperture)
        for offset, length in e.runs:
            self._engine.blocks_release(number, offset, length)

    def _claim(self, e: fx.Claim) -> None:
        number = self._memory.number(e.aperture)
        for offset, length in e.runs:
            self._engine.blocks_allocate(number, offset, length, recover=True)

    def _share(self, e: fx.Share) -> None:
        number = self._memory.number(e.aperture)
        for offset, length in e.runs:
            self._engine.blocks_share(number, offset, length)

    def _copy(self, e: fx.Copy) -> None:
        self._memory.copy(e.aperture, e.pieces)

    def _poison(self, e: fx.Poison) -> None:
        number = self._memory.number(e.aperture)
        for offset, length in e.runs:
            self._engine.blocks_fail(number, offset, length)

    def _blank(self, e: fx.Blank) -> None:
        self._zeros(e.aperture, e.runs)

    def _zero(self, e: fx.Zero) -> None:
        self._zeros(e.aperture, e.runs)
        self._done(e.token)

    def _zeros(self, aperture: int, runs: tuple[fx.Run, ...]) -> None:
        self._memory.zero(aperture, runs)

    def _store(self, e: fx.Store) -> None:
        number, at, data = self._memory.number(e.aperture), 0, memoryview(e.data)
        for offset, length in e.runs:
            self._engine.cpu_write(number, offset, data[at : at + length])
            at += length
        self._done(e.token)

    def _done(self, token: int) -> None:
        """Answered, where somebody waits."""
        if token:
            self._submit(Answered(token))

    def _fill(self, e: fx.Fill) -> None:
        self._memory.copy_across(e.source, e.target, e.pieces)

    def _flush(self, e: fx.Flush) -> None:
        """Where somebody waits for the answer, piece by piece between turns; else what follows in its step rests on it."""
        if e.token:
            self.flushes.begin(e)
        else:
            self._memory.copy_across(e.source, e.target, e.pieces)

    def _load(self, e: fx.Load) -> None:
        number = self._memory.number(e.aperture) if any(offset >= 0 for offset, _ in e.pieces) else -1
        parts = [
            bytes(n) if offset < 0 else self._engine.cpu_read(number, offset, n) for offset, n in e.pieces
        ]
        self._submit(Answered(e.token, value={"data": b"".join(parts)}))

    def _offline(self, e: fx.Offline) -> None:
        self._memory.offline(e.aperture)
        if e.token:
            self._submit(Answered(e.token))

    def _online(self, e: fx.Online) -> None:
        self._memory.online(e.aperture, e.device, e.namespace)
        self._submit(Answered(e.token))

    def _open_anon(self, e: fx.OpenAnon) -> None:
        self._keep(e.token, self._memory.open_anon(e.aperture, e.bytes), ("aperture", e.aperture))
        self._numbered(e.aperture)
        self._submit(Answered(e.token))

    def _open_host(self, e: fx.OpenHost) -> None:
        self._memory.open_host(e.aperture, self._files.fd(e.handle), e.bytes)
        self._numbered(e.aperture)
        guarded = self.guards.take(e.aperture, self._files.fd(e.handle)) if e.guard else {}  # raises nothing
        self._submit(Answered(e.token, value=guarded))

    def _yield_lease(self, e: fx.YieldLease) -> None:
        self.guards.give_back(e.aperture)

    def _map_buffer(self, e: fx.MapBuffer) -> None:
        """A byte of each run: memory that is absent is found here, not by the first DMA."""
        number = self._memory.number(e.aperture)
        for offset, _length in e.runs:
            self._engine.cpu_read(number, offset, 1)
        self._submit(Answered(e.token))

    def _page_out(self, e: fx.PageOut) -> None:
        """Advice: a kernel that does not know it, or has no swap, leaves the bytes in memory, and the record says so."""
        for aperture in e.apertures:
            try:
                self._memory.page_out(aperture)
            except OSError as error:
                self._record.shell("NotPagedOut", aperture=aperture, errno=error.errno, error=str(error))
        self._submit(Answered(e.token))

    def _drop_aperture(self, e: fx.DropAperture) -> None:
        self._give_up("aperture", e.aperture)
        self.guards.give_back(e.aperture)
        self._memory.drop(e.aperture)

    def _host_truncate(self, e: fx.HostTruncate) -> None:
        self._on_host(e.token, e.handle, lambda fd: os.ftruncate(fd, e.size))

    def _host_punch(self, e: fx.HostPunch) -> None:
        self._on_host(e.token, e.handle, lambda fd: punch(fd, e.offset, e.length))

    def _on_host(self, token: int, handle: int, deed: Callable[[int], None]) -> None:
        """What the host's kernel does takes as long as the file is large: the worker waits for it."""
        fd = os.dup(self._files.fd(handle))

        def answer(error: OSError | None) -> None:
            os.close(fd)
            self._submit(_answered(token, error))

        self._worker.do(lambda: deed(fd), answer)

    def _close_handle(self, e: fx.CloseHandle) -> None:
        self._files.close(e.handle)

    # ---- keys

    def _install_key(self, e: fx.InstallKey) -> None:
        self._engine.mr_install(
            key=e.key, pd=e.pd, access=e.access, importer=e.importer, aperture=self._memory.number(e.aperture),
            iova=e.iova, length=e.length, extents=e.extents,
        )  # fmt: skip
        self._submit(KeyInstalled(e.key))

    def _quiesce(self, e: fx.Quiesce) -> None:
        self._engine.quiesce(e.keys, e.cookie)

    def _unmap(self, e: fx.Unmap) -> None:
        self._engine.unmap(e.keys, e.cookie)

    def _invalidate(self, e: fx.Invalidate) -> None:
        self._engine.invalidate(e.keys, e.cookie, others=e.others)

    def _remap(self, e: fx.Remap) -> None:
        self._engine.remap(e.key, e.sequence, self._memory.number(e.aperture), e.extents)
        self._submit(Answered(e.token))

    def _open_scratch(self, e: fx.OpenScratch) -> None:
        self._memory.open_scratch(e.aperture, e.bytes)
        self._numbered(e.aperture)

    def _remove_key(self, e: fx.RemoveKey) -> None:
        self._engine.mr_remove(e.key)

    # ---- rights: the table is the core's, the storage is the engine

    def _grant_right(self, _e: fx.GrantRight) -> None:
        """The record has the line: the storage takes whatever the engine lets through."""

    def _fence_right(self, e: fx.FenceRight) -> None:
        """Nothing of these keys starts any more; confirmed when nothing of them runs."""
        self._engine.quiesce(e.keys, e.fence)
        self._fences[e.fence] = None

    def _return_right(self, e: fx.ReturnRight) -> None:
        self._submit(RightReturned(e.right))

    def _drop_right(self, _e: fx.DropRight) -> None:
        """The record has the line."""

    def _restore(self, e: fx.Restore) -> None:
        """The record has the line: what was given back is mapped again by whoever maps it."""

    # ---- queues

    def _make_cq(self, e: fx.MakeCq) -> None:
        made = self._engine.cq_add(self._slot(e.session), e.cqe)
        self._keep(e.token, made.fd, ("cq", made.number))
        self._submit(Answered(e.token, value={"cq": made.number, "cqe": made.depth}))

    def _end_cq(self, e: fx.EndCq) -> None:
        self._give_up("cq", e.cq)
        self._engine.cq_remove(e.cq)

    def _make_qp(self, e: fx.MakeQp) -> None:
        made = self._engine.qp_add(
            ctx=self._slot(e.session), pd=e.pd, send_cq=e.send_cq, recv_cq=e.recv_cq, type=e.type,
            max_send_wr=e.max_send_wr, max_recv_wr=e.max_recv_wr, max_send_sge=e.max_send_sge,
            max_recv_sge=e.max_recv_sge, sq_sig_all=e.sq_sig_all,
        )  # fmt: skip
        self._keep(e.token, made.fd, ("qp", made.qp_num))
        sizes = {name: getattr(made, name) for name in made._fields if name.startswith("max_")}
        self._submit(Answered(e.token, value={"qp_num": made.qp_num, **sizes}))

    def _set_qp(self, e: fx.SetQp) -> None:
        """Answered at once, but a step to RESET or ERR only when the last copy has ended."""
        self._engine.qp_modify(e.qp_num, e.mask, e.attrs)
        if e.attrs.get("state") in {RESET, ERR}:
            self._last_grace += 1
            self._grace[self._last_grace] = e.token
            self._engine.quiesce((), self._last_grace)
        else:
            self._submit(Answered(e.token))

    def _get_qp(self, e: fx.GetQp) -> None:
        self._submit(Answered(e.token, value=self._engine.qp_query(e.qp_num)))

    def _end_qp(self, e: fx.EndQp) -> None:
        self._give_up("qp", e.qp_num)
        self._engine.qp_remove(e.qp_num, e.token)

    def _end_session(self, e: fx.EndSession) -> None:
        session = self._sessions.forget(e.session)
        if session is not None and session.slot >= 0:
            self._engine.ctx_remove(session.slot)

    def _slot(self, number: int) -> int:
        session = self._sessions.get(number)
        if session is None or session.slot < 0:
            raise OSError(errno.ENODEV, f"session {number} has no context")
        return session.slot

    # ---- time and words

    def _arm(self, e: fx.Arm) -> None:
        self._timers.arm(e.timer, e.seconds)

    def _disarm(self, e: fx.Disarm) -> None:
        self._timers.disarm(e.timer)

    def _notify(self, e: fx.Notify) -> None:
        self._sessions.event(e.session, e.name, e.fields)

    def _signal(self, e: fx.Signal) -> None:
        session = self._sessions.get(e.session)
        try:
            if session is None or session.opener is None:
                raise ProcessLookupError(errno.ESRCH, "nobody to signal")
            session.opener.signal(e.number)
        except (
            OSError
        ) as error:  # it has ended meanwhile, which will be told, or has: a signal to nobody does nothing
            self._record.shell(
                "SignalLost", session=e.session, number=e.number, errno=error.errno or errno.ESRCH
            )

    def _reply(self, e: fx.Reply) -> None:
        kept = self._kept.pop(e.descriptors, -1) if e.descriptors > 0 else -1
        lent = [self._memory.descriptor(-e.descriptors)] if e.descriptors < 0 else []
        self._sessions.reply(e.session, e.request, e.result, [kept] if kept >= 0 else lent)
        if kept >= 0:
            os.close(kept)

    def _fail(self, e: fx.Fail) -> None:
        self._sessions.fail(e.session, e.request, e.errno, e.sentence, definite=e.definite)

    def _map_pages(self, e: fx.MapPages) -> None:
        """The record has the line."""

    def _phase(self, e: fx.Phase) -> None:
        """The record has the line, and the epoch has advanced."""

    # ---- descriptors on their way out

    def _keep(self, token: int, fd: int, what: tuple[str, int]) -> None:
        self._kept[token] = fd
        self._kept_for[what] = token

    def _give_up(self, kind: str, number: int) -> None:
        """The object goes; if its descriptor never left, it goes too."""
        fd = self._kept.pop(self._kept_for.pop((kind, number), 0), -1)
        if fd >= 0:
            os.close(fd)


def _answered(token: int, error: OSError | None) -> Answered:
    if error is None:
        return Answered(token)
    return Answered(token, error.errno or errno.EIO, {"error": str(error)})


TABLE: dict[type[fx.Effect], str] = {
    fx.OpenDevice: "open_device",
    fx.Allocate: "allocate",
    fx.Release: "release",
    fx.Claim: "claim",
    fx.Share: "share",
    fx.Copy: "copy",
    fx.Poison: "poison",
    fx.Blank: "blank",
    fx.Zero: "zero",
    fx.Store: "store",
    fx.Load: "load",
    fx.Fill: "fill",
    fx.Flush: "flush",
    fx.MapPages: "map_pages",
    fx.Offline: "offline",
    fx.Online: "online",
    fx.OpenAnon: "open_anon",
    fx.OpenHost: "open_host",
    fx.YieldLease: "yield_lease",
    fx.MapBuffer: "map_buffer",
    fx.PageOut: "page_out",
    fx.DropAperture: "drop_aperture",
    fx.HostTruncate: "host_truncate",
    fx.HostPunch: "host_punch",
    fx.CloseHandle: "close_handle",
    fx.InstallKey: "install_key",
    fx.Quiesce: "quiesce",
    fx.Unmap: "unmap",
    fx.Invalidate: "invalidate",
    fx.Remap: "remap",
    fx.OpenScratch: "open_scratch",
    fx.RemoveKey: "remove_key",
    fx.GrantRight: "grant_right",
    fx.FenceRight: "fence_right",
    fx.ReturnRight: "return_right",
    fx.DropRight: "drop_right",
    fx.Restore: "restore",
    fx.MakeCq: "make_cq",
    fx.EndCq: "end_cq",
    fx.MakeQp: "make_qp",
    fx.SetQp: "set_qp",
    fx.GetQp: "get_qp",
    fx.EndQp: "end_qp",
    fx.EndSession: "end_session",
    fx.Arm: "arm",
    fx.Disarm: "disarm",
    fx.Notify: "notify",
    fx.Signal: "signal",
    fx.Reply: "reply",
    fx.Fail: "fail",
    fx.Phase: "phase",
}
