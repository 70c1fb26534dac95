"""A run's folder is read with suspicion: whatever is wrong with it has a sentence that names the file, and nothing else is raised."""

import json
import os
import random
import struct
import sys
from pathlib import Path

import pytest

from emu.check.history import BrokenHistory, History
from emu.history.events import LEAST_LIMIT, EventsWriter
from emu.history.manifest import write_manifest

sys.path.insert(0, str(Path(__file__).parent / "invariants"))
from build import BLOCK, revoked

SECOND = '{"n":1,"t":0,"epoch":0,"kind":"shell","type":"DoorClosed"}\n'


@pytest.fixture(scope="module")
def story():
    return revoked()


@pytest.fixture
def folder(tmp_path, story):
    """A whole run that a simulator could have left."""
    history = story.history()
    history.write(tmp_path / "run")
    history.finish(tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def live(folder):
    """The same as a live broker's own folder: no manifest, no memory."""
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, "source": "live", "whole": False}))
    for name in ("manifest.json", "filemap.json", "pm0.img"):
        (folder / name).unlink()
    return folder


def refused(folder):
    """The sentence."""
    with pytest.raises(BrokenHistory) as told:
        History.read(folder)
    return str(told.value)


def test_what_is_written_is_read_back_equal(folder, story):
    made, found = story.history(), History.read(folder)
    for name in ("events", "logs", "journals", "row", "filemap"):
        assert getattr(found, name) == getattr(made, name)
    assert bytes(found.image) == made.image
    assert found.gaps == 0


def test_two_writings_are_byte_for_byte_the_same(folder, tmp_path, story):
    story.history().write(tmp_path / "again")
    for path in (tmp_path / "again").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (folder / path.relative_to(tmp_path / "again")).read_bytes()


def test_a_live_brokers_own_folder_needs_neither_memory_nor_manifest(live):
    found = History.read(live)
    assert (found.filemap, found.image) == ({}, b"")


def test_a_last_line_that_a_kill_cut_in_half_is_left_out_there(live):
    whole = len(History.read(live).events)
    with (live / "events.jsonl").open("a") as file:
        file.write('{"n": 99, "t')
    assert len(History.read(live).events) == whole


def test_lines_that_are_gone_are_a_gap_and_no_error(live):
    lines = (live / "events.jsonl").read_text().splitlines(keepends=True)
    (live / "events.jsonl").write_text("".join(lines[:5] + lines[8:]))
    found = History.read(live)
    assert found.gaps == 3
    assert found.events[5] == {"n": 5, "kind": "gap", "first": 5, "last": 7}


def test_a_history_whose_middle_was_given_up_for_space_is_read_with_its_gap(live):
    lines = lines_of(live)
    for path in live.glob("events*.jsonl"):
        path.unlink()
    writer = EventsWriter(live, LEAST_LIMIT)
    for line in lines:
        own = {name: line[name] for name in line if name not in {"n", "t", "epoch", "kind", "type"}}
        writer.line(line["kind"], line["epoch"], line["type"], own)
    for at in range(3000):
        writer.line("shell", 99, "TurnedAway", {"at": at})
        writer.flush()
    writer.close()
    found = History.read(live)
    assert found.gaps > 0
    assert [line["kind"] for line in found.events].count("gap") == 1
    assert found.events[-1]["at"] == 2999


def test_a_place_that_is_no_run(tmp_path):
    assert "does not exist" in refused(tmp_path / "none")
    (tmp_path / "file").write_text("x")
    assert "is a file: name the folder of a run" in refused(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert "is empty" in refused(tmp_path / "empty")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "holiday.jpg").write_bytes(b"\xff\xd8")
    assert refused(tmp_path / "other") == "meta.json is missing: it should be who ran, and what was declared"


def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    def deny(_path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", deny)
    assert refused(tmp_path).endswith("cannot be read: Permission denied")


@pytest.mark.parametrize(
    "name", ["events.jsonl", "oplog-0.bin", "journals/peer.jrnl", "filemap.json", "pm0.img"]
)
@pytest.mark.parametrize("how", ["gone", "changed", "cut", "directory", "more"])
def test_a_whole_run_agrees_with_its_manifest(folder, name, how):
    path = folder / name
    if how == "gone":
        path.unlink()
    elif how == "changed":
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif how == "directory":
        path.unlink()
        path.mkdir()
    else:
        path = folder / f"{name}.more"
        path.write_text("x")
    assert path.name in refused(folder)


def test_without_its_manifest_a_whole_run_is_not_one(folder):
    (folder / "manifest.json").unlink()
    assert refused(folder).startswith("manifest.json is missing")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", "null", '{"schema": 1}', '{"schema": 1, "files": []}', "[" * 100_000]
)
@pytest.mark.parametrize("name", ["manifest.json", "meta.json"])
def test_json_that_is_none_or_of_the_wrong_shape(folder, name, text):
    (folder / name).write_text(text)
    assert name in refused(folder)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"source": "dreamt"}, "source 'dreamt'"),
        ({"schema": 9}, "schema 9"),
        ({"schema": True}, "'schema' is a bool"),
        ({"declared": 7}, "'declared' is a int"),
        ({"declared": {"protocol": "x"}}, "lacks 'promises'"),
    ],
)
def test_a_meta_of_another_kind(live, change, says):
    meta = json.loads((live / "meta.json").read_text())
    (live / "meta.json").write_text(json.dumps({**meta, **change}))
    assert says in refused(live)


