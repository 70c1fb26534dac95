"""What cannot be known is said to be unknown, never guessed; what was seen in spite of a gap was seen."""

import pytest

from emu.check.history import History
from emu.check.verdict import judge

BLOCK, VICTIM = 4096, 7


def test_no_dma_at_the_gate_is_unknown(world):
    world.phases[0] = ("requested", 10, {}, 0)
    verdict = judge(world.write())
    assert (verdict.outcome, verdict.outcomes) == ("UNKNOWN", ["UNKNOWN"])
    assert verdict.why == ["no DMA was in flight at the gate"]


def test_a_control_that_is_meant_to_be_idle_is_judged_all_the_same(world):
    world.phases[0] = ("requested", 10, {}, 0)
    world.row["dma"] = False
    assert judge(world.write()).outcome == "OK+ERR"


def test_an_operation_that_ran_across_a_surprise_was_in_flight(world):
    world.phases[0] = ("requested", 10, {"kind": "surprise"}, 0)
    world.lines["requested"] = [
        {"kind": "effect", "type": "Offline", "epoch": 9, "aperture": 1, "device": "pm0"}
    ]
    world.records.append({"op": 7, "op_epoch": 8, "epoch_first": 8, "epoch_last": 9})
    verdict = judge(world.write())
    assert (verdict.outcome, verdict.dma_at_gate) == ("OK+ERR", 1)


@pytest.mark.parametrize(("began", "ended", "key"), [(8, 8, 0x101), (9, 9, 0x101), (8, 9, 0x202)])
def test_an_operation_before_after_or_elsewhere_was_not(world, began, ended, key):
    world.phases[0] = ("requested", 10, {"kind": "surprise"}, 0)
    world.lines["requested"] = [
        {"kind": "effect", "type": "Offline", "epoch": 9, "aperture": 1, "device": "pm0"}
    ]
    world.records.append({"op": 7, "op_epoch": began, "epoch_first": began, "epoch_last": ended, "rkey": key})
    assert judge(world.write()).outcome == "UNKNOWN"


def test_corruption_that_was_seen_counts_even_then(world):
    world.phases[0] = ("requested", 10, {}, 0)
    world.stamp(2 * BLOCK, 64, VICTIM)
    assert judge(world.write()).outcomes == ["CORRUPT", "UNKNOWN"]


def test_an_overwritten_log_is_unknown(world):
    world.overwritten = 64
    verdict = judge(world.write())
    assert verdict.outcome == "UNKNOWN"
    assert "records of the operation log were overwritten" in verdict.why[0]


def test_a_gap_in_the_history_is_unknown(world):
    folder = world.write()
    lines = (folder / "events.jsonl").read_text().splitlines(keepends=True)
    (folder / "events.jsonl").write_text("".join(lines[:2] + lines[3:]))
    verdict = judge(folder)
    assert verdict.outcome == "UNKNOWN"
    assert verdict.why == ["1 lines of the history are missing"]


def test_success_without_an_epoch_of_return_is_unknown(world):
    world.phases = [phase for phase in world.phases if phase[0] != "returned"]
    assert judge(world.write()).outcome == "UNKNOWN"


@pytest.mark.parametrize("name", ["row.json", "filemap.json", "events.jsonl", "oplog-0.bin", "pm0.img"])
def test_evidence_that_is_missing_is_unknown_and_named(world, name):
    folder = world.write()
    (folder / name).unlink()
    verdict = judge(folder)
    assert verdict.outcome == "UNKNOWN"
    assert verdict.foreign_bytes is None
    assert len(verdict.why) == 1


def test_evidence_cut_short_is_unknown(world):
    folder = world.write()
    (folder / "filemap.json").write_text('{"files": [')
    assert judge(folder).outcome == "UNKNOWN"


def test_a_denied_run_without_dma_at_the_gate_is_unknown(world):
    world.denied().phases[0] = ("requested", 10, {}, 0)
    assert judge(world.write()).outcome == "UNKNOWN"


def test_an_image_cut_short_is_unknown(world):
    world.image = world.image[:4096]
    verdict = judge(world.write())
    assert (verdict.outcome, verdict.why) == (
        "UNKNOWN",
        ["pm0.img is cut short: it has 4096 bytes, the file map finds some at 16384"],
    )


def test_a_file_map_that_names_no_image_there_is_unknown(world):
    world.filemap["image"] = "nope.img"
    verdict = judge(world.write())
    assert verdict.outcome == "UNKNOWN"
    assert "nope.img" in verdict.why[0]


def labelled(world, label):
    """A history that names its protocol wherever a broker's does."""
    world.extra_lines = [
        {"kind": "event", "type": "MountAdded", "path": "/mnt", "device": "pm0", "dax": True, "protocol": label, "raw": False},
        {"kind": "event", "type": "Requested", "session": 1, "request": 9, "op": {"type": "SetProtocol", "mount": "/mnt", "name": label}},
        {"kind": "effect", "type": "Fail", "session": 1, "request": 9, "errno": 16, "sentence": f"{label} refuses"},
        {"kind": "shell", "type": "EffectFailed", "effect": "Zero", "errno": 5, "error": f"{label}: it failed"},
        {"kind": "effect", "type": "Phase", "reclaim": 1, "phase": "broken", "epoch": 17, "keys": [],
         "detail": {"rule": "no-raise", "sentence": f"{label} broke the rule"}},
    ]  # fmt: skip
    return world.write()


def test_the_judge_is_blind_to_the_protocols_name(world, tmp_path_factory):
    """The same history under another label gives the same verdict, and no label comes as far as the judge."""
    verdicts = []
    for label in ("some-label", "another"):
        world.folder = tmp_path_factory.mktemp(label)
        seen = History.read(labelled(world, label)).blind
        assert label in (world.folder / "events.jsonl").read_text()
        assert label not in repr((seen.meta, seen.events, seen.row, seen.filemap))
        verdicts.append(judge(world.folder))
        assert label not in repr(verdicts[-1].as_json())
    assert verdicts[0] == verdicts[1]
