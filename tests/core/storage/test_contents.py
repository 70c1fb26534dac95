"""File operations on real bytes against a plain model, with clones, failed memory, a full device, and a broker that is killed anywhere."""

from __future__ import annotations

import errno
import importlib.util
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.core import requests as rq

_spec = importlib.util.spec_from_file_location("metal", Path(__file__).parents[1] / "metal.py")
metal = importlib.util.module_from_spec(_spec)
sys.modules["metal"] = metal
_spec.loader.exec_module(metal)
Metal, Plain, BLOCK = metal.Metal, metal.Plain, metal.BLOCK

PATHS = ("/mnt/a", "/mnt/b", "/mnt/c")
PLACES = st.sampled_from((0, 1, 100, BLOCK - 1, BLOCK, BLOCK + 5, 2 * BLOCK, 3 * BLOCK, 3 * BLOCK + 77))
LENGTHS = st.sampled_from((1, 50, BLOCK - 100, BLOCK, BLOCK + 200, 2 * BLOCK, 4 * BLOCK))
FIRST = (
    ("create", "/mnt/a", 3 * BLOCK - 50),
    ("write", "/mnt/a", 0, 3 * BLOCK - 50, b"S"),
    ("reflink", "/mnt/a", "/mnt/b"),
)
path = st.sampled_from(PATHS)
OPERATIONS = st.one_of(
    st.tuples(st.just("create"), path, LENGTHS),
    st.tuples(st.just("truncate"), path, st.one_of(PLACES, LENGTHS)),
    st.tuples(st.just("write"), path, PLACES, LENGTHS, st.binary(min_size=1, max_size=1)),
    st.tuples(st.sampled_from(("punch", "zero", "collapse", "insert")), path, PLACES, LENGTHS),
    st.tuples(st.just("reflink"), path, path),
    st.tuples(st.just("migrate"), path),
    st.tuples(st.just("poison"), path, PLACES),
    st.tuples(st.just("unlink"), path),
)


def request(op):
    name, at, *rest = op
    match name:
        case "create":
            return rq.FsCreate(at, *rest)
        case "truncate":
            return rq.FsTruncate(at, *rest)
        case "write":
            return rq.FsWrite(at, rest[0], rest[2] * rest[1])
        case "punch":
            return rq.FsPunch(at, *rest)
        case "reflink":
            return rq.FsReflink(at, *rest)
        case "migrate":
            return rq.FsMigrate(at)
        case "poison":
            return rq.FsPoison(at, *rest)
        case "unlink":
            return rq.FsUnlink(at)
    return rq.FsFallocate(at, name, *rest)


def follow(plain, op, holes):
    """The model does the same. False: it must have been refused (but for want of space)."""
    name, at, *rest = op
    if name == "create":
        return at not in plain and (plain.create(at, *rest) or True)
    if at not in plain:
        return False
    match name:
        case "write":
            return plain.write(at, rest[0], rest[2] * rest[1])
        case "reflink":
            if rest[0] in plain:
                return False
            plain[rest[0]] = plain[at].copy()
        case "unlink":
            del plain[at]
        case "migrate":
            pass
        case "poison":
            block = rest[0] // BLOCK
            if block in plain[at].lost:
                return True  # it is known, and only asked of its users again
            if rest[0] >= len(plain[at].data) or block in holes:
                return False
            return None  # whose else it was the model does not know
        case _:
            return getattr(plain, name)(at, *rest) is not False
    return True


def holes_of(node, op):
    ino = node.core.books.file_at.first(op[1])
    row = node.core.books.files[ino] if ino else None
    have = {at + n for at, _d, count, _s in row.extents for n in range(count)} if row else set()
    return set(range(64)) - have


def lose(plain, node):
    """Behind a poison: what the files lost is what the core says, and nothing else has changed."""
    for row in [row for _ino, row in node.core.books.files.items()]:
        gone = {at + n for at, _d, count, _s in row.lost for n in range(count)}
        for block in gone - plain[row.path].lost:
            lo, hi = block * BLOCK, min((block + 1) * BLOCK, len(plain[row.path].data))
            plain[row.path].data[lo:hi] = bytes(max(0, hi - lo))
        plain[row.path].lost = gone


