"""The peer: has the key, and uses it without pause.

Four queue pairs: `write` stores stamped pieces over the whole region round and round, `read` reads the region and looks at
what it got, `bystander` writes now and then to the file that no reclaim concerns, `spare` waits for another key. A queue pair
whose request fails is in the error state; the peer posts no more there, and polls what is flushed.

Every piece carries stamps (emu/history/stamp.py) that say where it was meant to go; a stamp names the first work request that
carried this piece. Many requests are outstanding, so that the engine has work for as long as Python may be off the processor.

A peer that *hears* has asked for events. When it is told that memory it has the key of is wanted back, or gone, it posts no more there, waits
for what it has posted, says so (`drained`), and goes on with whatever key it is given next. A deaf one goes on until an error ends it.
What was read is foreign if a cell in it was meant for another file, or stored under a newer layout than the region was registered
with, or is the canary of another namespace.
"""

from __future__ import annotations

import select
import time
from typing import TYPE_CHECKING

from emu.clients.links import REMOTE, TARGET_BYTES, Target, connect, open_node, queue_pair, unpack_target
from emu.clients.talk import Client, Command

from emu.engine import ring
from emu.history.journal import Journal, Kind, Record
from emu.history.stamp import CANARY, CELL, decode
from emu.host.times import patience
from emu.verbs import enums as e
from emu.verbs.cq import CQ
from emu.verbs.mr import MR
from emu.verbs.pd import PD
from emu.verbs.pyverbs_error import PyverbsError, PyverbsRDMAError
from emu.verbs.wr import SGE, RecvWR, SendWR

if TYPE_CHECKING:
    from typing import Any

    from emu.verbs.cq import WC
    from emu.verbs.qp import QP

BYSTANDER_EVERY = 64  # turns
PAUSE = 0.0002  # seconds between two looks: a sleeper in cq.wait would interrupt the engine at each completion, never within one
SILENCE = patience(10.0)  # seconds after which nothing comes any more
LAST = 64  # records that are left for what is said when all is over
RECORDS = 2  # of one work request: posted, polled
HORIZON = 60.0  # seconds that half a journal lasts about; then half of what is left
SAMPLES = 16  # foreign cells that are kept in full
NOTICES = ("MR_REVOKING", "MR_REVOKED")

LAST_WORDS = 0.2  # seconds: completions of a context that was destroyed meanwhile


class Stream:
    """One queue pair with a fixed set of requests, piece by piece over the target, `depth` of them outstanding."""

    def __init__(self, name: str, qp: QP, opcode: int, memory: MR, piece: int, depth: int) -> None:
        self.name, self.qp, self.opcode, self.memory, self.piece, self.depth = (
            name,
            qp,
            opcode,
            memory,
            piece,
            depth,
        )
        self.outstanding = self.posted = self.good = self.bad = 0
        self.alive = True
        self.recalled = False  # it was told that this memory is wanted back
        self.target: Target | None = None

    def aim(self, target: Target) -> None:
        """From now on at this region."""
        self.target, self.recalled = target, False
        self.piece = min(self.piece, target.length)
        self.slots = min(target.length, self.memory.length) // self.piece
        self.requests = [self._request(target, slot) for slot in range(self.slots)]
        cells = self.piece // CELL
        self.inos, self.layouts = bytes([target.ino & 0xFF]) * cells, bytes([target.layout & 0xFF]) * cells

    def _request(self, target: Target, slot: int) -> SendWR:
        at = slot * self.piece
        wr = SendWR(
            opcode=self.opcode, num_sge=1, sg=[SGE(self.memory.buf + at, self.piece, self.memory.lkey)]
        )
        wr.set_wr_rdma(target.rkey, target.addr + at)
        return wr

    @property
    def room(self) -> int:
        return self.depth - self.outstanding if self.posts else 0

    @property
    def posts(self) -> bool:
        return self.alive and self.target is not None and not self.recalled


