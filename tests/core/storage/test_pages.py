"""The page cache: pages come with registrations and readers, are dirty, written back, dropped; what a reclaim does to them under a pin."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from emu.core import effects as fx
from emu.core import events as ev
from emu.core import requests as rq
from emu.protocols import odp, registry

BLOCK = 4096
CACHE = 3  # aperture of pm1.cache: pm0, pm1, then the mount's cache


@pytest.fixture
def cold(make_node):
    """/cold/a of four blocks on a mount without dax."""

    def make(protocol="none", registered=True, access=7):
        node = make_node(protocol)
        node.file("/cold/a", 4)
        key = node.mr("/cold/a", access=access) if registered else 0
        node.effects.clear()
        return node, key

    return make


def pages(node, path="/cold/a"):
    found = node.stat(path)
    return found["pages"], found["dirty"]


def installed(node):
    return node.of(fx.InstallKey)[-1]


def test_a_registration_pins_pages_that_are_filled_from_the_device_first(cold):
    node, _ = cold(registered=False)
    key = node.mr("/cold/a")
    kinds = [
        type(effect)
        for effect in node.effects
        if effect.__class__.__name__ in {"Allocate", "Fill", "InstallKey"}
    ]
    assert kinds == [fx.Allocate, fx.Fill, fx.InstallKey]
    (fill,) = node.of(fx.Fill)
    assert (fill.source, fill.target, fill.pieces) == (2, CACHE, ((0, 0, 4 * BLOCK),))
    assert installed(node).aperture == CACHE
    assert node.books.mrs[key].backing == "page-cache"
    assert pages(node) == ([[0, 0, 4 * BLOCK, 1]], [[0, 4 * BLOCK]])
    reply = next(e for e in node.of(fx.Reply) if "lkey" in e.result)
    assert reply.descriptors == -CACHE


def test_a_registration_that_only_reads_leaves_its_pages_clean(cold):
    node, _ = cold(access=4)
    assert pages(node) == ([[0, 0, 4 * BLOCK, 1]], [])


def test_a_second_registration_finds_the_same_pages(cold):
    node, _ = cold()
    node.mr("/cold/a", session=2, length=BLOCK, offset=BLOCK)
    assert node.of(fx.Fill) == []
    assert installed(node).extents == ((BLOCK, BLOCK),)


def test_a_hole_that_is_registered_gets_a_block_at_once(make_node):
    node = make_node("none")
    node.ask(rq.FsCreate("/cold/a", 0))
    node.ask(rq.FsTruncate("/cold/a", 3 * BLOCK))
    node.mr("/cold/a", length=3 * BLOCK)
    assert node.stat("/cold/a")["blocks"] == 3


def test_fs_read_looks_into_pages_and_leaves_some(cold):
    node, _ = cold(registered=False)
    node.ask(rq.FsRead("/cold/a", 100, BLOCK))
    (load,) = node.of(fx.Load)
    assert (load.aperture, load.pieces) == (CACHE, ((100, BLOCK),))
    assert pages(node) == ([[0, 0, 2 * BLOCK, 1]], [])


def test_fs_write_goes_to_pages_and_through_to_the_device(cold):
    node, _ = cold()
    request = node.send(rq.FsWrite("/cold/a", BLOCK, b"x" * 10))
    page, device = node.of(fx.Store)
    assert (page.token, page.aperture, page.runs) == (0, CACHE, ((BLOCK, 10),))
    assert (device.aperture, device.runs) == (2, ((BLOCK, 10),))
    assert node.answer(request) is None, "nothing is acknowledged before it is on the device"
    node.go()
    assert node.answer(request).result == {"written": 10}


def test_growth_blanks_the_tail_of_the_page_as_well(cold):
    node, _ = cold()
    node.ask(rq.FsTruncate("/cold/a", 3 * BLOCK + 7))
    node.effects.clear()
    node.ask(rq.FsTruncate("/cold/a", 4 * BLOCK))
    assert [(e.aperture, e.runs) for e in node.of(fx.Blank)] == [
        (2, ((3 * BLOCK + 7, BLOCK - 7),)),
        (CACHE, ((3 * BLOCK + 7, BLOCK - 7),)),
    ]


def test_the_edges_of_a_hole_are_zeroed_in_pages_too(cold):
    node, _ = cold()
    node.ask(rq.FsPunch("/cold/a", 100, BLOCK))
    assert [(e.aperture, e.runs) for e in node.of(fx.Zero)] == [
        (CACHE, ((100, BLOCK - 100), (BLOCK, 100))),
        (2, ((100, BLOCK - 100), (BLOCK, 100))),
    ]


# ---- orphans


TAKING = {
    "truncate": (rq.FsTruncate("/cold/a", BLOCK), 3),
    "punch": (rq.FsPunch("/cold/a", BLOCK, 2 * BLOCK), 2),
    "unlink": (rq.FsUnlink("/cold/a"), 4),
}


@pytest.mark.parametrize(("op", "count"), TAKING.values(), ids=TAKING)
def test_none_frees_pages_under_the_dma_and_blocks_at_once(cold, op, count):
    node, key = cold()
    node.ask(op)
    freed = {effect.aperture: sum(n for _at, n in effect.runs) // BLOCK for effect in node.of(fx.Release)}
    assert freed == {2: count, CACHE: count}
    assert node.books.mrs[key].state == "live"
    assert node.blocks("pm1")["quarantined"] == node.blocks("pm1.cache")["quarantined"] == 0


@pytest.mark.parametrize("op", [op for op, _count in TAKING.values()], ids=TAKING)
def test_ebusy_denies_and_changes_nothing(cold, op):
    node, _ = cold("ebusy")
    before = pages(node)
    assert node.refused(op)[0] == "EBUSY"
    assert pages(node) == before


@pytest.mark.parametrize(("op", "count"), TAKING.values(), ids=TAKING)
def test_mr_revoke_frees_pages_behind_the_unmap(cold, op, count):
    node, key = cold("mr-revoke")
    node.ask(op)
    kinds = [type(e) for e in node.effects if isinstance(e, fx.Quiesce | fx.Unmap | fx.Release)]
    assert kinds == [fx.Quiesce, fx.Unmap, fx.Release, fx.Release]
    assert node.books.mrs[key].state == "unmapped"
    assert node.blocks("pm1.cache")["owned"] == 4 - count


@pytest.mark.parametrize(("op", "count"), TAKING.values(), ids=TAKING)
def test_deferred_free_keeps_pages_until_their_last_unpin_and_no_block(cold, op, count):
    """What Linux does: 0 at once, the space is free at once, and orphan pages that only peers see."""
    node, key = cold("deferred-free")
    node.ask(op)
    assert [effect.aperture for effect in node.of(fx.Release)] == [2]
    assert node.blocks("pm1.cache")["quarantined"] == count
    assert len(node.books.orphans) == 0, "of pages nothing is durable"
    node.ask(rq.DeregMr(key))
    assert node.blocks("pm1.cache")["quarantined"] == 0


def test_virtual_truncate_leaves_pinned_pages_and_their_blocks_to_the_file(cold):
    node, _ = cold("virtual-truncate", registered=False)
    node.mr("/cold/a", length=BLOCK, offset=2 * BLOCK)
    node.ask(rq.FsRead("/cold/a", 0, 4 * BLOCK))
    node.ask(rq.FsTruncate("/cold/a", BLOCK))
    found = node.stat("/cold/a")
    assert found["size"] == 3 * BLOCK
    assert [(at, n) for at, _page, n, _since in found["pages"]] == [(0, BLOCK), (2 * BLOCK, BLOCK)]
    assert [(at, n) for at, _block, n, _since in found["extents"]] == [(0, BLOCK), (2 * BLOCK, BLOCK)]


@pytest.mark.parametrize("mode", ["collapse", "insert"])
def test_pages_behind_what_moves_are_written_back_and_go(cold, mode):
    node, _ = cold("deferred-free")
    node.ask(rq.FsFallocate("/cold/a", mode, BLOCK, BLOCK))
    (flush,) = node.of(fx.Flush)
    first = 2 if mode == "collapse" else 1
    assert flush.pieces == ((first * BLOCK, first * BLOCK, (4 - first) * BLOCK),)
    assert [(at, n) for at, _page, n, _since in pages(node)[0]] == [(0, BLOCK)]


def test_a_clone_has_what_was_dirty_and_is_not_written_to_by_later_writebacks(cold):
    node, _ = cold()
    node.ask(rq.FsReflink("/cold/a", "/cold/b"))
    assert len(node.of(fx.Flush)) == 1
    node.ask(rq.DeregMr(next(iter(node.books.mrs))))
    node.ask(rq.FsWriteback("/cold/a"))
    mine, clone = (node.stat(f"/cold/{name}")["extents"] for name in "ab")
    assert clone == [[0, 0, 4 * BLOCK, 1]]
    assert mine[0][1] == 4 * BLOCK
    assert node.of(fx.Flush)[-1].pieces == ((0, 4 * BLOCK, 4 * BLOCK),)


def test_migrate_moves_blocks_beneath_pages_and_meets_nobody(cold):
    node, key = cold("ebusy")
    node.ask(rq.FsMigrate("/cold/a"))
    assert node.stat("/cold/a")["extents"][0][1] == 4 * BLOCK
    assert pages(node)[0] == [[0, 0, 4 * BLOCK, 1]]
    assert node.books.mrs[key].state == "live"


def test_umount_writes_back_and_leaves_no_page(cold):
    node, _ = cold("mr-revoke")
    node.ask(rq.FsUmount("/cold"))
    assert len(node.of(fx.Flush)) == 1
    assert node.blocks("pm1.cache")["free"] == 16
    node.ask(rq.FsMount("/cold", "pm1", False, "none"))
    node.ask(rq.FsRead("/cold/a", 0, BLOCK))
    assert node.of(fx.OpenDevice) == [], "the cache is there already"
    assert len(pages(node)[0]) == 1


def test_a_hole_within_one_block_takes_no_page(cold):
    node, _ = cold()
    node.ask(rq.FsPunch("/cold/a", BLOCK + 100, 200))
    assert pages(node)[0] == [[0, 0, 4 * BLOCK, 1]]


def test_the_file_extended_again_has_other_pages(cold):
    """FACTS 2: silent split brain. The MR keeps its own."""
    node, key = cold()
    node.ask(rq.FsTruncate("/cold/a", 0))
    node.ask(rq.FsTruncate("/cold/a", 4 * BLOCK))
    node.ask(rq.FsWrite("/cold/a", 0, b"n" * BLOCK))
    node.file("/cold/b", 4)
    node.mr("/cold/b", session=2)  # freed first, taken first: the pages that the MR writes to
    node.ask(rq.FsRead("/cold/a", 0, BLOCK))
    assert node.books.mrs[key].runs == ((0, 4 * BLOCK),)
    assert pages(node, "/cold/b")[0] == [[0, 0, 4 * BLOCK, 1]]
    assert pages(node)[0] == [[0, 4 * BLOCK, BLOCK, 3]]


def test_pages_of_a_deregistered_mr_are_not_dirtied_when_they_are_no_longer_the_files(cold):
    node, key = cold()
    node.ask(rq.FsTruncate("/cold/a", 0))
    node.ask(rq.DeregMr(key))
    assert pages(node) == ([], [])


# ---- written back, dropped


def test_writeback_copies_dirty_pages_and_the_nic_writes_on(cold):
    node, key = cold()
    request = node.send(rq.FsWriteback("/cold/a"))
    (flush,) = node.of(fx.Flush)
    assert (flush.source, flush.target, flush.pieces) == (CACHE, 2, ((0, 0, 4 * BLOCK),))
    assert node.answer(request) is None
    node.go()
    assert node.answer(request).result == {}
    assert pages(node) == ([[0, 0, 4 * BLOCK, 1]], [])
    node.ask(rq.DeregMr(key))
    assert pages(node)[1] == [[0, 4 * BLOCK]], "when the MR goes its pages are dirty again"


def test_writeback_with_nothing_to_do_is_answered_at_once(cold):
    node, _ = cold(registered=False)
    assert node.ask(rq.FsWriteback("/cold/a")) == {}
    assert node.phases() == []


def test_writeback_that_the_device_refuses_leaves_the_pages_dirty(cold):
    node, _ = cold()
    request = node.send(rq.FsWriteback("/cold/a"))
    (flush,) = node.of(fx.Flush)
    node.waiting.clear()
    node.step(ev.Answered(flush.token, 28))
    assert node.answer(request).errno == 28
    assert node.answer(request).definite
    assert pages(node)[1] == [[0, 4 * BLOCK]]
    assert node.quiet()


def test_ebusy_denies_writeback_and_pressure_as_long_as_somebody_holds_pages(cold):
    node, key = cold("ebusy")
    assert node.refused(rq.FsWriteback("/cold/a"))[0] == "EBUSY"
    assert node.refused(rq.FsPressure("/cold/a"))[0] == "EBUSY"
    node.ask(rq.DeregMr(key))
    node.ask(rq.FsPressure("/cold/a"))
    assert len(node.of(fx.Flush)) == 1
    assert pages(node) == ([], [])


def test_mr_revoke_writes_back_what_the_nic_wrote_until_the_unmap(cold):
    node, _ = cold("mr-revoke")
    node.ask(rq.FsPressure("/cold/a"))
    kinds = [type(e) for e in node.effects if isinstance(e, fx.Quiesce | fx.Unmap | fx.Flush | fx.Release)]
    assert kinds == [fx.Quiesce, fx.Unmap, fx.Flush, fx.Release]
    assert node.blocks("pm1.cache") == {"total": 16, "free": 16, "owned": 0, "quarantined": 0}


def test_none_drops_pages_under_the_dma(cold):
    node, key = cold()
    node.ask(rq.FsPressure("/cold/a"))
    assert [e.aperture for e in node.of(fx.Release)] == [CACHE]
    assert node.books.mrs[key].state == "live"
    assert node.stat("/cold/a")["blocks"] == 4, "the file is as it was"


def test_what_is_registered_while_pages_are_written_back_is_not_dropped(cold):
    node, _ = cold()
    request = node.send(rq.FsPressure("/cold/a"))
    waiting, node.waiting = node.waiting, []
    node.mr("/cold/a", session=2, length=BLOCK)
    node.waiting += waiting
    node.go()
    assert isinstance(node.answer(request), fx.Reply)
    assert pages(node) == ([[0, 0, BLOCK, 1]], [[0, BLOCK]])


def test_dax_files_have_no_pages_to_write_back(node):
    node.file()
    assert node.refused(rq.FsWriteback("/mnt/a"))[0] == "EOPNOTSUPP"
    assert node.refused(rq.FsPressure("/mnt/a"))[0] == "EOPNOTSUPP"
    assert "pages" not in node.stat()


def test_the_brokers_timer_writes_back_every_dirty_file_once(cold):
    node, _ = cold()
    node.file("/cold/b", 2)
    node.mr("/cold/b", session=2, length=2 * BLOCK)
    node.step(ev.WritebackDue())
    node.step(ev.WritebackDue())
    assert len(node.of(fx.Flush)) == 2
    node.go()
    assert pages(node)[1] == pages(node, "/cold/b")[1] == []
    assert node.quiet()


# ---- on demand


@pytest.fixture
def demand(make_node):
    """/cold/a of four blocks with an MR that is mapped on demand."""
    node = make_node("odp", protocols={**registry.load().protocols, "odp": odp.PROTOCOL})
    node.file("/cold/a", 4)
    return node, node.mr("/cold/a")


def test_pages_that_are_mapped_on_demand_are_taken_and_faulted_back(demand):
    node, key = demand
    node.ask(rq.FsPressure("/cold/a"))
    kinds = [type(e) for e in node.effects if isinstance(e, fx.Invalidate | fx.Unmap | fx.Flush | fx.Release)]
    assert kinds == [fx.Invalidate, fx.Unmap, fx.Flush, fx.Release]
    assert pages(node) == ([], [])
    assert node.books.mrs[key].state == "absent"
    made = node.step(ev.Missed(key, 1, BLOCK, 64, write=True))
    (remap,) = (e for e in made if isinstance(e, fx.Remap))
    assert remap.extents == ((-2, BLOCK), (0, BLOCK), (-2, 2 * BLOCK))
    assert [type(e) for e in made if isinstance(e, fx.Allocate | fx.Fill)] == [fx.Allocate, fx.Fill]
    assert pages(node) == ([[BLOCK, 0, BLOCK, 1]], [[BLOCK, BLOCK]])


def test_a_fault_behind_the_end_of_the_file_fails(demand):
    node, key = demand
    node.ask(rq.FsTruncate("/cold/a", BLOCK))
    (remap,) = (e for e in node.step(ev.Missed(key, 1, 2 * BLOCK, 64, write=True)) if isinstance(e, fx.Remap))
    assert remap.extents == ((0, BLOCK), (-1, 3 * BLOCK))


def test_writeback_drains_what_is_mapped_on_demand_and_it_faults_the_same_page_back(demand):
    node, key = demand
    node.ask(rq.FsWriteback("/cold/a"))
    assert pages(node) == ([[0, 0, 4 * BLOCK, 1]], [])
    (remap,) = (e for e in node.step(ev.Missed(key, 1, 0, 64, write=True)) if isinstance(e, fx.Remap))
    assert remap.extents == ((0, 4 * BLOCK),)
    assert pages(node)[1] == [[0, 4 * BLOCK]]


# ---- devices


def test_an_orderly_unplug_writes_back_first_and_takes_the_pages(cold):
    node, key = cold("mr-revoke")
    node.ask(rq.FsUnplug("pm1"))
    kinds = [type(e) for e in node.effects if isinstance(e, fx.Unmap | fx.Flush | fx.Offline)]
    assert kinds == [fx.Unmap, fx.Flush, fx.Offline]
    assert node.blocks("pm1.cache")["free"] == 16
    assert node.books.mrs[key].state == "unmapped"


def test_a_surprise_leaves_pinned_pages_to_their_pins(cold):
    node, key = cold("none")
    node.ask(rq.FsUnplug("pm1", surprise=True))
    assert node.blocks("pm1.cache") == {"total": 16, "free": 12, "owned": 0, "quarantined": 4}
    node.ask(rq.DeregMr(key))
    assert node.blocks("pm1.cache")["free"] == 16
    node.ask(rq.FsPlug("pm1"))
    node.file("/cold/a", 4)
    assert pages(node) == ([], [])


def test_clean_pages_that_nobody_pins_make_room_before_memory_is_short(make_node):
    node = make_node("none")
    for name in "abcd":
        node.file(f"/cold/{name}", 4)
        node.ask(rq.FsRead(f"/cold/{name}", 0, 4 * BLOCK))
    assert pages(node, "/cold/d")[0]
    assert pages(node, "/cold/a")[0] == []


def test_a_full_cache_refuses_registrations_and_still_reads_what_has_no_page(make_node):
    node = make_node("none", protocols=KEEPING)
    for _round in range(4):  # orphans: the file's pages leave it and stay pinned
        node.file("/cold/a", 4)
        node.mr("/cold/a")
        node.ask(rq.FsUnlink("/cold/a"))
    node.file("/cold/a", 4)
    assert node.refused(rq.RegMr(node.pd(), BLOCK, 7, 0, "dax", "/cold/a"))[0] == "ENOMEM"
    node.effects.clear()
    node.ask(rq.FsRead("/cold/a", 0, BLOCK))
    assert node.of(fx.Load)[0].aperture == 2


def keeping():
    known = dict(registry.load().protocols)
    return known | {"none": replace(known["none"], disposal="keep")}


KEEPING = keeping()


# ---- bytes: what a reader sees, and what a kill leaves


class Ground:
    """The bytes behind a core: apertures, what the file should read as, and what it may read as when the broker is killed now."""

    def __init__(self, node, seed):
        self.node, self.rng = node, random.Random(seed)
        self.memory, self.data = {}, b""
        self.file, self.kept = bytearray(), []
        self.node.answer_to = self.answering(node.answer_to)
        for effect in node.effects:
            self.carry_out(effect)

    def answering(self, usual):
        def answer(effect):
            found = usual(effect)
            if isinstance(effect, fx.Load):
                parts = [
                    bytes(n) if at < 0 else self.memory[effect.aperture][at : at + n]
                    for at, n in effect.pieces
                ]
                found = ev.Answered(effect.token, 0, {"data": b"".join(map(bytes, parts))})
            return found if getattr(effect, "token", 1) else None

        return answer

    def ask(self, op, session=1):
        """All effects of a step, in the shell's order, before its answers are told."""
        node = self.node
        node.numbers += 1
        events = [ev.Requested(session, node.numbers, op)]
        request = node.numbers
        while events or node.waiting:
            event = events.pop() if events else node.waiting.pop(0)
            made = node.step(event)
            for effect in (*(e for e in made if e.before_commit), *(e for e in made if not e.before_commit)):
                self.carry_out(effect)
            for effect in made:
                if isinstance(effect, fx.Load):  # its bytes are those of now
                    node.waiting = [a for a in node.waiting if getattr(a, "token", 0) != effect.token]
                    node.waiting.append(node.answer_to(effect))
        return node.answer(request)

    def carry_out(self, effect):
        if isinstance(effect, fx.OpenDevice):
            self.memory[effect.aperture] = bytearray(self.rng.randbytes(effect.blocks * BLOCK))
        elif isinstance(effect, fx.Allocate | fx.Blank | fx.Zero):
            for at, n in effect.runs:
                self.memory[effect.aperture][at : at + n] = bytes(n)
        elif isinstance(effect, fx.Store):
            at = 0
            for offset, n in effect.runs:
                self.memory[effect.aperture][offset : offset + n] = effect.data[at : at + n]
                at += n
        elif isinstance(effect, fx.Fill | fx.Flush):
            for start, to, n in effect.pieces:
                self.memory[effect.target][to : to + n] = self.memory[effect.source][start : start + n]

    def dma(self, key):
        """The NIC writes under a live key: nobody is told."""
        mr = self.node.books.mrs[key]
        at = self.rng.randrange(mr.length)
        data, done = self.rng.randbytes(min(700, mr.length - at)), 0
        for offset, n in mr.runs:
            part = data[done : done + max(0, n - at)]
            self.memory[mr.aperture][offset + at : offset + at + len(part)] = part
            done, at = done + len(part), max(0, at - n)
            if done == len(data):
                break

    def size_to(self, size):
        self.file = self.file[:size] + bytes(max(0, size - len(self.file)))
        self.kept = self.kept[:size] + [{0} for _ in range(size - len(self.kept))]

    def put(self, lo, data):
        self.size_to(max(len(self.file), lo + len(data)))
        self.file[lo : lo + len(data)] = data
        self.kept[lo : lo + len(data)] = [{byte} for byte in data]

    def written(self, lo, data):
        for at, byte in enumerate(data, lo):
            self.file[at] = byte
            self.kept[at] = self.kept[at] | {byte}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("protocol", ["ebusy", "mr-revoke"])
