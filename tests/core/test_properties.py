"""Properties: extents and allocator against plain models, the pin index against a scan, undo, S6 over random scripts."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.core import effects as fx
from emu.core import events as ev
from emu.core import requests as rq
from emu.core.books import Books
from emu.core.index import Pins, nodes
from emu.core.memory.pins import pins_over
from emu.core.rows import Mr
from emu.core.storage import extents
from emu.core.storage.allocator import POLICIES

BLOCK = 4096

_spec = importlib.util.spec_from_file_location("fuzz", Path(__file__).with_name("fuzz.py"))
fuzz = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fuzz)
Script, NAMES = fuzz.scripts.Script, fuzz.scripts.NAMES
indexes, rebuilt, broken, unrest = fuzz.laws.indexes, fuzz.laws.rebuilt, fuzz.laws.broken, fuzz.laws.unrest


# ---- extents


@st.composite
def layouts(draw):
    """Extents of at most 40 blocks, and the same as a plain {file block: (device block, since)}."""
    runs = st.tuples(st.sampled_from([0, 100]), st.integers(1, 2))
    drawn = draw(st.dictionaries(st.integers(0, 40), runs, max_size=25))
    plain = {
        at: (at + shift, since) for at, (shift, since) in drawn.items()
    }  # many neighbours belong together
    built = extents.insert((), tuple((at, device, 1, since) for at, (device, since) in plain.items()))
    return built, plain


def flat(layout):
    return {at + n: (device + n, since) for at, device, count, since in layout for n in range(count)}


@given(layouts())
def test_insert_keeps_every_block_in_order_and_merged(case):
    built, plain = case
    assert flat(built) == plain
    for one, other in itertools.pairwise(built):
        assert one[0] + one[2] <= other[0]
        joined = one[0] + one[2] == other[0] and one[1] + one[2] == other[1] and one[3] == other[3]
        assert not joined, "neighbours that belong together are one extent"


@given(layouts(), st.integers(0, 45), st.integers(0, 45))
def test_remove_and_cut_split_at_the_edges(case, start, end):
    built, plain = case
    kept, taken = extents.remove(built, start, end)
    inside = {at: value for at, value in plain.items() if start <= at < end}
    assert flat(taken) == flat(extents.cut(built, start, end)) == inside
    assert flat(kept) == {at: value for at, value in plain.items() if at not in inside}


@given(layouts(), st.integers(0, 45), st.integers(0, 45))
def test_holes_are_what_is_missing(case, start, end):
    built, plain = case
    found = [at + n for at, count in extents.holes(built, start, end) for n in range(count)]
    assert found == [at for at in range(start, end) if at not in plain]


@given(layouts(), st.integers(0, 45 * BLOCK), st.integers(0, 45 * BLOCK))
def test_pieces_cover_the_bytes_in_order(case, offset, length):
    built, plain = case
    at = offset
    for where, count in extents.pieces(built, offset, length):
        assert count > 0
        for byte in (at, at + count - 1):
            expected = plain.get(byte // BLOCK)
            if expected is None:
                assert where == -1
            else:
                assert where + byte - at == expected[0] * BLOCK + byte % BLOCK
        at += count
    assert at == offset + length
    assert sum(n for _at, n in extents.runs(built, offset, length)) <= length


def test_neighbours_are_merged_only_if_they_belong_together():
    assert extents.insert(((0, 10, 2, 1),), ((2, 12, 1, 1),)) == ((0, 10, 3, 1),)
    assert len(extents.insert(((0, 10, 2, 1),), ((2, 12, 1, 2),))) == 2
    assert len(extents.insert(((0, 10, 2, 1),), ((2, 13, 1, 1),))) == 2
    assert len(extents.insert(((0, 10, 2, 1),), ((3, 12, 1, 1),))) == 2


# ---- indexes

RUNS = st.lists(st.tuples(st.integers(0, 300), st.integers(1, 70)), min_size=1, max_size=3)


def disjoint(runs):
    """Runs in bytes, none over another."""
    found, end = [], 0
    for gap, length in runs:
        found.append((end + gap * 512, length * 512))
        end = found[-1][0] + -(-found[-1][1] // BLOCK) * BLOCK
        end = -(-end // BLOCK) * BLOCK
    return tuple((at // BLOCK * BLOCK, length) for at, length in found)


def mr(space, runs, state="live"):
    return Mr(1, 1, "dax", 7, "sync-revocable", 0, 1, space, space, runs, state)


@given(
    st.lists(
        st.tuples(st.integers(1, 2), RUNS, st.sampled_from(["live", "pinned", "unmapped"])), max_size=12
    ),
    st.lists(st.integers(0, 11), max_size=6),
    st.integers(0, 400 * 512),
    st.integers(0, 100 * 512),
)
def test_the_pin_index_finds_what_a_scan_finds(mrs, dropped, start, length):
    books = Books({}, "freed-first")
    for key, (space, runs, state) in enumerate(mrs, 1):
        books.mrs.put(key, mr(space, disjoint(runs), state))
    for at in dropped:
        if at + 1 in books.mrs:
            books.mrs.drop(at + 1)
    for space in (1, 2):
        scan = [
            key
            for key, row in books.mrs.items()
            if row.space == space
            and row.state != "unmapped"
            and any(at < start + length and start < at + n for at, n in row.runs)
        ]
        assert list(pins_over(books, space, ((start, length),))) == (scan if length else [])
    again = Pins()
    for key, row in books.mrs.items():
        again.changed(key, None, row)
    assert again.snapshot() == books.pins.snapshot()


@given(st.integers(0, 5000), st.integers(0, 5000))
def test_nodes_cover_a_range_exactly_once(start, length):
    blocks = [
        n
        for level, number in nodes(start, start + length)
        for n in range(number << level, (number + 1) << level)
    ]
    assert sorted(blocks) == list(range(start, start + length))


def test_a_query_looks_at_few_nodes_however_many_pins_there_are():
    pins = Pins()
    for key in range(1, 3000):
        pins.changed(key, None, mr(1, ((key * 8 * BLOCK, BLOCK),)))
    assert pins.over(1, 8000 * BLOCK, 8001 * BLOCK) == [1000]
    assert sum(1 for _ in nodes(0, (1 << 51) - 1)) < 110


# ---- scripts

SEEDS = st.integers(0, 10**9)


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.sampled_from(POLICIES))
def test_s6_blocks_add_up_whatever_happens(seed, policy):
    script = Script(seed, policy)
    for step in range(150):
        event = script.next()
        script.feed(event)
        assert broken(script) is None, f"step {step}, {event}"
        if script.rng.random() < 0.7:
            script.core.committed()


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_generations_tell_who_owns_a_block(seed):
    """Allocate and Release alternate for each block, and never touch what is not theirs."""
    script = Script(seed)
    owned = {
        device.aperture: set()
        for _name, device in (*script.core.books.devices.items(), *script.core.books.caches.items())
    }
    for _step in range(150):
        for effect in script.feed(script.next()):
            if isinstance(effect, fx.Allocate | fx.Release):
                blocks = {n for at, size in effect.runs for n in range(at // BLOCK, (at + size) // BLOCK)}
                mine = owned[effect.aperture]
                assert blocks.isdisjoint(mine) if isinstance(effect, fx.Allocate) else blocks <= mine
                owned[effect.aperture] = mine | blocks if isinstance(effect, fx.Allocate) else mine - blocks
            if isinstance(effect, fx.Online):
                owned[effect.aperture] = set()
        script.core.committed()


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_indexes_are_what_the_rows_say(seed):
    script = Script(seed)
    for step in range(120):
        script.feed(script.next())
        if step % 5 == 0:
            assert indexes(script.core.books) == rebuilt(script.core.books)
        if script.rng.random() < 0.5:
            script.core.committed()


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_undo_restores_rows_indexes_and_what_happens_next(seed):
    script = Script(seed)
    for _round in range(12):
        script.core.committed()
        rows = [dict(book.rows) for book in script.core.books.all]
        indexed, canonical = indexes(script.core.books), script.core.canonical()
        state = (list(script.waiting), list(script.sessions), dict(script.open), script.numbers)
        first, seen = [], []
        for _step in range(script.rng.randrange(1, 12)):
            event = script.next()
            seen.append(event)
            first.append(script.feed(event))
        script.core.undo()
        assert [dict(book.rows) for book in script.core.books.all] == rows
        assert indexes(script.core.books) == indexed
        assert script.core.canonical() == canonical
        script.waiting, script.sessions, script.open, script.numbers = state
        for event, effects in zip(seen, first, strict=True):
            if event in script.waiting:
                script.waiting.remove(event)
            assert script.core.step(event) == effects, "after undo the same events have the same effects"
        script.core.undo()


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_everything_comes_to_rest_and_every_request_is_answered(seed):
    """When the sessions are gone and all answers have come, nothing is left but files."""
    script = Script(seed)
    for _step in range(150):
        script.feed(script.next())
        script.core.committed()
    assert unrest(script) is None


@pytest.mark.parametrize("name", NAMES)
def test_a_script_of_one_protocol_keeps_the_laws(name):
    """A sample of `make fuzz`."""
    assert fuzz.play(7, (name,), 150) is None


def test_scripts_draw_every_request_backing_and_protocol():
    asked, backings, protocols = set(), set(), set()
    for seed in range(8):
        script = Script(seed)
        for _step in range(300):
            event = script.next()
            if isinstance(event, ev.Requested):
                asked.add(type(event.op))
            effects = script.feed(event)
            script.core.committed()
            protocols |= {mount.protocol for _path, mount in script.core.books.mounts.items()}
            if any(isinstance(effect, fx.InstallKey) for effect in effects):
                backings |= {mr.backing for _key, mr in script.core.books.mrs.items()}
    assert asked == set(rq.REQUESTS.values())
    assert backings == {"dax", "page-cache", "anon", "host", "devdax", "dmabuf"}
    assert protocols == set(NAMES)
