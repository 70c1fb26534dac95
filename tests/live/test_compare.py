"""`emu compare` on real processes: the main findings come out by themselves, anybody can recount them, and nothing is left behind."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from emu.check.verdict import judge
from emu.report.schema import problems

ROOT = Path(__file__).parents[2]
EMU = [sys.executable, "-P", "-m", "emu", "compare"]
PATIENCE = 230  # pytest itself gives a test 240
TAG = "EMU_TEST_TAG"


def compare(*arguments, **options):
    return subprocess.run(
        [*EMU, *arguments], capture_output=True, text=True, timeout=PATIENCE, cwd="/", check=False, **options
    )


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """Three protocols, two events: the rows that the question turns on."""
    out = tmp_path_factory.mktemp("compare")
    done = compare(
        "--protocols", "none,ebusy,mr-revoke", "--events", "truncate,surprise-unplug", "--backings", "dax", "--holders", "deaf",
        "--out", str(out),
        "--json", str(out / "result.json"), "--html", str(out / "report.html"),
    )  # fmt: skip
    done.folder = out
    done.result = json.loads((out / "result.json").read_text()) if (out / "result.json").exists() else None
    assert done.result, done.stderr
    return done


def row(outcome, protocol, event):
    return next(r for r in outcome.result["rows"] if (r["protocol"], r["event"]) == (protocol, event))


def test_every_protocol_kept_what_it_promises(outcome):
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def test_the_real_result_fits_the_schema(outcome):
    assert problems(outcome.result) == []


def test_none_corrupts_another_file_and_its_controls_flip(outcome):
    found = row(outcome, "none", "truncate")
    assert found["outcome"] == "CORRUPT"
    assert found["foreign_bytes"] > 0
    assert found["foreign_dma_bytes"] > 0
    assert found["dma_at_gate"] > 0
    assert found["controls"] == {"no-mover": "OK", "no-dma": "OK", "fifo": "LOST"}


def test_every_accusation_has_a_control_that_flips_it(outcome):
    accused = [row for row in outcome.result["rows"] if row["flipped"]]
    assert len(accused) >= 5
    for found in accused:
        assert found["unflipped"] == [], found
        assert all(found["flipped"].values()), found
    assert "is flipped by a control." in outcome.stdout


def test_without_a_mover_and_without_a_pin_dma_goes_on(outcome):
    for folder in ("none-truncate-dax-control-no-mover", "ebusy-truncate-dax-control-no-pin"):
        facts = json.loads((outcome.folder / folder / "run-1" / "row.json").read_text())
        assert facts["dma"] is True
        assert facts["peer"]["good"]["write"] > 0
        assert facts["peer"]["good"]["read"] > 0


def test_ebusy_denies_and_leaves_the_file_alone(outcome):
    found = row(outcome, "ebusy", "truncate")
    assert (found["outcome"], found["errno"], found["violated"]) == ("DENY", "EBUSY", [])
    assert found["dma_at_gate"] > 0
    assert found["controls"] == {"no-pin": "OK"}


def test_ebusy_has_no_answer_to_a_surprise(outcome):
    found = row(outcome, "ebusy", "surprise-unplug")
    assert {"CORRUPT", "FAULT"} <= set(found["outcomes"])
    assert found["foreign_bytes"] > 0
    assert found["absent_bytes"] > 0
    assert found["agrees"] is True


@pytest.mark.parametrize("event", ["truncate", "surprise-unplug"])
def test_revoke_protects_at_the_price_of_errors(outcome, event):
    found = row(outcome, "mr-revoke", event)
    assert (found["outcome"], found["violated"]) == ("OK+ERR", [])
    assert (
        found["foreign_bytes"],
        found["foreign_dma_bytes"],
        found["freed_bytes"],
        found["lost_bytes"],
    ) == (0, 0, 0, 0)
    assert found["error_completions"]["REM_ACCESS_ERR"] > 0
    assert found["dma_at_gate"] > 0
    assert found["notified"] == 1.0
    assert (found["collateral"], found["killed"]) == (0, 0)


@pytest.mark.parametrize("event", ["truncate", "surprise-unplug"])
@pytest.mark.parametrize("protocol", ["none", "ebusy", "mr-revoke"])
def test_foreign_bytes_can_be_recounted_without_emu(outcome, protocol, event):
    found = row(outcome, protocol, event)
    script = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "results.md").read_text(), re.DOTALL)[1]
    counted = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script, found["evidence"]],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(counted.stdout) == found["foreign_bytes"]


def test_the_classifier_was_not_told_the_protocols_name(outcome):
    for name in ("row.json", "filemap.json"):
        text = (Path(row(outcome, "none", "truncate")["evidence"]) / name).read_text()
        assert "protocol" not in text
        assert '"none"' not in text


def relabelled(folder, name, place):
    """The same history under another protocol's name, wherever a name stands."""
    copy = place / "copy"
    shutil.copytree(folder, copy)
    meta = json.loads((copy / "meta.json").read_text())
    was = meta["declared"]["protocol"]
    meta["declared"] = {**meta["declared"], "protocol": name}
    (copy / "meta.json").write_text(json.dumps({**meta, "whole": False}))
    (copy / "manifest.json").unlink()
    text = (copy / "events.jsonl").read_text()
    assert f'"{was}"' in text
    (copy / "events.jsonl").write_text(text.replace(f'"{was}"', f'"{name}"'))
    return copy


