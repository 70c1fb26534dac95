"""The space-time diagram: what a run's folder holds is on its lanes, in order, and labels do not cover each other."""

import json
import re
import struct

import pytest

from emu.history import oplog
from emu.history.journal import Journal, Kind, Record
from emu.history.oplog import Flag
from emu.report.scene import read
from emu.report.spacetime import draw, lane_y

US = 1000
T0 = 10_000_000
PHASES = [
    "requested",
    "gated",
    "notified",
    "fencing",
    "fenced",
    "unmapping",
    "unmapped",
    "applied",
    "freed",
    "returned",
    "ended",
]


def line(n, t, **fields):
    return json.dumps({"n": n, "t": t, "epoch": n, "kind": "effect", **fields}) + "\n"


def write_log(path, records):
    raw = bytearray(oplog.HEADER + 16 * oplog.RECORD)
    struct.pack_into(
        "<QIIQQIIQ", raw, 0, oplog.MAGIC, oplog.VERSION, oplog.RECORD, 16, len(records), 0, 65536, 0
    )
    blank = oplog.OpRecord(*[0] * len(oplog.OpRecord._fields))
    for seq, fields in enumerate(records):
        record = blank._replace(kind=1, seq=seq, bytes=4096, **fields)
        oplog._RECORD.pack_into(raw, oplog.HEADER + seq * oplog.RECORD, *record)
    path.write_bytes(raw)


@pytest.fixture
def folder(tmp_path):
    """A revoke of 300 us: asked at T0, noticed at 100 us, first error at 250 us."""
    (tmp_path / "journals").mkdir()
    row = {
        "event": "truncate",
        "holder": "prompt",
        "reclaim": {"returned": True, "errno": None, "began": T0, "ended": T0 + 300 * US},
    }
    (tmp_path / "row.json").write_text(json.dumps(row))
    lines = [
        line(n, T0 + (20 + 20 * n) * US, type="Phase", reclaim=1, phase=phase, inflight=2 if n == 0 else 0)
        for n, phase in enumerate(PHASES)
    ]
    lines.append(line(len(lines), T0 + 55 * US, type="Notify", name="MR_REVOKED"))
    (tmp_path / "events.jsonl").write_text("".join(lines))
    write_log(
        tmp_path / "oplog-0.bin",
        [
            {"time_first": T0, "time_last": T0 + 10 * US},
            {"time_first": T0 + 120 * US, "time_last": T0 + 120 * US, "flags": int(Flag.CUT)},
            {"time_first": T0 + 130 * US, "time_last": T0 + 140 * US, "flags": int(Flag.DST_FOREIGN)},
        ],
    )
    with Journal(tmp_path / "journals" / "peer.jrnl", "peer", 64) as peer:
        peer.append(Record(Kind.POLLED, time=T0 + 15 * US))
        peer.append(Record(Kind.POLLED, code=10, time=T0 + 250 * US))
    with Journal(tmp_path / "journals" / "holder.jrnl", "holder", 64) as holder:
        holder.append(Record(Kind.EVENT, code=1001, time=T0 + 100 * US))
    return tmp_path


def test_every_phase_is_on_the_brokers_lane(folder):
    scene = read(folder)
    labels = [mark.label for mark in scene.marks if mark.lane == "broker"]
    assert labels == ["requested (2 in flight)", *PHASES[1:]]


def test_quanta_are_told_apart_by_what_they_met(folder):
    assert [bar.kind for bar in read(folder).bars if bar.lane == "engine"] == ["moved", "cut", "foreign"]


def test_the_call_the_notice_and_the_first_error_are_there(folder):
    scene = read(folder)
    assert [(m.lane, m.label) for m in scene.marks if m.kind in {"told", "error"}] == [
        ("peer", "first error"),
        ("holder", "MR_REVOKED"),
    ]
    assert [bar.label for bar in scene.bars if bar.lane == "reclaimer"] == ["answer: 0"]


def test_messages_never_arrive_before_they_were_sent(folder):
    scene = read(folder)
    assert [(m.source, m.target) for m in scene.messages] == [
        ("reclaimer", "broker"),
        ("broker", "reclaimer"),
        ("broker", "holder"),
    ]
    assert all(m.sent <= m.heard for m in scene.messages)


def test_everything_is_inside_the_picture(folder):
    picture = draw(read(folder))
    width, height = map(float, re.search(r'viewBox="0 0 (\S+) (\S+)"', picture).groups())
    for name, limit in (
        ("x", width),
        ("cx", width),
        ("x1", width),
        ("x2", width),
        ("y", height),
        ("cy", height),
    ):
        values = [float(value) for value in re.findall(rf' {name}="(-?[\d.]+)"', picture)]
        assert values
        assert all(0 <= value <= limit for value in values)


def test_labels_on_one_level_of_a_lane_do_not_overlap(folder):
    texts = re.findall(
        r'<text x="([\d.]+)" y="([\d.]+)" class="note" text-anchor="start">([^<]*)<', draw(read(folder))
    )
    lane = [
        (float(y), float(x), label) for x, y, label in texts if lane_y("peer") < float(y) < lane_y("broker")
    ]
    assert len(lane) > 3
    for (y, x, label), (next_y, next_x, _) in zip(sorted(lane), sorted(lane)[1:], strict=False):
        assert next_y != y or next_x >= x + 5 * len(label)


@pytest.mark.parametrize("name", ["row.json", "events.jsonl"])
def test_without_its_evidence_there_is_no_diagram(folder, name):
    (folder / name).unlink()
    assert read(folder) is None


def test_a_reclaim_that_never_returned_has_a_bar_to_the_end(folder):
    row = json.loads((folder / "row.json").read_text())
    row["reclaim"] |= {"returned": False, "ended": None}
    (folder / "row.json").write_text(json.dumps(row))
    scene = read(folder)
    (bar,) = [bar for bar in scene.bars if bar.lane == "reclaimer"]
    assert (bar.label, bar.end) == ("answer: no answer", scene.end)
