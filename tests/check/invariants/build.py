"""Histories made by hand, for the tests of invariants: the real core writes the lines, the test decides what the engine did, and edits.

    story = Story("mr-revoke")                    a device pm0, a mount /mnt
    holder, peer = story.session("holder"), story.session("peer")
    story.create("/mnt/a", 4)                     its blocks are 0 to 3
    key = story.register(holder, "/mnt/a", 4)     a key, installed and answered
    story.moved(key, 0)                           a quantum under it, on block 0 of the MR, at this moment
    story.reclaim("truncate", "/mnt/a", size=BLOCK)       asked for, and answered as far as the engine answers at once
    history = story.history()

What the engine owes waits in `story.owed`; `story.answer()` delivers it all, and what comes of that; `reclaim(..., answers=False)`
leaves it there. Every line has a number, a time and an epoch as the live broker would have written them (epoch: +1 at each Phase,
Allocate, Release, Offline, Online, Remap). Edits: `drop`, `change`, `insert`, each by a predicate or by line number. Where the core would not do
what a test needs, `effect(...)`, `event(...)`, `commit(...)` and `line(...)` write lines that no core wrote.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

from emu.check.history import History
from emu.core import effects as fx
from emu.core import events as ev
from emu.core import requests as rq
from emu.core.machine import Core
from emu.history.events import fields_of, plain
from emu.history.journal import JournalFile, Kind, Record
from emu.history.oplog import Flag, OpLog, OpRecord
from emu.history.oplog import Kind as OpKind
from emu.history.stamp import Cell, encode
from emu.protocols import registry
from emu.protocols.contract import declaration

BLOCK = 4096
PROTOCOLS = registry.load().protocols
ADVANCING = (fx.Phase, fx.Allocate, fx.Share, fx.Release, fx.Poison, fx.Offline, fx.Online, fx.Remap)
WRITE, READ = 0, 4
ANSWERS = (ev.KeyInstalled, ev.Quiesced, ev.Unmapped, ev.Answered, ev.RightFenced, ev.RightReturned)
ACCESS = 7  # LOCAL_WRITE | REMOTE_WRITE | REMOTE_READ
DATA = 99  # the aperture that a peer's own bytes are in


SIGKILL = 9


class Story:
    """One run as it comes about. `device` has `blocks` blocks; generations and translations are kept as the engine would."""

    def __init__(
        self, protocol="mr-revoke", blocks=16, protocols=PROTOCOLS, mount=True, survivors=False, cold=False
    ):
        """cold: the mount is not dax; DMA goes to pages, aperture 2, whose generations are kept then. survivors: whoever opens a context ends as soon as it has an MR, and somebody else has its descriptor."""
        self.protocols, self.protocol, self.blocks = protocols, protocol, blocks
        self.core = Core(protocols, host_protocol=protocol)
        self.lines, self.records, self.owed = [], [], []
        self.journals: dict[str, list[Record]] = {}
        self.epoch, self.now = 1, 0
        self.gens = [1] * blocks
        self.absent = False
        self.keys: dict[int, tuple[tuple[int, int], ...]] = {}  # key -> runs, while the engine has it
        self.translated: dict[int, list[int]] = {}  # key -> generations at its installation
        self.inside: dict[int, int] = {}  # key -> operations in flight
        self.sessions = self.requests = self.ops = 0
        self.names: dict[int, str] = {}
        self.memory = bytearray(blocks * BLOCK)
        self.row: dict = {}
        self.survivors = survivors
        self.dax, self.ground = not cold, 2 if cold else 1
        if mount:
            self.boot()

    # ---- lines

    def line(self, kind, name, /, **fields):
        """One line; its number."""
        n = len(self.lines)
        own = {"n": n, "t": self.tick(), "epoch": self.epoch, "kind": kind, "type": name}
        if not fields.keys().isdisjoint(own):
            fields = {f"{key}_" if key in own else key: value for key, value in fields.items()}
        self.lines.append({**own, **fields})
        return n

    def tick(self):
        self.now += 1000
        return self.now

    def event(self, event):
        return self.line("event", type(event).__name__, **fields_of(event))

    def effect(self, effect):
        """A line about an effect, and what it does to blocks and keys."""
        if isinstance(effect, ADVANCING):
            self.epoch += 1
        fields = fields_of(effect)
        if isinstance(effect, fx.Phase):
            fields["inflight"] = sum(self.inside.get(key, 0) for key in effect.keys)
        n = self.line("effect", type(effect).__name__, **fields)
        self._carry_out(effect)
        return n

    def commit(self, *delta):
        return self.line("commit", "Commit", changes=len(delta), delta=plain(list(delta)))

    # ---- the core

    def boot(self):
        """A life begins with a Loaded line: all durable rows that it found."""
        rows = plain(self.core.durable())
        self.line("commit", "Loaded", changes=len(rows), delta=rows)
        self.step(ev.DeviceAdded("pm0", self.blocks))
        self.step(ev.MountAdded("/mnt", "pm0", dax=self.dax, protocol=self.protocol))

    def step(self, event):
        """One step of the core, as the live broker writes it down; its effects."""
        self.event(event)
        made = self.core.step(event)
        for effect in made:
            if effect.before_commit:
                self.effect(effect)
        delta = self.core.delta()
        if delta:
            self.commit(*delta)
        self.core.committed()
        for effect in made:
            if not effect.before_commit:
                self.effect(effect)
        return made

    def restart(self):
        """kill -9 of the broker, and its next start: another life in the same history."""
        rows = self.core.durable()
        self.core = Core(self.protocols, host_protocol=self.protocol)
        self.core.load(rows)
        self.core.committed()
        self.owed.clear()
        self.keys.clear()
        self.boot()

    def answer(self, *kinds):
        """Deliver what the engine owes (of these types of event), and what that leads to. Whether there was anything."""
        found = False
        while mine := [event for event in self.owed if not kinds or isinstance(event, kinds)]:
            found = True
            self.owed.remove(mine[0])
            self.step(mine[0])
        return found

    def _carry_out(self, effect):
        self._memory(effect)
        self._engine(effect)

    def _memory(self, effect):
        if getattr(effect, "aperture", self.ground) != self.ground:
            return
        if isinstance(effect, fx.OpenDevice):
            owned = {block for run in effect.owned for block in blocks_of(run)}
            self.gens = [gen + ((gen % 2 == 0) != (at in owned)) for at, gen in enumerate(self.gens)]
        elif isinstance(effect, fx.Allocate | fx.Release):
            for block in (block for run in effect.runs for block in blocks_of(run)):
                self.gens[block] += 1
                if isinstance(effect, fx.Allocate):
                    self.memory[block * BLOCK : (block + 1) * BLOCK] = bytes(BLOCK)
        elif isinstance(effect, fx.Share):
            for block in (block for run in effect.runs for block in blocks_of(run)):
                self.gens[block] += 2
        elif isinstance(effect, fx.Copy):
            for start, to, size in effect.pieces:
                self.memory[to : to + size] = self.memory[start : start + size]
        elif isinstance(effect, fx.Offline):
            self.absent = True
        elif isinstance(effect, fx.Online):
            self.absent = False
            self.gens = [gen + 2 + (gen % 2 == 0) for gen in self.gens]

    def _engine(self, effect):
        if isinstance(effect, fx.InstallKey):
            self.keys[effect.key] = effect.extents
            self.translated[effect.key] = [
                self.gens[b] for run in effect.extents for b in blocks_of(run) if b < self.blocks
            ]
            self.owed.append(ev.KeyInstalled(effect.key))
        elif isinstance(effect, fx.RemoveKey):
            self.keys.pop(effect.key, None)
        elif isinstance(effect, fx.Remap):
            self.keys[effect.key] = effect.extents
            self.translated[effect.key] = [
                self.gens[b] for run in effect.extents for b in blocks_of(run) if b < self.blocks
            ]
            self.owed.append(ev.Answered(effect.token))
        elif isinstance(effect, fx.Quiesce | fx.Invalidate):
            self.owed.append(ev.Quiesced(effect.cookie))
        elif isinstance(effect, fx.Unmap):
            self.owed.append(ev.Unmapped(effect.cookie))
        elif isinstance(effect, fx.FenceRight):
            self.owed.append(ev.RightFenced(effect.fence))
        elif isinstance(effect, fx.ReturnRight):
            self.owed.append(ev.RightReturned(effect.right))
        elif isinstance(effect, fx.Arm):
            self.owed.append(ev.TimerFired(effect.timer))
        elif isinstance(effect, fx.Disarm):
            self.owed = [event for event in self.owed if event != ev.TimerFired(effect.timer)]
        elif isinstance(effect, fx.Signal) and effect.number == SIGKILL:
            self.owed.append(ev.SessionLost(effect.session))
        elif getattr(effect, "token", 0):
            self.owed.append(ev.Answered(effect.token))

    # ---- people

    def session(self, name="holder", wants=True, door=True):
        """A client; its journal has the same name."""
        self.sessions += 1
        self.step(ev.SessionOpened(self.sessions, name, door, wants, signalable=door))
        self.names[self.sessions] = name
        self.journals.setdefault(name, [])
        return self.sessions

    def lost(self, session):
        self.step(ev.SessionLost(session))

    def ask(self, session, op, answers=True):
        """A request; its number. `answers`: the engine's answers arrive at once."""
        self.requests += 1
        self.step(ev.Requested(session, self.requests, op))
        if answers:
            self.answer(*ANSWERS)
        return self.requests

    def admin(self):
        """A session for whoever just asks for something."""
        found = [number for number, name in self.names.items() if name == "admin"]
        return found[0] if found else self.session("admin", wants=False)

    def create(self, path, blocks, session=0):
        return self.ask(session or self.admin(), rq.FsCreate(path, blocks * BLOCK))

    def register(
        self, session, path, blocks, offset=0, importer="sync-revocable", answers=True, access=ACCESS
    ):
        """A PD, an MR over `blocks` blocks of the file, with what the protocol wants first; the key (0: refused, or not answered yet)."""
        needs = self.protocols[self.protocol].needs
        if needs == "lease":
            self.ask(session, rq.FsLease(path, "shared"))
        elif needs == "mark":
            self.ask(self.admin(), rq.FsMark(path, True))
        self.ask(session, rq.AllocPd())
        pd = self.result(session, self.requests)["handle"]
        bound = 2.0 if importer == "deferred-unmap" else 0.0
        wanted = rq.RegMr(
            pd, blocks * BLOCK, access, 0, "dax", path, offset * BLOCK, importer=importer, bound=bound
        )
        request = self.ask(session, wanted, answers)
        if self.survivors:
            self.step(ev.OwnerEnded(session))
        return (self.result(session, request) or {}).get("lkey", 0)

    def dereg(self, session, key, answers=True):
        return self.ask(session, rq.DeregMr(key), answers)

    def reclaim(self, kind, target="/mnt/a", session=0, answers=True, size=0, offset=0, length=0):
        """A reclaim of a path or device; the request's number. cow-write: of a file that was cloned."""
        ops = {
            "truncate": lambda: rq.FsTruncate(target, size),
            "punch": lambda: rq.FsPunch(target, offset, length),
            "unlink": lambda: rq.FsUnlink(target),
            "collapse": lambda: rq.FsFallocate(target, "collapse", offset, length or BLOCK),
            "insert": lambda: rq.FsFallocate(target, "insert", offset, length or BLOCK),
            "zero": lambda: rq.FsFallocate(target, "zero", offset, length or BLOCK),
            "migrate": lambda: rq.FsMigrate(target),
            "reflink": lambda: rq.FsReflink(target, f"{target}-clone"),
            "cow-write": lambda: rq.FsWrite(target, offset, b"w"),
            "poison": lambda: rq.FsPoison(target, offset),
            "writeback": lambda: rq.FsWriteback(target),
            "memory-pressure": lambda: rq.FsPressure(target),
            "umount": lambda: rq.FsUmount("/mnt"),
            "unplug": lambda: rq.FsUnplug(target),
            "surprise": lambda: rq.FsUnplug(target, surprise=True),
        }
        return self.ask(session or self.admin(), ops[kind](), answers)

    def result(self, session, request):
        """What a request was answered; None: with an error, or not yet."""
        for line in self.lines:
            if line["type"] == "Reply" and (line["session"], line["request"]) == (session, request):
                return line["result"]
        return None

    # ---- the engine

    def moved(
        self,
        key,
        block=0,
        *,
        opcode=WRITE,
        op=0,
        op_epoch=0,
        first=0,
        last=0,
        status=0,
        size=BLOCK,
        done=1,
        qp=11,
        **fields,
    ):
        """A quantum under the key, on this block of its MR, now: generations and flags are what the engine would have seen.

        first, last, op_epoch: epochs, the present one unless given. Bytes of a WRITE are not stored: `stamp` does that.
        """
        self.ops += 1
        first, last = first or self.epoch, last or self.epoch
        place = at_of(self.keys.get(key) or self.last_runs(key), block)
        translated, now = self.translated[key][block], self.gens[place // BLOCK]
        write = opcode != READ
        side = (
            {"dst_aperture": self.ground, "dst_offset": place}
            if write
            else {"src_aperture": self.ground, "src_offset": place}
        )
        other = {"src_aperture": DATA, "src_offset": 0} if write else {"dst_aperture": DATA, "dst_offset": 0}
        record = OpRecord(*[0] * len(OpRecord._fields))._replace(
            kind=OpKind.QUANTUM, flags=self._flags(translated, now, write=write), seq=len(self.records), epoch_first=first,
            epoch_last=last, time_first=self.tick(), time_last=self.tick(), qp_num=qp, opcode=opcode, quanta=1, op=op or self.ops,
            op_epoch=op_epoch or first, bytes=size, rkey=key, gen_translated=translated, gen_first=now, gen_last=now, status=status,
            op_done=done, wr_id=op or self.ops, op_time=self.now,
        )  # fmt: skip
        self.records.append(record._replace(**side, **other)._replace(**fields))
        return len(self.records) - 1

    def last_runs(self, key):
        return next(
            line["extents"]
            for line in reversed(self.lines)
            if line["type"] == "InstallKey" and line["key"] == key
        )

    def _flags(self, translated, now, *, write):
        if self.absent:
            return Flag.DST_ABSENT if write else Flag.SRC_ABSENT
        if now == translated:
            return 0
        if now == translated + 1:
            return Flag.DST_FREED if write else Flag.SRC_FREED
        return Flag.DST_FOREIGN if write else Flag.SRC_FOREIGN

    def stamp(self, block, size=BLOCK, *, ino=1, offset=0, layout=1, writer=2, at=0):
        """Stamped bytes in this block of the device's memory."""
        for place in range(0, size, 64):
            start = block * BLOCK + at + place
            self.memory[start : start + 64] = encode(Cell(writer, ino, 1, layout, 1, offset + place))

    # ---- receipts

    def note(self, name, kind, **fields):
        """A line in a client's journal, now."""
        fields.setdefault("time", self.tick())
        self.journals.setdefault(name, []).append(Record(kind, **fields))

    def posted(self, name, wr_id, key=0, qp=11, opcode=WRITE, length=BLOCK, **fields):
        self.note(name, Kind.POSTED, wr_id=wr_id, qp_num=qp, key=key, opcode=opcode, length=length, **fields)

    def polled(self, name, wr_id, status=0, qp=11, **fields):
        self.note(name, Kind.POLLED, wr_id=wr_id, qp_num=qp, code=status, **fields)

    def told(self, name, code, key=0, **fields):
        """An asynchronous event that a client heard: 1001 is MR_REVOKED."""
        self.note(name, Kind.EVENT, code=code, key=key, **fields)

    # ---- edits

    def find(self, kind, /, **fields):
        """The first line of this type with these fields."""
        return next(
            line
            for line in self.lines
            if line["type"] == kind and all(line.get(name) == value for name, value in fields.items())
        )

    def phase(self, name, reclaim=1):
        return self.find("Phase", phase=name, reclaim=reclaim)

    def drop(self, kind, /, **fields):
        """All lines of this type with these fields go; numbers close up."""
        kept = [
            line
            for line in self.lines
            if line["type"] != kind or any(line.get(name) != value for name, value in fields.items())
        ]
        assert len(kept) < len(self.lines), f"no {kind} line with {fields}"
        self._renumber(kept)

    def move(self, line, before):
        """One line stands in front of another, with that one's epoch and time."""
        self.lines.remove(line)
        self.lines.insert(self.lines.index(before), line)
        line["epoch"], line["t"] = before["epoch"], before["t"]
        self._renumber(self.lines)

    def insert(self, before, kind, name, /, **fields):
        """A line that nobody wrote, in front of another."""
        made = {
            "n": 0,
            "t": before["t"],
            "epoch": before["epoch"],
            "kind": kind,
            "type": name,
            **plain(fields),
        }
        self.lines.insert(self.lines.index(before), made)
        self._renumber(self.lines)
        return made

    def _renumber(self, lines):
        for n, line in enumerate(lines):
            line["n"] = n
        self.lines = lines

    # ---- the whole

    def filemap(self):
        rows = self.core.books.files.items()
        files = [
            {
                "path": row.path,
                "ino": ino,
                "size": row.size,
                "extents": [
                    [at * BLOCK, start * BLOCK, count * BLOCK, since]
                    for at, start, count, since in row.extents
                ],
                **({"origin": row.origin} if row.origin else {}),
            }
            for ino, row in rows
        ]
        device = self.core.books.devices.get("pm0")
        namespace = device.namespace if device else 1
        return {
            "schema": 1, "block": BLOCK, "device": "pm0", "image": "pm0.img", "namespace": namespace, "replaced": namespace > 1,
            "files": files,
        }  # fmt: skip

    def meta(self):
        declared = declaration(self.protocols[self.protocol])
        return {"schema": 1, "source": "simulated", "seed": 1, "declared": declared}

    def history(self, **replaced):
        """The story so far. Keyword: a part to be replaced, as filemap={} or image=b""."""
        log = OpLog(0, 65536, len(self.records) + 16, len(self.records), 0, tuple(self.records))
        journals = {
            name: JournalFile(name, len(found), 0, tuple(found)) for name, found in self.journals.items()
        }
        parts = {
            "meta": self.meta(), "events": copy.deepcopy(self.lines), "logs": [log], "journals": journals, "row": self.row,
            "filemap": self.filemap(), "image": bytes(self.memory),
        }  # fmt: skip
        return History(**{**parts, **replaced})

    def dump(self, path):
        """events.jsonl, for a look at it."""
        Path(path).write_text("".join(json.dumps(line) + "\n" for line in self.lines))


def blocks_of(run):
    at, size = run
    return range(at // BLOCK, (at + size) // BLOCK)


def at_of(runs, block):
    """Where block number `block` of an MR lies in the device, in bytes."""
    return [at * BLOCK for run in runs for at in blocks_of(run)][block]


def revoked(kind="truncate", protocol="mr-revoke", **options):
    """A whole story in which nothing is wrong: a holder with 4 blocks, a peer that writes, a reclaim that succeeds, a new file over
    what became free. `story.key` is the holder's key.
    """
    story = Story(protocol, **options)
    story.holder, story.peer = story.session("holder"), story.session("peer", wants=False)
    story.create("/mnt/a", 4)
    story.key = story.register(story.holder, "/mnt/a", 4)
    for block in range(4) if story.key else ():
        story.posted("peer", block + 1, story.key)
        story.moved(story.key, block, op=block + 1)
        story.polled("peer", block + 1)
    arguments = {"truncate": {"size": BLOCK}, "punch": {"offset": BLOCK, "length": 2 * BLOCK}}.get(kind, {})
    story.inside[story.key] = 1
    target = "pm0" if kind in {"unplug", "surprise"} else "/mnt/a"
    story.reclaim(kind, target, answers=False, **arguments)
    story.inside.clear()
    story.answer()
    if kind in {"unplug", "surprise"}:
        story.ask(story.admin(), rq.FsPlug("pm0"))
    story.create("/mnt/b", 2)
    return story
