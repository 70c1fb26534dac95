"""A Tape that becomes a History: the lines, log records, receipts and bytes that a live run would have left.

    recorder.now = ...         before each move: virtual nanoseconds
    recorder.history(meta)     at the end

Lines: an event, what is carried out before its commit, the commit, the other effects; the epoch advances at the same effects as in the
live broker (emu/broker/record.py). The log holds every quantum as a record of its own: what the engine sums up in quiet times is
written out here. Receipts: each client's requests and answers, the events that reach it, what its peer posts and polls. A client that is
stopped takes its receipts when it goes on. Of a quantum's bytes the first half is there when it has begun, the rest when it ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from emu.check.history import History
from emu.check.simulator.memory import BLOCK, Memory, Stamp
from emu.check.simulator.receipts import Receipts
from emu.core import effects as fx
from emu.core import events as ev
from emu.core import requests as rq
from emu.history.events import fields_of, plain
from emu.history.oplog import Flag, OpLog, OpRecord
from emu.history.oplog import Kind as LogKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from emu.core.machine import Change

ADVANCING: Final = (fx.Phase, fx.Allocate, fx.Release, fx.Offline, fx.Online)
# Done by the model in the step itself: they are never told of as carried out, or were written already when they are.
WORDS: Final = (
    fx.Phase,
    fx.Arm,
    fx.Disarm,
    fx.Notify,
    fx.OpenDevice,
    fx.EndSession,
    fx.CloseHandle,
    fx.Blank,
)
SUCCESS, REM_ACCESS_ERR = 0, 10
QUANTUM: Final = BLOCK  # bytes
HALF: Final = BLOCK // 2
CLIENT_MEMORY: Final = 99  # the aperture that a peer's own bytes are in
FIRST_QP: Final = 0x100
EMPTY: Final = OpRecord(*[0] * len(OpRecord._fields))


class Translation(NamedTuple):
    """What a peer stamps who writes under this key."""

    ino: int
    layout: int
    namespace: int
    offset: int
    length: int
    aperture: int


class Op:
    """A WRITE in flight."""

    __slots__ = ("epoch", "first", "first_time", "key", "number", "posted", "qp", "record", "time")

    def __init__(self, key: int, number: int, qp: int, epoch: int, time: int) -> None:
        self.key, self.number, self.qp, self.epoch, self.time = key, number, qp, epoch, time
        self.first, self.first_time = 0, 0
        self.record: OpRecord | None = (
            None  # the quantum that ended last; written when what follows it is known
        )


class Recorder:
    """See above; emu.check.simulator.tape.Tape says when each method is called."""

    def __init__(self, blocks: int) -> None:
        self.now = self.epoch = 0
        self._last = 0
        self.lines: list[dict[str, Any]] = []
        self.records: list[OpRecord] = []
        self.receipts = Receipts()
        self.memory = Memory(blocks)
        self.timers: dict[int, float] = {}  # armed -> seconds
        self.told: dict[str, int] = {}  # client -> notices of a revoke so far
        self._books: dict[str, dict[Any, Any]] = {}
        self._rest: list[fx.Effect] = []  # of the last step, not carried out yet
        self._keys: dict[int, Translation] = {}
        self._ops: dict[int, Op] = {}
        self._numbers = 0
        self._errors: dict[int, int] = {}  # peer -> queue pairs that it has lost
        self._event: ev.Event | None = None
        self._deeds: dict[type[fx.Effect], Callable[[Any], None]] = {
            fx.OpenDevice: self._opened,
            fx.InstallKey: self._install,
            fx.Allocate: self._zeroed,
            fx.Zero: self._zeroed,
            fx.Blank: self._zeroed,
            fx.Store: self._stored,
            fx.Online: self._online,
            fx.Arm: self._arm,
            fx.Disarm: self._disarm,
            fx.Notify: self._notified,
            fx.Reply: self._answered,
            fx.Fail: self._answered,
        }

    # ---- lines

    def _tick(self) -> int:
        """Every line and receipt has a time of its own."""
        self._last = max(self.now, self._last + 1)
        return self._last

    def _line(self, kind: str, name: str, values: dict[str, Any]) -> None:
        own = {"n": len(self.lines), "t": self._tick(), "epoch": self.epoch, "kind": kind, "type": name}
        if not values.keys().isdisjoint(own):
            values = {f"{key}_" if key in own else key: value for key, value in values.items()}
        own.update(values)
        self.lines.append(own)

    def _commit(self, name: str, delta: Sequence[Change]) -> None:
        changes = plain(delta)
        self._line("commit", name, {"changes": len(changes), "delta": changes})
        for book, key, row in delta:
            rows = self._books.setdefault(book, {})
            if row is None:
                rows.pop(key, None)
            else:
                rows[key] = row

    def _emit(self, effect: fx.Effect) -> None:
        if isinstance(effect, ADVANCING):
            self.epoch += 1
        values = fields_of(effect)
        if isinstance(effect, fx.Phase):
            values["inflight"] = sum(op.key in effect.keys for op in self._ops.values())
        self._line("effect", type(effect).__name__, values)
        deed = self._deeds.get(type(effect))
        if deed is not None:
            deed(effect)

    # ---- the tape: the core and the shell

    def loaded(self, rows: Sequence[Change]) -> None:
        self._rest.clear()
        self.timers.clear()
        self._keys.clear()
        self._ops.clear()
        self._books.clear()
        self.receipts.broker_died()
        self._commit("Loaded", rows)

    def stepped(self, event: ev.Event, effects: Sequence[fx.Effect], delta: Sequence[Change]) -> None:
        self._finish()
        self._event = event
        self._line("event", type(event).__name__, fields_of(event))
        if isinstance(event, ev.SessionOpened):
            self.receipts.opened(event.session, event.name)
        elif isinstance(event, ev.Requested):
            self.receipts.called(event.session, event.request, event.op, self._last)
        elif isinstance(event, ev.SessionLost):
            self.receipts.lost(event.session)
        elif isinstance(event, ev.TimerFired):
            self.timers.pop(event.timer, None)
        if delta:
            self._commit("Commit", delta)
        self._rest = list(effects)
        self._words()

    def carried(self, effect: fx.Effect) -> None:
        if not any(waiting is effect for waiting in self._rest):
            return  # a word, which was written when it was said
        while True:
            first = self._rest.pop(0)
            self._emit(first)
            if first is effect:
                break
        self._words()

    def _words(self) -> None:
        """What the model does in the step itself, as far as it stands first in line."""
        while self._rest and isinstance(self._rest[0], WORDS):
            self._emit(self._rest.pop(0))

    def _finish(self) -> None:
        """What nobody told of was done all the same."""
        while self._rest:
            self._emit(self._rest.pop(0))

    def dropped(self) -> None:
        self._rest.clear()

    # ---- the tape: the engine

    def began(self, peer: int, key: int) -> None:
        self._numbers += 1
        qp = FIRST_QP * peer + self._errors.get(peer, 0)
        to = self._keys[key]
        self._ops[peer] = Op(key, self._numbers, qp, self.epoch, self._tick())
        self.receipts.posted(peer, qp, self._numbers, key, to, self._last)

    def entered(self, peer: int, quantum: int, block: int, translated: int, now: int, absent: bool) -> None:
        op = self._ops[peer]
        self._write(op, done=False)
        time = self._tick()
        op.first, op.first_time = self.epoch, time
        op.record = EMPTY._replace(
            kind=LogKind.QUANTUM, flags=_flags(translated, now, absent), epoch_first=self.epoch, time_first=time, qp_num=op.qp,
            peer_qp_num=op.qp, quanta=1, wr_id=op.number, op=op.number, op_epoch=op.epoch, bytes=QUANTUM, rkey=op.key,
            src_aperture=CLIENT_MEMORY, src_offset=quantum * QUANTUM, dst_aperture=self._keys_aperture(op.key),
            dst_offset=block * BLOCK, gen_translated=translated, gen_first=now, op_time=op.time,
        )  # fmt: skip
        if not absent:
            self.memory.store(block * BLOCK, HALF, self._stamp(peer, op, quantum, block))

    def left(self, peer: int, quantum: int, block: int, translated: int, now: int, absent: bool) -> None:
        op = self._ops[peer]
        assert op.record is not None
        flags = op.record.flags | _flags(translated, now, absent)
        if op.record.epoch_first != self.epoch:
            flags |= Flag.EPOCH_MOVED
        op.record = op.record._replace(
            flags=flags, epoch_last=self.epoch, time_last=self._tick(), gen_last=now
        )
        if not absent:
            self.memory.store(block * BLOCK + HALF, HALF, self._stamp(peer, op, quantum, block))

    def completed(self, peer: int, status: int) -> None:
        op = self._ops.pop(peer)
        self._write(op, done=not status)
        if status:
            time = self._tick()
            self._log(
                EMPTY._replace(
                    kind=LogKind.QUANTUM, flags=Flag.CUT, epoch_first=self.epoch, epoch_last=self.epoch, time_first=time,
                    time_last=time, qp_num=op.qp, peer_qp_num=op.qp, quanta=1, wr_id=op.number, op=op.number, op_epoch=op.epoch,
                    rkey=op.key, src_aperture=CLIENT_MEMORY, dst_aperture=self._keys_aperture(op.key), status=status, op_done=1,
                    op_time=op.time,
                )
            )  # fmt: skip
            self._errors[peer] = self._errors.get(peer, 0) + 1
        self.receipts.polled(peer, op.qp, op.number, status, self._tick())

    def _keys_aperture(self, key: int) -> int:
        to = self._keys.get(key)
        return to.aperture if to else 0

    def _stamp(self, peer: int, op: Op, quantum: int, block: int) -> Stamp:
        to = self._keys[op.key]
        meant = to.offset + quantum * QUANTUM
        return Stamp(peer, to.ino, op.number, to.layout, to.namespace, meant - block * BLOCK)

    def _write(self, op: Op, *, done: bool) -> None:
        """The quantum that ended last goes into the log."""
        if op.record is not None and op.record.epoch_last:
            self._log(op.record._replace(op_done=int(done)))
        op.record = None

    def _log(self, record: OpRecord) -> None:
        self.records.append(record._replace(seq=len(self.records)))

    # ---- deeds: what effects do to keys, bytes, timers and clients

    def _install(self, effect: fx.InstallKey) -> None:
        event = self._event
        if isinstance(event, ev.Requested) and isinstance(event.op, rq.RegMr):
            op = event.op
            ino, row = next((i, r) for i, r in self._books["files"].items() if r[0] == op.path)
            namespace = self._books["devices"][row[1]][3]
            self._keys[effect.key] = Translation(
                ino, row[4], namespace, op.offset, op.length, effect.aperture
            )

    def _opened(self, effect: fx.OpenDevice) -> None:
        self._line("shell", "Aperture", {"aperture": effect.aperture, "number": effect.aperture})

    def _zeroed(self, effect: fx.Allocate | fx.Zero | fx.Blank) -> None:
        self.memory.zero(effect.runs)

    def _stored(self, effect: fx.Store) -> None:
        self.memory.write(effect.runs, effect.data)

    def _online(self, _effect: fx.Online) -> None:
        self.memory.replace()

    def _arm(self, effect: fx.Arm) -> None:
        self.timers[effect.timer] = effect.seconds

    def _disarm(self, effect: fx.Disarm) -> None:
        self.timers.pop(effect.timer, None)

    def _notified(self, effect: fx.Notify) -> None:
        self.receipts.event(effect.session, effect.name, effect.fields, self._last)

    def _answered(self, effect: fx.Reply | fx.Fail) -> None:
        errno = effect.errno if isinstance(effect, fx.Fail) else 0
        self.receipts.returned(effect.session, effect.request, errno, self._last)

    # ---- the whole

    def history(self, meta: dict[str, Any]) -> History:
        """What has been recorded so far."""
        log = OpLog(0, QUANTUM, len(self.records), len(self.records), 0, tuple(self.records))
        image = self.memory.render()
        return History(meta, self.lines, [log], self.receipts.journals(), {}, self.filemap(), image)

    def filemap(self) -> dict[str, Any]:
        """Whose each byte of the image is, by what has been committed."""
        (device, row), *_ = self._books["devices"].items()
        namespace = row[3]
        files = [_file(ino, file) for ino, file in self._books.get("files", {}).items()]
        return {
            "schema": 1, "block": BLOCK, "device": device, "image": f"{device}.img", "namespace": namespace,
            "replaced": namespace > 1, "files": files,
        }  # fmt: skip


def _file(ino: int, row: Any) -> dict[str, Any]:
    extents = [[at * BLOCK, start * BLOCK, count * BLOCK, since] for at, start, count, since in row[3]]
    return {"path": row[0], "ino": ino, "size": row[2], "extents": extents}


def _flags(translated: int, now: int, absent: bool) -> int:
    """What the engine sees in a block that it writes."""
    if absent:
        return Flag.DST_ABSENT.value
    if now == translated:
        return 0
    return (Flag.DST_FREED if now == translated + 1 else Flag.DST_FOREIGN).value