class Peer(Client):
    """One context; everything in one thread: commands, posting, polling."""

    going = False
    waiting: tuple[int, int] | None = None  # command number, completions at which it is answered
    recovering: int | None = None
    hears = False  # whether events come, still
    recalled = ""  # the notice that was heard, until what was posted before it has completed
    next_post = 0.0  # not before, when the journal fills

    def do_start(
        self,
        *,
        node: str,
        journal: str,
        writer: int,
        size: int,
        write: int,
        read: int,
        depth: int,
        reads: int,
        looks: int = 1,
        hears: bool = False,
        **_: Any,
    ) -> Command:
        """looks: of so many READs one is looked at. hears: it asks for events, and minds notices."""
        self.looks, self.reads = looks, 0
        self.writer = writer
        self.journal = Journal(journal, "peer")
        self.ctx, self.hears = open_node(node, "peer", events=hears), hears
        self.pd = PD(self.ctx)
        self.cq = CQ(self.ctx, 2 * (depth + reads))
        source, sink = MR(self.pd, size, REMOTE), MR(self.pd, size, REMOTE)
        beside, again = MR(self.pd, read, REMOTE), MR(self.pd, size, REMOTE)
        self.note_memory = MR(self.pd, 4096, REMOTE)
        self.streams = {
            "write": self._stream("write", e.IBV_WR_RDMA_WRITE, source, write, depth),
            "read": self._stream("read", e.IBV_WR_RDMA_READ, sink, read, reads),
            "bystander": self._stream("bystander", e.IBV_WR_RDMA_WRITE, beside, read, 1),
            "spare": self._stream("spare", e.IBV_WR_RDMA_WRITE, again, read, 1),
        }
        self.by_number = {stream.qp.qp_num: stream for stream in self.streams.values()}
        self.inflight: dict[int, int] = {}
        self.next_wr, self.turns = 1, 0
        self.leaked: dict[int, str] = {}
        return {"qps": {name: stream.qp.qp_num for name, stream in self.streams.items()}}

    def _stream(self, name: str, opcode: int, memory: MR, piece: int, depth: int) -> Stream:
        return Stream(name, queue_pair(self.pd, self.cq, max(depth, 2)), opcode, memory, piece, depth)

    def do_connect(
        self,
        *,
        qps: dict[str, int],
        victim: Command | None,
        bystander: Command | None,
        access: str = "rw",
        **_: Any,
    ) -> Command:
        sge = SGE(self.note_memory.buf, 4096, self.note_memory.lkey)
        self.streams["spare"].qp.post_recv(RecvWR(wr_id=0, num_sge=1, sg=[sge]))
        for name, number in qps.items():
            connect(self.streams[name].qp, number)
        if bystander is not None:
            self.streams["bystander"].aim(Target(**bystander))
        if victim is not None:
            if access == "rw":
                self.streams["write"].aim(Target(**victim))
            self.streams["read"].aim(Target(**victim))
        return {}

    def do_go(self, *, dma: bool, bystander: bool = True, **_: Any) -> Command:
        """Begin. dma false: only the bystander's traffic, for a control run. bystander false: its end will be the event."""
        self.going = True
        if not bystander:
            self.streams["bystander"].target = None
        if not dma:
            self.streams["write"].target = self.streams["read"].target = None
        return {}

    def do_advance(self, *, number: int, completions: int, **_: Any) -> None:
        """Answered after this many more good completions, or when nothing is alive that could complete."""
        self.waiting = (number, self._good + completions)

    def do_recover(self, *, number: int, **_: Any) -> None:
        """Answered when the first work request under the key that came afterwards has completed."""
        self.recovering = number

    def do_stop(self, **_: Any) -> Command:
        """Post no more, wait for everything that was posted; one last request of the bystander tells whether it lives."""
        self.going = False
        self._drain(*self.streams.values())
        lives = self._last_of_bystander()
        return {
            "posted": {s.name: s.posted for s in self.streams.values()},
            "good": {s.name: s.good for s in self.streams.values()},
            "bad": {s.name: s.bad for s in self.streams.values()},
            "leaked": self.leaked,
            "bystander_lives": lives or self.streams["bystander"].target is None,
            "recovery_qps": [self.streams["spare"].qp.qp_num],
        }

    # ---- the work

    @property
    def _good(self) -> int:
        return self.streams["write"].good + self.streams["read"].good

    @property
    def _alive(self) -> bool:
        return any(self.streams[name].posts for name in ("write", "read"))

    def step(self) -> None:
        if self.talk.waiting() or not self.going:
            super().step()
            return
        self._turn()
        if self.waiting and (self._good >= self.waiting[1] or not self._alive):
            number, self.waiting = self.waiting[0], None
            self.talk.say(id=number, good=self._good, alive=self._alive)
        if self.recovering and (self.streams["spare"].good or not self.streams["spare"].alive):
            number, self.recovering = self.recovering, None
            self.talk.say(id=number, good=self.streams["spare"].good)

    # ---- what it is told

    def _hear(self) -> None:
        """Events that are there. A device that went has said so before."""
        while self.hears and select.select([self.ctx.session.event_fd], [], [], 0)[0]:
            try:
                event = self.ctx.get_async_event(timeout=0)
            except PyverbsError:
                self.hears = False
                return
            if event is None:
                return
            event.ack()
            name = event.event_type.name.removeprefix("EMU_EVENT_")
            rkey = int(event.fields.get("rkey", 0))
            if name in NOTICES:
                self.journal.event(int(event.event_type), key=int(event.fields.get("mr", 0)), value=rkey)
                self._recall(name, rkey)

    def _recall(self, name: str, rkey: int) -> None:
        """Nothing more is posted under this key."""
        for stream in self.streams.values():
            if stream.target is not None and stream.target.rkey == rkey:
                stream.recalled, self.recalled = True, name

    def _drained(self) -> bool:
        """Whether all that was posted before the notice has completed."""
        return not any(stream.outstanding for stream in self.streams.values() if stream.recalled)

    @property
    def _fatal(self) -> bool:
        return hasattr(self, "ctx") and self.ctx.session.fatal

    def _lost_device(self) -> None:
        """Its context was destroyed: nothing more is posted, and what was posted and has not completed may never."""
        if any(stream.alive for stream in self.streams.values()):
            self.journal.event(int(e.IBV_EVENT_DEVICE_FATAL))
        for stream in self.streams.values():
            stream.alive = False

    def _turn(self) -> None:
        self.turns += 1
        if self._fatal:
            self._lost_device()
        self._hear()
        polled = self._poll()
        if self.recalled and self._drained():
            notice, self.recalled = self.recalled, ""
            self.talk.note("drained", notice=notice, good=self._good)
        for name in ("write", "read", "spare"):
            self._fill(self.streams[name])
        if self.turns % BYSTANDER_EVERY == 1:
            self._fill(self.streams["bystander"])
        if not polled:
            time.sleep(PAUSE)

    def _fill(self, stream: Stream) -> None:
        """Post as many as there is room for, a round of pieces behind each doorbell."""
        while stream.room and (allowed := self._allowance()):
            count = min(stream.room, stream.slots, allowed)
            chain = [self._prepared(stream) for _ in range(count)]
            for wr, behind in zip(chain, [*chain[1:], None], strict=True):
                wr.next_wr = behind
            try:
                stream.qp.post_send(chain[0])
            except PyverbsRDMAError:
                if not self._fatal:
                    raise
                self._lost_device()
                return
            stream.outstanding += count

    def _allowance(self) -> int:
        """Work requests that may be posted now: any, while half of the journal is free; then one from time to time, ever more seldom.

        A run whose reclaim hangs goes on for as long as the lab waits. A journal that wrapped would have lost its beginning, and
        nothing could be concluded from the run.
        """
        left, now = self.journal.capacity - self.journal.written, time.monotonic()
        if left > self.journal.capacity // 2:
            return left
        if now < self.next_post or (self.going and left <= LAST):
            return 0
        self.next_post = now + RECORDS * HORIZON / max(left, 1)
        return 1

    def _prepared(self, stream: Stream) -> SendWR:
        assert stream.target is not None
        slot = stream.posted % stream.slots
        wr, number, target = stream.requests[slot], self.next_wr, stream.target
        wr.wr_id, self.next_wr = number, number + 1
        at = slot * stream.piece
        if stream.opcode == e.IBV_WR_RDMA_WRITE and stream.posted < stream.slots:
            ring.stamp_fill(
                stream.memory.view[at : at + stream.piece], writer=self.writer, ino=target.ino, work_request=number,
                layout=target.layout, namespace=1, offset=target.start + at,
            )  # fmt: skip
        self.inflight[number] = slot
        now = time.monotonic_ns()
        self.journal.append(Record(
            Kind.POSTED, stream.opcode, 0, stream.qp.qp_num, number, now, target.rkey, stream.piece, wr.remote_addr,
            target.start + at, target.ino, target.layout,
        ))  # fmt: skip
        stream.posted += 1
        return wr

    def _poll(self) -> int:
        count, completions = self.cq.poll(32)
        for wc in completions:
            self._completed(wc)
        return count

    def _completed(self, wc: WC) -> None:
        stream = self.by_number[wc.qp_num]
        if wc.wr_id == 0:  # the message with another key, or its flush
            self._another_key(stream, wc)
            return
        now = time.monotonic_ns()
        self.journal.append(Record(Kind.POLLED, code=wc.status, qp_num=wc.qp_num, wr_id=wc.wr_id, time=now))
        slot = self.inflight.pop(wc.wr_id, None)
        if slot is None:
            return  # nothing that is outstanding: it is in the journal, and the verdict speaks of it
        stream.outstanding -= 1
        if wc.status != e.IBV_WC_SUCCESS:
            stream.bad, stream.alive = stream.bad + 1, False
            return
        stream.good += 1
        if stream.opcode == e.IBV_WR_RDMA_READ:
            self.reads += 1
            if self.reads % self.looks == 0:
                self._look(stream, slot)

    def _another_key(self, stream: Stream, wc: WC) -> None:
        if wc.status == e.IBV_WC_SUCCESS:
            stream.aim(unpack_target(self.note_memory.read(TARGET_BYTES, 0)))
        else:
            stream.alive = False

    # ---- what a READ brought

    def _look(self, stream: Stream, slot: int) -> None:
        """Two slices tell whether all of it is as we wrote it; only if not is every cell looked at."""
        target = stream.target
        assert target is not None
        at = slot * stream.piece
        data = stream.memory.read(stream.piece, at)
        if data[12::CELL] == stream.inos and data[24::CELL] == stream.layouts:
            return
        for offset in range(0, stream.piece, CELL):
            self._judge(data[offset : offset + CELL], target, target.start + at + offset)

    def _judge(self, raw: bytes, target: Target, offset: int) -> None:
        cell = decode(raw)
        newer = cell is not None and cell.layout > target.layout and not target.on_demand
        foreign = newer or (cell is not None and cell.ino != target.ino)
        if foreign or raw == CANARY * (CELL // len(CANARY)):
            self.leaked.setdefault(offset, raw.hex() if len(self.leaked) < SAMPLES else "")

    # ---- the end

    def _drain(self, *streams: Stream) -> None:
        """Until all that they posted has completed; or nothing has for a long time, which the verdict then finds in the journal."""
        last = time.monotonic()
        while any(stream.outstanding for stream in streams) and time.monotonic() - last < SILENCE:
            if self._fatal and time.monotonic() - last > LAST_WORDS:
                return
            if self._poll():
                last = time.monotonic()
            else:
                self.cq.wait(1.0)

    def _last_of_bystander(self) -> bool:
        stream = self.streams["bystander"]
        if stream.target is None:
            return False
        before, began, self.next_post = stream.good, time.monotonic_ns(), 0.0
        self._fill(stream)
        self._drain(stream)
        self.journal.mark(1, time.monotonic_ns() - began)
        return stream.good > before

    def close(self) -> None:
        self.ctx.close()
        self.journal.close()


if __name__ == "__main__":
    Peer().main()
