"""docs/results.md tells a reader how to recount foreign bytes without us: the script it prints gives the number that our reader gives."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from emu.history.stamp import CELL, Cell, cells_in_free, encode, foreign_cells

DOC = Path(__file__).parents[2] / "docs" / "results.md"
OWN = Cell(writer=1, ino=3, wr=5, layout=2, namespace=1, offset=0)


def script():
    (text,) = re.findall(r"```python\n(.*?)```", DOC.read_text(), re.DOTALL)
    assert len(text.splitlines()) <= 22
    return text


@pytest.mark.parametrize("replaced", [False, True])
def test_the_printed_script_counts_what_we_count(tmp_path, replaced):
    image = bytearray(8 * 4096)
    broken = bytearray(encode(OWN._replace(ino=9)))
    broken[50] ^= 1
    for at, raw in {
        0: encode(OWN),
        4096: encode(OWN._replace(ino=9)),
        4160: encode(OWN._replace(layout=1)),
        4224: bytes(broken),
        4300: encode(OWN._replace(ino=9)),
        20480: encode(OWN._replace(ino=9)),
    }.items():
        image[at : at + CELL] = raw
    files = [{"path": "/mnt/b", "ino": 3, "size": 12288, "extents": [[0, 0, 4096, 1], [4096, 4096, 8192, 2]]}]
    filemap = {
        "schema": 1,
        "block": 4096,
        "device": "pm0",
        "image": "pm0.img",
        "namespace": 1,
        "replaced": replaced,
        "files": files,
    }
    (tmp_path / "pm0.img").write_bytes(image)
    (tmp_path / "filemap.json").write_text(json.dumps(filemap))
    ended = subprocess.run(
        [sys.executable, "-I", "-c", script(), tmp_path], check=True, capture_output=True, text=True
    )
    ours = len(list(foreign_cells(image, filemap))) + replaced * len(list(cells_in_free(image, filemap)))
    assert int(ended.stdout) == ours * CELL == (192 if replaced else 128)