@pytest.mark.parametrize("event", ["truncate", "surprise-unplug"])
@pytest.mark.parametrize(
    ("protocol", "label"), [("none", "mr-revoke"), ("ebusy", "none"), ("mr-revoke", "none")]
)
def test_the_classifier_is_blind_to_the_label(outcome, tmp_path, protocol, label, event):
    found = row(outcome, protocol, event)
    verdict = judge(relabelled(Path(found["evidence"]), label, tmp_path))
    assert verdict.outcomes == found["outcomes"]
    assert verdict.foreign_bytes == found["foreign_bytes"]
    assert [rule for rule, _ in verdict.violated] == [rule for rule, _ in found["violated"]]


def test_the_table_goes_to_stdout_and_progress_to_stderr(outcome):
    assert "ebusy      DENY EBUSY" in outcome.stdout
    assert "[6/6]" in outcome.stderr
    assert "[6/6]" not in outcome.stdout


def test_the_page_has_the_table_the_plot_and_a_diagram_of_harm_and_of_none(outcome):
    page = (outcome.folder / "report.html").read_text()
    assert page.count("<svg") == 3  # the plot, a run that corrupts, one that protects
    assert page.count("Space-time diagram of one run") == 4  # each as a title and as a label
    assert "last byte moved" in page
    assert "MR_REVOKED" in page


def test_a_prompt_holder_gets_its_peer_going_again(tmp_path):
    done = compare(
        "--protocols", "revoke", "--events", "truncate", "--backings", "dax", "--holders", "prompt", "--out", str(tmp_path / "o"),
        "--json", "-",
    )  # fmt: skip
    (found,) = json.loads(done.stdout)["rows"]
    assert (done.returncode, found["protocol"], found["outcome"]) == (0, "mr-revoke", "OK+ERR"), done.stderr
    assert found["recovery_us"] > 0
    assert "mr-revoke" in done.stderr


# ---- what is asked for wrongly


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--protocols", "nothing"], "no such protocol; the protocols are none, "),
        (
            ["--events", "truncate,earthquake"],
            "no such event; the events are truncate, punch, ",
        ),
        (["--backings", "tape"], "no such backing; the backings are dax, "),
        (["--holders", "polite"], "no such holder; the holders are prompt, slow, deaf, "),
        (["--holders", ""], "no such holder; the holders are prompt, "),
        (["--against", "/proc/no/such.json"], "--against /proc/no/such.json: ENOENT"),
        (["--protocols", "x" * 5000], f"compare {'x' * 64}...: EINVAL: no such protocol"),
        (["--runs", "0"], "at least one run"),
        (["--jobs", "-1"], "at least one run at a time"),
        (["--quick", "--full"], "not allowed with argument"),
        (["--json", "/proc/no/such/place.json"], "/proc/no"),
        (["--out", "/proc/no"], "--out /proc/no"),
    ],
)
def test_a_wrong_request_is_refused_at_once_in_words(tmp_path, arguments, named):
    done = compare("--out", str(tmp_path / "o"), *arguments)
    assert done.returncode == 64
    assert done.stderr.splitlines()[-1].startswith("emu: ")
    assert named in done.stderr
    assert done.stdout == ""


def test_a_wrong_request_costs_no_earlier_evidence(tmp_path):
    old = tmp_path / "none-truncate-dax-deaf"
    old.mkdir()
    (tmp_path / ".emu-compare").touch()
    for wrong in (["--jobs", "0"], ["--runs", "0"], ["--json", "/proc/no/such"]):
        chosen = ["--protocols", "none", "--events", "truncate", "--backings", "dax", "--holders", "deaf"]
        assert compare(*chosen, "--out", str(tmp_path), *wrong).returncode == 64
        assert old.is_dir()


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    done = compare("--out", str(tmp_path))
    assert done.returncode == 64
    assert "ENOTEMPTY" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


# ---- being interrupted


