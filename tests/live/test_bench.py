"""emu bench: the shape of its result. Its figures decide nothing."""

import json
import subprocess
import sys

KEYS = ["name", "value", "unit", "against", "against_value", "ratio", "reach", "ok", "note"]


def test_every_figure_stands_beside_its_limit():
    done = subprocess.run(
        [sys.executable, "-m", "emu", "bench", "--json", "-"],
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    result = json.loads(done.stdout)
    assert result["schema"] == 1
    assert len(result["rows"]) >= 6
    for row in result["rows"]:
        assert list(row) == KEYS
        assert row["value"] > 0
        assert row["against_value"] > 0
        assert row["ratio"] > 0
        assert row["name"] in done.stderr, "progress names each row"


def test_a_file_that_cannot_be_written_is_named():
    done = subprocess.run(
        [sys.executable, "-m", "emu", "bench", "--json", "/no/such/folder/x"],
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 64
    assert "emu: bench /no/such/folder/x: ENOENT:" in done.stderr
