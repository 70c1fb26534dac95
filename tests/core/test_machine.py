"""Steps are atomic, commits can be undone, what is durable comes back; determinism; the canonical form."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from emu.core import effects as fx
from emu.core import events as ev
from emu.core import fields, queues, rows
from emu.core import requests as rq
from emu.core.canonical import Names
from emu.core.errors import CoreError, ProtocolBroke, Refused
from emu.core.machine import ANSWERS, EVENTS, REQUESTS, Core
from emu.protocols import registry

BLOCK = 4096


def everything(node):
    return [dict(book.rows) for book in node.books.all]


def test_every_event_request_and_answer_has_a_handler():
    assert set(EVENTS) == {
        kind for kind in vars(ev).values() if isinstance(kind, type) and issubclass(kind, ev.Event)
    } - {ev.Event}
    assert set(REQUESTS) == set(rq.REQUESTS.values())
    source = "".join(path.read_text() for path in (Path(rows.__file__).parent).rglob("*.py"))
    assert all(f'"{kind}"' in source for kind in ANSWERS)


def test_a_defect_in_a_step_leaves_the_books_unchanged(node, monkeypatch):
    def broken(b, event, op):
        queues.alloc_pd(b, event, op)
        raise ZeroDivisionError

    monkeypatch.setitem(REQUESTS, rq.AllocPd, broken)
    before = everything(node)
    with pytest.raises(ZeroDivisionError):
        node.step(ev.Requested(1, 1, rq.AllocPd()))
    assert everything(node) == before
    assert node.step(ev.Requested(1, 2, rq.QueryDevice()))[0].request == 2, (
        "no effect of the failed step is left over"
    )


def test_undo_takes_back_all_steps_since_the_commit(node):
    node.file()
    before, canonical = everything(node), node.core.canonical()
    for number, op in enumerate(
        (rq.FsCreate("/mnt/b", BLOCK), rq.FsUnlink("/mnt/a"), rq.AllocPd(), rq.FsTruncate("/mnt/b", 0))
    ):
        node.step(ev.Requested(1, number + 1, op), commit=False)
    assert len(node.core.delta()) > 0
    node.core.undo()
    assert everything(node) == before
    assert node.core.canonical() == canonical
    assert node.core.delta() == []


def test_the_delta_is_plain_and_only_durable(node):
    node.core.committed()
    node.step(ev.Requested(1, 1, rq.AllocPd()), commit=False)
    assert node.core.delta() == []
    node.step(ev.Requested(1, 2, rq.FsCreate("/mnt/a", BLOCK)), commit=False)
    assert node.core.delta() == [
        ("counters", "ino", (1,)),
        ("files", 1, ("/mnt/a", "pm0", BLOCK, ((0, 0, 1, 1),), 1, 1, False, 0, (), False)),
    ]
    node.core.committed()
    node.step(ev.Requested(1, 3, rq.FsUnlink("/mnt/a")), commit=False)
    assert node.core.delta() == [("files", 1, None)]


def lists(value):
    return [lists(item) for item in value] if isinstance(value, tuple | list) else value


def test_what_is_durable_comes_back(node, make_node):
    node.file("/mnt/a", 4)
    node.file("/mnt/b", 2)
    node.ask(rq.FsUnlink("/mnt/a"))
    node.ask(rq.FsUnplug("pm1"))
    rows_left = lists(node.core.durable())
    again = make_node(bare=True)
    again.core.load(rows_left)
    (opened,) = again.step(ev.DeviceAdded("pm0", 64))
    assert opened.owned == ((4 * BLOCK, 2 * BLOCK),)
    made = again.step(ev.DeviceAdded("pm1", 16))
    assert [type(effect) for effect in made] == [fx.OpenDevice, fx.Offline]
    again.step(ev.MountAdded("/mnt", "pm0", dax=True, protocol="none"))
    again.step(ev.SessionOpened(1, "s", door=True, wants=False))
    again.step(ev.SessionOpened(3, "s", door=True, wants=False))
    assert again.stat("/mnt/b")["size"] == 2 * BLOCK
    assert again.blocks() == {"total": 64, "free": 62, "owned": 2, "quarantined": 0, "orphaned": 0}
    assert again.file("/mnt/c", 5) == 3, "inode numbers go on"
    assert again.stat("/mnt/c")["extents"] == [[0, 0, 4 * BLOCK, 1], [4 * BLOCK, 6 * BLOCK, BLOCK, 1]]


def test_a_full_device_comes_back_full(node, make_node):
    node.file("/mnt/a", 60)
    node.file("/mnt/b", 4)
    again = make_node(bare=True)
    again.core.load(node.core.durable())
    (opened,) = again.step(ev.DeviceAdded("pm0", 64))
    assert opened.owned == ((0, 60 * BLOCK), (60 * BLOCK, 4 * BLOCK))
    assert len(again.books.free) == 0


def test_deltas_add_up_to_what_is_durable(node):
    journal = {}
    core = node.core
    for number, op in enumerate(
        (
            rq.FsCreate("/mnt/a", BLOCK),
            rq.FsCreate("/mnt/b", BLOCK),
            rq.FsUnlink("/mnt/a"),
            rq.FsUnplug("pm0"),
        )
    ):
        core.step(ev.Requested(1, number + 1, op))
        for book, key, row in core.delta():
            journal[book, key] = row
        core.committed()
    known = {(book, key): row for book, key, row in core.durable() if (book, key) in journal}
    assert {name: row for name, row in journal.items() if row is not None} == known


def test_load_applies_deletions_and_refuses_strangers(make_node):
    node = make_node(bare=True)
    file = ["/mnt/a", "pm0", 0, [], 1, 1, False]
    node.core.load([("files", 1, file), ("files", 1, None), ("files", 2, None)])
    assert len(node.books.files) == 0
    with pytest.raises(Refused, match="another version"):
        node.core.load([("mrs", 1, [])])


def test_errors_survive_pickling_with_their_fields():
    import copy

    refused = copy.copy(Refused(16, "busy: wait"))
    assert (refused.errno, str(refused), refused.definite) == (16, "busy: wait", True)
    broke = ProtocolBroke("p", "total", "so")
    assert (broke.rule, broke.protocol, "p broke total: so" in str(broke)) == ("total", "p", True)
    again = copy.copy(broke)
    assert (again.rule, again.protocol, str(again)) == ("total", "p", str(broke))
    assert issubclass(ProtocolBroke, CoreError)


# ---- the canonical form


def test_every_field_of_every_row_is_declared():
    for name, (row_class, _key) in fields.BOOKS.items():
        if row_class is not int:
            assert tuple(fields.FIELDS[row_class]) == row_class._fields, (
                f"declare the fields of {name} in fields.FIELDS"
            )


def test_every_book_is_declared_and_no_other(node):
    assert [book.name for book in node.books.all] == list(fields.BOOKS)


def test_histories_that_differ_in_numbers_alone_have_one_form(make_node):
    one, other = make_node(), make_node()
    other.file("/mnt/x", 1)
    other.ask(rq.FsUnlink("/mnt/x"))
    for _round in range(3):
        other.ask(rq.DeallocPd(other.pd()))
    for node in (one, other):
        node.file()
        node.mr()
        node.send(rq.FsTruncate("/mnt/a", 0), 2)
    assert everything(one) != everything(other)
    assert one.core.canonical() == other.core.canonical()


def test_ghosts_do_not_count_and_values_do(make_node):
    one, other = make_node(), make_node()
    one.file("/mnt/a", 1)
    other.file("/mnt/a", 1)
    other.ask(rq.FsTruncate("/mnt/a", 2 * BLOCK))
    other.ask(rq.FsTruncate("/mnt/a", BLOCK))
    assert one.stat()["layout"] != other.stat()["layout"]
    assert one.core.canonical() == other.core.canonical()
    other.ask(rq.FsTruncate("/mnt/a", BLOCK - 1))
    assert one.core.canonical() != other.core.canonical()


def test_names_are_given_in_order_of_appearance():
    names = Names()
    assert [names.of("key", number) for number in (700, 3, 700, 0)] == [1, 2, 1, 0]
    assert names.of("cookie", 3) == 1


def test_a_snapshot_can_be_restored_indexes_included(node):
    node.file()
    node.mr()
    before, canonical = node.core.snapshot(), node.core.canonical()
    node.ask(rq.FsTruncate("/mnt/a", 0), 2)
    node.ask(rq.FsUnlink("/mnt/a"), 2)
    node.core.restore(before)
    assert node.core.canonical() == canonical
    assert node.stat()["pins"] == 1


# ---- determinism

SCRIPT = """
import random, sys
sys.path[:0] = {path!r}
import importlib.util
spec = importlib.util.spec_from_file_location("script", {script!r})
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)
for line in script.run({seed}, 700):
    print(line)
"""


def test_the_same_events_give_byte_identical_effects_whatever_the_hash_seed():
    root = Path(rows.__file__).parents[2]
    said = []
    for seed in ("0", "1", "4242"):
        text = SCRIPT.format(path=[str(root)], script=str(Path(__file__).with_name("script.py")), seed=7)
        run = subprocess.run(
            [sys.executable, "-c", text],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            timeout=120,
        )
        said.append(run.stdout)
    assert said[0] == said[1] == said[2]
    assert said[0].count(b"Quiesce(") > 5
    assert len(said[0]) > 20_000


def test_protocols_are_given_by_name_and_alias():
    core = Core(registry.load().protocols)
    assert sorted(core.books.protocols) == sorted(
        name for known in registry.BUILT_IN for name in (known.name, *known.aliases)
    )
