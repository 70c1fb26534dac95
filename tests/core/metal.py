"""A core whose effects on memory are carried out on real bytes, and a plain model of what the files should hold.

Metal     blocks, their generations, and who has failed; carries out effects, and can be killed between any two
Plain     {path: Content}: what a reader should find, by operations on bytes alone
"""

from __future__ import annotations

from dataclasses import dataclass, field

from emu.core import effects as fx
from emu.core import events as ev
from emu.core import requests as rq
from emu.core.machine import Core
from emu.protocols import registry

BLOCK = 4096
PROTOCOLS = registry.load().protocols


def up(size):
    return -(-size // BLOCK) * BLOCK


@dataclass
class Content:
    """A file as its readers know it. lost: file blocks that read as EIO."""

    data: bytearray
    lost: set[int] = field(default_factory=set)

    def copy(self):
        return Content(bytearray(self.data), set(self.lost))


class Plain(dict):
    """What operations do to contents. Each answers whether it can be done at all."""

    def create(self, path, size):
        self[path] = Content(bytearray(size))

    def truncate(self, path, size):
        file = self[path]
        file.data = file.data[:size] + bytes(max(0, size - len(file.data)))
        file.lost = {at for at in file.lost if at * BLOCK < size}

    def punch(self, path, offset, length):
        self.zero(path, offset, length)

    def zero(self, path, offset, length):
        file = self[path]
        hi = min(len(file.data), offset + length)
        file.data[offset:hi] = bytes(max(0, hi - offset))
        whole = up(hi) if hi == len(file.data) else hi
        file.lost -= set(range(up(offset) // BLOCK, whole // BLOCK))

    def write(self, path, offset, data):
        file, end = self[path], offset + len(data)
        whole = up(end) if end >= len(file.data) else end
        healed = set(range(up(offset) // BLOCK, whole // BLOCK))
        if file.lost & set(range(offset // BLOCK, up(end) // BLOCK)) - healed:
            return False
        file.lost -= healed
        file.data += bytes(max(0, end - len(file.data)))
        file.data[offset:end] = data
        return True

    def collapse(self, path, offset, length):
        file, first, count = self[path], offset // BLOCK, length // BLOCK
        if offset % BLOCK or length % BLOCK or offset + length >= len(file.data):
            return False
        del file.data[offset : offset + length]
        file.lost = {
            at - count * (at >= first + count) for at in file.lost if not first <= at < first + count
        }
        return True

    def insert(self, path, offset, length):
        file, first, count = self[path], offset // BLOCK, length // BLOCK
        if offset % BLOCK or length % BLOCK or offset >= len(file.data):
            return False
        file.data[offset:offset] = bytes(length)
        file.lost = {at + count * (at >= first) for at in file.lost}
        return True


class Metal:
    """One device pm0 under /mnt, one session. `kill` stops in the middle of a step and starts again from what was durable."""

    def __init__(self, protocol="none", blocks=24, policy="freed-first"):
        self.protocol, self.blocks, self.policy = protocol, blocks, policy
        self.memory = [bytearray(BLOCK) for _ in range(blocks)]
        self.gens = [1] * blocks
        self.failed: set[int] = set()
        self.disk: dict = {}
        self.owners: dict[int, set[int]] = {}
        self.request = 0
        self.start()

    def start(self):
        """A broker's life: the durable rows, and the memory as it is."""
        self.core = Core(PROTOCOLS, policy=self.policy)
        self.core.load([(book, key, row) for (book, key), row in self.disk.items()])
        self.answers, self.waiting = {}, []
        self.run(ev.DeviceAdded("pm0", self.blocks))
        self.run(ev.MountAdded("/mnt", "pm0", dax=True, protocol=self.protocol))
        self.run(ev.SessionOpened(1, "client", door=True, wants=False))

    # ---- steps

    def run(self, event, upto=None):
        """A step and what it leads to. upto: the broker is killed behind so many of its effects (the commit counts as one)."""
        self.waiting = [event]
        while self.waiting:
            left = self.step(self.waiting.pop(0), upto)
            if upto is not None and left < 0:
                return self.start()
            upto = left if upto is not None else None
        return None

    def step(self, event, budget=None):
        effects = self.core.step(event)
        before = [effect for effect in effects if effect.before_commit]
        for effect in before:
            if budget is not None and (budget := budget - 1) < 0:
                return budget
            self.carry_out(effect)
        if budget is not None and (budget := budget - 1) < 0:
            return budget
        for book, key, row in self.core.delta():
            if row is None:
                self.disk.pop((book, key), None)
            else:
                self.disk[book, key] = row
        self.core.committed()
        shared = {
            block for effect in effects if isinstance(effect, fx.Share) for block in blocks_of(effect.runs)
        }
        given = {
            block for effect in before if isinstance(effect, fx.Allocate) for block in blocks_of(effect.runs)
        }
        self.check_owners(shared, given)
        for effect in effects:
            if not effect.before_commit:
                if budget is not None and (budget := budget - 1) < 0:
                    return budget
                self.carry_out(effect)
        self.check_generations()
        return 0 if budget is None else budget

    def carry_out(self, effect):
        match effect:
            case fx.Allocate():
                for block in blocks_of(effect.runs):
                    assert block not in self.failed, "a block whose memory has failed was given away"
                    self.gens[block] += 1 if self.gens[block] % 2 else 2
                    self.memory[block][:] = bytes(BLOCK)
            case fx.Release():
                for block in blocks_of(effect.runs):
                    self.gens[block] += 1
            case fx.Share():
                for block in blocks_of(effect.runs):
                    self.gens[block] += 2
            case fx.Poison():
                self.failed |= set(blocks_of(effect.runs))
            case fx.OpenDevice():
                owned = set(blocks_of(effect.owned))
                self.gens = [g + ((g % 2 == 0) != (at in owned)) for at, g in enumerate(self.gens)]
            case fx.Blank() | fx.Zero():
                for at, size in effect.runs:
                    self.store(at, bytes(size))
            case fx.Copy():
                for start, to, size in effect.pieces:
                    self.store(to, self.load(start, size))
            case fx.Store():
                at = 0
                for start, size in effect.runs:
                    self.store(start, effect.data[at : at + size])
                    at += size
            case fx.Reply() | fx.Fail():
                self.answers[effect.request] = effect
        answer = self.answer_to(effect)
        if answer is not None:
            self.waiting.append(answer)

    def answer_to(self, effect):
        if isinstance(effect, fx.Load):
            data = b"".join(bytes(n) if at < 0 else self.load(at, n) for at, n in effect.pieces)
            return ev.Answered(effect.token, 0, {"data": data})
        if isinstance(effect, fx.InstallKey):
            return ev.KeyInstalled(effect.key)
        if isinstance(effect, fx.Quiesce):
            return ev.Quiesced(effect.cookie)
        if isinstance(effect, fx.Unmap):
            return ev.Unmapped(effect.cookie)
        return ev.Answered(effect.token) if getattr(effect, "token", 0) else None

    def store(self, at, data):
        for offset, byte in _by_block(at, data):
            block = offset // BLOCK
            self.memory[block][offset % BLOCK : offset % BLOCK + len(byte)] = byte

    def load(self, at, size):
        found = bytearray()
        while size:
            part = min(size, BLOCK - at % BLOCK)
            assert at // BLOCK not in self.failed, "memory that has failed was read"
            found += self.memory[at // BLOCK][at % BLOCK : at % BLOCK + part]
            at, size = at + part, size - part
        return bytes(found)

    # ---- what holds behind every step

    def check_owners(self, shared, given):
        """S6, and the half of S1 that sharing adds: whose set of files changes and stays is said by Share, and only that."""
        now: dict[int, set[int]] = {}
        for ino, row in self.core.books.files.items():
            for _at, start, count, _since in row.extents:
                for block in range(start, start + count):
                    assert ino not in now.setdefault(block, set()), "a file has a block twice"
                    now[block].add(ino)
        changed = {at for at in now.keys() & self.owners.keys() if now[at] != self.owners[at]} - given
        assert changed == shared
        self.owners = now

    def check_generations(self):
        for block, g in enumerate(self.gens):
            free = block not in self.owners
            quarantined = any(
                run.start <= block < run.start + run.blocks
                for _key, run in self.core.books.quarantine.items()
            )
            assert (g % 2 == 1) == (free and not quarantined) or block in self.failed
        if "pm0" in self.core.books.devices:
            counts = self.counts()
            assert counts["free"] + counts["owned"] + counts["quarantined"] + counts["bad"] == self.blocks

    def counts(self):
        from emu.core.devices import blocks_of as counted

        return counted(self.core.books, "pm0")

    # ---- a client

    def ask(self, op, upto=None):
        """Its result, or an errno; None when the broker was killed first."""
        self.request += 1
        self.run(ev.Requested(1, self.request, op), upto)
        answer = self.answers.get(self.request)
        if isinstance(answer, fx.Fail):
            return answer.errno
        return None if answer is None else answer.result

    def contents(self):
        """Every file as a reader finds it."""
        found = {}
        for row in [row for _ino, row in self.core.books.files.items()]:
            file = Content(bytearray())
            for at in range(0, row.size, BLOCK):
                size = min(BLOCK, row.size - at)
                got = self.ask(rq.FsRead(row.path, at, size))
                file.data += got["data"] if isinstance(got, dict) else bytes(size)
                if not isinstance(got, dict):
                    file.lost.add(at // BLOCK)
            found[row.path] = file
        return found


def _by_block(at, data):
    done = 0
    while done < len(data):
        part = min(len(data) - done, BLOCK - (at + done) % BLOCK)
        yield at + done, data[done : done + part]
        done += part


def blocks_of(runs):
    return [block for at, size in runs for block in range(at // BLOCK, -(-(at + size) // BLOCK))]
