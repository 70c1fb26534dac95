"""Whether a result can be stored is known before minutes are spent, and finding out makes nothing."""

from __future__ import annotations

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
