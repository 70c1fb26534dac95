"""When a request is given up: behind the deeds of whoever holds the memory, and never because of a time alone."""

import asyncio
from pathlib import Path

import pytest

from emu.check.history import BrokenHistory
from emu.lab import patience
from emu.lab.process import LabError

FOLDER = Path("history")


@pytest.fixture
def looks(monkeypatch):
    """Put what the history is found to say, one after the other; the last stays: (something is owed, a reclaim has no answer) or an error."""
    found = []

    def read(_folder):
        said = found.pop(0) if len(found) > 1 else found[0]
        if isinstance(said, Exception):
            raise said
        return said

    for name in ("LOOK", "AGAIN"):
        monkeypatch.setattr(patience, name, 0.0)
    monkeypatch.setattr(patience, "LIMIT", 0.2)
    monkeypatch.setattr(patience.History, "read", read)
    monkeypatch.setattr(patience, "outstanding", lambda said: ["a timer"] if said[0] else [])
    monkeypatch.setattr(patience, "waits", lambda said: said[1])
    return found


async def _rested():
    pass


def test_nothing_is_looked_at_before_the_holder_is_at_rest(looks):
    looks.append((False, True))

    async def inside():
        rested = asyncio.Event()
        waiting = asyncio.create_task(patience.stuck(FOLDER, rested.wait))
        done, _ = await asyncio.wait((waiting,), timeout=0.3)
        assert not done
        rested.set()
        await waiting

    asyncio.run(inside())


def test_what_is_owed_is_awaited_and_one_quiet_look_is_not_enough(looks):
    looks += [
        (True, True),
        (False, True),
        (True, True),
        (False, True),
        (False, True),
        AssertionError("a sixth look"),
    ]
    asyncio.run(patience.stuck(FOLDER, _rested))
    assert len(looks) == 1


def test_an_answer_that_the_history_has_and_nobody_gets_is_no_hang(looks):
    looks.append((False, False))
    with pytest.raises(LabError, match="did not come"):
        asyncio.run(patience.stuck(FOLDER, _rested))


def test_a_history_that_is_being_written_is_read_again(looks):
    looks += [BrokenHistory("half a line"), (False, True)]
    assert asyncio.run(patience.waited_for(FOLDER)) is True


def test_a_history_that_stays_broken_fails_the_run_alone(looks):
    looks.append(BrokenHistory("half a line"))
    with pytest.raises(LabError, match="half a line"):
        asyncio.run(patience.waited_for(FOLDER))
