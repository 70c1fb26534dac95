"""A run folder made by hand: the verdict's tests change one thing in it and see which outcome flips."""

import json
import struct

import pytest

from emu.check.opening import SHAPES
from emu.history import oplog
from emu.history.journal import Journal, Kind, Record
from emu.history.stamp import CANARY, Cell, encode

BLOCK = 4096
SIZE = 4 * BLOCK
VICTIM, TAKER = 7, 9
KEY = 0x101
WRITE_QP, READ_QP, BYSTANDER_QP, SPARE_QP = 11, 12, 13, 14
REQUESTED, FENCED, UNMAPPED, RETURNED = 10, 12, 13, 16
BASE = {"kind": 1, "qp_num": WRITE_QP, "opcode": 0, "quanta": 1, "bytes": BLOCK, "rkey": KEY, "op_done": 1}
FIELDS = list(oplog.OpRecord._fields)


NOTHING = {"int": 0, "float": 0.0, "str": "", "bool": False, "dict[str, Any]": {}}


def whole(line):
    """The line with all the fields that a broker's line of this type has."""
    filled = {**_defaults(SHAPES.get(line["kind"], {}).get(line["type"], {})), **line}
    if line["type"] == "Requested":
        filled["op"] = {**_defaults(SHAPES["request"][line["op"]["type"]]), **line["op"]}
    return {"inflight": 0, **filled} if line["type"] == "Phase" else filled


def _defaults(shape):
    return {name: [] if kind.startswith("tuple") else NOTHING.get(kind) for name, kind in shape.items()}


def ordered(lines):
    """Epochs never go back, wherever a test put its lines."""
    epoch, found = 0, []
    for line in lines:
        epoch = max(epoch, line["epoch"])
        found.append({**line, "epoch": epoch})
    return found