def tagged(tag):
    """Processes that carry the tag in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if f"{TAG}={tag}".encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def await_(condition, seconds=60.0):
    """Poll for what no descriptor tells; the limit is for a broken build only."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whoever_ends_the_lab_ends_all_of_its_processes(tmp_path, number):
    tag = f"{os.getpid()}-{number.value}"
    lab = subprocess.Popen(
        [*EMU, "--backings", "dax", "--out", str(tmp_path / "o")], env={**os.environ, TAG: tag}, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        await_(lambda: list((tmp_path / "o").glob("*/run-1/journals/peer.jrnl")))
        lab.send_signal(number)
        _, errors = lab.communicate(timeout=60)
        await_(lambda: not tagged(tag), 10.0)
    finally:
        lab.kill()
    assert lab.returncode == (-9 if number == signal.SIGKILL else 130)
    if number != signal.SIGKILL:
        assert errors.splitlines()[-1] == "emu: compare: EINTR: interrupted"
        assert "Traceback" not in errors


# ---- what a holder makes of it, and what is kept


@pytest.fixture(scope="module")
def manners(tmp_path_factory):
    """A protocol that waits for ever, and one that denies, under holders that do and do not let go."""
    out = tmp_path_factory.mktemp("manners")
    asked = [
        "--protocols",
        "wait,ebusy",
        "--events",
        "truncate",
        "--backings",
        "dax",
        "--holders",
        "deaf,slow",
        "--out",
        str(out),
    ]
    done = compare(*asked, "--json", "-")
    done.folder, done.asked, done.result = out, asked, json.loads(done.stdout)
    return done


def of(done, protocol, holder):
    return next(r for r in done.result["rows"] if (r["protocol"], r["holder"]) == (protocol, holder))


def test_a_hang_is_broken_by_letting_go(manners):
    found = of(manners, "wait", "deaf")
    assert (found["outcome"], found["returned"], found["controls"]) == (
        "HANG",
        0,
        {"no-pin": "OK", "let-go": "OK+ERR"},
    )
    assert found["agrees"] is True
    assert found["blocked_us"] > 1e6


def test_who_waits_for_a_slow_holder_waits_as_long_as_it_takes(manners):
    found = of(manners, "wait", "slow")
    assert (found["outcome"], found["returned"]) == ("OK+ERR", 1)
    assert found["reclaim_us"]["p50"] > 4e5  # the holder's own half second, most of it


def test_a_denied_reclaimer_asks_again_until_the_holder_lets_go(manners):
    found = of(manners, "ebusy", "slow")
    assert found["outcomes"] == ["DENY", "OK+ERR"]
    assert found["errno"] is None
    assert found["retries"] == found["denied"] > 0
    assert of(manners, "ebusy", "deaf")["errno"] == "EBUSY"


def test_a_comparison_that_was_ended_goes_on_where_it_was(manners):
    question = json.loads((manners.folder / "comparison.json").read_text())
    assert question["finished"] is True
    (manners.folder / "comparison.json").write_text(json.dumps({**question, "finished": False}))
    shutil.rmtree(manners.folder / "ebusy-truncate-dax-deaf")
    older = manners.folder.parent / "older.json"
    older.write_text(json.dumps(manners.result))
    again = compare(*manners.asked, "--json", "-", "--against", str(older))
    found = json.loads(again.stdout)
    assert again.stderr.count("(found before)") == 3
    assert [r["outcome"] for r in found["rows"]] == [r["outcome"] for r in manners.result["rows"]]
    assert (found["against"]["changed"], found["against"]["new"], found["against"]["gone"]) == ([], [], [])
    assert "reclaims take" in again.stderr
    assert problems(found) == []


def test_memory_on_demand_of_a_host_file_may_come_back_to_it_until_it_is_taken_away(tmp_path):
    done = compare(
        "--protocols", "odp", "--events", "punch,unplug", "--backings", "host", "--holders", "prompt",
        "--out", str(tmp_path), "--json", str(tmp_path / "result.json"),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["event"]: row for row in json.loads((tmp_path / "result.json").read_text())["rows"]}
    assert rows["punch"]["outcomes"] == ["OK"]
    assert "OK+ERR" in rows["unplug"]["outcomes"]
    assert rows["unplug"]["leaked_bytes"] == rows["unplug"]["foreign_bytes"] == 0


def test_a_host_file_that_nobody_may_register_is_compared_with_what_was_stored_in_it(tmp_path):
    done = compare(
        "--protocols", "refuse", "--events", "truncate", "--backings", "host", "--holders", "prompt",
        "--out", str(tmp_path), "--json", str(tmp_path / "result.json"),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = json.loads((tmp_path / "result.json").read_text())["rows"]
    assert (row["outcome"], row["breaches"]) == ("REFUSED", [])
