"""Hypothesis drives the core through the same small world: any setup, any choice of what happens next."""

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from emu.check.model.setup import Setup
from emu.check.simulator.run import Run, Stage, Subject
from emu.check.simulator.verdict import verdict_of
from emu.protocols import registry

PROTOCOLS = {name: Subject(registry.load().get(name)) for name in ("mr-revoke", "ebusy")}
STEPS = 120

kinds = st.sampled_from(
    (
        "truncate",
        "punch",
        "unlink",
        "unplug",
        "surprise-unplug",
        "self-truncate",
        "punch 2048 4096",
        "truncate 6144",
    )
)


@st.composite
def setups(draw):
    fabric = draw(st.booleans())
    network = (
        {"depth": 2, "losses": 1, "duplicates": 1, "overtakes": 1, "partitions": 1, "hurries": 1}
        if fabric
        else {}
    )
    return Setup(
        reclaims=tuple(draw(st.lists(kinds, min_size=1, max_size=2))),
        holders=draw(st.integers(1, 2)),
        mrs=draw(st.integers(1, 2)),
        blocks=draw(st.integers(3, 5)),
        crashes=draw(st.integers(0, 2)),
        refusals=draw(st.integers(0, 2)),
        registrations=draw(st.integers(0, 2)),
        returns=True,
        fabric=fabric,
        **network,
    )


def play(subject, setup, picks):
    """Take what the picks say, as long as there is something to take; the invariants of what is promised hold all the way."""
    stage = Stage(subject, setup)
    run = Run(subject, setup, stage.recorder)
    for step, pick in enumerate(picks):
        choices = stage.choices()
        if not choices:
            break
        stage.recorder.now = 1000 * (step + 1)
        run.note(stage.take(choices[pick % len(choices)]), stage.recorder.now)
    run.end(stage.finish())
    return run


@pytest.mark.parametrize("name", list(PROTOCOLS))
@settings(max_examples=60, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
          suppress_health_check=list(HealthCheck), derandomize=True)  # fmt: skip
@given(setup=setups(), picks=st.lists(st.integers(0, 1 << 16), min_size=20, max_size=STEPS))
def test_what_is_promised_holds_whatever_happens_next(name, setup, picks):
    run = play(PROTOCOLS[name], setup, picks)
    verdict = verdict_of(run)
    assert not verdict.breaches, f"{verdict.breaches[0]}\n" + "\n".join(run.labels)


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(setup=setups(), picks=st.lists(st.integers(0, 1 << 16), max_size=STEPS))
def test_the_core_numbers_and_the_memory_of_a_run_agree(setup, picks):
    """The file map is what has been committed; every stamp in memory names a file and a place in it."""
    run = play(PROTOCOLS["mr-revoke"], setup, picks)
    rows = run.history.filemap["files"]
    committed = {}
    for line in run.history.of("Loaded", "Commit"):
        committed = {} if line["type"] == "Loaded" else committed
        for book, key, row in line["delta"]:
            if book == "files":
                committed.pop(key, None)
                if row:
                    committed[key] = row
    assert {file["ino"]: (file["path"], file["size"]) for file in rows} == {
        ino: (row[0], row[2]) for ino, row in committed.items()
    }
    assert len(run.history.image) == setup.blocks * 4096