def test_readers_see_every_byte_and_a_kill_loses_none_that_was_acknowledged(make_node, protocol, seed):
    ground = Ground(make_node(protocol), seed)
    node, rng = ground.node, ground.rng
    assert isinstance(ground.ask(rq.FsCreate("/cold/a", 3 * BLOCK)), fx.Reply)
    ground.size_to(3 * BLOCK)
    pd, mr = ground.ask(rq.AllocPd()).result["handle"], None
    for _step in range(40):
        size, choice = len(ground.file), rng.randrange(9)
        lo, length = rng.randrange(6 * BLOCK), rng.randrange(1, 2 * BLOCK)
        alive = mr in node.books.mrs and node.books.mrs[mr].state == "live"
        if choice == 0 and not alive and size:
            offset = rng.randrange(-(-size // BLOCK)) * BLOCK
            answer = ground.ask(
                rq.RegMr(pd, min(length, size - offset), 7, 0, "page-cache", "/cold/a", offset)
            )
            mr = answer.result["handle"]
        elif choice == 1 and alive:
            row = node.books.mrs[mr]
            ground.dma(mr)
            seen = ground.ask(rq.FsRead("/cold/a", 0, size)).result["data"]
            assert sum(a != b for a, b in zip(seen, ground.file, strict=True)) <= min(700, row.length)
            ground.written(0, seen)
        elif choice == 2 and alive:
            ground.ask(rq.DeregMr(mr))
        elif choice == 3:
            data = rng.randbytes(length)
            assert isinstance(ground.ask(rq.FsWrite("/cold/a", lo, data)), fx.Reply)
            ground.put(lo, data)
        elif choice in {4, 5}:
            op = rq.FsTruncate("/cold/a", lo) if choice == 4 else rq.FsPunch("/cold/a", lo, length)
            if isinstance(ground.ask(op), fx.Reply):
                if choice == 4:
                    ground.size_to(lo)
                else:
                    ground.put(lo, bytes(max(0, min(length, size - lo)))) if lo < size else None
        elif choice in {6, 7}:
            answer = ground.ask((rq.FsWriteback if choice == 6 else rq.FsPressure)("/cold/a"))
            if isinstance(answer, fx.Reply) and not pages(node)[1]:
                ground.kept = [{byte} for byte in ground.file]
        assert ground.ask(rq.FsRead("/cold/a", 0, 9 * BLOCK)).result["data"] == bytes(ground.file)
        left = after_a_kill(ground, make_node)
        assert len(left) == len(ground.kept)
        assert all(byte in may for byte, may in zip(left, ground.kept, strict=True))


def after_a_kill(ground, make_node):
    """The file as the next broker reads it: durable rows, and the device's bytes."""
    again = make_node(bare=True)
    again.core.load(ground.node.core.durable())
    again.step(ev.DeviceAdded("pm0", 64))
    again.step(ev.DeviceAdded("pm1", 16))
    again.step(ev.MountAdded("/mnt", "pm0", dax=True, protocol="none"))
    again.step(ev.MountAdded("/cold", "pm1", dax=False, protocol="none"))
    row = again.books.files[1]
    device, found = ground.memory[2], bytearray(-(-row.size // BLOCK) * BLOCK)
    for at, block, count, _since in row.extents:
        found[at * BLOCK : (at + count) * BLOCK] = device[block * BLOCK : (block + count) * BLOCK]
    return bytes(found[: row.size])
