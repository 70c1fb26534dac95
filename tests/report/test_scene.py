"""The space-time diagram: what a run's folder holds is on its lanes, in order, and labels do not cover each other."""

import json
import re
import struct

import pytest

from emu.history import oplog
from emu.history.journal import Journal, Kind, Record
from emu.history.oplog import Flag
from emu.report.scene import read
from emu.report.spacetime import LETTER, Layout, draw, place

US = 1000
T0 = 10_000_000
KEY, OTHER = 7, 8
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


def at(phase):
    return T0 + (20 + 20 * PHASES.index(phase)) * US


def line(n, t, **fields):
    return json.dumps({"n": n, "t": t, "epoch": n, "kind": "effect", **fields}) + "\n"


def write_log(path, records):
    raw = bytearray(oplog.HEADER + 16 * oplog.RECORD)
    struct.pack_into(
        "<QIIQQIIQ", raw, 0, oplog.MAGIC, oplog.VERSION, oplog.RECORD, 16, len(records), 0, 65536, 0
    )
    blank = oplog.OpRecord(*[0] * len(oplog.OpRecord._fields))
    for seq, fields in enumerate(records):
        record = blank._replace(**{"kind": 1, "seq": seq, "bytes": 4096, "rkey": KEY, **fields})
        oplog._RECORD.pack_into(raw, oplog.HEADER + seq * oplog.RECORD, *record)
    path.write_bytes(raw)


@pytest.fixture
def folder(tmp_path):
    """A revoke of 300 us: asked at T0, noticed at 100 us, first error at 250 us."""
    (tmp_path / "journals").mkdir()
    row = {
        "event": "truncate",
        "holder": "prompt",
        "reclaim": {"returned": True, "errno": None, "began": T0, "ended": T0 + 195 * US},
    }
    (tmp_path / "row.json").write_text(json.dumps(row))
    lines = [
        line(2 * n, at(phase), type="Phase", reclaim=1, phase=phase, keys=[KEY], inflight=0 if n else 2)
        for n, phase in enumerate(PHASES)
    ]
    lines.append(line(5, T0 + 55 * US, type="Notify", name="MR_REVOKED"))
    lines.append(line(15, T0 + 175 * US, type="Release", aperture=1, runs=[[4096, 4096]]))
    lines.append(line(17, T0 + 190 * US, type="Reply", session=1))
    lines.append(line(21, T0 + 260 * US, type="Allocate", aperture=1, runs=[[8192, 4096]]))
    lines.append(line(22, T0 + 290 * US, type="Allocate", aperture=1, runs=[[0, 8192]]))
    lines.sort(key=lambda text: json.loads(text)["n"])
    (tmp_path / "events.jsonl").write_text("".join(lines))
    write_log(
        tmp_path / "oplog-0.bin",
        [
            {"time_first": T0, "time_last": T0 + 10 * US},
            {"time_first": T0 + 120 * US, "time_last": T0 + 120 * US, "flags": int(Flag.CUT)},
            {"time_first": T0 + 130 * US, "time_last": T0 + 140 * US, "flags": int(Flag.DST_FOREIGN)},
            {"time_first": T0, "time_last": T0 + 400 * US, "rkey": OTHER},
            {"time_first": T0 - 40 * US, "time_last": T0 - 5 * US, "kind": 2, "quanta": 9},
        ],
    )
    with Journal(tmp_path / "journals" / "peer.jrnl", "peer", 64) as peer:
        peer.append(Record(Kind.POSTED, qp_num=1, key=KEY, time=T0 - 9 * US))
        peer.append(Record(Kind.POSTED, qp_num=2, key=OTHER, time=T0 - 9 * US))
        peer.append(Record(Kind.POLLED, qp_num=1, time=T0 + 15 * US))
        peer.append(Record(Kind.POLLED, qp_num=2, time=T0 + 16 * US))
        peer.append(Record(Kind.POLLED, qp_num=1, code=10, time=T0 + 250 * US))
    with Journal(tmp_path / "journals" / "holder.jrnl", "holder", 64) as holder:
        holder.append(Record(Kind.EVENT, code=1001, time=T0 + 100 * US))
    return tmp_path


def test_every_phase_is_on_the_brokers_lane(folder):
    scene = read(folder)
    labels = [mark.label for mark in scene.marks if mark.lane == "broker"]
    assert labels == ["requested (2 in flight)", *PHASES[1:], "freed blocks given to another file"]


