"""`emu compare` on protocols from outside the package: a boast is caught, a reclaim that never ends is called by its name.

Both are found by entry point, as a user's own would be; nothing in the lab knows their names.
"""

import json
import os
import subprocess
import sys

import pytest

MODULE = '''
"""Two protocols that a careless author might have written."""

from emu.core.decision import END, START
from emu.protocols.contract import Protocol, apply, free, gate, go, reply

NEVER = (
    "acknowledged", "unpinned", "deadline", "holder_lost", "quiesced", "quiesce_failed", "unmapped", "cancelled",
)

braggart = Protocol(
    name="braggart",
    summary="frees at once and promises that nothing happens",
    origin="a test",
    table={
        (START, "requested"): go(apply(), free(), reply(), to=END),
        (START, "surprise"): go(reply(), to=END),
    },
    impossible={"*": NEVER},
    promises=("S1", "S3"),
    backings=("dax",),
    disposal="now",
)

silent = Protocol(
    name="silent",
    summary="closes the gate and forgets to answer",
    origin="a test",
    table={
        (START, "requested"): go(gate(), to="stuck"),
        (START, "surprise"): go(reply(), to=END),
        ("stuck", "cancelled"): go(to=END),
    },
    ignored={"stuck": NEVER[:-1]},
    impossible={START: NEVER, "stuck": ("requested", "surprise")},
    promises=("S7",),
)

hasty = Protocol(
    name="hasty",
    summary="frees at once, and does not say that it does so",
    origin="a test",
    table=braggart.table,
    impossible={"*": NEVER},
)
'''
NAMES = ("braggart", "silent", "hasty")
ENTRIES = "[emu.protocols]\n" + "".join(f"{name} = outsiders:{name}\n" for name in NAMES)


@pytest.fixture
def compare(tmp_path):
    """Runs `emu compare` where the outsiders are installed."""
    site = tmp_path / "site"
    info = site / "outsiders-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "outsiders.py").write_text(MODULE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outsiders\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRIES)

    def run(protocol):
        done = subprocess.run(
            [
                *(sys.executable, "-P", "-m", "emu", "compare", "--protocols", protocol, "--events", "truncate"),
                *("--backings", "dax", "--holders", "deaf", "--out", str(tmp_path / "rows"), "--json", "-"),
            ],
            capture_output=True, text=True, timeout=200, cwd="/", check=False,
            env={**os.environ, "PYTHONPATH": str(site)},
        )  # fmt: skip
        assert done.stdout, done.stderr
        (row,) = json.loads(done.stdout)["rows"]
        return done, row

    return run


def test_a_promise_that_is_not_kept_is_a_breach(compare):
    done, row = compare("braggart")
    assert row["outcome"] == "CORRUPT"
    assert [rule for rule, _ in row["breaches"]] == ["S1"]
    assert done.returncode == 1
    assert "braggart + truncate (dax, deaf holder) broke its promise S1" in done.stderr


def test_a_reclaim_that_never_ends_is_a_hang(compare):
    done, row = compare("silent")
    assert (row["outcome"], row["returned"], row["reclaim_us"]) == ("HANG", 0, None)
    # nobody cuts it off before its history has ended: then it would leave without an answer as well
    assert [rule for rule, _ in row["breaches"]] == ["S7"]
    assert done.returncode == 1


def test_what_breaks_the_contract_is_a_breach_whatever_was_promised(compare):
    done, row = compare("hasty")
    assert (row["outcome"], row["errno"]) == ("DENY", "EPROTO")
    assert [rule for rule, _ in row["breaches"]] == ["contract:free-after-unmap"]
    assert done.returncode == 1
