"""Many seeds: the same summary whatever the number of jobs, and protocols that break the contract are named."""

import pytest

from emu.check.model.state import WANTING
from emu.check.simulator.campaign import BREACH, HOLDS, Source, campaign, judge_seed
from emu.cli.simulate import summary_of

HEAD = """
from emu.core.decision import END, EVENTS, START, Action, Decision
from emu.protocols.contract import Protocol, apply, deny, free, gate, go, quiesce, reply, unmap

def protocol(table, **more):
    ignored = {"*": tuple(EVENTS)}
    return Protocol(name="mine", summary="a test's", origin="a test", table=table, ignored=ignored, **more)
"""
AT_ONCE = "PROTOCOL = protocol({(START, 'requested'): go(apply(), free(), reply(), to=END), (START, 'surprise'): go(reply(), to=END)}, %s)"
TABLE = "PROTOCOL = protocol({(START, 'requested'): %s, (START, 'surprise'): go(reply(), to=END)})"
DECIDING = """
class Odd(Protocol):
    def decide(self, phase, event, facts):
        %s

PROTOCOL = Odd(name="mine", summary="a test's", origin="a test", ignored={"*": tuple(EVENTS)},
    table={(START, "requested"): go(reply(), to=END), (START, "surprise"): go(reply(), to=END)})
"""
STRANGE = {
    "raises": (DECIDING % "raise RuntimeError('boom')", "contract:no-raise"),
    "answers nonsense": (DECIDING % "return 7", "contract:known-answer"),
    "guesses": (DECIDING % "import random; return Decision((Action('reply'),), END if random.random() < .5 else 'later')",
                "contract:deterministic"),
    "counts": (DECIDING % "calls.append(1); return Decision((Action('reply'),), str(len(calls)))\ncalls = []", "contract:deterministic"),
    "never ends": (DECIDING % "while True: pass", "contract:bounded"),
    "frees what it did not quiesce": (AT_ONCE % "", "contract:free-after-unmap"),
    "unmaps what it did not quiesce": (
        TABLE % "go(unmap(), to='x'), ('x', 'unmapped'): go(apply(), free(), reply(), to=END)", "contract:unmap-after-quiesce"),
    "says nothing": (DECIDING % "return Decision((), END)", "contract:one-answer"),
}  # fmt: skip


def test_the_summary_does_not_depend_on_the_number_of_jobs():
    seeds = range(1, 25)
    one, two = (campaign(Source("none"), seeds, jobs).as_json() for jobs in (1, 2))
    for summary in (one, two):
        del summary["seconds"], summary["seeds_per_second"]
    assert one == two
    assert one["costs"]


def test_stories_are_long_and_have_reclaims():
    summary = campaign(Source("mr-revoke"), range(1, 61))
    assert summary.events >= 300
    assert summary.without_reclaim <= 2
    assert summary.sometimes["DMA in flight when the reclaim began"] > 30
    assert {"holder crashed", "a peer gave up", "an MR was revoked", "the reclaim succeeded"} <= set(
        summary.sometimes
    )
    assert not summary.defects


def test_where_no_mr_is_admitted_it_holds_for_want_of_any():
    summary = campaign(Source("refuse"), range(1, 6))
    assert (summary.code, summary.admits, summary.as_json()["admits"]) == (HOLDS, False, False)
    assert WANTING in "\n".join(summary_of(summary))
    assert campaign(Source("ebusy"), range(1, 3)).admits


def test_progress_is_told_as_it_comes():
    told = []
    campaign(Source("none"), range(25), progress=lambda done, total: told.append((done, total)))
    assert told == [(20, 25), (25, 25)]


@pytest.mark.parametrize("name", list(STRANGE))
def test_a_strangers_protocol_that_breaks_the_contract_is_named(tmp_path, name):
    text, rule = STRANGE[name]
    (tmp_path / "mine.py").write_text(HEAD + text)
    source = Source(file=str(tmp_path / "mine.py"))
    found = {}
    for seed in range(1, 30):
        judged = judge_seed(source.load(), seed)
        assert not judged.defect
        found |= judged.breaches
        if rule in found:
            break
    assert rule in found
    more = 20 if name == "guesses" else 1  # who guesses may guess alike in one seed, not in twenty
    assert campaign(source, range(seed, seed + more)).code == BREACH


def test_what_is_promised_and_broken_is_a_breach_and_else_a_cost(tmp_path):
    shown = {}
    for promise in ("", "promises=('S2',)"):
        (tmp_path / "mine.py").write_text(HEAD + AT_ONCE % f"disposal='now', {promise}")
        shown[promise] = campaign(Source(file=str(tmp_path / "mine.py")), range(1, 6))
    assert "S2" in shown[""].costs
    assert shown[""].code == HOLDS
    assert "S2" in shown["promises=('S2',)"].breaches
    assert shown["promises=('S2',)"].code == BREACH


def test_mutants_are_caught_by_random_stories_too():
    for name in ("warn-only", "one-quantum-early", "lost-ack"):
        found = campaign(Source(mutant=name), range(1, 11))
        assert found.breaches, name
