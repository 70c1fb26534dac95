"""Live histories are ones that the model allows, and a history that somebody has changed is refused: by its manifest, and where that was
made anew, by what it says.
"""

import dataclasses
import json
import shutil
import subprocess
import sys
from copy import deepcopy

import pytest

from emu.check.history import BrokenHistory, History
from emu.check.validate import Unusable, validate
from emu.history.journal import Kind, read_journal
from emu.history.oplog import Flag
from emu.protocols import registry

PROTOCOLS = registry.load().protocols
EMU = [sys.executable, "-P", "-m", "emu", "compare"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folders of all runs of some live rows."""
    out = tmp_path_factory.mktemp("validate")
    rows = [
        "--protocols",
        "none,mr-revoke",
        "--events",
        "truncate,surprise-unplug",
        "--backings",
        "dax,host",
        "--holders",
        "prompt",
    ]
    subprocess.run([*EMU, *rows, "--out", str(out)], capture_output=True, timeout=200, cwd="/", check=False)
    return {path.parent.name: path for path in sorted(out.glob("*/run-1"))}


@pytest.fixture(scope="module")
def history(runs):
    """A revoke that met DMA, over which a second file was laid."""
    return History.read(runs["mr-revoke-truncate-dax-prompt"])


def refused(history):
    found = validate(history, PROTOCOLS)
    assert found, "the changed history was allowed"
    return found


def test_every_live_row_is_one_that_the_model_allows(runs):
    assert len(runs) >= 5
    for name, folder in runs.items():
        assert [str(refusal) for refusal in validate(History.read(folder), PROTOCOLS)] == [], name


# ---- somebody changes what the core was told and said


def with_lines(history, change):
    """The history with its lines changed and numbered anew."""
    lines = deepcopy(history.events)
    lines = change(lines) or lines
    return dataclasses.replace(history, events=[{**line, "n": n} for n, line in enumerate(lines)])


def nth(lines, kind, number=0, **fields):
    """The index of a line of this type that has these fields."""
    places = [at for at, line in enumerate(lines) if line["type"] == kind and fields.items() <= line.items()]
    return places[number]


def drop(kind, number=0, **fields):
    return lambda lines: lines.pop(nth(lines, kind, number, **fields)) and None


def edit(kind, number=0, where=None, **values):
    return lambda lines: lines[nth(lines, kind, number, **(where or {}))].update(values)


def swap(one, other, **fields):
    def change(lines):
        a, b = nth(lines, one, **fields), nth(lines, other, **fields)
        lines[a], lines[b] = lines[b], lines[a]
        lines[a]["t"], lines[b]["t"] = lines[b]["t"], lines[a]["t"]

    return change


def twice(kind, number=0):
    return lambda lines: lines.insert(nth(lines, kind, number), deepcopy(lines[nth(lines, kind, number)]))


def cut(lines):
    """The end is missing, and the last step is not whole."""
    del lines[nth(lines, "Reply", -1) :]
    lines.append(deepcopy(lines[nth(lines, "Requested")]))


def rename(lines):
    """The victim had another size all along, in the request alone."""
    at = next(
        at
        for at, line in enumerate(lines)
        if line["type"] == "Requested" and line["op"]["type"] == "FsTruncate"
    )
    lines[at]["op"]["size"] += 4096


def said(kind, **fields):
    """At the end the shell says what only the core or the engine can."""

    def change(lines):
        last = lines[-1]
        lines.append({"t": last["t"], "epoch": last["epoch"], "kind": "shell", "type": kind, **fields})

    return change


def answered_by_the_shell(lines):
    """In front of the Release the shell says that all keys had been quiesced once more."""
    at = nth(lines, "Release")
    own = {"t": lines[at - 1]["t"], "epoch": lines[at - 1]["epoch"], "kind": "shell", "cookie": 9999}
    lines[at:at] = [{**own, "type": "Quiesce", "keys": [256]}, {**own, "type": "Quiesced", "errno": 0}]


LINES = {
    "the quiesce was never answered": drop("Quiesced"),
    "the unmap was never asked for": drop("Unmap"),
    "the holder was never told": drop("Notify"),
    "a phase is missing": drop("Phase", phase="fenced"),
    "the commit of the truncate is missing": drop("Commit", -1),
    "the blocks were not given back": drop("Release"),
    "a key was never installed": drop("KeyInstalled", 1),
    "the fence came behind the unmap": swap("Quiesced", "Unmapped"),
    "the quiesce was answered twice": twice("Quiesced"),
    "a request was asked twice": twice("Requested", 3),
    "the reclaim was answered with an error": edit("Phase", where={"phase": "returned"}, detail={"errno": 16}),
    "the file kept its size": rename,
    "the quiesce was of another key": edit("Quiesce", keys=[77]),
    "blocks of somebody else were freed": edit("Release", runs=[[0, 4096]]),
    "the committed file is longer": edit("Commit", -1, changes=9),
    "it took no time": edit("Quiesced", t=1),
    "the epoch stood still": edit("Phase", where={"phase": "unmapped"}, epoch=1),
    "the hardware refused": edit("Quiesced", errno=5),
    "the protocol was another one": edit("MountAdded", protocol="none"),
    "the last step is not whole": cut,
    "the shell freed blocks": said("Release", aperture=1, runs=[[0, 4096]]),
    "the shell took a step of a reclaim": said("Phase", reclaim=1, phase="broken", keys=[], detail={"rule": "total"}, inflight=0),
    "the shell answered for the engine": answered_by_the_shell,
}  # fmt: skip


@pytest.mark.parametrize("story", LINES)
def test_changed_lines_are_refused(history, story):
    refused(with_lines(history, LINES[story]))


# ---- somebody changes what the engine moved


def with_record(history, change, of=lambda record: record.bytes and record.opcode == 0):
    """The history with one record of the log changed."""
    log = history.logs[0]
    at = next(at for at, record in enumerate(log.records) if of(record))
    record = log.records[at]._replace(**change(log.records[at]))
    records = (*log.records[:at], record, *log.records[at + 1 :])
    return dataclasses.replace(history, logs=[dataclasses.replace(log, records=records)])


RECORDS = {
    "bytes moved under a key that there never was": lambda r: {"rkey": 0xABC00},
    "bytes moved before the key was there": lambda r: {"op_epoch": 0, "epoch_first": 0, "epoch_last": 0},
    "bytes moved where the key does not reach": lambda r: {"dst_offset": r.dst_offset + (1 << 30)},
    "the block had another generation": lambda r: {"gen_first": r.gen_first + 2, "gen_last": r.gen_last + 2, "flags": int(Flag.DST_FOREIGN)},
    "it was translated at another generation": lambda r: {"gen_translated": r.gen_translated - 1},
    "a foreign write is not flagged": lambda r: {"gen_last": r.gen_last + 2},
    "more bytes than were posted": lambda r: {"bytes": r.bytes + (1 << 40), "quanta": 1 << 30},
    "fewer bytes than were acknowledged": lambda r: {"bytes": 64},
    "a record is missing": lambda r: {"seq": r.seq + 1},
    "another queue pair moved them": lambda r: {"qp_num": 9999},
    "it ran beyond the last epoch": lambda r: {"kind": 1, "epoch_last": 10_000, "flags": int(Flag.EPOCH_MOVED)},
}  # fmt: skip


@pytest.mark.parametrize("story", RECORDS)
def test_changed_records_of_the_log_are_refused(history, story):
    refused(with_record(history, RECORDS[story]))


# ---- somebody changes what clients say


def with_journal(history, name, change):
    journal = history.journals[name]
    records = list(journal.records)
    change(records)
    return dataclasses.replace(
        history, journals={**history.journals, name: dataclasses.replace(journal, records=tuple(records))}
    )


def test_a_client_that_was_told_what_nobody_sent_is_refused(history):
    def forge(records):
        told = next(record for record in records if record.kind == Kind.EVENT and record.code == 1001)
        records.append(told._replace(time=records[-1].time))

    refused(with_journal(history, "holder", forge))


def test_a_completion_of_what_was_never_posted_is_refused(history):
    def forge(records):
        done = next(at for at, record in enumerate(records) if record.kind == Kind.POLLED)
        records[done] = records[done]._replace(wr_id=1 << 40)

    refused(with_journal(history, "peer", forge))


def test_a_completion_out_of_nowhere_is_refused(history):
    refused(
        with_journal(
            history, "peer", lambda records: records.append(next(r for r in records if r.kind == Kind.POLLED))
        )
    )


# ---- somebody changes what is left


def test_a_file_map_that_the_commits_do_not_know_is_refused(history):
    filemap = deepcopy(history.filemap)
    filemap["files"][0]["extents"][0][1] += 4096
    refused(dataclasses.replace(history, filemap=filemap))


def test_an_answer_that_nobody_gave_is_refused(history):
    row = {**history.row, "reclaim": {**history.row["reclaim"], "errno": "EBUSY"}}
    refused(dataclasses.replace(history, row=row))


# ---- somebody changes what was promised


def with_meta(history, **values):
    return dataclasses.replace(history, meta={**deepcopy(history.meta), **values})


def declaring(history, **values):
    return with_meta(history, declared={**history.meta["declared"], **values})


def test_a_run_relabelled_as_one_of_another_protocol_is_refused(runs):
    none = History.read(runs["none-truncate-dax-prompt"])
    words = [str(why) for why in refused(declaring(none, protocol="mr-revoke"))]
    assert "meta.json: it declares mr-revoke, the mounts ran none" in words


@pytest.mark.parametrize(
    "cut", [{"promises": ["S7"]}, {"excepts": {"truncate": ["S1"]}}, {"importers": []}, {"loss": "device"}]
)
def test_a_declaration_that_is_not_the_protocols_is_refused(history, cut):
    (name,) = cut
    assert any(f"it declares {name}" in str(why) for why in refused(declaring(history, **cut)))


# ---- somebody changes what the lab says


def with_row(history, change):
    row = deepcopy(history.row)
    change(row)
    return dataclasses.replace(history, row=row)


ROWS = {
    "it ended before it was answered": lambda row: row["reclaim"].update(ended=row["reclaim"]["began"] + 1),
    "it began after it was asked": lambda row: row["reclaim"].update(began=row["reclaim"]["ended"]),
    "the peer had more": lambda row: row["peer"]["good"].update(write=99),
    "the peer posted less": lambda row: row["peer"]["posted"].update(write=1),
    "it was a punch": lambda row: row.update(event="punch"),
    "the holder was killed": lambda row: row.update(killed=["holder"]),
    "it was idle": lambda row: row.update(dma=False),
}  # fmt: skip


@pytest.mark.parametrize("story", ROWS)
def test_changed_rows_are_refused(history, story):
    changed = with_row(history, ROWS[story])
    run = {**history.meta["run"], "event": changed.row["event"]}
    consistent = with_meta(changed, run=run, reclaims=[changed.row["reclaim"]])
    assert any(why.where == "row.json" for why in refused(consistent))


@pytest.mark.parametrize("part", ["row", "journals", "verdict", "filemap"])
def test_a_run_of_a_lab_that_lacks_a_part_is_refused(history, part):
    refused(dataclasses.replace(history, **{part: {}}))


def test_a_run_of_a_lab_without_its_peers_journal_is_refused(history):
    journals = {"holder": history.journals["holder"]}
    assert [why.where for why in refused(dataclasses.replace(history, journals=journals))] == [
        "journals/peer.jrnl"
    ]


@pytest.mark.parametrize(
    "said", [{"verdict": "CORRUPT"}, {"reclaims": []}, {"seed": 0}, {"run": {"event": "punch"}}]
)
def test_what_meta_says_of_the_run_is_what_its_files_say(history, said):
    assert any(why.where == "meta.json" for why in refused(with_meta(history, **said)))


def test_a_verdict_that_the_folder_does_not_give_is_refused(runs):
    none = History.read(runs["none-truncate-dax-prompt"])
    fine = {**none.verdict, "outcome": "OK", "outcomes": ["OK"], "foreign_bytes": 0}
    forged = dataclasses.replace(with_meta(none, verdict="OK"), verdict=fine)
    assert {why.where for why in refused(forged)} == {"verdict.json"}


def test_a_holders_receipt_that_was_taken_away_is_refused(history):
    def forget(records):
        records[:] = [r for r in records if r.kind != Kind.EVENT or r.code != 1001]

    assert any("notified" in str(why) for why in refused(with_journal(history, "holder", forget)))


def test_a_brokers_clock_that_leaps_is_refused(history):
    def leap(lines):
        for line in lines[nth(lines, "Quiesced") :]:
            line["t"] += 10**9

    refused(with_lines(history, leap))


# ---- what is left away, and what is put a little aside


@pytest.mark.parametrize("count", range(1, 7))
def test_a_history_whose_last_lines_are_gone_is_refused(history, count):
    assert "Ended" in str(refused(dataclasses.replace(history, events=history.events[:-count]))[0])


def test_a_history_without_its_last_events_that_keeps_the_brokers_last_word_is_refused(history):
    def shorten(lines):
        last = max(at for at, line in enumerate(lines) if line["kind"] == "event")
        return [*lines[:last], lines[-1]]

    refused(with_lines(history, shorten))


@pytest.mark.parametrize("number", [0, -1])
def test_a_completion_that_was_taken_away_is_refused(history, number):
    """And the row was counted anew."""

    def forget(records):
        places = [at for at, record in enumerate(records) if record.kind == Kind.POLLED]
        del records[places[number]]

    changed = with_journal(history, "peer", forget)
    codes = [record.code for record in changed.journals["peer"].of(Kind.POLLED)]
    peer = {
        **history.row["peer"],
        "good": {"all": codes.count(0)},
        "bad": {"all": len(codes) - codes.count(0)},
    }
    words = [str(why) for why in refused(dataclasses.replace(changed, row={**history.row, "peer": peer}))]
    assert any("never completed" in why for why in words)


@pytest.mark.parametrize("by", [-(10**9), 10**9])
def test_a_peer_whose_clock_goes_wrong_is_refused(history, by):
    def shift(records):
        records[:] = [record._replace(time=record.time + by) for record in records]

    assert any(why.where == "journals/peer.jrnl" for why in refused(with_journal(history, "peer", shift)))


def test_a_reclaim_that_met_dma_cannot_say_that_nothing_was_in_flight(history):
    def calm(lines):
        for line in lines:
            if line["type"] == "Phase":
                line["inflight"] = 0

    assert any("before and after" in str(why) for why in refused(with_lines(history, calm)))


def test_a_control_without_dma_cannot_say_that_some_was_in_flight(runs):
    idle = History.read(runs["none-truncate-dax-control-no-dma"])
    busy = edit("Phase", where={"phase": "requested"}, inflight=1)
    assert any("none under these keys" in str(why) for why in refused(with_lines(idle, busy)))


def test_a_log_without_one_of_its_records_is_refused(history):
    """Whichever ended a request, and all others are numbered anew."""
    log = history.logs[0]
    ends = [at for at, record in enumerate(log.records) if record.op_done and record.opcode in (0, 4)]
    assert len(ends) > 3
    for gone in ends:
        kept = [record for at, record in enumerate(log.records) if at != gone]
        kept = tuple(record._replace(seq=at) for at, record in enumerate(kept))
        refused(
            dataclasses.replace(history, logs=[dataclasses.replace(log, written=len(kept), records=kept)])
        )


# ---- the files themselves

FILES = (
    "row.json",
    "pm0.img",
    "oplog-0.bin",
    "events.jsonl",
    "filemap.json",
    "journals/peer.jrnl",
    "meta.json",
)


@pytest.mark.parametrize("name", FILES)
def test_a_folder_with_one_byte_changed_is_no_history(runs, tmp_path, name):
    folder = tmp_path / "run"
    shutil.copytree(runs["mr-revoke-truncate-dax-prompt"], folder)
    raw = bytearray((folder / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (folder / name).write_bytes(raw)
    with pytest.raises(BrokenHistory, match=name):
        History.read(folder)


def test_a_history_with_a_gap_is_not_held_against_the_model(history):
    gap = {"kind": "gap", "first": 5, "last": 9}
    with pytest.raises(Unusable, match="missing"):
        validate(
            dataclasses.replace(history, events=[*history.events[:5], gap, *history.events[10:]]), PROTOCOLS
        )


def test_a_protocol_that_is_not_here_cannot_be_run_again(history):
    with pytest.raises(Unusable, match="mr-revoke"):
        validate(history, {"none": PROTOCOLS["none"]})


def test_what_was_declared_is_what_the_folder_says(runs):
    meta = json.loads((runs["none-truncate-dax-prompt"] / "meta.json").read_text())
    assert meta["declared"]["protocol"] == "none"
    assert read_journal(runs["none-truncate-dax-prompt"] / "journals" / "peer.jrnl").records
