"""What a comparison has found reaches whoever asked for it, whatever becomes of the files."""

from __future__ import annotations

import json
import os

import pytest

from emu.cli import compare, main
from emu.host import files
from emu.report.table import render


@pytest.fixture
def emu(result, monkeypatch, tmp_path):
    """`emu compare` whose runs are over at once, in a folder of its own."""
    monkeypatch.setattr(compare, "_interruptible", lambda work: work.close() or result)
    return lambda *more: main(["compare", "--protocols", "none", "--out", str(tmp_path / "out"), *more])


def test_a_result_that_cannot_be_stored_costs_no_table_and_is_named(emu, result, tmp_path, capsys):
    assert emu("--json", "/dev/full", "--html", str(tmp_path / "page.html")) == 64
    said = capsys.readouterr()
    assert said.out.strip() == render(result).strip()
    assert "emu: compare /dev/full: ENOSPC: " in said.err
    assert (tmp_path / "page.html").read_text().startswith("<!")


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_a_dash_is_standard_output_and_the_table_goes_to_stderr(
    emu, result, option, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert emu(option, "-") in {0, 1, 2}
    said = capsys.readouterr()
    assert (json.loads(said.out) == result) if option == "--json" else said.out.startswith("<!")
    assert render(result).strip() in said.err
    assert not (tmp_path / "-").exists()


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (("--json", "-", "--html", "-"), "EINVAL: standard output is given for two results"),
        (("--json", "r", "--html", "./r"), "is given for two results"),
        (("--json", ""), "EINVAL: an empty name"),
        (("--html", ""), "EINVAL: an empty name"),
        (("--json", "out"), "out: EISDIR"),
        (("--html", "out/"), "out/: EISDIR"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_made(
    emu, more, why, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert emu(*more) == 64
    assert why in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_second_comparison_keeps_out_of_the_folder_of_the_first(emu, tmp_path, capsys):
    evidence = tmp_path / "out/none-truncate-dax-deaf"
    evidence.mkdir(parents=True)
    (tmp_path / "out" / compare.MARKER).touch()
    first = files.lock(tmp_path / "out" / compare.MARKER)
    assert emu() == 64
    assert "EBUSY: another comparison" in capsys.readouterr().err
    assert evidence.exists()
    os.close(first)
    assert emu() in {0, 1, 2}
    assert not evidence.exists()
    assert emu() in {0, 1, 2}, "its own lock is gone with it"
