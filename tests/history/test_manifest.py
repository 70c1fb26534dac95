"""The manifest names what is gone, new or changed in a run folder."""

import json

import pytest

from emu.history.manifest import MANIFEST, differences, write_manifest


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "journals").mkdir()
    (tmp_path / "events.jsonl").write_bytes(b"{}\n")
    (tmp_path / "journals" / "peer.jrnl").write_bytes(b"journal")
    write_manifest(tmp_path)
    return tmp_path


def test_an_untouched_folder_is_as_its_manifest_says(folder):
    assert differences(folder) == []
    assert sorted(json.loads((folder / MANIFEST).read_text())["files"]) == [
        "events.jsonl",
        "journals/peer.jrnl",
    ]


@pytest.mark.parametrize(
    ("tamper", "sentence"),
    [
        (lambda at: (at / "events.jsonl").unlink(), "events.jsonl is missing"),
        (lambda at: (at / "more").write_bytes(b""), "more is not in manifest.json"),
        (
            lambda at: (at / "journals" / "peer.jrnl").write_bytes(b"Journal"),
            "journals/peer.jrnl was changed",
        ),
    ],
)
def test_each_kind_of_tampering_is_named(folder, tamper, sentence):
    tamper(folder)
    assert differences(folder) == [sentence]


@pytest.mark.parametrize("text", ["[]", '{"schema": 2, "files": {}}', "{"])
def test_what_is_no_manifest_is_told(folder, text):
    (folder / MANIFEST).write_text(text)
    with pytest.raises(ValueError, match=r"manifest|Expecting"):
        differences(folder)
