"""Whether a result can be stored is known before minutes are spent, and finding out makes nothing."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from emu.cli import COMMANDS, CommandError, bench, check_target, main
from emu.host import times

ENOUGH = {
    "dmabuf": ["stat", "x"],
    "fs": ["ls"],
    "force": ["story.json"],
    "protocol": ["/mnt"],
    "simulate": ["none", "--seed", "1"],
}  # arguments, as far as they are required


def test_what_can_be_written_passes_and_is_not_made(tmp_path):
    (tmp_path / "old.json").write_text("x")
    for name in (None, "-", str(tmp_path / "new.json"), str(tmp_path / "old.json")):
        check_target("compare", name)
    check_target("compare", str(tmp_path / "out" / "deep" / "r.json"), ours=tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["old.json"]


@pytest.mark.parametrize(
    ("name", "number"), [("none/r.json", "ENOENT"), ("", "EISDIR"), ("file/r.json", "ENOTDIR")]
)
def test_what_cannot_be_written_is_refused(tmp_path, name, number):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CommandError, match=number) as caught:
        check_target("compare", str(tmp_path / name), ours=tmp_path / "out")
    assert caught.value.code == 64


def test_a_comparison_makes_no_folder_outside_its_own(tmp_path, capsys):
    out, beside = tmp_path / "out", tmp_path / "beside" / "r.html"
    assert main(["compare", "--protocols", "none", "--out", str(out), "--html", str(beside)]) == 64
    assert f"compare {beside}: ENOENT" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command",
    [["--version"], ["--help"], ["compare", "--help"], ["explore", "none", "--event", "unlink"]],
    ids=" ".join,
)
@pytest.mark.parametrize("buffered", [True, False])
def test_output_that_cannot_be_written_is_a_sentence_and_no_breach(command, buffered):
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "emu", *command],
            check=False, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60,
            env={**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"},
        )  # fmt: skip
    said = ended.stderr.splitlines()
    assert (ended.returncode, len(said)) == (64, 1), ended.stderr
    assert said[0].startswith(f"emu: {command[0]}: ENOSPC: standard output")


def test_a_reader_who_has_gone_is_told_nothing():
    ours, theirs = os.pipe()
    os.close(ours)
    ended = subprocess.run(
        [sys.executable, "-m", "emu", "--help"],
        check=False,
        stdout=theirs,
        stderr=subprocess.PIPE,
        timeout=60,
    )
    os.close(theirs)
    assert (ended.returncode, ended.stderr) == (64, b"")


def test_words_that_cannot_be_said_end_nothing():
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "emu", "nonsense"],
            check=False,
            stdout=subprocess.PIPE,
            stderr=full,
            timeout=60,
        )
    assert (ended.returncode, ended.stdout) == (64, b"")


@pytest.mark.parametrize("scale", ["fast", "0", "-1", "nan", "inf", "1e300", "1e-300", "1,5"])
@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_a_time_scale_that_is_none_is_refused_before_anything_runs(
    command, scale, monkeypatch, capsys, tmp_path
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMU_TIME_SCALE", scale)
    assert main([command, *ENOUGH.get(command, [])]) == 64
    assert capsys.readouterr().err.startswith(
        f"emu: {command}: EINVAL: EMU_TIME_SCALE={scale}: expected a number"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", " "])
def test_an_empty_time_scale_is_none(text, monkeypatch):
    monkeypatch.setenv("EMU_TIME_SCALE", text)
    assert (times.time_scale(), times.patience(3)) == (1.0, 3.0)


def test_a_patience_is_stretched_and_never_shortened(monkeypatch):
    for scale, seconds in (("0.1", 3.0), ("10", 30.0)):
        monkeypatch.setenv("EMU_TIME_SCALE", scale)
        assert times.patience(3) == seconds


LONG = "x" * 5000


@pytest.mark.parametrize(
    "command",
    [
        [LONG],
        ["compare", "--protocols", LONG],
        ["compare", "--events", LONG],
        ["compare", f"--{LONG}"],
        ["explore", LONG],
        ["explore", "none", "--event", LONG],
        ["simulate", LONG, "--seed", "1"],
        ["broker", "--pmem", LONG],
        ["broker", "--mount", LONG],
        ["broker", "--quantum", LONG],
        ["fs", "create", "/mnt/a", LONG],
    ],
    ids=lambda command: " ".join(word[:9] for word in command),
)
def test_a_name_that_is_too_long_to_be_read_is_cut(command, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("EMU_DIR", str(tmp_path / "n"))
    with pytest.raises(SystemExit) as ended:
        sys.exit(main(command))
    assert ended.value.code == 64
    said = capsys.readouterr().err
    assert "x" * 40 in said
    assert "..." in said
    assert "x" * 65 not in said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/n/file"), "emu: bench /n/file: ENOSPC: No space"),
        (OSError(errno.EMFILE, "Too many open files"), "emu: bench: EMFILE: Too many"),
        (RuntimeError("oh"), "emu: bench: a defect of emu's own"),
    ],
)
def test_what_nobody_expected_is_no_breach(error, said, monkeypatch, capsys):
    def fails():
        raise error

    monkeypatch.setattr(bench, "rows", fails)
    assert main(["bench"]) == 64
    assert capsys.readouterr().err.splitlines()[-1].startswith(said)


def test_a_bench_that_cannot_be_stored_is_refused_before_it_runs(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(bench, "rows", lambda: pytest.fail("it ran"))
    assert main(["bench", "--json", str(tmp_path)]) == 64
    assert "EISDIR" in capsys.readouterr().err
