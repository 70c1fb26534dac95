"""Scenes of `emu compare` on real processes: a peer that is told, a holder that dies of its notice, an exporter that is killed, a raw block that fails."""

import json
import subprocess
import sys

from emu.report.schema import problems

COMPARE = [sys.executable, "-P", "-m", "emu", "compare"]


def rows(out, protocols, events, backings, holders):
    asked = [
        "--protocols",
        protocols,
        "--events",
        events,
        "--backings",
        backings,
        "--holders",
        holders,
        "--out",
        str(out),
    ]
    done = subprocess.run(
        [*COMPARE, *asked, "--json", "-"], capture_output=True, text=True, timeout=200, cwd="/", check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert problems(result) == []
    return {(row["event"], row["holder"]): row for row in result["rows"] if row["outcome"] != "N/A"}


def test_a_peer_that_is_told_loses_nothing_and_who_is_dying_dies_inside_the_reclaim(tmp_path, monkeypatch):
    monkeypatch.setenv(
        "EMU_TIME_SCALE", "4"
    )  # 4 s until a holder goes without its peer, however slow this machine is
    found = rows(tmp_path, "recall-fence", "truncate", "dax", "prompt,dying")
    told, dying = found["truncate", "prompt"], found["truncate", "dying"]
    assert (told["peer"], told["outcomes"], told["error_completions"]) == ("told", ["OK"], {})
    deaf = told["ways"]["peer-deaf"]
    assert deaf["outcomes"] == ["OK+ERR"]
    assert deaf["error_completions"]["REM_ACCESS_ERR"] > 0
    assert deaf["qps_lost"] > told["qps_lost"] == 0
    assert told["holder_died"] is None
    assert dying["holder_died"]["within"]
    assert dying["holder_died"]["since_us"] > 0


def test_what_an_exporter_that_is_killed_had_given_and_what_fails_below_a_raw_device_is_taken_back(tmp_path):
    found = rows(tmp_path, "mr-revoke", "surprise-unplug,poison", "dmabuf,devdax", "deaf")
    assert {event for event, _ in found} == {"surprise-unplug", "poison"}
    for row in found.values():
        assert (row["outcome"], row["violated"], row["model"]) == ("OK+ERR", [], "allowed")
        assert row["dma_at_gate"] > 0


def test_a_program_that_opens_with_o_trunc_waits_for_the_protocol(tmp_path):
    (row,) = rows(tmp_path, "ebusy", "truncate", "host", "deaf").values()
    assert (row["outcome"], row["errno"]) == ("DENY", "EBUSY")
    foreign = row["ways"]["o-trunc"]
    assert (foreign["outcomes"], foreign["errno"], foreign["violated"]) == (["DENY"], "EINTR", [])
    assert foreign["dma_at_gate"] > 0


def test_a_revoke_for_a_time_that_stops_nobody_is_a_fault(tmp_path):
    found = rows(tmp_path, "none", "revoke-storm", "dmabuf", "deaf")
    (row,) = found.values()
    assert (row["outcome"], row["model"], row["unflipped"]) == ("FAULT", "allowed", [])
    assert row["absent_bytes"] > 0
    assert "S2" in {rule for rule, _ in row["violated"]}