# ---- events.jsonl


def lines_of(folder):
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def rewrite(folder, lines):
    (folder / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize(
    ("kind", "change", "says"),
    [
        ("Phase", {"reclaim": None}, "'reclaim' of Phase should be int"),
        ("Phase", {"reclaim": "1"}, "'reclaim' of Phase should be int"),
        ("Phase", {"keys": [[1]]}, "'keys' of Phase"),
        ("Phase", {"inflight": []}, "'inflight'"),
        ("Phase", {"detail": []}, "'detail' of Phase"),
        ("Phase", {"type": "Phrase"}, "type 'Phrase' is none"),
        ("Phase", {"kind": "rumour"}, "kind 'rumour'"),
        ("Phase", {"kind": "shell"}, "type 'Phase' is none of kind shell"),
        ("Quiesced", {"kind": "shell"}, "type 'Quiesced' is none of kind shell"),
        ("Release", {"kind": "commit"}, "type 'Release' is none of kind commit"),
        ("Commit", {"kind": "shell"}, "type 'Commit' is none of kind shell"),
        ("Commit", {"kind": "shell", "type": "Note"}, "type 'Note' is none of kind shell"),
        ("Phase", {"epoch": -1}, "0 or more"),
        ("Phase", {"epoch": 10**9}, "the epoch goes back"),
        ("Phase", {"t": 1.5}, "'t' is a float"),
        ("Phase", {"n": 0}, "its number is 0"),
        ("Release", {"runs": [[1]]}, "'runs' of Release"),
        ("Release", {"runs": 7}, "'runs' of Release"),
        ("Requested", {"op": {"type": "FsExplode"}}, "type 'FsExplode'"),
        ("Requested", {"op": {"type": "FsCreate", "path": 1, "size": 1}}, "'path' of FsCreate"),
        ("Requested", {"op": 3}, "'op' of Requested"),
        ("Commit", {"delta": None}, "'delta'"),
        ("Commit", {"delta": [["files", 1]]}, "a change should be [book, key, row]"),
        ("Commit", {"delta": [["mrs", 1, None]]}, "a change should be [book, key, row]"),
        ("Commit", {"delta": [["files", 1, ["/mnt/a"]]]}, "a row of files has"),
        ("Commit", {"delta": [["files", 1, ["/mnt/a", "pm0", "big", [], 1, 1, False]]]}, "a file is"),
        ("Commit", {"delta": [["files", 1, ["/mnt/a", "pm0", 1, [[1, 2, 3]], 1, 1, False]]]}, "a file is"),
    ],
)
def test_a_line_of_the_wrong_shape_is_named_by_its_number(live, kind, change, says):
    lines = lines_of(live)
    at = next(n for n, line in enumerate(lines) if line["type"] == kind)
    lines[at] |= change
    rewrite(live, lines)
    sentence = refused(live)
    assert says in sentence
    assert sentence.startswith("events.jsonl, line ")


@pytest.mark.parametrize("field", ["n", "t", "epoch", "kind", "type", "reclaim", "keys"])
def test_a_line_that_lacks_a_field(live, field):
    lines = lines_of(live)
    at = next(n for n, line in enumerate(lines) if line["type"] == "Phase")
    del lines[at][field]
    rewrite(live, lines)
    assert f"line {at + 1}" in refused(live)
    assert field in refused(live)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "events.jsonl is empty"),
        (b"\x00" * 512, "cut short"),
        (b"\xff\xfe\n", "line 1 is no JSON"),
        (b"7\n", "line 1 holds a int"),
        (b"[" * 100_000 + b"\n", "line 1 is no JSON"),
        (SECOND.replace('"n":1', '"n":0').encode(), "begins with DoorClosed"),
    ],
)
def test_something_else_in_its_place(folder, raw, says):
    (folder / "events.jsonl").write_bytes(raw)
    write_manifest(folder)
    assert says in refused(folder)


def test_a_whole_runs_last_line_is_whole(folder):
    raw = (folder / "events.jsonl").read_bytes()
    (folder / "events.jsonl").write_bytes(raw[:-5])
    write_manifest(folder)
    assert "is cut short: it should end with a line feed" in refused(folder)


# ---- logs, journals, memory