class World:
    """A truncate of 16 KiB to 4 KiB that succeeded, with a revoke, three writes before it and an error after: OK+ERR."""

    def __init__(self, folder):
        self.folder = folder
        self.image = bytearray(16 * BLOCK)
        self.records = [
            {"op": n, "op_epoch": 5, "epoch_first": 5, "epoch_last": 5, "time_last": n} for n in range(3)
        ]
        self.capacity, self.overwritten = 64, 0
        self.completions = [(WRITE_QP, 1, 0), (WRITE_QP, 2, 0), (WRITE_QP, 3, 10), (WRITE_QP, 4, 5)]
        self.posted = None
        self.posted_late = set()
        self.notices = [(1001, KEY)]
        self.extra_lines = []  # behind the phases, or where `lines` puts them
        self.lines = {}  # name of a phase -> lines before it
        self.phases = [
            ("requested", REQUESTED, {"kind": "truncate"}, 2), ("gated", 11, {}, 2), ("fenced", FENCED, {}, 0),
            ("unmapped", UNMAPPED, {}, 0), ("applied", 14, {}, 0), ("freed", 15, {}, 0),
            ("returned", RETURNED, {"errno": 0}, 0), ("ended", 17, {}, 0),
        ]  # fmt: skip
        self.files = [
            {"path": "/mnt/victim", "ino": VICTIM, "size": BLOCK, "extents": [[0, 0, BLOCK, 1]]},
            {"path": "/mnt/taker", "ino": TAKER, "size": 3 * BLOCK, "extents": [[0, BLOCK, 3 * BLOCK, 1]]},
        ]
        self.filemap = {"schema": 1, "device": "pm0", "image": "pm0.img", "namespace": 1, "replaced": False}
        self.row = {
            "schema": 1,
            "event": "truncate",
            "backing": "dax",
            "holder": "deaf",
            "dma": True,
            "pinned": True,
            "refused": None,
            "victim": {"path": "/mnt/victim"},
            "before": {"size": SIZE, "holes": [], "kept": [[0, SIZE]]},
            "expected": {"size": BLOCK, "holes": [], "kept": [[0, BLOCK]]},
            "reclaim": {"returned": True, "errno": None, "error": None, "began": 1, "ended": 2},
            "leaked": {},
            "recovery_qps": [],
            "taken": {"path": "/mnt/taker", "written": [[0, 3 * BLOCK]], "unzeroed": 0},
            "bystander": {"qps": [BYSTANDER_QP], "mr_lost": False},
            "drained": ["peer"],
            "killed": [],
            "blocks": {"pm0": {"total": 16, "free": 12, "owned": 4, "quarantined": 0}},
        }
        self.stamp(0, BLOCK, VICTIM)
        self.stamp(BLOCK, 3 * BLOCK, TAKER)

    def stamp(self, at, length, ino, offset=0, layout=1, writer=2):
        for place in range(0, length, 64):
            self.image[at + place : at + place + 64] = encode(Cell(writer, ino, 1, layout, 1, offset + place))

    def moved(self, flags=0, after=True, acknowledged=True, **fields):
        """One more quantum in the log, by an operation that started after the return, or before it, and that succeeded or failed.

        It is one of a queue pair that had no error so far.
        """
        epoch = RETURNED if after else 5
        status = fields.get("status", 0) or (0 if acknowledged else 10)
        quanta = fields.get("quanta", 1)
        self.completions += [(READ_QP, 100 + len(self.completions) + n, status) for n in range(quanta)]
        fields = {"qp_num": READ_QP, **fields}
        self.records.append(
            {"flags": flags, "op_epoch": epoch, "epoch_first": epoch, "epoch_last": epoch, **fields}
        )

    def denied(self):
        """The same file, refused: nothing has changed."""
        self.row["reclaim"] |= {"errno": "EBUSY", "error": "pinned"}
        self.phases = [
            ("requested", REQUESTED, {}, 2),
            ("returned", 11, {"errno": 16}, 2),
            ("ended", 12, {}, 2),
        ]
        self.files[0] |= {"size": SIZE, "extents": [[0, 0, SIZE, 1]]}
        self.files[1]["extents"] = [[0, SIZE, 3 * BLOCK, 1]]
        self.stamp(0, SIZE, VICTIM)
        self.stamp(SIZE, 3 * BLOCK, TAKER)
        self.completions = [(WRITE_QP, n, 0) for n in (1, 2, 3)]
        self.notices = []
        return self

    def replugged(self):
        """A device that was unplugged by surprise, and a new namespace in its place."""
        self.row |= {
            "event": "surprise-unplug",
            "expected": {"gone": True, "size": 0, "holes": [], "kept": []},
        }
        self.filemap |= {"replaced": True, "namespace": 2}
        self.files = []
        self.row["taken"] = None
        self.image = bytearray(CANARY * (len(self.image) // len(CANARY)))
        return self

    def write(self):
        (self.folder / "journals").mkdir()
        (self.folder / "pm0.img").write_bytes(self.image)
        self._json("row.json", self.row)
        self._json("filemap.json", {**self.filemap, "files": self.files})
        found = []
        for phase in self.phases:
            found += [{"epoch": phase[1], **line} for line in self.lines.get(phase[0], [])]
            found.append(self._phase(*phase))
        found += [{"epoch": 17, **line} for line in self.extra_lines]
        loaded = {"epoch": 0, "kind": "commit", "type": "Loaded", "delta": []}
        lines = [whole({"n": n, "t": 1000 + n, **line}) for n, line in enumerate([loaded, *ordered(found)])]
        self._json("meta.json", {"schema": 1, "source": "live", "declared": None})
        (self.folder / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        self._log()
        self._journals()
        return self.folder

    def _phase(self, phase, epoch, detail, inflight):
        return {
            "epoch": epoch, "kind": "effect", "type": "Phase", "reclaim": 1, "phase": phase,
            "keys": [KEY], "detail": detail, "inflight": inflight,
        }  # fmt: skip

    def _json(self, name, content):
        (self.folder / name).write_text(json.dumps(content))

    def _log(self):
        written = len(self.records) + self.overwritten
        raw = bytearray(oplog.HEADER + self.capacity * oplog.RECORD)
        struct.pack_into(
            "<QIIQQIIQ", raw, 0, oplog.MAGIC, oplog.VERSION, oplog.RECORD, self.capacity, written, 0, 65536, 0
        )
        for seq, fields in enumerate(self.records, self.overwritten):
            record = oplog.OpRecord(*[0] * len(FIELDS))._replace(**BASE)._replace(seq=seq, **fields)
            oplog._RECORD.pack_into(raw, oplog.HEADER + seq % self.capacity * oplog.RECORD, *record)
        (self.folder / "oplog-0.bin").write_bytes(raw)

    def _journals(self):
        posted = [(qp, wr) for qp, wr, _ in self.completions] if self.posted is None else self.posted
        with Journal(self.folder / "journals" / "peer.jrnl", "peer", 1024) as journal:
            for qp, wr in posted:
                time = 5000 if wr in self.posted_late else 1  # the phases are at 1000
                journal.append(Record(Kind.POSTED, 0, 0, qp, wr, time, KEY, BLOCK))
            for qp, wr, status in self.completions:
                journal.polled(qp, wr, status)
        with Journal(self.folder / "journals" / "holder.jrnl", "holder", 1024) as journal:
            for code, key in self.notices:
                journal.event(code, key=key)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)
