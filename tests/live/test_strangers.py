"""Strangers' protocols on a live node: wrong ones are caught in the bytes, one that never answers costs a reclaim and not the broker."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from served import Served

EMU = [sys.executable, "-P", "-m", "emu"]
PATIENCE = 200


def emu(*words):
    return subprocess.run(
        [*EMU, *words], capture_output=True, text=True, timeout=PATIENCE, cwd="/", check=False
    )


def of_mutant(folder, name):
    """A file whose protocol is this mutant's."""
    file = folder / "mine.py"
    file.write_text(
        f'"""wrong"""\nfrom emu.check.mutants.catalogue import find\nPROTOCOL = find("{name}").protocol\n'
    )
    return file


@pytest.mark.parametrize("name", ["warn-only", "lease-at-timeout"])
def test_a_wrong_protocol_corrupts_and_breaks_what_it_promises(tmp_path, name):
    out = tmp_path / "out"
    file = of_mutant(tmp_path, name)
    done = emu(
        "compare", "--protocol", str(file), "--events", "truncate", "--backings", "dax", "--holders", "deaf", "--out", str(out),
        "--json", str(tmp_path / "r.json"),
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{name} + truncate (dax, deaf holder) broke its promise S1" in done.stdout
    (row,) = json.loads((tmp_path / "r.json").read_text())["rows"]
    assert (row["protocol"], row["outcome"]) == (name, "CORRUPT")
    run = out / f"{name}-truncate-dax-deaf" / "run-1"
    assert (run / f"protocol-{name}.py").read_text() == file.read_text()
    judged = emu("check", str(run), "--protocol", str(file))
    assert judged.returncode == 1, judged.stdout + judged.stderr
    assert "S1   breach    promised" in judged.stdout
    assert "the model allows it" in judged.stdout


HANGS = """
import os
from emu.protocols import mr_revoke
from dataclasses import replace
from emu.protocols.contract import Protocol

class Own(Protocol):
    def decide(self, phase, event, facts):
        while os.path.exists({flag!r}):
            pass
        return super().decide(phase, event, facts)

fields = {{name: getattr(mr_revoke.PROTOCOL, name) for name in Protocol.__dataclass_fields__}}
PROTOCOL = Own(**{{**fields, "name": "hangs", "aliases": ()}})
"""


def test_one_that_never_answers_costs_its_reclaim_and_nothing_else(tmp_path):
    flag, file = tmp_path / "flag", tmp_path / "hangs.py"
    file.write_text(HANGS.format(flag=str(flag)))
    node = tmp_path / "node"
    broker = Served(
        node, "--pmem", "pm0=4M", "--mount", "/mnt=pm0,dax,protocol=hangs", "--protocol", str(file)
    )
    try:
        assert emu("fs", "--dir", str(node), "create", "/mnt/a", "8192").returncode == 0
        flag.touch()
        refused = emu("fs", "--dir", str(node), "truncate", "/mnt/a", "0")
        assert refused.returncode == 1
        assert "EPROTO: protocol hangs broke bounded" in refused.stderr
        assert emu("protocol", "--dir", str(node), "/mnt").stdout.strip() == "hangs"
        flag.unlink()
        assert emu("fs", "--dir", str(node), "truncate", "/mnt/a", "4096").returncode == 0
        assert emu("protocol", "--dir", str(node), "/mnt", "ebusy").stdout.strip() == "ebusy"
        assert emu("protocol", "--dir", str(node), "/mnt", "hangs").stdout.strip() == "hangs"
        assert (node / "runs" / "1" / "protocol-hangs.py").read_text() == file.read_text()
        assert broker.end() == 0
    finally:
        broker.close()