def test_the_answer_leaves_at_the_reply_and_arrives_at_the_end_of_the_call(folder):
    """`returned` is noted behind the answer, here after the reclaimer had it."""
    scene = read(folder)
    (returned,) = [mark.time for mark in scene.marks if mark.label == "returned"]
    assert at("returned") == T0 + 200 * US > T0 + 195 * US
    assert returned == T0 + 190 * US
    assert [(m.sent, m.heard) for m in scene.messages if m.target == "reclaimer"] == [
        (T0 + 190 * US, T0 + 195 * US)
    ]


def test_freed_blocks_are_given_away_when_a_run_overlaps(folder):
    (given,) = [mark.time for mark in read(folder).marks if mark.label.startswith("freed blocks given")]
    assert given == T0 + 290 * US


def test_quanta_are_told_apart_by_what_they_met(folder):
    bars = [bar for bar in read(folder).bars if bar.lane == "engine"]
    assert [bar.kind for bar in bars if not bar.summed] == ["moved", "cut", "foreign"]


def test_sums_are_drawn_as_sums(folder):
    (bar,) = [bar for bar in read(folder).bars if bar.summed]
    assert (bar.kind, bar.label) == ("moved", "9 quanta, 4096 bytes, key 0x7: moved")


def test_work_under_other_keys_is_not_in_the_picture(folder):
    scene = read(folder)
    assert not [bar for bar in scene.bars if bar.end == T0 + 400 * US]
    assert [mark.time for mark in scene.marks if mark.kind == "good"] == [T0 + 15 * US]


def test_the_engines_landmarks_are_of_its_own_clock(folder):
    marks = [(m.label, m.time - T0) for m in read(folder).marks if m.lane == "engine"]
    assert marks == [("first bytes in foreign memory", 140 * US), ("last byte moved", 140 * US)]


def test_a_call_that_waited_long_does_not_squeeze_the_rest(folder):
    row = json.loads((folder / "row.json").read_text())
    row["reclaim"]["began"] = T0 - 50_000 * US
    (folder / "row.json").write_text(json.dumps(row))
    scene = read(folder)
    assert scene.end - scene.begin < 2_000 * US
    (bar,) = [bar for bar in scene.bars if bar.lane == "reclaimer"]
    assert "called 49." in bar.label


def test_the_call_the_notice_and_the_first_error_are_there(folder):
    scene = read(folder)
    assert [(m.lane, m.label) for m in scene.marks if m.kind in {"told", "error"}] == [
        ("peer", "first error polled"),
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


def test_labels_cover_neither_each_other_nor_a_leader(folder):
    labels = Layout(read(folder)).labels["broker"]
    assert len(labels) == len(PHASES) + 1
    for one in labels:
        right = one.left + LETTER * len(one.words)
        others = [other for other in labels if other is not one]
        assert not [o for o in others if o.level == one.level and one.left <= o.left < right]
        assert not [o for o in others if o.level > one.level and one.left < o.x < right]


def test_a_mark_without_a_label_still_has_a_tip(folder):
    with Journal(folder / "journals" / "other.jrnl", "holder", 64) as holder:
        holder.append(Record(Kind.EVENT, code=3, time=T0 + 100 * US))
        holder.append(Record(Kind.EVENT, code=3, time=T0 + 120 * US))
    (folder / "journals" / "holder.jrnl").unlink()
    scene = read(folder)
    assert [(m.label, m.tip) for m in scene.marks if m.lane == "holder"] == [
        ("QP_ACCESS_ERR", "QP_ACCESS_ERR"),
        ("", "QP_ACCESS_ERR"),
    ]
    assert draw(scene).count("<title>QP_ACCESS_ERR, ") == 2


def test_marks_of_one_moment_are_stacked_in_order():
    labels = place([(100.0, "requested"), (100.0, "gated"), (100.0, "fenced"), (500.0, "ended")])
    assert [label.level for label in labels] == [2, 1, 0, 0]


def test_lanes_are_as_high_as_their_labels(folder):
    layout = Layout(read(folder))
    for name, labels in layout.labels.items():
        above = [y for y in layout.y.values() if y < layout.y[name]]
        top = layout.y[name] - 12 - 13 * max((label.level for label in labels), default=0)
        assert top > max(above, default=0.0)


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
