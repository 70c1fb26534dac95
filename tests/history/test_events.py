"""events.jsonl: every line is found again, or its absence is."""

import json
import os
from dataclasses import dataclass, field

import pytest

from emu.core.effects import Store
from emu.core.events import HostFile, Requested
from emu.core.requests import FsWrite
from emu.history import events, runs
from emu.history.events import EventsWriter, read_events


@dataclass
class Odd:
    n: int = 5
    kind: str = "x"
    many: set = field(default_factory=lambda: {1})


def test_a_line_has_number_time_epoch_kind_type_and_fields(tmp_path):
    writer = EventsWriter(tmp_path)
    writer.note(
        "event", 3, Requested(1, 2, FsWrite("/mnt/a", 0, b"12345"), HostFile(1, 2, 3, 4, writable=True))
    )
    writer.note("effect", 4, Store(9, 0, ((0, 5),), b"12345"))
    writer.close()
    first, second = read_events(tmp_path)
    assert (first["n"], first["epoch"], first["kind"], first["type"]) == (0, 3, "event", "Requested")
    assert first["op"] == {"type": "FsWrite", "path": "/mnt/a", "offset": 0, "data": 5}
    assert first["host"]["inode"] == 3
    assert (second["n"], second["runs"], second["data"]) == (1, [[0, 5]], 5)
    assert 0 < first["t"] <= second["t"]


def test_fields_do_not_hide_the_lines_own(tmp_path):
    writer = EventsWriter(tmp_path)
    writer.note("event", 1, Odd())
    writer.close()
    (line,) = read_events(tmp_path)
    assert (line["n"], line["n_"], line["kind"], line["kind_"], line["many"]) == (0, 5, "event", "x", [1])


def fill(writer, count):
    for n in range(count):
        writer.line("shell", 0, "Filler", {"text": "x" * 100, "i": n})
        if n % 10 == 9:
            writer.flush()


def test_space_is_bounded_head_and_newest_tail_stay_and_the_gap_is_said(tmp_path):
    writer = EventsWriter(tmp_path, limit=events.LEAST_LIMIT)
    fill(writer, 5000)
    writer.close()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < events.LEAST_LIMIT * 1.3
    lines = list(read_events(tmp_path))
    gaps = [line for line in lines if line["kind"] == "gap"]
    assert len(gaps) == 1
    seen = [line["n"] for line in lines if line["kind"] != "gap"]
    assert seen[0] == 0
    assert seen[-1] == 4999
    assert sorted([*seen, *range(gaps[0]["first"], gaps[0]["last"] + 1)]) == list(range(5000))
    raw = b"".join(path.read_bytes() for path in events.event_files(tmp_path))
    assert any(json.loads(line)["kind"] == "gap" for line in raw.splitlines()), (
        "the file itself marks the gap"
    )


def test_what_a_full_disk_refuses_becomes_a_gap(tmp_path, monkeypatch):
    writer = EventsWriter(tmp_path)
    fill(writer, 10)
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, raw: real(fd, raw[:7]))
    fill(writer, 10)
    monkeypatch.setattr(os, "write", real)
    fill(writer, 10)
    writer.close()
    assert writer.failures == 1
    lines = list(read_events(tmp_path))
    assert [line["n"] for line in lines if line["kind"] != "gap"] == [*range(10), *range(20, 30)]
    assert [line for line in lines if line["kind"] == "gap"] == [{"kind": "gap", "first": 10, "last": 19}]


def test_a_line_that_a_kill_cut_is_left_out(tmp_path):
    writer = EventsWriter(tmp_path)
    fill(writer, 10)
    writer.close()
    path = tmp_path / events.HEAD
    path.write_bytes(path.read_bytes()[:-5])
    assert [line["n"] for line in read_events(tmp_path)] == list(range(9))


def test_run_folders_are_numbered_and_the_oldest_go(tmp_path):
    made = [runs.new_run(tmp_path / "runs", {"n": n}) for n in range(runs.KEEP + 3)]
    assert [path.name for path in made] == [str(n + 1) for n in range(runs.KEEP + 3)]
    assert runs.run_folders(tmp_path / "runs") == made[3:]
    assert runs.latest_run(tmp_path / "runs") == made[-1]
    assert runs.read_meta(made[-1])["options"] == {"n": runs.KEEP + 2}


def test_no_run_at_all_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="no run"):
        runs.latest_run(tmp_path / "runs")


def test_lines_that_are_written_at_once_come_back_equal(tmp_path):
    lines = [
        {"n": n, "t": 5 * n, "epoch": 1, "kind": "shell", "type": "X", "runs": [[0, n]]} for n in range(3)
    ]
    events.write_events(tmp_path, lines)
    assert list(read_events(tmp_path)) == lines
