"""What a world's tape tells becomes a History: the lines, log records, receipts and bytes that a live run would have left.

    recorder.now = ...               before each move: virtual nanoseconds
    recorder.take(facts, state)      behind it: what is new on the tape (emu.check.model.world says what facts there are), and the state
    recorder.history(meta)           at the end

Lines: an event, what is carried out before its commit, the commit, the other effects; the epoch advances at the same effects as in the
live broker (emu/broker/record.py). The log holds every quantum as a record of its own: what the engine sums up in quiet times is
written out here. Receipts: each client's requests and answers, the events that reach it, what its peer posts and polls. A client that is
stopped takes its receipts when it goes on. Of a quantum's bytes the first half is there when it has begun, the rest when it ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from emu.check.history import History
from emu.check.model.engine import generation
from emu.check.model.fabric_world import STATUS as WORDS
from emu.check.simulator.memory import BLOCK, Memory, Stamp
from emu.check.simulator.receipts import Receipts
from emu.core import effects as fx
from emu.core import events as ev
from emu.core import requests as rq
from emu.core.fields import DURABLE
from emu.core.rows import File
from emu.history.events import fields_of, plain
from emu.history.oplog import Flag, OpLog, OpRecord
from emu.history.oplog import Kind as LogKind
from emu.history.stamp import CELL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from emu.check.model.state import Op, State
    from emu.core.machine import Change

FAMILY: Final = File._fields.index("origin")
ADVANCING: Final = (fx.Phase, fx.Allocate, fx.Share, fx.Release, fx.Poison, fx.Offline, fx.Online, fx.Remap)
STATUS: Final = {word: status for status, word in WORDS.items()}
REM_ACCESS_ERR: Final = STATUS["REM_ACCESS_ERR"]
QUANTUM: Final = BLOCK  # bytes
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


class InFlight:
    """A WRITE that was posted. record: of the quantum that runs. over: it has completed, or its broker was killed."""

    __slots__ = ("epoch", "key", "number", "over", "qp", "record", "time", "to")

    def __init__(self, key: int, to: Translation, number: int, qp: int, epoch: int, time: int) -> None:
        self.key, self.to, self.number, self.qp, self.epoch, self.time = key, to, number, qp, epoch, time
        self.record: OpRecord | None = None
        self.over = False

    def bytes_of(self, quantum: int) -> int:
        """The last one may be short: an MR ends where its file does."""
        return min(QUANTUM, self.to.length - quantum * QUANTUM)

    def half_of(self, quantum: int) -> int:
        """What of it is there when it has begun, in whole cells."""
        return self.bytes_of(quantum) // 2 // CELL * CELL


class Recorder:
    """See above. A method a kind of fact. Peers count from 1 here, from 0 on the tape."""

    def __init__(self, blocks: int) -> None:
        self.now = self.epoch = 0
        self._last = 0
        self.lines: list[dict[str, Any]] = []
        self.records: list[OpRecord] = []
        self.receipts = Receipts()
        self.memory = Memory(blocks)
        self.timers: dict[int, tuple[int, float]] = {}  # armed -> when, seconds
        self.under_way: dict[int, None] = {}  # reclaims that were requested in this life, and have not ended
        self._books: dict[str, dict[Any, Any]] = {}
        self._keys: dict[int, Translation] = {}
        self._leads: dict[int, int] = {}  # key -> the aperture that it was mapped to again
        self._flights: dict[tuple[int, int], InFlight] = {}  # by peer and work request (0 without a fabric)
        self._numbers = 0
        self._connected: dict[int, int] = {}  # peer -> queue pairs that it has had
        self._broken: dict[int, None] = {}  # peers whose queue pair is in ERR, or gone with the broker
        self._event: ev.Event | None = None
        self._facts: dict[str, Callable[..., None]] = {
            "event": self._took_event,
            "commit": self._took_commit,
            "effect": self._emit,
            "told": lambda *_: None,  # the Notify in front of it has said so
        }
        self._of_peers: dict[str, Callable[..., None]] = {
            "posted": self._posted,
            "enter": self._entered,
            "leave": self._left,
            "completed": self._completed,
        }
        self._deeds: dict[type[fx.Effect], Callable[[Any], None]] = {
            fx.Phase: self._phase,
            fx.OpenDevice: self._opened,
            fx.OpenScratch: self._opened,
            fx.InstallKey: self._install,
            fx.Remap: self._remapped,
            fx.Allocate: self._zeroed,
            fx.Zero: self._zeroed,
            fx.Blank: self._zeroed,
            fx.Store: self._stored,
            fx.Copy: lambda effect: self.memory.copy(effect.pieces),
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
            values["inflight"] = sum(not op.over and op.key in effect.keys for op in self._flights.values())
        self._line("effect", type(effect).__name__, values)
        deed = self._deeds.get(type(effect))
        if deed is not None:
            deed(effect)

    # ---- the tape: the core and the shell

    def take(self, facts: Iterable[tuple[Any, ...]], state: State) -> None:
        """What a move has added to the tape, and the state behind it."""
        if not self.lines:
            self._commit("Loaded", ())
        for kind, *what in facts:
            take = self._facts.get(kind)
            if take is not None:
                take(*what)
            elif kind == "restart":
                self._restarted(state)
            else:
                peer, *more = what
                self._of_peers[kind](peer + 1, *more, state)

    def _took_event(self, event: ev.Event) -> None:
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

    def _took_commit(self, delta: Sequence[Change]) -> None:
        if delta:
            self._commit("Commit", delta)

    def _restarted(self, state: State) -> None:
        """Kill -9 of the broker. What was committed is what the next life loads."""
        self.timers.clear()
        self.under_way.clear()
        self._keys.clear()
        self._leads.clear()
        for flight in self._flights.values():
            flight.over, flight.record = True, None
        if state.fabric is None:
            self._broken.update(dict.fromkeys(self._connected))
        self.receipts.broker_died()
        rows = [(name, key, self._books[name][key]) for name in DURABLE for key in self._books.get(name, {})]
        self._commit("Loaded", rows)

    # ---- the tape: the engine

    def _posted(self, peer: int, op: Op, _state: State) -> None:
        self._numbers += 1
        if peer not in self._connected or peer in self._broken:
            self._connected[peer] = self._connected.get(peer, 0) + 1
            self._broken.pop(peer, None)
        qp, to = FIRST_QP * peer + self._connected[peer], self._keys[op.key]
        flight = InFlight(op.key, to, self._numbers, qp, self.epoch, self._tick())
        self._flights[peer, op.work] = flight
        self.receipts.posted(peer, qp, self._numbers, op.key, to, self._last)

    def _entered(self, peer: int, op: Op, state: State) -> None:
        flight, now = self._flights[peer, op.work], generation(state.gens, op.block)
        flight.record = self._record(
            flight, flags=_flags(op.gen, now, _absent(state, op)), bytes=flight.bytes_of(op.quantum), src_offset=op.quantum * QUANTUM,
            gen_translated=op.gen, gen_first=now, op_done=int(op.quantum + 1 == op.quanta),
        )._replace(**self._place(flight, state, op))  # fmt: skip
        if not _nowhere(state, op):
            self.memory.store(op.block * BLOCK, flight.half_of(op.quantum), _stamp(peer, flight, op))

    def _place(self, flight: InFlight, state: State, op: Op) -> dict[str, int]:
        """Where it goes. The model has one scratch page, the node has one behind each device and one of its own."""
        aperture = self._leads.get(op.key, flight.to.aperture) if op.block >= len(state.gens) else 0
        if aperture in {0, flight.to.aperture}:
            return {"dst_offset": op.block * BLOCK}
        return {"dst_aperture": aperture, "dst_offset": 0}

    def _left(self, peer: int, op: Op, state: State) -> None:
        flight, now = self._flights[peer, op.work], generation(state.gens, op.block)
        record = flight.record
        assert record is not None
        moved = Flag.EPOCH_MOVED.value if record.epoch_first != self.epoch else 0
        flags = record.flags | _flags(op.gen, now, _absent(state, op)) | moved
        self._log(record._replace(flags=flags, epoch_last=self.epoch, time_last=self._tick(), gen_last=now))
        if not _nowhere(state, op):
            half = flight.half_of(op.quantum)
            rest = flight.bytes_of(op.quantum) - half
            self.memory.store(op.block * BLOCK + half, rest, _stamp(peer, flight, op))

    def _completed(self, peer: int, op: Op, word: str, _state: State) -> None:
        flight, status = self._flights[peer, op.work], STATUS[word]
        flight.over = True
        if status == REM_ACCESS_ERR:
            self._log(self._record(flight, flags=Flag.CUT.value, status=status, op_done=1))
        if status:
            self._broken[peer] = None
        self.receipts.polled(peer, flight.qp, flight.number, status, self._tick())

    def _record(self, flight: InFlight, **values: int) -> OpRecord:
        """A record of this operation, of now."""
        time = self._tick()
        return EMPTY._replace(
            kind=LogKind.QUANTUM.value, epoch_first=self.epoch, epoch_last=self.epoch, time_first=time, time_last=time,
            qp_num=flight.qp, peer_qp_num=flight.qp, quanta=1, wr_id=flight.number, op=flight.number, op_epoch=flight.epoch,
            rkey=flight.key, src_aperture=CLIENT_MEMORY, dst_aperture=flight.to.aperture, op_time=flight.time, **values,
        )  # fmt: skip

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
        else:
            self._keys[effect.key] = self._waited(effect)

    def _waited(self, effect: fx.InstallKey) -> Translation:
        """Of a registration that had waited behind a reclaim, in the step that ended it: the file is the one that has the first block."""
        first = effect.extents[0][0] // BLOCK
        ino, row, offset = next(
            (ino, row, (at + first - start) * BLOCK)
            for ino, row in self._books["files"].items()
            for at, start, count, _since in row[3]
            if start <= first < start + count
        )
        namespace = self._books["devices"][row[1]][3]
        return Translation(ino, row[4], namespace, offset, effect.length, effect.aperture)

    def _phase(self, effect: fx.Phase) -> None:
        if effect.phase == "ended":
            self.under_way.pop(effect.reclaim, None)
        else:
            self.under_way[effect.reclaim] = None

    def _remapped(self, effect: fx.Remap) -> None:
        self._leads[effect.key] = effect.aperture

    def _opened(self, effect: fx.OpenDevice | fx.OpenScratch) -> None:
        self._line("shell", "Aperture", {"aperture": effect.aperture, "number": effect.aperture})

    def _zeroed(self, effect: fx.Allocate | fx.Zero | fx.Blank) -> None:
        self.memory.zero(effect.runs)

    def _stored(self, effect: fx.Store) -> None:
        self.memory.write(effect.runs, effect.data)

    def _online(self, _effect: fx.Online) -> None:
        self.memory.replace()

    def _arm(self, effect: fx.Arm) -> None:
        self.timers[effect.timer] = (self._last, effect.seconds)

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


def _stamp(peer: int, flight: InFlight, op: Op) -> Stamp:
    to = flight.to
    meant = to.offset + op.quantum * QUANTUM
    return Stamp(peer, to.ino, flight.number, to.layout, to.namespace, meant - op.block * BLOCK)


def _file(ino: int, row: Any) -> dict[str, Any]:
    extents = [[at * BLOCK, start * BLOCK, count * BLOCK, since] for at, start, count, since in row[3]]
    file = {"path": row[0], "ino": ino, "size": row[2], "extents": extents}
    return file | {"origin": row[FAMILY]} if row[FAMILY] else file


def _nowhere(state: State, op: Op) -> bool:
    """Absent, or the scratch page, which is in no image."""
    return state.absent or op.block >= len(state.gens)


def _absent(state: State, op: Op) -> bool:
    return state.absent and op.block < len(state.gens)


def _flags(translated: int, now: int, absent: bool) -> int:
    """What the engine sees in a block that it writes."""
    if absent:
        return Flag.DST_ABSENT.value
    if now == translated:
        return 0
    return (Flag.DST_FREED if now == translated + 1 else Flag.DST_FOREIGN).value
