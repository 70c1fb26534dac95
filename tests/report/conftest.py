"""A result as `emu compare` makes it, from verdicts made up here: the lab's own code gives the rows their keys."""

import sys
from pathlib import Path

import pytest

from emu.check.verdict import Verdict
from emu.history.runs import machine
from emu.lab.plan import rows
from emu.lab.plan.spec import RowSpec
from emu.lab.rows import RowResult, RunResult

sys.path.insert(0, str(Path(__file__).parent))

SAFE = ["S1", "S2", "S3"]
FIGURES = dict.fromkeys(
    (
        "foreign_bytes",
        "leaked_bytes",
        "foreign_dma_bytes",
        "freed_bytes",
        "lost_bytes",
        "stale_bytes",
        "absent_bytes",
        "absent_before_answer_bytes",
        "qps_lost",
        "collateral",
    ),
    0,
)


def verdict(*outcomes, **fields):
    return Verdict(
        outcomes[0], list(outcomes), **{**FIGURES, "dma_bytes": 1 << 26, "dma_at_gate": 3, **fields}
    )


def measured(spec, seen, took=120.0, errno=None, controls=None, folder=None):
    runs = [RunResult(seen, folder or Path("runs/demo") / spec.label / "run-1", errno, True, 0, took)]
    return RowResult(spec, 1, runs, controls or dict.fromkeys(("no-mover", "no-pin"), "OK"))


def result_of(spec):
    if spec.reason:
        return RowResult(spec, 1)
    if spec.protocol == "none" or (spec.protocol == "ebusy" and spec.event == "surprise-unplug"):
        seen = ["CORRUPT", "FAULT", "LOST"] if "unplug" in spec.event else ["CORRUPT", "LOST"]
        worst = verdict(*seen, foreign_bytes=786432, lost_bytes=40 << 20, absent_bytes=9 << 20, notified=0.0)
        return measured(spec, worst, 340.0, controls={"no-mover": "OK", "no-dma": "OK", "fifo": "LOST"})
    if spec.protocol == "ebusy":
        return measured(spec, verdict("DENY", notified=0.0), 95.0, "EBUSY", {"no-pin": "OK"})
    errors = {"REM_ACCESS_ERR": 2, "WR_FLUSH_ERR": 30}
    again = 2100.0 if spec.holder == "prompt" else None
    good = verdict("OK+ERR", error_completions=errors, qps_lost=2, notified=1.0, recovery_us=again)
    return measured(spec, good, 480.0, controls={"no-dma": "OK"})


def as_result(results):
    listed = [r.as_json(SAFE if r.spec.protocol == "mr-revoke" else []) for r in results]
    return {
        "schema": 1,
        "machine": machine(),
        "seed": 1,
        "quick": True,
        "seconds": 61.2,
        "rows": listed,
    }


EVENTS = ["truncate", "punch", "unlink", "unplug", "surprise-unplug"]


@pytest.fixture
def result():
    specs = rows(["none", "ebusy", "mr-revoke"], EVENTS, ["dax", "host"], None)
    return as_result([result_of(spec) for spec in specs])


@pytest.fixture
def make():
    """(spec fields, verdict, ...) -> a result of one row."""

    def made(seen, *, protocol="mr-revoke", event="truncate", promises=(), **fields):
        row = measured(RowSpec(protocol, event, "dax", "deaf"), seen, **fields).as_json(promises)
        return {**as_result([]), "rows": [row]}

    return made


@pytest.fixture
def seen():
    return verdict
