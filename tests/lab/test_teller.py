"""How far a comparison is: rewritten on a terminal, now and then elsewhere; lines that stay stay."""

import io

import pytest

from emu.lab import teller as module
from emu.lab.teller import CLEAR, Teller


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_a_log_is_told_now_and_then(clock):
    log = io.StringIO()
    teller = Teller(log)
    for clock[0] in range(0, 70, 5):
        teller.line(f"row {clock[0]}")
        teller.status(f"after {clock[0]} s")
    teller.end()
    lines = log.getvalue().splitlines()
    assert [line for line in lines if line.startswith("after")] == ["after 30 s", "after 60 s"]
    assert len(lines) == 16


def test_a_terminal_has_the_state_below_all_lines():
    terminal = Terminal()
    teller = Teller(terminal)
    teller.status("1 of 3")
    teller.line("a row")
    teller.status("2 of 3")
    teller.end()
    assert terminal.getvalue() == f"{CLEAR}1 of 3{CLEAR}a row\n1 of 3{CLEAR}2 of 3{CLEAR}"
