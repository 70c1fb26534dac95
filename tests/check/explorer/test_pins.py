"""Two reclaims, a crash, deadlines: exact numbers. `make proof` compares them all; here it is one of them, what docs say, and how pins are kept."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from figures import DOCS, rows_of, tables
from pinning import ONE, TWO, better, code_of, digests, merge, part_of, pin_of, same, stale
from prove import PINS, job_of, planned

from emu.check.explorer.parallel import run
from emu.check.explorer.search import KINDS
from emu.check.promises import installed

PINNED = json.loads(PINS.read_text())
CLOSED = {name: pin for name, pin in PINNED[TWO.key].items() if pin["verdict"] != "unknown"}


def test_what_is_pinned_holds():
    pins = [*CLOSED.values(), *PINNED[ONE.key].values()]
    assert {(pin["verdict"], tuple(pin["breaches"])) for pin in pins} == {("holds", ())}
    assert all(re.fullmatch("[0-9a-f]{12}", digest) for pin in pins for digest in pin["of"].values())


def test_every_protocol_and_event_is_pinned_with_two_holders_or_with_one():
    plan = planned(PINNED)
    jobs = [(world, f"{job.protocol} {job.event}") for world, jobs in plan.items() for job in jobs]
    assert sorted(name for _world, name in jobs) == sorted(
        f"{name} {event}" for name in installed() for event in KINDS
    )
    assert [name for world, name in jobs if name not in PINNED[world.key]] == []


def test_one_of_them_is_as_it_is_pinned():
    job = job_of(TWO, "ebusy", "unlink")
    result = run(job)
    assert same(pin_of(result.as_row()), CLOSED["ebusy unlink"]), result.as_row()
    assert (result.reclaims, job.setup.holders, job.setup.crashes) == (("unlink", "truncate"), 2, 1)


def test_the_docs_quote_what_is_pinned():
    text = DOCS.read_text()
    assert all(f"\n{table}\n" in text for table in tables())
    for world in (TWO, ONE):
        quoted = {f"{name} {row['reclaims'][0]}": pin_of(row) for name, row in rows_of(world)}
        assert {name: pin for name, pin in quoted.items() if not same(pin, PINNED[world.key].get(name))} == {}


PIN = {"states": 1, "transitions": 2, "depth": 3, "verdict": "holds", "breaches": [], "costs": [], "of": {}}


def test_pins_that_were_not_explored_stay_as_they_are(tmp_path):
    pins = tmp_path / "pins.json"
    pins.write_text(json.dumps({"schema": 1, "2 MR": {"odp punch": PIN}, TWO.key: {"none punch": PIN}}))
    merge(pins, TWO.key, lambda part: {**part, "ebusy punch": {**PIN, "states": 7}})
    merge(pins, TWO.key, lambda part: {**part, "none punch": {**PIN, "states": 8}})
    whole = json.loads(pins.read_text())
    assert whole["2 MR"] == {"odp punch": PIN}
    assert {name: pin["states"] for name, pin in whole[TWO.key].items()} == {
        "none punch": 8,
        "ebusy punch": 7,
    }


TWENTY = """
from pathlib import Path
from pinning import TWO, merge
for at in range(20):
    merge(Path({path!r}), TWO.key, lambda part: {{**part, f"{name} {{at}}": {pin!r}}})
"""


def test_two_proofs_at_the_same_time_lose_nothing_of_each_other(tmp_path):
    path = tmp_path / "pins.json"
    code = [TWENTY.format(path=str(path), name=name, pin=PIN) for name in ("ebusy", "none")]
    writers = [subprocess.Popen([sys.executable, "-c", text], cwd=PINS.parent) for text in code]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    assert len(part_of(path, TWO.key)) == 40


def test_a_writer_that_fails_leaves_the_pins_and_nothing_else(tmp_path):
    path = tmp_path / "pins.json"
    merge(path, TWO.key, lambda _part: {"none punch": PIN})
    with pytest.raises(TypeError):
        merge(path, TWO.key, lambda part: {**part, "ebusy punch": {1, 2}})
    assert part_of(path, TWO.key) == {"none punch": PIN}
    assert list(tmp_path.iterdir()) == [path]


def test_a_bound_that_was_hit_takes_the_place_of_no_whole_search_of_the_same_code():
    of = {"protocol": "1", "core": "2"}
    whole, cut = {**PIN, "of": of}, {"verdict": "unknown", "bound": "--max-states 10", "of": of}
    assert better(whole, cut) is whole
    assert better(cut, whole) is whole
    assert better({**whole, "of": {**of, "core": "3"}}, cut) is cut
    assert better(None, cut) is cut


def test_a_pin_of_another_table_or_core_is_named():
    today = digests("ebusy")
    assert stale({"ebusy punch": {**PIN, "of": today}}) == {}
    assert stale({"ebusy punch": {**PIN, "of": {**today, "protocol": digests("none")["protocol"]}}}) == {
        "ebusy punch": ["protocol"]
    }
    assert stale({"ebusy punch": {**PIN, "of": {**today, "core": "0"}}}) == {"ebusy punch": ["core"]}
    assert stale({"ebusy punch": PIN}) == {"ebusy punch": ["protocol", "core"]}


def test_code_is_known_again_without_its_comments_and_docstrings():
    told = '"""What it is."""\n\n\ndef f(a):\n    """Docs,\n    of two lines."""\n    return "# no comment"  # one\n'
    bare = 'def f(a):\n    return "# no comment"\n'
    assert code_of(told) == code_of(bare)
    assert code_of(bare.replace("no", "a")) != code_of(bare)
