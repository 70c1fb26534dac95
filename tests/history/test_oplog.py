"""The operation log's reader: typed records, in order, gaps counted; its layout is the C header's."""

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from emu.history import oplog
from emu.history.oplog import HEADER, RECORD, OpRecord

ROOT = Path(__file__).parents[2]
FIELDS = [name for name in OpRecord._fields if name != "reserved0"]


def record(seq, **values):
    return OpRecord(*[0] * len(OpRecord._fields))._replace(seq=seq, kind=1, **values)


def write_log(path, *, capacity, written, thread=0, version=oplog.VERSION, lost=0):
    raw = bytearray(HEADER + capacity * RECORD)
    struct.pack_into(
        "<QIIQQIIQ", raw, 0, oplog.MAGIC, version, RECORD, capacity, written, thread, 65536, lost
    )
    for seq in range(written):
        values = record(seq, bytes=64 * seq, time_last=100 - seq if thread else seq)
        oplog._RECORD.pack_into(raw, HEADER + seq % capacity * RECORD, *values)
    path.write_bytes(raw)


def test_records_come_back_in_order(tmp_path):
    write_log(tmp_path / "oplog-0.bin", capacity=16, written=5)
    log = oplog.read_oplog(tmp_path / "oplog-0.bin")
    assert (log.thread, log.quantum, log.written, log.missing) == (0, 65536, 5, 0)
    assert [(r.seq, r.bytes) for r in log.records] == [(n, 64 * n) for n in range(5)]


def test_a_wrapped_ring_reports_what_is_gone(tmp_path):
    write_log(tmp_path / "oplog-0.bin", capacity=16, written=50)
    log = oplog.read_oplog(tmp_path / "oplog-0.bin")
    assert log.missing == 34
    assert [r.seq for r in log.records] == list(range(34, 50))


def test_what_the_engine_could_not_note_is_missing(tmp_path):
    write_log(tmp_path / "oplog-0.bin", capacity=16, written=5, lost=3)
    assert oplog.read_oplog(tmp_path / "oplog-0.bin").missing == 3


def test_a_file_truncated_and_extended_again_misses_its_records(tmp_path):
    write_log(tmp_path / "oplog-0.bin", capacity=16, written=5)
    raw = (tmp_path / "oplog-0.bin").read_bytes()
    (tmp_path / "oplog-0.bin").write_bytes(raw[:HEADER].ljust(len(raw), b"\0"))
    log = oplog.read_oplog(tmp_path / "oplog-0.bin")
    assert (log.missing, log.records) == (5, ())


def test_a_folder_gives_all_threads_merged_by_time(tmp_path):
    write_log(tmp_path / "oplog-1.bin", capacity=4, written=2, thread=1)
    write_log(tmp_path / "oplog-0.bin", capacity=4, written=2)
    logs = oplog.read_oplogs(tmp_path)
    assert [log.thread for log in logs] == [0, 1]
    assert [r.time_last for r in oplog.by_time(logs)] == [0, 1, 99, 100]


@pytest.mark.parametrize("raw", [b"", b"x", b"\0" * HEADER])
def test_something_else_is_refused(tmp_path, raw):
    (tmp_path / "oplog-0.bin").write_bytes(raw)
    with pytest.raises(oplog.OplogError):
        oplog.read_oplog(tmp_path / "oplog-0.bin")


def test_another_version_is_refused(tmp_path):
    write_log(tmp_path / "oplog-0.bin", capacity=4, written=2, version=2)
    with pytest.raises(oplog.OplogError, match="version 2"):
        oplog.read_oplog(tmp_path / "oplog-0.bin")


@pytest.mark.skipif(not shutil.which("gcc"), reason="the layout is compared with what a C compiler says")
def test_every_field_lies_where_the_c_header_puts_it(tmp_path):
    source = tmp_path / "layout.c"
    lines = "".join(f'printf("%zu\\n", offsetof(struct emu_oplog_record, {name}));' for name in FIELDS)
    source.write_text(
        f"#include <stdio.h>\n#include <stddef.h>\n#include <emu/oplog.h>\nint main(void){{{lines} return 0;}}\n"
    )
    subprocess.run(
        ["gcc", "-std=gnu11", f"-I{ROOT / 'csrc/include'}", "-o", tmp_path / "layout", source], check=True
    )
    offsets = subprocess.run([tmp_path / "layout"], check=True, capture_output=True, text=True).stdout.split()
    for name, offset in zip(FIELDS, offsets, strict=True):
        raw = bytearray(RECORD)
        raw[int(offset)] = 5
        assert getattr(OpRecord(*oplog._RECORD.unpack(raw)), name) == 5, f"{name} is at {offset} in C"


def test_a_log_that_is_written_whole_comes_back_equal(tmp_path):
    log = oplog.OpLog(3, 4096, 4, 4, 0, tuple(record(n, bytes=64, time_last=n) for n in range(4)))
    oplog.write_oplog(tmp_path / "oplog-3.bin", log)
    assert oplog.read_oplog(tmp_path / "oplog-3.bin") == log


def test_a_log_with_a_gap_is_not_written_as_if_it_were_whole(tmp_path):
    with pytest.raises(ValueError, match="lacks 2 of its 3 records"):
        oplog.write_oplog(tmp_path / "oplog-0.bin", oplog.OpLog(0, 4096, 4, 3, 2, (record(0),)))
    assert not (tmp_path / "oplog-0.bin").exists()
