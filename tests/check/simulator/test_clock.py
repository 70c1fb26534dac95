"""Virtual time: timers fire when they are to, and holders behave as their manner says."""

from dataclasses import replace

import pytest

from emu.check.simulator import run as running
from emu.check.simulator.cast import MANNERS, Stop, draw_cast
from emu.check.simulator.draws import MS, NEVER, US
from emu.check.simulator.run import Subject, simulate
from emu.history.journal import Kind
from emu.protocols import registry

REVOKE = Subject(registry.load().get("mr-revoke"))
MOVES = {"reg_mr": "registers", "dereg_mr": "lets go"}


@pytest.fixture
def play(monkeypatch):
    """A seed with a changed cast."""

    def made(seed, subject=REVOKE, **changes):
        def draw(random):
            cast = draw_cast(random)
            settings = {name: changes[name] for name in changes if hasattr(cast, name)}
            rest = {name: value for name, value in changes.items() if name not in settings}
            setup = replace(cast.setup, fabric=False, **rest)
            return replace(cast, **settings, setup=setup)

        monkeypatch.setattr(running, "draw_cast", draw)
        return simulate(subject, seed)

    return made


def told(run, who):
    """When each notice reached the client."""
    return [record.time for record in run.history.journals[who].of(Kind.EVENT)]


def deeds(run, who, *words):
    return [
        time
        for label, time in zip(run.labels, run.times, strict=True)
        if label.startswith(f"{who}: ") and label.split()[1] in words
    ]


def plain(manner, holders=1):
    return {"holders": (manner,) * holders, "crashes": {}, "stops": {}, "cancels": 0.0, "refuses": 0.0}


def seeds_told(play, manner, count=5):
    """Runs of one holder of this manner that was told something."""
    found = []
    for seed in range(60):
        settings = plain(manner)
        run = play(seed, **{**settings, "holders": (manner,) * 3})
        if any(told(run, f"holder{n}") for n in range(1, run.setup.holders + 1)):
            found.append(run)
        if len(found) == count:
            break
    return found


def test_a_prompt_holder_lets_go_at_once_when_it_is_told(play):
    late = [
        min([later - notice for later in deeds(run, who, "dereg_mr") if later > notice], default=0)
        for run in seeds_told(play, "prompt")
        for who in [f"holder{n}" for n in range(1, run.setup.holders + 1)]
        for notice in told(run, who)[:1]
    ]
    assert late
    assert max(late) < 10 * MS  # it lost its processor at most


def test_a_blocker_lets_nothing_go(play):
    runs = seeds_told(play, "blocker")
    assert runs
    assert not any(deeds(run, f"holder{n}", "dereg_mr") for run in runs for n in (1, 2, 3))


def test_a_reregistering_holder_is_back_soon(play):
    back = []
    for run in seeds_told(play, "reregister"):
        for n in range(1, run.setup.holders + 1):
            gone = deeds(run, f"holder{n}", "dereg_mr")
            again = deeds(run, f"holder{n}", "reg_mr")
            back += [
                min(at - time for at in again if at > time) for time in gone if any(at > time for at in again)
            ]
    assert back
    assert sorted(back)[len(back) // 2] < 500 * US


def test_a_dying_holder_is_gone_and_comes_back(play):
    runs = [play(seed, **{**plain("dying", 3), "crashes": {"holder1": 40}}) for seed in range(12)]
    crashed = [run for run in runs if "crash: holder1" in run.labels]
    assert crashed
    assert any("holder1: comes back" in run.labels for run in crashed)


def test_who_is_stopped_does_nothing_and_hears_nothing_until_it_goes_on(play):
    heard = 0
    for seed in range(12):
        settings = {**plain("stopped", 3), "stops": {"holder1": Stop(20, NEVER), "holder2": Stop(20, 4 * MS)}}
        run = play(seed, **settings)
        for who, (start, end) in run.stops.items():
            done = deeds(run, who, *MOVES, "acknowledges")
            assert not [time for time in done if start < time < end], who
            notices = [time for time in told(run, who) if start < time < end]
            assert notices == [], who
            heard += sum(time == end for time in told(run, who))
    assert heard  # what waited was taken


def test_a_timer_fires_when_its_seconds_are_over(play):
    seen = 0
    for seed in range(10):
        run = play(seed, refusals=2, refuses=1.0, crashes={}, stops={})
        armed = {line["timer"]: (line["t"], line["seconds"]) for line in run.history.of("Arm")}
        for line in run.history.of("TimerFired"):
            start, seconds = armed[line["timer"]]
            assert line["t"] - start >= seconds * 1e9
            assert line["t"] - start < seconds * 1e9 + 20 * MS
            seen += 1
    assert seen


def test_there_is_dma_at_the_gate_more_often_than_not(play):
    first = []
    for seed in range(24):
        run = play(seed, crashes={}, stops={})
        asked = next(
            (line for line in run.history.of("Phase") if line["phase"] == "requested" and line["keys"]), None
        )
        if asked:
            first.append(asked["inflight"] > 0)
    assert sum(first) > len(first) / 2


def test_every_manner_of_the_interface_is_there():
    assert list(MANNERS) == ["prompt", "slow", "deaf", "reregister", "stopped", "dying", "blocker"]
