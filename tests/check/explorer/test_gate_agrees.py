"""A reclaim of several steps that closes no gate breaks V1 in the explorer, as it does in a history."""

from __future__ import annotations

import pytest
from wrong_protocols import wrong

from emu.check.explorer.search import explore, setup_of
from emu.check.simulator.run import Subject, simulate
from emu.check.simulator.verdict import verdict_of
from emu.core.decision import END, START
from emu.protocols.contract import apply, free, gate, go, quiesce, reply, unmap


def revoking(*first):
    return wrong(
        "revoking",
        {
            (START, "requested"): go(*first, quiesce(), to="fencing"),
            ("fencing", "quiesced"): go(unmap(), to="unmapping"),
            ("unmapping", "unmapped"): go(apply(), free(), reply(), to=END),
        },
        promises=("V1",), disposal="after-unmap", importers=("sync-revocable",), loss="mr",
    )  # fmt: skip


@pytest.mark.parametrize(("first", "broken"), [((), {"V1"}), ((gate(),), set())], ids=["no gate", "a gate"])
def test_explorer_and_history_say_the_same_of_the_gate(first, broken):
    protocol = revoking(*first)
    result = explore(protocol, "truncate", setup=setup_of("truncate", crashes=0))
    assert {finding.invariant for finding in result.breaches if finding.invariant == "V1"} == broken
    found = {
        f.invariant for seed in range(1, 9) for f in verdict_of(simulate(Subject(protocol), seed)).breaches
    }
    assert found & {"V1"} == broken