def same(node, plain):
    for name, file in plain.items():
        for block in file.lost:  # what cannot be read need not be known
            lo, hi = block * BLOCK, min((block + 1) * BLOCK, len(file.data))
            file.data[lo:hi] = bytes(max(0, hi - lo))
        assert name
    assert node.contents() == dict(plain)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(OPERATIONS, min_size=3, max_size=14),
    st.sampled_from(("none", "ebusy", "mr-revoke")),
    st.sampled_from((9, 40)),
)
def test_files_hold_what_was_written_however_their_blocks_move(operations, protocol, blocks):
    node, plain = Metal(protocol, blocks), Plain()
    for op in (*FIRST, *operations):
        holes, before = holes_of(node, op), {name: file.copy() for name, file in plain.items()}
        got = node.ask(request(op))
        could = follow(plain, op, holes)
        if could is None:
            assert isinstance(got, dict)
            lose(plain, node)
        elif got == errno.ENOSPC:
            plain = Plain(before)
        else:
            assert isinstance(got, dict) == could, (op, got)
        same(node, plain)


@settings(max_examples=80, deadline=None)
@given(st.lists(OPERATIONS, min_size=2, max_size=8), st.integers(0, 12))
def test_a_broker_that_is_killed_leaves_each_operation_done_or_not_done(operations, upto):
    node, plain = Metal("mr-revoke", 40), Plain()
    operations = [*FIRST, *operations]
    for at, op in enumerate(operations):
        holes, before = holes_of(node, op), {name: file.copy() for name, file in plain.items()}
        got = node.ask(request(op), upto if at == len(operations) - 1 else None)
        could = follow(plain, op, holes)
        if could is None:
            lose(plain, node)
        if got is None:  # killed: nothing was acknowledged
            if node.contents() == before:
                return
            lose(plain, node)
        elif not isinstance(got, dict):
            plain = Plain(before)
        if op[0] == "write" and got is None:
            return  # bytes are stored behind the commit: any part of them may be there
        same(node, plain)


def test_a_clone_is_independent_of_what_it_was_cloned_from():
    node = Metal()
    node.ask(rq.FsCreate("/mnt/a", 3 * BLOCK))
    node.ask(rq.FsWrite("/mnt/a", 0, b"A" * 3 * BLOCK))
    clone = node.ask(rq.FsReflink("/mnt/a", "/mnt/b"))
    assert clone["size"] == 3 * BLOCK
    assert node.counts()["owned"] == 3, "shared blocks are counted once"
    node.ask(rq.FsWrite("/mnt/a", BLOCK + 10, b"x"))
    assert node.counts()["owned"] == 4, "one block was copied"
    node.ask(rq.FsUnlink("/mnt/a"))
    assert node.counts()["owned"] == 3
    assert node.ask(rq.FsRead("/mnt/b", 0, 3 * BLOCK))["data"] == b"A" * 3 * BLOCK


@pytest.mark.parametrize("grow", [rq.FsTruncate("/mnt/a", BLOCK), rq.FsWrite("/mnt/a", BLOCK, b"z")])
def test_a_file_that_grows_out_of_a_shared_block_leaves_the_clone_its_bytes(grow):
    node = Metal()
    node.ask(rq.FsCreate("/mnt/a", BLOCK))
    node.ask(rq.FsWrite("/mnt/a", 0, b"A" * BLOCK))
    node.ask(rq.FsReflink("/mnt/a", "/mnt/b"))
    node.ask(rq.FsTruncate("/mnt/a", 10))
    node.ask(grow)
    assert node.ask(rq.FsRead("/mnt/b", 0, BLOCK))["data"] == b"A" * BLOCK
    assert node.ask(rq.FsRead("/mnt/a", 0, BLOCK))["data"] == b"A" * 10 + bytes(BLOCK - 10)
