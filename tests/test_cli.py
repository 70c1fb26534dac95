"""Whether a result can be stored is known before minutes are spent, and finding out makes nothing."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from emu.cli import CommandError, check_target, main


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
