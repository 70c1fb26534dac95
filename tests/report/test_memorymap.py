"""The map of a device over time, of a run that the simulator made: whose blocks, whose pins, and what DMA met."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from emu.report import memorymap
from emu.report.memorymap import ABSENT, FREED, Span

BLOCK = 4096


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of `none`, in which DMA goes on into blocks that were freed."""
    out = tmp_path_factory.mktemp("map") / "run"
    done = subprocess.run(
        [sys.executable, "-P", "-m", "emu", "simulate", "none", "--seed", "3", "--out", str(out)],
        capture_output=True, text=True, timeout=60, cwd="/", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def made(folder):
    return memorymap.read(folder)


def lines_of(folder):
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def test_no_block_has_two_owners_at_one_time(made):
    spans = sorted(made.owned, key=lambda s: (s.block, s.begin))
    for one in spans:
        for other in spans:
            apart = one.block + one.blocks <= other.block or other.block + other.blocks <= one.block
            assert one is other or apart or one.end <= other.begin or other.end <= one.begin


def test_at_each_commit_the_map_says_what_the_commit_said(folder, made):
    checked = 0
    for line in lines_of(folder):
        for book, _key, row in line.get("delta", []) if line.get("type") == "Commit" else []:
            if book == "files" and row and line["t"] > made.begin and not absent_at(made, line["t"]):
                mine = [s for s in made.owned if s.label == row[0] and s.begin <= line["t"] < s.end]
                assert sum(s.blocks for s in mine) == sum(extent[2] for extent in row[3])
                checked += 1
    assert checked


def absent_at(made, time):
    return any(s.label == ABSENT and s.begin <= time < s.end for s in made.owned)


def test_pins_last_from_the_installation_to_the_unmap(folder, made):
    installed = [line for line in lines_of(folder) if line["type"] == "InstallKey"]
    assert len(made.pins) == sum(len(line["extents"]) for line in installed)
    assert all(made.begin <= pin.begin < pin.end <= made.end for pin in made.pins)


def test_what_was_freed_and_hit_is_on_it(made):
    assert [s for s in made.owned if s.label == FREED]
    assert {hit.met for hit in made.hits} <= {"freed", "foreign", "absent"}
    assert made.hits


def test_the_picture_is_markup_with_a_text_for_every_box(made):
    drawn = memorymap.draw(made)
    boxes = re.findall(r"<rect[^>]*>(.*?)</rect>", drawn)
    assert len(boxes) >= len(made.owned) + len(made.pins)
    assert all(found.startswith("<title>") for found in boxes)


def test_hostile_paths_stay_text():
    made = memorymap.Map("pm0", 0, 100, [Span(0, 4, 0, 100, "</title><script>")])
    assert "<script>" not in memorymap.draw(made)


def test_a_folder_that_is_none_has_no_map(tmp_path):
    assert memorymap.read(tmp_path) is None
    (tmp_path / "filemap.json").write_text("{}")
    assert memorymap.read(tmp_path) is None