@pytest.mark.parametrize(
    ("name", "at", "value", "says"),
    [
        ("oplog-0.bin", 0, b"EMUJRNL\0", "is no operation log: its magic"),
        ("oplog-0.bin", 8, struct.pack("<I", 7), "version 7"),
        ("oplog-0.bin", 12, struct.pack("<I", 64), "records of 64 bytes"),
        ("oplog-0.bin", 16, struct.pack("<Q", 1 << 60), "records of 192 bytes"),
        ("oplog-0.bin", 32, struct.pack("<I", 3), "is the log of thread 3"),
        ("oplog-0.bin", 4096, struct.pack("<I", 9), "is of kind 9"),
        ("oplog-0.bin", 4096 + 16, struct.pack("<Q", 1 << 50), "does not end before it begins"),
        ("journals/peer.jrnl", 0, b"EMUOLOG\0", "does not begin with"),
        ("journals/peer.jrnl", 8, struct.pack("<I", 2), "version 2"),
        ("journals/peer.jrnl", 16, struct.pack("<Q", 1 << 60), "version 1"),
        ("journals/peer.jrnl", 32, b"somebody", "is the journal of"),
        ("journals/peer.jrnl", 4096, b"\x63", "records of kind 99"),
    ],
)
def test_bytes_that_are_no_log_or_another_ones(live, name, at, value, says):
    raw = bytearray((live / name).read_bytes())
    raw[at : at + len(value)] = value
    (live / name).write_bytes(raw)
    sentence = refused(live)
    assert says in sentence
    assert sentence.startswith(name)


@pytest.mark.parametrize("name", ["oplog-0.bin", "journals/peer.jrnl"])
@pytest.mark.parametrize("size", [0, 1, 100, 4100])
def test_a_log_that_is_cut_short(live, name, size):
    (live / name).write_bytes((live / name).read_bytes()[:size])
    assert name in refused(live)


def test_records_that_the_ring_overwrote_are_a_gap(live):
    raw = bytearray((live / "journals" / "peer.jrnl").read_bytes())
    struct.pack_into("<Q", raw, 24, 1 << 40)
    (live / "journals" / "peer.jrnl").write_bytes(raw)
    assert History.read(live).gaps > 0


def test_journals_in_a_file(live):
    for path in (live / "journals").iterdir():
        path.unlink()
    (live / "journals").rmdir()
    (live / "journals").write_text("x")
    assert refused(live) == "journals is a file: it should be a directory of NAME.jrnl"


def test_a_pipe_in_the_place_of_a_file_does_not_stop_the_reader(live):
    (live / "events.jsonl").unlink()
    os.mkfifo(live / "events.jsonl")
    assert refused(live).startswith("events.jsonl is no ordinary file")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"files": 1}, "'files' is a int"),
        ({"files": [1]}, "a file is an object"),
        ({"files": [{"path": "/x"}]}, "lacks 'ino'"),
        ({"files": [{"path": "/x", "ino": 1, "size": 1, "extents": [[1, 2]]}]}, "an extent of /x"),
        (
            {"files": [{"path": "/x", "ino": 1, "size": 1, "extents": [[0, 1 << 40, BLOCK, 1]]}]},
            "pm0.img is cut short",
        ),
        ({"image": "../../etc/passwd"}, "should be a name in this folder"),
        ({"image": "nope.img"}, "nope.img is missing"),
        ({"replaced": "no"}, "'replaced' is a str"),
    ],
)
def test_a_file_map_of_the_wrong_shape(folder, change, says):
    found = json.loads((folder / "filemap.json").read_text())
    (folder / "filemap.json").write_text(json.dumps({**found, **change}))
    write_manifest(folder)
    assert says in refused(folder)


@pytest.mark.parametrize("text", ["{}", '{"event": 1}', "[1]"])
def test_a_row_of_the_wrong_shape(live, text):
    (live / "row.json").write_text(text)
    assert refused(live).startswith("row.json")


def test_garbage_anywhere_is_a_sentence_and_never_another_error(folder):
    """Seeded: bytes flipped, files cut, swapped, filled with noise; the manifest made to agree, so that the readers are what is tried."""
    rng = random.Random(7)
    names = [
        path.relative_to(folder)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    ]
    kept = {name: (folder / name).read_bytes() for name in names}
    told = 0
    for _ in range(120):
        name = rng.choice(names)
        (folder / name).write_bytes(damaged(rng, kept[name], kept[rng.choice(names)]))
        write_manifest(folder)
        told += not whole(folder)
        (folder / name).write_bytes(kept[name])
    assert told > 60


def whole(folder):
    try:
        History.read(folder)
    except BrokenHistory:
        return False
    return True


def damaged(rng, raw, other):
    how = rng.randrange(4)
    if how == 0:
        return raw[: rng.randrange(len(raw))]
    if how == 1:
        return other
    if how == 2:
        return rng.randbytes(rng.randrange(1, 5000))
    changed = bytearray(raw)
    for _ in range(rng.randrange(1, 40)):
        changed[rng.randrange(min(len(changed), 6000))] = rng.randrange(256)
    return bytes(changed)
